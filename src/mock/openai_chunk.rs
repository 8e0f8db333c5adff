//! The chunks of streamed chat and text completions.

use super::exchange::{data, unix_now};
use super::generation::Totals;
use bytes::Bytes;
use serde_json::{Value, json};

const FINGERPRINT: &str = "fp_ollama";

/// What an answer took, in tokens.
pub(super) fn usage(totals: Totals) -> Value {
    json!({
        "prompt_tokens": totals.prompt_tokens,
        "completion_tokens": totals.answer_tokens,
        "total_tokens": totals.prompt_tokens + totals.answer_tokens,
    })
}

/// The common part of everything that is streamed.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) id: String,
    pub(super) object: &'static str,
    pub(super) created: i64,
    pub(super) model: String,
}

impl Frame {
    pub(super) fn chunk(&self, choices: &Value) -> Value {
        json!({
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        })
    }

    pub(super) fn delta(&self, delta: &Value, finish_reason: Option<&str>) -> Bytes {
        data(&self.chunk(&json!([{"index": 0, "delta": delta, "finish_reason": finish_reason}])))
    }

    pub(super) fn text(&self, text: &str, finish_reason: Option<&str>) -> Bytes {
        data(&self.chunk(&json!([{"text": text, "index": 0, "finish_reason": finish_reason}])))
    }

    pub(super) fn usage(&self, totals: Totals) -> Bytes {
        let mut chunk = self.chunk(&json!([]));
        chunk["usage"] = usage(totals);
        data(&chunk)
    }
}

fn empty(object: &'static str) -> Frame {
    Frame {
        id: "chatcmpl-0".to_owned(),
        object,
        created: unix_now(),
        model: String::new(),
    }
}

/// What Ollama makes of an error after the first chunk of a chat.
pub(super) fn empty_chat_chunk() -> Bytes {
    empty("chat.completion.chunk").delta(&json!({"role": "assistant", "content": ""}), None)
}

/// The same for a text completion.
pub(super) fn empty_text_chunk() -> Bytes {
    empty("text_completion").text("", None)
}
