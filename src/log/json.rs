//! An event as one line of JSON: time, level and target, its fields beside them. Written as it is visited, since a line is
//! written for each request.

use super::{Fields, Key};
use jiff::Timestamp;
use std::cell::Cell;
use std::fmt::{self, Write};
use std::io;
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The longest line whose memory is kept for the next, in bytes.
const KEPT_BYTES: usize = 4 << 10;

thread_local! {
    /// The memory of this thread's last line.
    static LINE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// The last second that this thread wrote.
    static SECOND: Cell<(i64, Second)> = const { Cell::new((i64::MIN, [0; 20])) };
}

/// A time up to its decimal point: `2026-01-01T00:00:00.`
type Second = [u8; 20];

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
        let meta = event.metadata();
        let mut line = Line::begin(meta.level().as_str());
        event.record(&mut line);
        line.end(meta.target(), |line| {
            writer.write_str(&String::from_utf8_lossy(line))
        })
    }
}

/// Hands on a line of level info, past tracing: for the one that each request has, what tracing does for any line is
/// most of what it costs.
pub(super) fn line<R>(
    target: &str,
    tell: impl FnOnce(&mut dyn Fields),
    write: impl FnOnce(&[u8]) -> R,
) -> R {
    let mut line = Line::begin("INFO");
    tell(&mut line);
    line.end(target, write)
}

/// One line in the making. It is put together here and handed on at once, since each step of a formatter costs as much as
/// a whole field.
#[derive(Default)]
struct Line(Vec<u8>);

impl Line {
    fn begin(level: &str) -> Self {
        let mut line = Self(LINE.take());
        line.push(r#"{"timestamp":""#);
        line.time(Timestamp::now());
        line.push(r#"","level":""#);
        line.push(level);
        line.push("\"");
        line
    }

    fn end<R>(mut self, target: &str, write: impl FnOnce(&[u8]) -> R) -> R {
        self.push(r#","target":""#);
        self.push(target);
        self.push("\"}\n");
        let written = write(&self.0);
        if self.0.capacity() <= KEPT_BYTES {
            self.0.clear();
            LINE.set(self.0);
        }
        written
    }

    /// To the microsecond.
    fn time(&mut self, now: Timestamp) {
        let (mut second, mut text) = SECOND.get();
        // The clock on the wall is nowhere near the time before 1970, in which parts of a second are negative.
        if second != now.as_second() {
            second = now.as_second();
            let written = format!("{now:.6}");
            let Some(first) = written.as_bytes().first_chunk() else {
                return self.push(&written);
            };
            text = *first;
            SECOND.set((second, text));
        }
        self.0.extend_from_slice(&text);
        let micros = u64::try_from(now.subsec_microsecond()).unwrap_or_default();
        self.digits::<6>(micros);
        self.push("Z");
    }

    /// A number with leading zeros.
    fn digits<const N: usize>(&mut self, mut value: u64) {
        let mut digits = [b'0'; N];
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (value % 10) as u8;
            value /= 10;
        }
        self.0.extend_from_slice(&digits);
    }

    fn push(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    /// Text as it is displayed, which needs no escape.
    fn display(&mut self, value: impl fmt::Display) {
        // Writing to memory does not fail.
        let _ = io::Write::write_fmt(&mut self.0, format_args!("{value}"));
    }

    fn key(&mut self, name: &str) {
        self.push(",\"");
        self.push(name);
        self.push("\":");
    }

    fn thousandths(&mut self, value: u64) {
        self.number(value / 1000);
        self.push(".");
        self.digits::<3>(value % 1000);
    }

    fn quote(&mut self, text: &str) {
        self.push("\"");
        Escaped(&mut self.0).text(text);
        self.push("\"");
    }

    fn number(&mut self, value: u64) {
        self.push(itoa::Buffer::new().format(value));
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.key(field.name());
        match thousandths(value) {
            Some(thousandths) => self.thousandths(thousandths),
            None if value.is_finite() => self.display(value),
            None => self.push("null"),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.key(field.name());
        self.display(value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.key(field.name());
        self.number(value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.key(field.name());
        self.display(value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.key(field.name());
        self.quote(value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.key(field.name());
        self.push("\"");
        // Writing to memory does not fail.
        let _ = write!(Escaped(&mut self.0), "{value:?}");
        self.push("\"");
    }
}

impl Fields for Line {
    fn text(&mut self, key: Key, value: &str) {
        self.push(key.member);
        self.quote(value);
    }

    fn word(&mut self, key: Key, value: &'static str) {
        self.push(key.member);
        self.push("\"");
        self.push(value);
        self.push("\"");
    }

    fn number(&mut self, key: Key, value: u64) {
        self.push(key.member);
        Line::number(self, value);
    }

    fn milliseconds(&mut self, key: Key, value: Duration) {
        self.push(key.member);
        let micros = (value.as_nanos() + 500) / 1000;
        self.thousandths(u64::try_from(micros).unwrap_or(u64::MAX));
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
struct Escaped<'a>(&'a mut Vec<u8>);

impl Escaped<'_> {
    fn text(&mut self, text: &str) {
        let is_special = |byte: &u8| *byte < b' ' || *byte == b'"' || *byte == b'\\';
        let mut rest = text.as_bytes();
        while let Some(at) = rest.iter().position(is_special) {
            let (plain, special) = rest.split_at(at);
            self.0.extend_from_slice(plain);
            let Some((byte, more)) = special.split_first() else {
                break;
            };
            match byte {
                b'\n' => self.0.extend_from_slice(b"\\n"),
                b'"' | b'\\' => self.0.extend_from_slice(&[b'\\', *byte]),
                // Writing to memory does not fail.
                byte => drop(io::Write::write_fmt(self.0, format_args!("\\u{byte:04x}"))),
            }
            rest = more;
        }
        self.0.extend_from_slice(rest);
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
    use crate::log::key;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_comes_back_from_its_json(text in any::<String>()) {
            let mut line = Line::default();
            line.push("\"");
            Escaped(&mut line.0).text(&text);
            line.push("\"");
            prop_assert_eq!(serde_json::from_slice::<String>(&line.0).unwrap(), text);
        }
    }

    #[test]
    fn times_are_jiffs_to_the_microsecond() {
        for nanos in [0, 999, 1_000, 123_456_789, 999_999_999, 1_000_000_000] {
            let now = Timestamp::from_nanosecond(1_767_225_604_000_000_000 + nanos).unwrap();
            let mut line = Line::default();
            line.time(now);
            assert_eq!(line.0, format!("{now:.6}").as_bytes());
        }
    }

    #[test]
    fn a_line_has_what_it_was_told() {
        let tell = |line: &mut dyn Fields| {
            line.text(key!("a"), "\"");
            line.word(key!("b"), "c");
            line.number(key!("d"), 7);
            line.milliseconds(key!("e"), Duration::from_nanos(12_000_567));
        };
        let text = line("t", tell, |line| String::from_utf8(line.to_vec()).unwrap());
        let (time, rest) = text.split_at(r#"{"timestamp":"2026-01-01T00:00:00.000000Z"#.len());
        assert!(time.starts_with(r#"{"timestamp":"20"#) && time.ends_with('Z'));
        let wanted = r#"","level":"INFO","a":"\"","b":"c","d":7,"e":12.001,"target":"t"}"#;
        assert_eq!(rest, format!("{wanted}\n"));
    }

    #[test]
    fn control_characters_do_not_break_a_line() {
        let mut line = Line::default();
        Escaped(&mut line.0).text("a\n\t\"\\\u{1b}ä");
        assert_eq!(line.0, r#"a\n\u0009\"\\\u001bä"#.as_bytes());
    }
}
