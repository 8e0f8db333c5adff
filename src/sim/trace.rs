//! Traces of real requests, in the two formats in which they are published.

use serde::Deserialize;
use std::io::{self, BufRead, Read};
use std::time::Duration;
use thiserror::Error;

/// Tokens that each block hash of a Mooncake trace stands for.
pub const BLOCK_TOKENS: u32 = 512;
/// The longest line that is read, in bytes.
const LINE_LIMIT: u64 = 1 << 20;
/// Requests that are read at most.
const ROW_LIMIT: usize = 1_000_000;
/// Tokens of one prompt or answer at most.
const TOKEN_LIMIT: u32 = 4_000_000;

/// One request of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Since the first one.
    pub at: Duration,
    /// Tokens of its prompt.
    pub prompt: u32,
    /// Tokens of its answer.
    pub output: u32,
    /// Names of its blocks of [`BLOCK_TOKENS`]; empty if the trace has none.
    pub blocks: Vec<u64>,
}

/// Why a trace cannot be used.
#[derive(Debug, Error)]
pub enum TraceError {
    /// It cannot be read.
    #[error("line {line}: {error}")]
    Read {
        /// Counted from 1.
        line: usize,
        /// Why.
        error: io::Error,
    },
    /// A line says nothing that could be a request.
    #[error("line {line}: {reason}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// Why.
        reason: String,
    },
    /// There is no request in it.
    #[error("no requests in it")]
    Empty,
}

/// Reads a trace: CSV with the columns of the Azure LLM inference traces (`TIMESTAMP,ContextTokens,GeneratedTokens`), or
/// JSON lines as of Mooncake (`timestamp` in milliseconds, `input_length`, `output_length`, `hash_ids`). Which of them it
/// is, the first line shows. At most a million requests are read, the rest is left out.
///
/// # Errors
/// With the number of the first line that is none of these, or longer than a megabyte, or earlier than the one before.
pub fn read(mut file: impl BufRead) -> Result<Vec<Row>, TraceError> {
    let mut rows: Vec<Row> = Vec::new();
    let mut first = None;
    let mut is_csv = false;
    let mut text = String::new();
    for line in 1.. {
        text.clear();
        let length = (&mut file).take(LINE_LIMIT).read_line(&mut text);
        let length = length.map_err(|error| TraceError::Read { line, error })?;
        let fail = |reason: String| TraceError::Line { line, reason };
        if length == 0 || rows.len() >= ROW_LIMIT {
            break;
        }
        if length as u64 >= LINE_LIMIT && !text.ends_with('\n') {
            return Err(fail(format!("longer than {LINE_LIMIT} bytes")));
        }
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.is_empty() {
            continue;
        }
        if line == 1 && !text.starts_with('{') {
            is_csv = true;
            if !text.eq_ignore_ascii_case("TIMESTAMP,ContextTokens,GeneratedTokens") {
                return Err(fail(
                    "expected the heading TIMESTAMP,ContextTokens,GeneratedTokens, or JSON"
                        .to_owned(),
                ));
            }
            continue;
        }
        let (at, mut row) = if is_csv { azure(text) } else { mooncake(text) }.map_err(fail)?;
        let since = *first.get_or_insert(at);
        row.at = at
            .checked_sub(since)
            .ok_or_else(|| fail("earlier than the first request".to_owned()))?;
        if rows.last().is_some_and(|before| before.at > row.at) {
            return Err(fail("earlier than the request before".to_owned()));
        }
        if row.prompt > TOKEN_LIMIT || row.output > TOKEN_LIMIT {
            return Err(fail(format!("more than {TOKEN_LIMIT} tokens")));
        }
        rows.push(row);
    }
    if rows.is_empty() {
        Err(TraceError::Empty)
    } else {
        Ok(rows)
    }
}

/// A line of an Azure trace, with its time since some moment.
fn azure(text: &str) -> Result<(Duration, Row), String> {
    let mut fields = text.split(',').map(str::trim);
    let (Some(time), Some(prompt), Some(output), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err("expected three fields".to_owned());
    };
    let time: jiff::civil::DateTime = time
        .parse()
        .map_err(|error| format!("{time:?} is no time: {error}"))?;
    let since = time.duration_since(jiff::civil::DateTime::constant(2000, 1, 1, 0, 0, 0, 0));
    let at = Duration::try_from(since).map_err(|_| format!("{time} is before 2000"))?;
    let count = |field: &str| {
        field
            .parse()
            .map_err(|_| format!("{field:?} is no number of tokens"))
    };
    let row = Row {
        at,
        prompt: count(prompt)?,
        output: count(output)?,
        blocks: Vec::new(),
    };
    Ok((at, row))
}

/// A line of a Mooncake trace, with its time since some moment.
fn mooncake(text: &str) -> Result<(Duration, Row), String> {
    #[derive(Deserialize)]
    struct Line {
        timestamp: u64,
        input_length: u32,
        output_length: u32,
        #[serde(default)]
        hash_ids: Vec<u64>,
    }
    let line: Line = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let at = Duration::from_millis(line.timestamp);
    let row = Row {
        at,
        prompt: line.input_length,
        output: line.output_length,
        blocks: line.hash_ids,
    };
    Ok((at, row))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADING: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n";

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let found = match read(text.as_bytes()) {
            Ok(rows) => format!("{rows:?}"),
            Err(error) => error.to_string(),
        };
        assert!(
            found.contains(expected),
            "{found:?} does not say {expected:?}"
        );
    }

    #[test]
    fn azure_lines_are_read_and_bad_ones_named() {
        let two = format!(
            "{HEADING}2023-11-16 18:15:46.6805900,374,44\r\n2023-11-16 18:15:50.9995900,396,109"
        );
        let rows = read(two.as_bytes()).unwrap();
        assert_eq!(
            (rows[0].at, rows[1].at),
            (Duration::ZERO, Duration::from_millis(4319))
        );
        assert_eq!((rows[1].prompt, rows[1].output), (396, 109));
        check("time,in,out\n", "line 1: expected the heading");
        check(HEADING, "no requests");
        check(
            &format!("{HEADING}2023-11-16 18:15:46,374\n"),
            "line 2: expected three fields",
        );
        check(
            &format!("{HEADING}2023-11-16 18:15:46,374,1,2\n"),
            "line 2: expected three fields",
        );
        check(
            &format!("{HEADING}yesterday,374,1\n"),
            "line 2: \"yesterday\" is no time",
        );
        check(
            &format!("{HEADING}1999-11-16 18:15:46,374,1\n"),
            "line 2: 1999-11-16T18:15:46 is before 2000",
        );
        check(
            &format!("{HEADING}2023-11-16 18:15:46,-1,1\n"),
            "line 2: \"-1\" is no number",
        );
        check(
            &format!("{HEADING}2023-11-16 18:15:46,1,5000000\n"),
            "line 2: more than",
        );
        check(
            &format!("{HEADING}2023-11-16 18:15:46,1,1\n\n2023-11-16 18:15:45,1,1\n"),
            "line 4: earlier than the first",
        );
    }

    #[test]
    fn mooncake_lines_are_read_and_bad_ones_named() {
        let line = r#"{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}"#;
        let two = format!("{line}\n{}\n", line.replace("27482", "28000"));
        let rows = read(two.as_bytes()).unwrap();
        assert_eq!(rows[1].at, Duration::from_millis(518));
        assert_eq!(
            (rows[0].prompt, rows[0].output, &rows[0].blocks[..]),
            (6955, 52, &[46, 47][..])
        );
        check(
            &format!("{line}\n{{}}\n"),
            "line 2: missing field `timestamp`",
        );
        check(&format!("{line}\n{{\"timestamp"), "line 2: EOF");
        check(
            &format!("{two}{}", line.replace("27482", "27999")),
            "line 3: earlier than the request before",
        );
        check(&format!("{line}\n{HEADING}"), "line 2: expected value");
        check("", "no requests");
        check(
            &format!("{line}\n{}", "x".repeat(2 << 20)),
            "line 2: longer than",
        );
        let bytes = [line.as_bytes(), b"\n\xff\n"].concat();
        assert!(
            read(&bytes[..])
                .unwrap_err()
                .to_string()
                .starts_with("line 2: ")
        );
    }
}
