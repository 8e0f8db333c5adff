//! What the proxy knows of Ollama's wire: API families, model names, the few JSON keys it reads.

mod ask;
mod counters;
mod error;
pub(crate) mod form;
mod meter;
mod name;
pub(crate) mod zstd;

pub use ask::{Ask, AskError, Facts, Kind, PREFIXES, Prefix, RunnerOptions};
pub use counters::Counters;
pub use meter::Meter;
pub use name::ModelKey;
pub use zstd::ZstdError;

/// The API a route belongs to, which decides the shape of errors and streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Ollama's own: `/api/…`, newline-delimited JSON.
    Native,
    /// `/v1/…` as OpenAI defined it, server-sent events.
    OpenAi,
    /// `/v1/responses`: OpenAI's errors, streams of its own.
    Responses,
    /// `/v1/messages` as Anthropic defined it, server-sent events.
    Anthropic,
}
