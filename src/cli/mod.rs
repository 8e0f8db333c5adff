//! What the commands do that are not the proxy itself.

pub mod mock;
