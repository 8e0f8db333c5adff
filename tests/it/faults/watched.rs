//! A proxy at work, and what of it must come to rest again.

use super::row::Expected;
use crate::support::client::get;
use crate::support::process::Process;
use crate::support::{PATIENCE, soon};
use llamero::Gateway;
use llamero::config::{ContentHash, Settings};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep};

/// Where the proxy runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place {
    /// As a process, whose descriptors, processor time and words can be looked at.
    Process,
    /// On a runtime of its own in this process, whose tasks can be counted.
    Here,
}

/// How soon all that a request took must be given back. Shorter than idle connections are kept, so that those which must
/// not be kept are told apart.
const GIVEN_BACK: Duration = Duration::from_secs(3);
/// How long the processor time is looked at, and the share of it that a proxy at rest may need: what spins needs all of
/// it. An unoptimised build takes most of this for its checks.
const WINDOW: Duration = Duration::from_millis(300);
const IDLE_SHARE: u32 = 33;
/// Looks at what is in use at rest: a check under way is not always there.
const LOOKS: u32 = 20;
/// Between two looks at it.
pub const PAUSE: Duration = Duration::from_millis(20);

/// What can be looked at.
enum Subject {
    Process(Process),
    Here(Option<Runtime>),
}

/// What must stay while the proxy runs: its configuration, or itself.
#[expect(dead_code, reason = "held for its drop")]
enum Held {
    Folder(tempfile::TempDir),
    Gateway(Gateway),
}

/// A proxy at work.
pub struct Watched {
    subject: Subject,
    _held: Held,
    pub address: SocketAddr,
    admin: SocketAddr,
}

impl Watched {
    pub async fn start(config: &str, place: Place) -> Self {
        match place {
            Place::Process => {
                let folder = tempfile::tempdir().unwrap();
                let file = folder.path().join("llamero.toml");
                std::fs::write(&file, config).unwrap();
                let (mut process, address) =
                    Process::serve(&["--config", file.to_str().unwrap()]).await;
                let line = process.line_with("listening for operators").await;
                let line: Value = serde_json::from_str(&line).unwrap();
                let admin = line["address"].as_str().unwrap().parse().unwrap();
                Self {
                    subject: Subject::Process(process),
                    _held: Held::Folder(folder),
                    address,
                    admin,
                }
            }
            Place::Here => {
                let text =
                    format!("listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\n{config}");
                let settings = Settings::parse(&text, "test.toml").unwrap();
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(1)
                    .enable_all()
                    .build()
                    .unwrap();
                let started = runtime.spawn(async move {
                    Gateway::start(settings, None, ContentHash::of(&text), 7).unwrap()
                });
                let gateway = started.await.unwrap();
                Self {
                    address: gateway.addresses()[0],
                    admin: gateway.admin_address(),
                    subject: Subject::Here(Some(runtime)),
                    _held: Held::Gateway(gateway),
                }
            }
        }
    }

    /// What is in use now: descriptors, or tasks.
    fn in_use(&self) -> usize {
        match &self.subject {
            Subject::Process(process) => process.descriptors(),
            Subject::Here(runtime) => runtime.as_ref().unwrap().metrics().num_alive_tasks(),
        }
    }

    /// The least that is in use while nothing is asked.
    pub async fn at_rest(&self) -> usize {
        let mut least = usize::MAX;
        for _ in 0..LOOKS {
            least = least.min(self.in_use());
            sleep(Duration::from_millis(10)).await;
        }
        least
    }

    /// Waits until no more is in use than at rest, and nothing in flight.
    pub async fn given_back(&self, rest: usize) {
        let started = Instant::now();
        loop {
            let in_use = self.in_use();
            let backends = self.backends().await;
            let in_flight: u64 = backends
                .iter()
                .map(|backend| backend["in_flight"].as_u64().unwrap())
                .sum();
            if in_use <= rest && in_flight == 0 {
                return;
            }
            assert!(
                started.elapsed() < GIVEN_BACK,
                "{in_use} in use, {rest} before; {in_flight} in flight"
            );
            sleep(PAUSE).await;
        }
    }

    /// Waits for a time in which the processor has next to nothing to do.
    pub async fn quiet(&self) {
        let Subject::Process(process) = &self.subject else {
            return;
        };
        let started = Instant::now();
        loop {
            let (before, began) = (process.processor_time(), Instant::now());
            sleep(WINDOW).await;
            let spent = process.processor_time().saturating_sub(before);
            if spent < began.elapsed() / IDLE_SHARE {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "it never rests: {spent:?}");
        }
    }

    pub async fn backends(&self) -> Vec<Value> {
        let status = get(self.admin, "/api/v1/status").await.json();
        status["backends"].as_array().unwrap().clone()
    }

    /// Waits until the faulty node is in this state.
    pub async fn until_state(&self, state: &str) {
        soon(state, async {
            while self.backends().await[0]["state"] != state {
                sleep(PAUSE).await;
            }
        })
        .await;
    }

    /// Waits until all say which models they have, but for one that cannot.
    pub async fn until_known(&self, nameless: bool) {
        soon("the models are known", async {
            while self
                .backends()
                .await
                .iter()
                .skip(usize::from(nameless))
                .any(|backend| backend["models"].is_null())
            {
                sleep(PAUSE).await;
            }
        })
        .await;
    }

    /// Looks at the one line that the log has of a request.
    pub async fn check_line(&mut self, id: &str, expected: &Expected) {
        let Subject::Process(process) = &mut self.subject else {
            return;
        };
        let key = format!("\"id\":\"{id}\"");
        let line = process.line_with(&key).await;
        let line: Value = serde_json::from_str(&line).unwrap();
        let (status, ended) = expected.logged();
        assert_eq!(
            (line["status"].as_u64(), line["ended"].as_str()),
            (status, Some(ended)),
            "{line}"
        );
        assert_eq!(process.lines_with(&key), 1);
    }

    pub fn check_no_panic(&self) {
        if let Subject::Process(process) = &self.subject {
            assert_eq!(process.lines_with("panicked"), 0);
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Subject::Here(runtime) = &mut self.subject
            && let Some(runtime) = runtime.take()
        {
            runtime.shutdown_background();
        }
    }
}
