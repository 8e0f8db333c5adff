//! What is known of nodes and models beyond what they say: what runs where and how far it is, which models are in memory
//! or on their way, how fast each node is, how long answers get, and which prompts a node has computed before.
//!
//! Everything is fed by requests as they pass and by what the prober sees, takes the time as an argument and does no
//! I/O. Times are seconds since the process's epoch, work is in tokens of a model of [`REFERENCE_BYTES`].

mod flight;
mod homes;
mod job;
mod medians;
mod memo;
mod memory;
mod model;
mod models;
mod node;
mod outlook;
mod shadow;
mod speed;

pub use flight::{Flight, Progress};
pub use homes::Homes;
pub use job::Job;
pub use medians::Medians;
pub use memory::{Seen, Sighting};
pub use model::{Model, REFERENCE_BYTES};
pub use models::Models;
pub use node::{Node, Report, SHARING};
pub use outlook::{Fit, Outlook, Peer, Work};
