//! A proxy on free ports, under a configuration that the test writes.

use super::backend::Backend;
use super::client::{self, Answer};
use super::eventually;
use llamero::Gateway;
use llamero::config::{ContentHash, Settings};
use serde_json::Value;
use std::net::SocketAddr;

/// All chance of the tests comes from here.
pub const SEED: u64 = 7;

/// A proxy at work.
#[derive(Debug)]
pub struct Proxy {
    pub gateway: Gateway,
}

impl Proxy {
    /// Starts one with this configuration; listeners are added.
    pub fn start(config: &str) -> Self {
        let text = format!("listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\n{config}");
        let settings =
            Settings::parse(&text, "test.toml").unwrap_or_else(|faults| panic!("{faults}"));
        Self {
            gateway: Gateway::start(settings, None, ContentHash::of(&text), SEED).unwrap(),
        }
    }

    /// One in front of these, named `a`, `b`, …, checked often.
    pub fn over(strategy: &str, backends: &[&Backend]) -> Self {
        let urls: Vec<_> = backends.iter().map(|backend| backend.url()).collect();
        Self::start(&config(strategy, &urls))
    }

    pub fn address(&self) -> SocketAddr {
        self.gateway.addresses()[0]
    }

    pub async fn post(&self, path: &str, body: &str) -> Answer {
        client::post(self.address(), path, body).await
    }

    pub async fn status(&self) -> Value {
        client::get(self.gateway.admin_address(), "/api/v1/status")
            .await
            .json()
    }

    /// What the status says of one backend.
    pub async fn backend(&self, name: &str) -> Value {
        let status = self.status().await;
        let backends = status["backends"].as_array().unwrap();
        backends
            .iter()
            .find(|backend| backend["name"] == name)
            .unwrap_or_else(|| panic!("no backend {name}"))
            .clone()
    }

    /// Waits until a backend is in a state.
    pub async fn until_state(&self, name: &str, state: &str) {
        while self.backend(name).await["state"] != state {
            tokio::task::yield_now().await;
        }
    }

    /// Waits until no backend has anything in flight: nothing was leaked.
    pub async fn until_idle(&self) {
        while self.in_flight().await > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// How many requests all backends have together.
    pub async fn in_flight(&self) -> usize {
        let status = self.status().await;
        let backends = status["backends"].as_array().unwrap().iter();
        let counts = backends.map(|backend| backend["in_flight"].as_u64().unwrap());
        usize::try_from(counts.sum::<u64>()).unwrap()
    }
}

/// A configuration with backends `a`, `b`, … and checks that come often.
pub fn config(strategy: &str, urls: &[String]) -> String {
    let mut text = format!("strategy = \"{strategy}\"\nhealth.interval = \"1s\"\n");
    for (name, url) in ('a'..='z').zip(urls) {
        text += &format!("[[backend]]\nname = \"{name}\"\nurl = \"{url}\"\n");
    }
    text
}

/// Waits until a backend was given so many requests.
pub async fn until_called(backend: &Backend, calls: usize) {
    eventually("the backend is called", || backend.calls() >= calls).await;
}
