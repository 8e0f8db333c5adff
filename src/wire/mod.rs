//! What the proxy knows of Ollama's wire: API families, model names, the few JSON keys it reads.

mod ask;
mod error;
mod meter;
mod name;

pub use ask::{Ask, AskError};
pub use meter::Meter;
pub use name::ModelKey;

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
