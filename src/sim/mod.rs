//! Fleets of Ollama nodes in virtual time, in front of which the real choice of a backend is at work.
//!
//! A run is repeated exactly by its seed: no clock is read, and threads share nothing.

mod cache;
mod clairvoyant;
mod clock;
mod event;
mod fleet;
pub mod gpu;
mod job;
mod model;
mod node;
mod prompt;
mod proxy;
mod request;
mod runner;
mod trouble;

pub use fleet::{Chooser, Setup, simulate};
pub use model::{CONTEXT, Model};
pub use node::Spec;
pub use prompt::{Link, Prompt};
pub use request::{Request, Start};
pub use trouble::{Kind, Trouble};
