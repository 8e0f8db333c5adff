//! A load-balancing reverse proxy that makes several Ollama instances look like one.

mod access;
mod admin;
pub mod balance;
mod call;
pub mod cli;
pub mod config;
pub mod demand;
mod error;
mod ewma;
mod fleet;
mod gateway;
mod header;
pub mod health;
mod link;
mod log;
pub mod mock;
pub mod pool;
mod probe;
mod proxy;
mod reload;
mod reply;
mod route;
mod server;
mod state;
mod upload;
mod upstream;
pub mod wire;

pub use gateway::{Gateway, ListenError};
