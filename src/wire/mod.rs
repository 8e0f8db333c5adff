//! What the proxy knows of Ollama's wire: API families, model names, the few JSON keys it reads.

mod name;

pub use name::ModelKey;

/// The API a route belongs to, which decides the shape of errors and streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Ollama's own: `/api/…`, newline-delimited JSON.
    Native,
    /// `/v1/…` as OpenAI defined it, server-sent events.
    OpenAi,
    /// `/v1/messages` as Anthropic defined it, server-sent events.
    Anthropic,
}
