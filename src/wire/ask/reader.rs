//! Steps through JSON text value by value. Of a long body all but a few values are only passed over, which this does several
//! times faster than a parser that could make something of them. It accepts what such a parser accepts, and nothing else.

use super::text::{self, Key};
use serde::de::DeserializeSeed;
use smallvec::SmallVec;
use std::borrow::Cow;
use wide::u8x16;

/// A place in a JSON text. Every step is `None` where the text is no JSON; no more steps may be taken then.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// The [marks] of the block that was looked at last.
    marks: u64,
    /// Where that block ends.
    marked: usize,
}

/// Bytes of strings that are looked at together.
const BLOCK: usize = 64;

impl<'a> Reader<'a> {
    /// At the beginning of a text.
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            marks: 0,
            marked: 0,
        }
    }

    /// Takes an object apart: `member` is given each key and must take the value, by [`value`](Self::value) or another step.
    pub(super) fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, &str) -> Option<()>,
    ) -> Option<()> {
        self.list(b'{', b'}', |reader| {
            let key = reader.key()?;
            member(reader, &key)
        })
    }

    /// Takes an array apart.
    pub(super) fn array(&mut self, mut element: impl FnMut(&'a str)) -> Option<()> {
        self.list(b'[', b']', |reader| {
            element(reader.value()?);
            Some(())
        })
    }

    /// The next value as it stands.
    pub(super) fn value(&mut self) -> Option<&'a str> {
        self.blanks();
        let start = self.at;
        self.pass()?;
        self.text.get(start..self.at)
    }

    /// The first byte of what comes next.
    pub(super) fn peek(&mut self) -> Option<u8> {
        self.blanks();
        self.text.as_bytes().get(self.at).copied()
    }

    fn list(
        &mut self,
        open: u8,
        close: u8,
        mut item: impl FnMut(&mut Self) -> Option<()>,
    ) -> Option<()> {
        self.expect(open)?;
        if self.peek()? == close {
            self.at += 1;
            return Some(());
        }
        loop {
            item(self)?;
            match self.next()? {
                b',' => {}
                byte if byte == close => return Some(()),
                _ => return None,
            }
        }
    }

    /// Passes over a value, however deep it is.
    fn pass(&mut self) -> Option<()> {
        // What ends the innermost list that is open, and what ends those around it.
        let mut close = 0;
        let mut around: SmallVec<[u8; 64]> = SmallVec::new();
        let mut is_key = false;
        loop {
            let byte = self.next()?;
            match byte {
                b'"' => loop {
                    self.string()?;
                    // Mostly another string follows.
                    match self.text.as_bytes().get(self.at..self.at + 2) {
                        Some(b":\"") if is_key => is_key = false,
                        Some(b",\"") if !is_key && close == b'}' => is_key = true,
                        _ => break,
                    }
                    self.at += 2;
                },
                _ if is_key => return None,
                b'{' | b'[' => {
                    if close != 0 {
                        around.push(close);
                    }
                    close = byte + 2; // as ASCII has them
                    if self.peek()? != close {
                        is_key = byte == b'{';
                        continue;
                    }
                }
                b't' => self.word("rue")?,
                b'f' => self.word("alse")?,
                b'n' => self.word("ull")?,
                b'-' | b'0'..=b'9' => self.number(byte)?,
                _ => return None,
            }
            if is_key {
                self.expect(b':')?;
                is_key = false;
                continue;
            }
            while close != 0 {
                match self.next()? {
                    b',' => {
                        is_key = close == b'}';
                        break;
                    }
                    byte if byte == close => close = around.pop().unwrap_or_default(),
                    _ => return None,
                }
            }
            if close == 0 {
                return Some(());
            }
        }
    }

    /// A key and its colon.
    fn key(&mut self) -> Option<Cow<'a, str>> {
        (self.peek()? == b'"').then_some(())?;
        let quoted = self.value()?;
        self.expect(b':')?;
        if let Some(key) = text::plain(quoted) {
            return Some(Cow::Borrowed(key));
        }
        let mut decoder = serde_json::Deserializer::from_str(quoted);
        Key.deserialize(&mut decoder).ok()
    }

    /// The rest of a string whose quote was taken.
    fn string(&mut self) -> Option<()> {
        let bytes = self.text.as_bytes();
        let mut at = self.at;
        loop {
            if at >= self.marked {
                self.mark(at)?;
            }
            let ahead = self.marks >> (at % BLOCK);
            if ahead == 0 {
                at = self.marked;
                continue;
            }
            at += ahead.trailing_zeros() as usize;
            match bytes.get(at)? {
                b'"' => break,
                b'\\' => at += escape(bytes.get(at + 1..)?)?,
                _ => return None,
            }
        }
        self.at = at + 1;
        Some(())
    }

    /// Looks at the block that a place is in.
    fn mark(&mut self, at: usize) -> Option<()> {
        let start = at - at % BLOCK;
        let rest = self.text.as_bytes().get(start..)?;
        self.marks = match rest.first_chunk() {
            Some(block) => marks(block),
            None => last_marks(rest)?,
        };
        self.marked = start + BLOCK;
        Some(())
    }

    /// The rest of a number.
    fn number(&mut self, first: u8) -> Option<()> {
        let first = if first == b'-' { self.byte()? } else { first };
        match first {
            b'0' => {}
            b'1'..=b'9' => drop(self.digits()),
            _ => return None,
        }
        if self.follows(b".") {
            self.digits()?;
        }
        if self.follows(b"eE") {
            self.follows(b"+-");
            self.digits()?;
        }
        // What follows a zero is another number, which must not be.
        let next = self.text.as_bytes().get(self.at);
        (!next.is_some_and(u8::is_ascii_digit)).then_some(())
    }

    /// Passes over digits, of which there must be one.
    fn digits(&mut self) -> Option<()> {
        let rest = self.text.as_bytes().get(self.at..)?;
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        (count > 0).then_some(())
    }

    /// Passes over one of these bytes, if it comes next.
    fn follows(&mut self, bytes: &[u8]) -> bool {
        let next = self.text.as_bytes().get(self.at);
        let follows = next.is_some_and(|next| bytes.contains(next));
        self.at += usize::from(follows);
        follows
    }

    fn word(&mut self, rest: &str) -> Option<()> {
        let there = self.text.as_bytes().get(self.at..self.at + rest.len())?;
        self.at += rest.len();
        (there == rest.as_bytes()).then_some(())
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    /// The next byte that is no blank.
    fn next(&mut self) -> Option<u8> {
        match self.byte()? {
            b' ' | b'\n' | b'\t' | b'\r' => {
                self.blanks();
                self.byte()
            }
            byte => Some(byte),
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = self.text.as_bytes().get(self.at).copied();
        self.at += 1;
        byte
    }

    fn blanks(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.text.as_bytes().get(self.at) {
            self.at += 1;
        }
    }
}

/// Bytes of an escape behind whose backslash this stands.
fn escape(rest: &[u8]) -> Option<usize> {
    match rest.first()? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' => {
            let digits = rest.get(1..5)?;
            digits.iter().all(u8::is_ascii_hexdigit).then_some(6)
        }
        _ => None,
    }
}

/// One bit for each byte of a block that does not stand for itself in a string.
///
/// Many bytes are looked at in one step, so that it costs less than an instruction a byte, however short the strings are.
#[inline]
fn marks(block: &[u8; BLOCK]) -> u64 {
    const LANES: usize = 16;
    let (parts, _) = block.as_chunks::<LANES>();
    parts.iter().rev().fold(0, |marks, part| {
        let bytes = u8x16::new(*part);
        let is_control = bytes.min(u8x16::splat(b' ' - 1)).simd_eq(bytes);
        let is_marked =
            bytes.simd_eq(u8x16::splat(b'"')) | bytes.simd_eq(u8x16::splat(b'\\')) | is_control;
        marks << LANES | u64::from(is_marked.to_bitmask())
    })
}

/// The same of a block that is not whole; `None` of nothing.
fn last_marks(rest: &[u8]) -> Option<u64> {
    let mut block = [b' '; BLOCK];
    block.get_mut(..rest.len())?.copy_from_slice(rest);
    (!rest.is_empty()).then(|| marks(&block))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    /// Whether the text begins with a value, and with which.
    fn by_serde(text: &str) -> Option<usize> {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
        values.next()?.ok()?;
        Some(values.byte_offset())
    }

    #[track_caller]
    fn check(text: &str) {
        let mut reader = Reader::new(text);
        let value = reader.value().map(|_| reader.at);
        let serde = by_serde(text);
        // Behind a bare number or word serde wants a blank.
        if value.is_some() && serde.is_none() {
            let value = text.get(..reader.at).unwrap();
            assert!(by_serde(value).is_some(), "{text:?}");
            return;
        }
        assert_eq!(value, serde, "{text:?}");
    }

    #[test]
    fn what_is_a_value_is_the_same_to_a_parser() {
        for text in [
            "",
            " ",
            "{}",
            " [ ] ",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{\"a\":}",
            "{\"a\" : 1 , \"b\":[]}",
            "{\"a\"}",
            "{a:1}",
            "{\"a\":1,}",
            "[1}",
            "{\"a\":1]",
            "\"",
            "\"\\",
            "\"a\\u12\"",
            "\"a\\u12fg\"",
            "\"\\ud800\"",
            "\"\\x\"",
            "\"\n\"",
            "\"\u{7f}ä\"",
            "0",
            "-",
            "-0",
            "00",
            "01",
            "-01",
            "1.",
            "1.0",
            ".1",
            "1e",
            "1e+",
            "1E-7",
            "1.5e3",
            "+1",
            "tru",
            "true",
            "truex",
            "null",
            "nul",
            "false",
            "[true,null]",
            "NaN",
            "\u{feff}1",
            "[[[[]]]]",
            "[[[[]]]",
            "{\"\":{\"\":[{}]}}",
            "[1]x",
            "\"a\"\"b\"",
        ] {
            check(text);
        }
        check(&"[".repeat(100_000));
        check(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn any_text_is_the_same_to_a_parser(text in r#"[\[\]{},:"\\ \n0-1eE+.\-a-bu]{0,24}"#) {
            check(&text);
            check(&format!("[{text}]"));
            check(&format!("{{\"a\":\"{text}\"}}"));
        }

        #[test]
        fn it_does_not_matter_where_a_text_is(
            text in r#"[\[\]{},:"\\ \n\t0-1a-bu\x00\x1f\x7fä]{0,24}"#,
            before in 0..3 * BLOCK,
        ) {
            let before = "x".repeat(before);
            check(&format!("\"{before}{text}\""));
            check(&format!("[\"{before}\",{text}]"));
            check(&format!("{{\"{before}\":\"{text}\",\"{text}{before}\":[]}}"));
        }
    }
}
