//! What one request asks for, as far as choosing a backend may depend on it.

use crate::route::Route;
use crate::wire::{Facts, Family, Kind, ModelKey, Prefix, RunnerOptions};
use smallvec::SmallVec;
use std::net::{IpAddr, Ipv6Addr};

/// The facts of a request that strategies may use. It holds no text that a user wrote.
#[derive(Debug, Clone)]
pub struct Demand {
    /// The model asked for; `None` when the request names none, or none that can exist.
    pub model: Option<ModelKey>,
    /// Where the request came from, trusted proxies looked through.
    pub client: IpAddr,
    /// What is to be done with the model.
    pub intent: Intent,
    /// Whether text is to be embedded, which goes one request at a time on a node and has no use for earlier work.
    pub is_embedding: bool,
    /// What the model's runner is to be started with.
    pub runner: RunnerOptions,
    /// Tokens that its answer may have at most, if it says.
    pub output_limit: Option<u32>,
    /// Whether the answer is to come token by token.
    pub is_streamed: bool,
    /// What requests that belong together have in common, as their client says; hashed, the same in every process.
    pub session: Option<u64>,
    /// Bytes of JSON that the model is to read, images included.
    pub prompt_bytes: u64,
    /// The beginnings of the conversation, shortest first; at most [`PREFIXES`](crate::wire::PREFIXES).
    pub prefixes: SmallVec<[Prefix; 8]>,
}

/// What a request wants of its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Intent {
    /// An answer.
    #[default]
    Infer,
    /// That it is loaded.
    Load,
    /// That it is no longer loaded.
    Unload,
}

impl Intent {
    /// The intent of a request to a route: only Ollama's own API takes an empty text for one to load or unload.
    pub(crate) fn of(route: Route, facts: &Facts) -> Self {
        if route.family != Family::Native || !facts.is_empty {
            Self::Infer
        } else if facts.keeps_nothing && !Kind::of(route.label).is_embedding() {
            Self::Unload
        } else {
            Self::Load
        }
    }
}

impl Demand {
    /// A demand for an answer of which no more is known.
    pub fn new(model: Option<ModelKey>, client: IpAddr) -> Self {
        Self {
            model,
            client,
            intent: Intent::default(),
            is_embedding: false,
            runner: RunnerOptions::default(),
            output_limit: None,
            is_streamed: true,
            session: None,
            prompt_bytes: 0,
            prefixes: SmallVec::new(),
        }
    }

    /// The bytes that stand for the client where requests are kept together: an IPv4 address whole, of an IPv6 address
    /// the /64 that one household or host moves about in. A mapped IPv4 address counts as IPv4.
    pub fn client_key(&self) -> u64 {
        match self.client.to_canonical() {
            IpAddr::V4(v4) => u64::from(v4.to_bits()),
            IpAddr::V6(v6) => network_half(v6),
        }
    }
}

fn network_half(address: Ipv6Addr) -> u64 {
    (address.to_bits() >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Ask;
    use http::Method;

    #[track_caller]
    fn check(path: &str, body: &str, intent: Intent) {
        let route = Route::of(&Method::POST, path).unwrap();
        let ask = Ask::read_as(Kind::of(route.label), body.as_bytes()).unwrap();
        assert_eq!(Intent::of(route, &ask.facts), intent, "{path} {body}");
    }

    #[test]
    fn nothing_to_say_means_load_or_unload_on_ollamas_own_routes() {
        for path in ["/api/generate", "/api/chat"] {
            check(path, r#"{"model":"m"}"#, Intent::Load);
            check(path, r#"{"keep_alive":"5m"}"#, Intent::Load);
            check(path, r#"{"keep_alive":-1}"#, Intent::Load);
            check(path, r#"{"keep_alive":0}"#, Intent::Unload);
            check(path, r#"{"KEEP_ALIVE":"0m"}"#, Intent::Unload);
            let full = r#"{"prompt":"a","messages":[{}],"keep_alive":0}"#;
            check(path, full, Intent::Infer);
        }
        check("/api/embed", r#"{"input":[],"keep_alive":0}"#, Intent::Load);
        check("/api/embed", r#"{"input":"a"}"#, Intent::Infer);
        check("/api/embeddings", r#"{"prompt":""}"#, Intent::Load);
        for path in ["/v1/chat/completions", "/v1/embeddings", "/api/show"] {
            check(path, r#"{"model":"m","keep_alive":0}"#, Intent::Infer);
        }
    }
}
