//! A load-balancing reverse proxy that makes several Ollama instances look like one.

pub mod balance;
pub mod cli;
pub mod config;
pub mod demand;
mod ewma;
pub mod health;
mod link;
pub mod mock;
pub mod pool;
mod upload;
pub mod wire;
