//! A node asked over real sockets.

mod client;
mod faults;
mod manage;
mod queue;
mod stream;
