//! An event as one line of JSON: time, level and target, its fields beside them. Written as it is visited, since a line is
//! written for each request.

use std::cell::Cell;
use std::fmt::{self, Write};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The longest line whose memory is kept for the next, in bytes.
const KEPT_BYTES: usize = 4 << 10;

thread_local! {
    /// The memory of this thread's last line.
    static LINE: Cell<String> = const { Cell::new(String::new()) };
}

/// The form of a line. Spans are not shown: there are none.
#[derive(Debug)]
pub struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let (now, meta) = (jiff::Timestamp::now(), event.metadata());
        let mut line = Line(LINE.take());
        line.push(r#"{"timestamp":""#);
        line.display(format_args!("{now:.6}"));
        line.push(r#"","level":""#);
        line.push(meta.level().as_str());
        line.push("\"");
        event.record(&mut line);
        line.push(r#","target":""#);
        line.push(meta.target());
        line.push("\"}\n");
        let written = writer.write_str(&line.0);
        if line.0.capacity() <= KEPT_BYTES {
            line.0.clear();
            LINE.set(line.0);
        }
        written
    }
}

/// One line in the making. It is put together here and handed on at once, since each step of a formatter costs as much as
/// a whole field.
#[derive(Default)]
struct Line(String);

impl Line {
    fn push(&mut self, text: &str) {
        self.0.push_str(text);
    }

    /// Text as it is displayed, which needs no escape.
    fn display(&mut self, value: impl fmt::Display) {
        // Writing to memory does not fail.
        let _ = write!(self.0, "{value}");
    }

    fn key(&mut self, field: &Field) {
        self.push(",\"");
        self.push(field.name());
        self.push("\":");
    }

    fn number(&mut self, value: u64) {
        self.push(itoa::Buffer::new().format(value));
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.key(field);
        match thousandths(value) {
            Some(thousandths) => {
                self.number(thousandths / 1000);
                self.push(".");
                let digit = |unit| char::from(b'0' + (thousandths / unit % 10) as u8);
                self.0.extend([100, 10, 1].map(digit));
            }
            None if value.is_finite() => self.display(value),
            None => self.push("null"),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.key(field);
        self.display(value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.key(field);
        self.number(value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.key(field);
        self.display(value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.key(field);
        self.push("\"");
        Escaped(&mut self.0).text(value);
        self.push("\"");
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.key(field);
        self.push("\"");
        // Writing to memory does not fail.
        let _ = write!(Escaped(&mut self.0), "{value:?}");
        self.push("\"");
    }
}

/// A number as thousandths, if that is what it is a number of.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range is checked"
)]
fn thousandths(value: f64) -> Option<u64> {
    /// Beyond this a number does not tell thousandths apart.
    const MOST: f64 = 1e12;
    let thousandths = (value * 1e3).round();
    let is_one = (0.0..MOST).contains(&value) && (thousandths / 1e3).to_bits() == value.to_bits();
    is_one.then_some(thousandths as u64)
}

/// Writes text as the inside of a JSON string.
struct Escaped<'a>(&'a mut String);

impl Escaped<'_> {
    fn text(&mut self, text: &str) {
        let is_special = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
        let mut rest = text;
        while let Some(at) = rest.bytes().position(is_special) {
            let (plain, special) = rest.split_at(at);
            self.0.push_str(plain);
            let mut chars = special.chars();
            match chars.next() {
                Some('\n') => self.0.push_str("\\n"),
                Some(c @ ('"' | '\\')) => self.0.extend(['\\', c]),
                // Writing to a string does not fail.
                Some(c) => drop(write!(self.0, "\\u{:04x}", u32::from(c))),
                None => {}
            }
            rest = chars.as_str();
        }
        self.0.push_str(rest);
    }
}

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_comes_back_from_its_json(text in any::<String>()) {
            let mut line = Line::default();
            line.push("\"");
            Escaped(&mut line.0).text(&text);
            line.push("\"");
            prop_assert_eq!(serde_json::from_str::<String>(&line.0).unwrap(), text);
        }
    }

    #[test]
    fn control_characters_do_not_break_a_line() {
        let mut line = Line::default();
        Escaped(&mut line.0).text("a\n\t\"\\\u{1b}ä");
        assert_eq!(line.0, r#"a\n\u0009\"\\\u001bä"#);
    }
}
