//! Steps through JSON text value by value. Of a long body all but a few values are only passed over, which this does several
//! times faster than a parser that could make something of them. It accepts what such a parser accepts, and nothing else.

use super::text::Key;
use serde::de::DeserializeSeed;
use smallvec::SmallVec;
use std::borrow::Cow;

/// A place in a JSON text. Every step is `None` where the text is no JSON; no more steps may be taken then.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

/// Bytes of a string that are looked at together.
const TOGETHER: usize = 16;

impl<'a> Reader<'a> {
    /// At the beginning of a text.
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
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
        // What ends each list that is open.
        let mut open: SmallVec<[u8; 64]> = SmallVec::new();
        loop {
            let byte = self.next()?;
            match byte {
                b'"' => self.string()?,
                b'{' | b'[' => {
                    let close = byte + 2; // as ASCII has them
                    if self.peek()? != close {
                        open.push(close);
                        if byte == b'{' {
                            self.name()?;
                        }
                        continue;
                    }
                    self.at += 1;
                }
                b't' => self.word("rue")?,
                b'f' => self.word("alse")?,
                b'n' => self.word("ull")?,
                b'-' | b'0'..=b'9' => self.number(byte)?,
                _ => return None,
            }
            loop {
                let Some(close) = open.last().copied() else {
                    return Some(());
                };
                match self.next()? {
                    b',' if close == b'}' => break self.name()?,
                    b',' => break,
                    byte if byte == close => drop(open.pop()),
                    _ => return None,
                }
            }
        }
    }

    /// A key and its colon.
    fn key(&mut self) -> Option<Cow<'a, str>> {
        self.blanks();
        let start = self.at;
        self.name()?;
        let quoted = self.text.get(start..self.at)?;
        let quoted = quoted.trim_end_matches(|c: char| c == ':' || c.is_ascii_whitespace());
        let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
        if !inner.contains('\\') {
            return Some(Cow::Borrowed(inner));
        }
        let mut decoder = serde_json::Deserializer::from_str(quoted);
        Key.deserialize(&mut decoder).ok()
    }

    fn name(&mut self) -> Option<()> {
        self.expect(b'"')?;
        self.string()?;
        self.expect(b':')
    }

    /// The rest of a string whose quote was taken.
    fn string(&mut self) -> Option<()> {
        loop {
            let rest = self.text.as_bytes().get(self.at..)?;
            let end = plain(rest);
            let after = rest.get(end + 1);
            self.at += end + 1;
            match rest.get(end)? {
                b'"' => return Some(()),
                b'\\' => {}
                _ => return None,
            }
            let bytes = match after? {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 1,
                b'u' => {
                    let digits = rest.get(end + 2..end + 6)?;
                    digits.iter().all(u8::is_ascii_hexdigit).then_some(5)?
                }
                _ => return None,
            };
            self.at += bytes;
        }
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
        self.blanks();
        self.byte()
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

/// How many bytes of a string stand for themselves.
fn plain(text: &[u8]) -> usize {
    // Keys and roles are short.
    if let Some(word) = text.first_chunk() {
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            return special.trailing_zeros() as usize / 8;
        }
    }
    let is_special = |byte: &u8| matches!(*byte, b'"' | b'\\' | 0..b' ');
    // Without branches, so that a group of them is compared at once.
    let is_plain = |group: &&[u8; TOGETHER]| {
        let special = group.iter().map(|byte| {
            u8::from(*byte == b'"') | u8::from(*byte == b'\\') | u8::from(*byte < b' ')
        });
        special.fold(0, |any, it| any | it) == 0
    };
    let (groups, _) = text.as_chunks();
    let mut at = TOGETHER * groups.iter().take_while(is_plain).count();
    while let Some(word) = text.get(at..).and_then(<[u8]>::first_chunk) {
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            return at + special.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = text.get(at..).unwrap_or_default();
    at + rest.iter().position(is_special).unwrap_or(rest.len())
}

/// Marks the bytes of a word that do not stand for themselves in a string; the lowest mark is right, others may be wrong.
/// After "Determine if a word has a zero byte" and "has a byte less than n" of Anderson's Bit Twiddling Hacks.
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    let less = |word: u64, than: u8| word.wrapping_sub(ONES * u64::from(than)) & !word;
    let equal = |to: u8| less(word ^ (ONES * u64::from(to)), 1);
    (equal(b'"') | equal(b'\\') | less(word, b' ')) & HIGH
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
    }
}
