//! What is said to a model: made-up text of the wanted length, and the history of a conversation.

use super::plan::Planned;
use super::target::Api;
use bytes::Bytes;
use fastrand::Rng;
use serde_json::{Value, json};

/// Bytes of English text that make a token, more or less.
const BYTES_PER_TOKEN: usize = 4;
const WORDS: [&str; 32] = [
    "apple", "bridge", "candle", "desert", "engine", "forest", "garden", "harbor", "island",
    "jungle", "kettle", "ladder", "market", "needle", "orange", "pencil", "quarry", "river",
    "silver", "timber", "umbrella", "valley", "window", "yellow", "zebra", "anchor", "basket",
    "copper", "dragon", "ember", "feather", "granite",
];

/// One conversation, or a single request.
#[derive(Debug)]
pub(super) struct Talk {
    rng: Rng,
    messages: Vec<Value>,
}

impl Talk {
    /// A conversation in which nothing has been said. Equal seeds say equal things.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            messages: Vec::new(),
        }
    }

    /// The path and the body of the next request.
    pub(super) fn ask(&mut self, planned: &Planned, api: Api) -> (&'static str, Bytes) {
        let text = self.text(planned.prompt_tokens);
        let model = &*planned.model;
        let (path, body) = if planned.embedding {
            let path = match api {
                Api::Native => "/api/embed",
                Api::Openai => "/v1/embeddings",
            };
            (path, json!({ "model": model, "input": text }))
        } else {
            self.messages
                .push(json!({ "role": "user", "content": text }));
            let tokens = planned.output_tokens;
            match api {
                Api::Native => (
                    "/api/chat",
                    json!({ "model": model, "messages": self.messages, "stream": true,
                        "options": { "num_predict": tokens } }),
                ),
                Api::Openai => (
                    "/v1/chat/completions",
                    json!({ "model": model, "messages": self.messages, "stream": true,
                        "stream_options": { "include_usage": true }, "max_tokens": tokens }),
                ),
            }
        };
        (path, body.to_string().into())
    }

    /// Goes on after an answer; a question that got none is forgotten.
    pub(super) fn answered(&mut self, text: &str) {
        if text.is_empty() {
            self.messages.pop();
        } else {
            self.messages
                .push(json!({ "role": "assistant", "content": text }));
        }
    }

    fn text(&mut self, tokens: u32) -> String {
        let bytes = (tokens as usize).saturating_mul(BYTES_PER_TOKEN);
        let mut text = String::with_capacity(bytes + 10);
        while text.len() < bytes {
            text.push_str(self.rng.choice(&WORDS).unwrap_or(&"word"));
            text.push(' ');
        }
        // All words are ASCII, so any byte is the end of a character.
        text.truncate(bytes);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn planned(embedding: bool) -> Planned {
        Planned {
            at: Duration::ZERO,
            model: "m".into(),
            prompt_tokens: 25,
            output_tokens: 7,
            session: None,
            embedding,
            client: None,
        }
    }

    #[track_caller]
    fn check(embedding: bool, api: Api, path: &str, prompt: &str, limit: &str) {
        let (found, body) = Talk::new(1).ask(&planned(embedding), api);
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((found, &body["model"]), (path, &json!("m")));
        assert_eq!(body.pointer(prompt).unwrap().as_str().unwrap().len(), 100);
        assert_eq!(body.pointer(limit), (!embedding).then_some(&json!(7)));
    }

    #[test]
    fn requests_are_of_the_length_asked_for() {
        let (chat, limit) = ("/messages/0/content", "/options/num_predict");
        check(false, Api::Native, "/api/chat", chat, limit);
        check(
            false,
            Api::Openai,
            "/v1/chat/completions",
            chat,
            "/max_tokens",
        );
        check(true, Api::Native, "/api/embed", "/input", limit);
        check(true, Api::Openai, "/v1/embeddings", "/input", "/max_tokens");
    }

    #[test]
    fn a_conversation_grows_by_its_answers() {
        let mut talk = Talk::new(1);
        let mut roles = |answer: &str| {
            let (_, body) = talk.ask(&planned(false), Api::Native);
            talk.answered(answer);
            let body: Value = serde_json::from_slice(&body).unwrap();
            body["messages"].as_array().unwrap().len()
        };
        assert_eq!(
            [roles("a"), roles(""), roles("b"), roles("c")],
            [1, 3, 3, 5]
        );
    }
}
