//! What the fuzz targets need to reach besides the public modules. No part of the interface.

pub use crate::server::{Fault, Framing, Refusal};
