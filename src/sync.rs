//! What the few parts are made of that depend on the order of memory accesses. They name it here, so that a test can put
//! in its place what tries every order.

pub use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence};
pub use tokio::sync::Notify;
