//! Simulated Ollama nodes: the wire of a real one, made-up answers, a clock that can be sped up, and faults on demand.
//!
//! A node loads models one after the other, gives each a number of slots with a first-come queue behind them, reads
//! prompts and writes tokens at set speeds, and stops at once when its client leaves. What it does not model: the prefix
//! cache, reloads for changed options, several models sharing one card, and context limits.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON is read by key, which gives null where there is none, and written by key only into objects made here"
)]

mod anthropic;
mod base64;
mod blob;
mod control;
mod door;
mod duration;
mod embedding;
mod endpoint;
mod exchange;
mod fault;
mod fleet;
mod generation;
mod library;
mod manage;
mod native;
mod node;
mod openai;
mod openai_chunk;
mod pace;
mod profile;
mod refusal;
mod responses;
mod route;
mod runner;
mod seen;
mod sink;
#[cfg(test)]
mod tests;
mod text;
mod vectors;

pub use fault::{Fault, Faults, Kind};
pub use fleet::demo_fleet;
pub use node::Node;
pub use profile::{Model, Profile};
pub use seen::Record;
