//! Reads an answer as it comes: when its text begins, how many tokens it has, whether it came to its end.

use super::target::Api;
use memchr::memchr;
use serde::Deserialize;

/// The longest record of a stream, and the longest answer that is no stream.
const RECORD_BYTES: usize = 8 << 20;
/// Bytes of an error that are kept.
const ERROR_BYTES: usize = 200;

/// What has been read of one answer.
#[derive(Debug)]
pub(super) struct Answer {
    api: Api,
    streams: bool,
    unread: Vec<u8>,
    /// Records that had text in them.
    chunks: u32,
    counts: Counts,
    /// Its text, for the next turn of a session.
    pub(super) text: String,
    /// Whether it said that it was done.
    pub(super) is_done: bool,
    /// What went wrong, in the words of the other side.
    pub(super) error: Option<String>,
}

/// Tokens as the other side counts them.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    answer: Option<u32>,
    prompt: Option<u32>,
    cached: u32,
}

/// A line of Ollama's stream, an event of OpenAI's, or an answer that is no stream: what matters of any.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Record {
    error: Option<serde_json::Value>,
    message: Text,
    done: bool,
    eval_count: Option<u32>,
    prompt_eval_count: Option<u32>,
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Choice {
    delta: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Text {
    content: Option<String>,
    thinking: Option<String>,
    reasoning: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Usage {
    prompt_tokens: Option<u32>,
    completion_tokens: Option<u32>,
    prompt_tokens_details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Details {
    cached_tokens: u32,
}

impl Answer {
    /// An answer of which nothing has been read. An embedding does not stream.
    pub(super) fn new(api: Api, streams: bool) -> Self {
        Self {
            api,
            streams,
            unread: Vec::new(),
            chunks: 0,
            counts: Counts::default(),
            text: String::new(),
            is_done: false,
            error: None,
        }
    }

    /// Reads on.
    ///
    /// # Errors
    /// When a record is no JSON or has no end.
    pub(super) fn read(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.unread.extend_from_slice(bytes);
        let mut unread = std::mem::take(&mut self.unread);
        let mut at = 0;
        while self.streams
            && let Some(rest) = unread.get(at..)
            && let Some(end) = memchr(b'\n', rest)
        {
            self.line(rest.get(..end).unwrap_or_default())?;
            at += end + 1;
        }
        unread.drain(..at);
        self.unread = unread;
        anyhow::ensure!(self.unread.len() <= RECORD_BYTES, "a record has no end");
        Ok(())
    }

    /// Takes note of the end of the body.
    ///
    /// # Errors
    /// When what is left is no JSON.
    pub(super) fn end(&mut self) -> anyhow::Result<()> {
        let rest = std::mem::take(&mut self.unread);
        if self.streams {
            return self.line(&rest);
        }
        self.record(&rest)?;
        self.is_done = self.error.is_none();
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> anyhow::Result<()> {
        let line = line.trim_ascii();
        match self.api {
            Api::Native if line.is_empty() => Ok(()),
            Api::Native => self.record(line),
            Api::Openai => match line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) {
                Some(b"[DONE]") => {
                    self.is_done = true;
                    Ok(())
                }
                Some(data) => self.record(data),
                None => Ok(()), // the end of an event, a comment, or the name of one
            },
        }
    }

    fn record(&mut self, json: &[u8]) -> anyhow::Result<()> {
        let record: Record = serde_json::from_slice(json)?;
        if let Some(error) = record.error {
            let words = error.get("message").unwrap_or(&error);
            let words = words
                .as_str()
                .map_or_else(|| words.to_string(), ToOwned::to_owned);
            self.error = Some(shortened(&words));
        }
        let texts = record.choices.into_iter().map(|choice| choice.delta);
        for text in texts.chain([record.message]) {
            let parts = [&text.content, &text.thinking, &text.reasoning];
            if parts.into_iter().flatten().any(|part| !part.is_empty()) {
                self.chunks = self.chunks.saturating_add(1);
            }
            self.text
                .push_str(text.content.as_deref().unwrap_or_default());
        }
        self.is_done |= record.done;
        let usage = record.usage.unwrap_or_default();
        let counts = &mut self.counts;
        counts.answer = record
            .eval_count
            .or(usage.completion_tokens)
            .or(counts.answer);
        counts.prompt = record
            .prompt_eval_count
            .or(usage.prompt_tokens)
            .or(counts.prompt);
        let cached = usage
            .prompt_tokens_details
            .unwrap_or_default()
            .cached_tokens;
        counts.cached = counts.cached.max(cached);
        Ok(())
    }

    /// Whether any text has come.
    pub(super) fn has_begun(&self) -> bool {
        self.chunks > 0
    }

    /// Tokens of the answer: as the other side counted them, or the chunks that had text.
    pub(super) fn tokens(&self) -> u32 {
        self.counts.answer.unwrap_or(self.chunks)
    }

    /// Tokens of the prompt, if the other side said.
    pub(super) fn prompt_tokens(&self) -> Option<u32> {
        self.counts.prompt
    }

    /// Tokens of the prompt that did not have to be computed, 0 if the other side did not say.
    pub(super) fn cached_tokens(&self) -> u32 {
        self.counts.cached
    }
}

/// The words of an answer with an error status, whatever its form.
pub(super) fn error_text(body: &[u8]) -> String {
    let mut answer = Answer::new(Api::Native, false);
    match answer.record(body).ok().and(answer.error) {
        Some(error) => error,
        None => shortened(String::from_utf8_lossy(body).trim()),
    }
}

fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(ERROR_BYTES).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    const NATIVE: &str = "{\"message\":{\"role\":\"assistant\",\"content\":\"Hi\"},\"done\":false}\n\
        {\"message\":{\"content\":\" there\"},\"done\":false}\n\
        {\"message\":{\"content\":\"\"},\"done\":true,\"eval_count\":9,\"prompt_eval_count\":4}\n";
    const OPENAI: &str = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n\
        data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n: comment\n\n\
        data: {\"choices\":[{\"delta\":{\"content\":\" there\"},\"finish_reason\":\"stop\"}]}\n\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":9,\"prompt_tokens_details\":{\"cached_tokens\":3}}}\n\n\
        data: [DONE]\n\n";

    #[track_caller]
    fn check(api: Api, text: &str, piece: usize, cached: u32) {
        let mut answer = Answer::new(api, true);
        for piece in text.as_bytes().chunks(piece) {
            answer.read(piece).unwrap();
        }
        answer.end().unwrap();
        assert!(answer.is_done && answer.has_begun() && answer.error.is_none());
        assert_eq!(answer.text, "Hi there");
        assert_eq!((answer.chunks, answer.tokens()), (2, 9));
        assert_eq!(
            (answer.prompt_tokens(), answer.cached_tokens()),
            (Some(4), cached)
        );
    }

    #[test]
    fn streams_are_read_however_they_are_cut() {
        for piece in [1, 7, 10_000] {
            check(Api::Native, NATIVE, piece, 0);
            check(Api::Openai, OPENAI, piece, 3);
        }
    }

    #[test]
    fn chunks_are_counted_where_nobody_says_how_many_tokens_there_were() {
        let mut answer = Answer::new(Api::Native, true);
        answer
            .read(NATIVE.as_bytes().get(..NATIVE.len() / 2).unwrap())
            .unwrap();
        assert!(answer.has_begun() && !answer.is_done);
        assert_eq!(answer.tokens(), 1);
        assert!(answer.end().is_err(), "half a record is none");
    }

    #[track_caller]
    fn check_error(body: &str, expected: &str) {
        assert_eq!(error_text(body.as_bytes()), expected);
    }

    #[test]
    fn errors_are_told_in_the_words_of_the_other_side() {
        check_error(r#"{"error":"no room"}"#, "no room");
        check_error(r#"{"error":{"message":"no room","type":"x"}}"#, "no room");
        check_error("404 page not found\n", "404 page not found");
        check_error("", "");
    }
}
