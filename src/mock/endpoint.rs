//! The routes of a node.

use crate::wire::Family;
use http::Method;

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Root,
    Version,
    Tags,
    Ps,
    Show,
    Generate,
    Chat,
    Embed,
    Embeddings,
    Pull,
    Create,
    Copy,
    Delete,
    Blob,
    OpenAiChat,
    OpenAiCompletions,
    OpenAiEmbeddings,
    OpenAiModels,
    OpenAiModel,
    Responses,
    Messages,
    Fault,
}

const READ: &[Method] = &[Method::HEAD, Method::GET];
const GET: &[Method] = &[Method::GET];
const POST: &[Method] = &[Method::POST];
const DELETE: &[Method] = &[Method::DELETE];

/// Every route; a trailing `*` stands for one more segment.
const ROUTES: &[(&str, &[Method], Endpoint)] = &[
    ("/", READ, Endpoint::Root),
    ("/api/version", READ, Endpoint::Version),
    ("/api/tags", READ, Endpoint::Tags),
    ("/api/ps", GET, Endpoint::Ps),
    ("/api/show", POST, Endpoint::Show),
    ("/api/generate", POST, Endpoint::Generate),
    ("/api/chat", POST, Endpoint::Chat),
    ("/api/embed", POST, Endpoint::Embed),
    ("/api/embeddings", POST, Endpoint::Embeddings),
    ("/api/pull", POST, Endpoint::Pull),
    ("/api/create", POST, Endpoint::Create),
    ("/api/copy", POST, Endpoint::Copy),
    ("/api/delete", DELETE, Endpoint::Delete),
    (
        "/api/blobs/*",
        &[Method::HEAD, Method::POST],
        Endpoint::Blob,
    ),
    ("/v1/chat/completions", POST, Endpoint::OpenAiChat),
    ("/v1/completions", POST, Endpoint::OpenAiCompletions),
    ("/v1/embeddings", POST, Endpoint::OpenAiEmbeddings),
    ("/v1/models", GET, Endpoint::OpenAiModels),
    ("/v1/models/*", GET, Endpoint::OpenAiModel),
    ("/v1/responses", POST, Endpoint::Responses),
    ("/v1/messages", POST, Endpoint::Messages),
    (
        "/mock/fault",
        &[Method::POST, Method::DELETE],
        Endpoint::Fault,
    ),
];

impl Endpoint {
    /// Whether a model works for it.
    pub(super) fn is_inference(self) -> bool {
        matches!(
            self,
            Self::Generate
                | Self::Chat
                | Self::Embed
                | Self::Embeddings
                | Self::OpenAiChat
                | Self::OpenAiCompletions
                | Self::OpenAiEmbeddings
                | Self::Responses
                | Self::Messages
        )
    }
}

/// The API family of a path, which decides the shape of errors.
pub(super) fn family(path: &str) -> Family {
    match path {
        "/v1/messages" => Family::Anthropic,
        path if path.starts_with("/v1/") => Family::OpenAi,
        _ => Family::Native,
    }
}

/// The route of a path, and the segment that its star stands for.
pub(super) fn find(path: &str) -> Option<(&'static [Method], Endpoint, &str)> {
    ROUTES.iter().find_map(|(pattern, methods, endpoint)| {
        let segment = match pattern.strip_suffix('*') {
            Some(prefix) => path
                .strip_prefix(prefix)
                .filter(|s| !s.is_empty() && !s.contains('/'))?,
            None if path == *pattern => "",
            None => return None,
        };
        Some((*methods, *endpoint, segment))
    })
}
