//! A node asked over real sockets.

mod answer;
mod client;
mod faults;
mod manage;
mod queue;
mod stream;
