//! What the tests are made of: scripted backends, a gateway on free ports, a client that sees every byte.

pub mod backend;
pub mod client;
pub mod gateway;
pub mod process;
pub mod recorder;

use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// The longest that anything in a test may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until a condition holds. Panics after [`PATIENCE`].
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "never came true: {what}");
        sleep(Duration::from_millis(1)).await;
    }
}

/// Bounds a future by [`PATIENCE`].
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("never ended: {what}"))
}
