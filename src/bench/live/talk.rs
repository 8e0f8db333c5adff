//! What is said to a model: made-up text of the wanted length, and the history of a conversation.

use super::plan::Planned;
use super::target::Api;
use crate::sim::BLOCK_TOKENS;
use bytes::Bytes;
use fastrand::Rng;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of English text that make a token, more or less.
const BYTES_PER_TOKEN: usize = 4;
/// No word is longer, with the space behind it.
const WORD_BYTES: usize = 9;
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
        let text = self.prompt(planned);
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

    /// The blocks that it begins with, and then what nobody said before.
    fn prompt(&mut self, planned: &Planned) -> String {
        let mut left = planned.prompt_tokens;
        let mut prompt = String::with_capacity(bytes(left) + WORD_BYTES);
        for block in &planned.blocks {
            let tokens = left.min(BLOCK_TOKENS);
            // Blocks have small numbers, as conversations may have.
            let seed = xxh3_64(&block.to_le_bytes());
            write(&mut prompt, tokens, &mut Rng::with_seed(seed));
            left -= tokens;
        }
        write(&mut prompt, left, &mut self.rng);
        prompt
    }
}

fn bytes(tokens: u32) -> usize {
    (tokens as usize).saturating_mul(BYTES_PER_TOKEN)
}

/// Adds a text of this length.
fn write(to: &mut String, tokens: u32, rng: &mut Rng) {
    let end = to.len() + bytes(tokens);
    while to.len() < end {
        to.push_str(rng.choice(&WORDS).unwrap_or(&"word"));
        to.push(' ');
    }
    // All words are ASCII, so any byte is the end of a character.
    to.truncate(end);
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
            blocks: Vec::new(),
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

    #[track_caller]
    fn check_blocks(blocks: &[u64], common: usize) {
        let say = |blocks: &[u64], seed| {
            let planned = Planned {
                prompt_tokens: 3 * BLOCK_TOKENS / 2,
                blocks: blocks.to_vec(),
                ..planned(false)
            };
            let (_, body) = Talk::new(seed).ask(&planned, Api::Native);
            let body: Value = serde_json::from_slice(&body).unwrap();
            body["messages"][0]["content"].as_str().unwrap().to_owned()
        };
        let (one, other) = (say(&[1, 2], 1), say(blocks, 2));
        assert_eq!((one.len(), other.len()), (3072, 3072));
        let equal = one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b);
        // Different texts may begin with the same word.
        let equal = equal.count();
        assert!((common..common + 9).contains(&equal), "{equal}");
    }

    #[test]
    fn prompts_begin_alike_as_far_as_their_blocks_are_the_same() {
        check_blocks(&[1, 2], 3072);
        check_blocks(&[1, 2, 3], 3072);
        check_blocks(&[1], 2048);
        check_blocks(&[1, 3], 2048);
        check_blocks(&[2, 1], 0);
        check_blocks(&[], 0);
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
