//! Fleets of Ollama nodes in virtual time, in front of which the real choice of a backend is at work.
//!
//! A run is repeated exactly by its seed: no clock is read, and threads share nothing.

mod bound;
mod cache;
mod chance;
mod clairvoyant;
mod clock;
mod event;
mod fleet;
mod fuzz;
pub mod gate;
pub mod gpu;
mod job;
mod lengths;
mod model;
mod node;
mod passage;
mod prompt;
mod proxy;
mod request;
mod runner;
mod scenario;
mod sweep;
#[cfg(test)]
mod tests;
mod trace;
mod trouble;
mod workload;

pub use bound::{NAME as LOWER_BOUND, bound};
pub use clairvoyant::NAME as CLAIRVOYANT;
pub use fleet::{Chooser, Setup, simulate};
pub use fuzz::setup as fuzz;
pub use model::{CONTEXT, Model};
pub use node::Spec;
pub use prompt::{Link, Prompt};
pub use request::{Request, Start};
pub use scenario::{ALL as SCENARIOS, PATIENCE, Params, Scenario};
pub use sweep::{Case, Situation, sweep};
pub use trace::{BLOCK_TOKENS, Row, TraceError, read as read_trace};
pub use trouble::{Kind, Trouble};
