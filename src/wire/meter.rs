//! Watches the bytes of an answer go by, and never changes or delays them: is the stream whole, and where was it cut.

use super::{Counters, Family};
use http::{HeaderMap, header};
use memchr::memmem::Finder;
use smallvec::SmallVec;
use std::sync::LazyLock;

/// The longest end marker, in bytes, and so how much of one chunk is kept to find a marker that two chunks share.
const CARRY_BYTES: usize = 32;
/// How much of an answer's end is kept, which is where its counters are, in bytes.
const TAIL_BYTES: usize = 512;

// Quotes inside a JSON string are escaped, so no text of a user or a model can look like one of these.
static NATIVE: LazyLock<[Finder<'static>; 3]> =
    LazyLock::new(|| ["\"done\":true", "\"status\":\"success\"", "{\"error\":"].map(Finder::new));
static OPENAI: LazyLock<[Finder<'static>; 3]> = LazyLock::new(|| {
    let markers = [
        "\ndata: [DONE]",
        "data: {\"error\":",
        "\"finish_reason\":\"",
    ];
    markers.map(Finder::new)
});
static RESPONSES: LazyLock<[Finder<'static>; 4]> = LazyLock::new(|| {
    let markers = [
        "\"type\":\"response.completed\"",
        "\"type\":\"response.failed\"",
        "\"type\":\"response.incomplete\"",
        "event: error",
    ];
    markers.map(Finder::new)
});
static ANTHROPIC: LazyLock<[Finder<'static>; 2]> =
    LazyLock::new(|| ["event: message_stop", "event: error"].map(Finder::new));

/// Follows one answer.
#[derive(Debug)]
pub struct Meter {
    family: Family,
    framing: Framing,
    bytes: u64,
    ended: bool,
    carry: SmallVec<[u8; 2 * CARRY_BYTES]>,
    tail: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// Newline-delimited JSON.
    Lines,
    /// Server-sent events.
    Events,
    /// Something whose length says whether it is whole.
    Opaque,
}

impl Meter {
    /// A meter for the answer that these headers announce.
    pub fn new(family: Family, headers: &HeaderMap) -> Self {
        let kind = headers
            .get(header::CONTENT_TYPE)
            .map_or(&b""[..], |value| value.as_bytes());
        let framing = if kind.starts_with(b"application/x-ndjson") {
            Framing::Lines
        } else if kind.starts_with(b"text/event-stream") {
            Framing::Events
        } else {
            Framing::Opaque
        };
        Self {
            family,
            framing,
            bytes: 0,
            ended: false,
            // As if an event had ended before the first one, so that every event begins behind a line's end.
            carry: SmallVec::from_slice(b"\n\n"),
            tail: Vec::new(),
        }
    }

    /// Takes note of a chunk.
    pub fn watch(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len() as u64;
        self.keep_tail(chunk);
        if self.framing == Framing::Opaque {
            return;
        }
        let head = chunk.get(..CARRY_BYTES).unwrap_or(chunk);
        // None of Ollama's own markers goes on behind the end of a line, which is where most chunks end.
        let is_between_lines = self.family == Family::Native && self.carry.ends_with(b"\n");
        self.carry.extend_from_slice(head);
        let is_split = !is_between_lines && self.has_marker(&self.carry);
        self.ended |= is_split || self.has_marker(chunk);
        if chunk.len() >= CARRY_BYTES {
            self.carry.clear();
            self.carry
                .extend_from_slice(chunk.get(chunk.len() - CARRY_BYTES..).unwrap_or(chunk));
        } else if self.carry.len() > CARRY_BYTES {
            self.carry.drain(..self.carry.len() - CARRY_BYTES);
        }
    }

    fn keep_tail(&mut self, chunk: &[u8]) {
        if self.tail.len() + chunk.len() > 2 * TAIL_BYTES {
            let kept = TAIL_BYTES.saturating_sub(chunk.len());
            self.tail.drain(..self.tail.len().saturating_sub(kept));
        }
        self.tail.extend_from_slice(last(chunk, TAIL_BYTES));
    }

    /// What the answer has said of itself.
    pub fn counters(&self) -> Counters {
        Counters::read(last(&self.tail, TAIL_BYTES))
    }

    fn has_marker(&self, text: &[u8]) -> bool {
        let markers: &[Finder<'_>] = match self.family {
            Family::Native => &*NATIVE,
            Family::OpenAi => &*OPENAI,
            Family::Responses => &*RESPONSES,
            Family::Anthropic => &*ANTHROPIC,
        };
        markers.iter().any(|marker| marker.find(text).is_some())
    }

    /// Bytes seen so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether an answer that ends here must have lost its rest: all streams but Ollama's own always say that they are
    /// done, and those may end without a word when a model repeats itself.
    pub fn is_cut_off(&self) -> bool {
        self.framing == Framing::Events && self.family != Family::Native && !self.ended
    }

    /// Whether the answer may stop here: it said that it was done, or its length speaks for itself.
    pub fn is_whole(&self) -> bool {
        self.ended || self.framing == Framing::Opaque
    }

    /// What to write after an answer that broke off here, so that its client reads an error: its family's record, put
    /// on a line of its own. `None` if the answer is no stream of records.
    pub fn error_record(&self, message: &str) -> Option<Vec<u8>> {
        let gap: &[u8] = match self.framing {
            Framing::Opaque => return None,
            Framing::Lines if self.bytes == 0 || self.carry.ends_with(b"\n") => b"",
            Framing::Lines => b"\n",
            Framing::Events if self.bytes == 0 || self.carry.ends_with(b"\n\n") => b"",
            Framing::Events => b"\n\n",
        };
        Some([gap, &self.family.stream_error(message)].concat())
    }
}

/// The last bytes of a text, at most so many.
fn last(text: &[u8], bytes: usize) -> &[u8] {
    text.get(text.len().saturating_sub(bytes)..).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(family: Family, kind: &'static str, chunks: &[&str]) -> Meter {
        let headers =
            HeaderMap::from_iter([(header::CONTENT_TYPE, http::HeaderValue::from_static(kind))]);
        let mut meter = Meter::new(family, &headers);
        for chunk in chunks {
            meter.watch(chunk.as_bytes());
        }
        meter
    }

    #[track_caller]
    fn check(family: Family, kind: &'static str, text: &str, whole: bool) {
        assert_eq!(
            meter(family, kind, &[text]).is_whole(),
            whole,
            "{text} in one chunk"
        );
        let bytes: Vec<_> = text.split_inclusive(|_: char| true).collect();
        assert_eq!(
            meter(family, kind, &bytes).is_whole(),
            whole,
            "{text} byte by byte"
        );
        let (head, tail) = text.split_at(text.len() / 2);
        assert_eq!(
            meter(family, kind, &[head, tail]).is_whole(),
            whole,
            "{text} in two"
        );
    }

    #[test]
    fn knows_the_end_of_every_stream() {
        const LINES: &str = "application/x-ndjson";
        const EVENTS: &str = "text/event-stream; charset=utf-8";
        check(
            Family::Native,
            LINES,
            "{\"response\":\"\",\"done\":true,\"done_reason\":\"stop\"}\n",
            true,
        );
        check(
            Family::Native,
            LINES,
            "{\"response\":\"\\\"done\\\":true\",\"done\":false}\n",
            false,
        );
        let records = "{\"response\":\"a\",\"done\":false}\n{\"response\":\"b\",\"done\":false}\n";
        check(Family::Native, LINES, records, false);
        let more = "{\"response\":\"\",\"done\":true,\"eval_count\":2}\n";
        check(Family::Native, LINES, &[records, more].concat(), true);
        check(Family::Native, LINES, "{\"status\":\"success\"}\n", true);
        check(
            Family::Native,
            LINES,
            "{\"error\":\"model runner has stopped\"}\n",
            true,
        );
        check(Family::OpenAi, EVENTS, "data: [DONE]\n\n", true);
        check(
            Family::OpenAi,
            EVENTS,
            "data: {\"choices\":[]}\n\ndata: [DONE]\n\n",
            true,
        );
        check(
            Family::OpenAi,
            EVENTS,
            "data: {\"choices\":[{\"finish_reason\":null}]}\n\n",
            false,
        );
        check(
            Family::OpenAi,
            EVENTS,
            "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n",
            true,
        );
        check(
            Family::Responses,
            EVENTS,
            "event: response.completed\ndata: {\"type\":\"response.completed\"}\n\n",
            true,
        );
        check(
            Family::Responses,
            EVENTS,
            "data: {\"type\":\"response.output_text.delta\"}\n\n",
            false,
        );
        check(
            Family::Anthropic,
            EVENTS,
            "event: message_stop\ndata: {}\n\n",
            true,
        );
        check(
            Family::Anthropic,
            EVENTS,
            "event: message_delta\ndata: {}\n\n",
            false,
        );
        check(Family::Native, "application/json", "{\"model\":", true);
    }

    #[test]
    fn the_error_record_stands_on_a_line_of_its_own() {
        let record =
            |kind, chunks: &[&str]| meter(Family::Native, kind, chunks).error_record("lost");
        let lines = "application/x-ndjson";
        assert_eq!(record(lines, &["{}\n"]).unwrap(), b"{\"error\":\"lost\"}\n");
        assert_eq!(
            record(lines, &["{}\n{\"a"]).unwrap(),
            b"\n{\"error\":\"lost\"}\n"
        );
        assert_eq!(record(lines, &[]).unwrap(), b"{\"error\":\"lost\"}\n");
        assert_eq!(record("application/json", &["{"]), None);
        let event = meter(Family::OpenAi, "text/event-stream", &["data: {\"a\""])
            .error_record("lost")
            .unwrap();
        assert!(event.starts_with(b"\n\ndata: {\"error\""));
    }
}
