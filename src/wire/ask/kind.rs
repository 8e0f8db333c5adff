//! What kind of body a route takes, which decides where its text is.

/// A kind of JSON body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One that names a model and has no text.
    Other,
    /// A `prompt` to go on with.
    Generate,
    /// `messages` to answer.
    Chat,
    /// An `input` to answer: a text, or items like messages.
    Responses,
    /// An `input` to embed: a text, or several.
    Embed,
    /// A `prompt` to embed.
    Embeddings,
}

impl Kind {
    /// The kind of body that a path of the route table takes.
    pub fn of(path: &str) -> Self {
        match path {
            "/api/generate" | "/v1/completions" => Self::Generate,
            "/api/chat" | "/v1/chat/completions" | "/v1/messages" => Self::Chat,
            "/v1/responses" => Self::Responses,
            "/api/embed" | "/v1/embeddings" => Self::Embed,
            "/api/embeddings" => Self::Embeddings,
            _ => Self::Other,
        }
    }

    /// Whether the text is to become numbers, which no earlier work helps with.
    pub fn is_embedding(self) -> bool {
        matches!(self, Self::Embed | Self::Embeddings)
    }

    /// The key of the text.
    pub(super) fn text_key(self) -> Option<&'static str> {
        match self {
            Self::Other => None,
            Self::Generate | Self::Embeddings => Some("prompt"),
            Self::Chat => Some("messages"),
            Self::Responses | Self::Embed => Some("input"),
        }
    }
}
