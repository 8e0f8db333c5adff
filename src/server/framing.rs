//! Follows where messages begin and end in what a client sends, beside hyper, which puts some things right silently.
//!
//! A length said twice, a length next to chunks, a fragment in the target: hyper drops the one and keeps the other, and
//! nobody behind it can tell. Proxies that read such a request differently than their backends are how one client's
//! bytes end up in another's request, so it is refused here. Everything else about the syntax is left to hyper.

use std::mem;

/// The most header fields of a request; hyper's own limit too.
pub const FIELDS: usize = 100;
/// The first byte of a TLS handshake, which no method has.
const TLS_HANDSHAKE: u8 = 0x16;

/// Why a connection gets an answer and nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A head that could be read in two ways.
    Malformed(&'static str),
    /// The request line is longer than a head may be.
    TargetTooLong,
    /// The head is too long, or has too many fields.
    HeadTooLarge,
    /// The head did not come in time.
    HeadLate,
    /// There is no descriptor left to serve the connection with.
    Overloaded,
    /// Its address has as many connections as one may.
    Crowded,
}

/// What ends the following of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// A head must not be handled. It began at this byte of those that were given, or before them.
    Head(usize, Refusal),
    /// A chunked body is no HTTP from this byte on; its head is fine.
    Body(usize),
}

/// Where in the sequence of messages a connection is.
#[derive(Debug)]
pub struct Framing {
    at: At,
    head: Head,
    /// The most bytes of a head.
    limit: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Head,
    /// In a body of which so many bytes are missing.
    Length(u64),
    Chunks(Chunks),
    /// Behind a head that hyper will refuse.
    Lost,
}

/// What is known of a head so far.
#[derive(Debug, Default)]
struct Head {
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    bytes: usize,
    /// Whole lines, the request line included.
    lines: usize,
    length: Option<Length>,
    chunked: bool,
}

#[derive(Debug, Clone, Copy)]
enum Length {
    Known(u64),
    /// No number, which hyper refuses.
    Odd,
}

/// Where in a chunked body: the byte that comes next belongs to this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunks {
    /// A size, with the number so far if there was a digit.
    Size(Option<u64>),
    /// What follows a size on its line.
    Extension(u64),
    SizeEnd(u64),
    Data(u64),
    DataCr,
    DataEnd,
    TrailerStart,
    Trailer,
    TrailerEnd,
    End,
}

impl Framing {
    /// Follows a new connection whose heads may have so many bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            at: At::Head,
            head: Head::default(),
            limit,
        }
    }

    /// Whether a head has begun and is not whole.
    pub fn is_in_head(&self) -> bool {
        self.at == At::Head && self.head.bytes > 0
    }

    /// Whether a body is not whole.
    pub fn is_in_body(&self) -> bool {
        matches!(self.at, At::Length(_) | At::Chunks(_))
    }

    /// Takes note of what came.
    ///
    /// # Errors
    /// When what came must not be handled. Nothing may be fed after that.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let mut rest = bytes;
        // Where the head that is being read begins.
        let mut start = 0;
        while let Some(first) = rest.first() {
            match self.at {
                At::Lost => return Ok(()),
                At::Head => {
                    if self.head.bytes == 0 {
                        start = bytes.len() - rest.len();
                    }
                    let refuse = |refusal| Fault::Head(start, refusal);
                    if self.head.bytes == 0 && *first == TLS_HANDSHAKE {
                        return Err(refuse(Refusal::Malformed("TLS on a port for plain HTTP")));
                    }
                    let (line, more) = match memchr::memchr(b'\n', rest) {
                        Some(end) => rest.split_at(end + 1),
                        None => (rest, &b""[..]),
                    };
                    rest = more;
                    self.head.bytes += line.len();
                    if self.head.bytes > self.limit {
                        return Err(refuse(match self.head.lines {
                            0 => Refusal::TargetTooLong,
                            _ => Refusal::HeadTooLarge,
                        }));
                    }
                    if self.head.is_over(line).map_err(refuse)? {
                        self.at = mem::take(&mut self.head).body();
                    }
                }
                At::Length(left) => {
                    let taken = (rest.len() as u64).min(left);
                    rest = rest
                        .get(usize::try_from(taken).unwrap_or(usize::MAX)..)
                        .unwrap_or_default();
                    self.at = match left - taken {
                        0 => At::Head,
                        left => At::Length(left),
                    };
                }
                At::Chunks(Chunks::Data(left)) => {
                    let taken = (rest.len() as u64).min(left);
                    rest = rest
                        .get(usize::try_from(taken).unwrap_or(usize::MAX)..)
                        .unwrap_or_default();
                    self.at = At::Chunks(match left - taken {
                        0 => Chunks::DataCr,
                        left => Chunks::Data(left),
                    });
                }
                At::Chunks(Chunks::End) if *first == b'\n' => {
                    rest = rest.get(1..).unwrap_or_default();
                    self.at = At::Head;
                }
                At::Chunks(chunks) => {
                    let next = chunks.after(*first);
                    self.at = At::Chunks(next.ok_or(Fault::Body(bytes.len() - rest.len()))?);
                    rest = rest.get(1..).unwrap_or_default();
                }
            }
        }
        Ok(())
    }
}

impl Head {
    /// Takes a line, or a part of one, and says whether it ends the head.
    fn is_over(&mut self, part: &[u8]) -> Result<bool, Refusal> {
        if !part.ends_with(b"\n") {
            self.line.extend_from_slice(part);
            return Ok(false);
        }
        if self.line.is_empty() {
            return self.take(part);
        }
        let mut line = mem::take(&mut self.line);
        line.extend_from_slice(part);
        self.take(&line)
    }

    fn take(&mut self, line: &[u8]) -> Result<bool, Refusal> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            // Empty lines before a request are allowed.
            return Ok(self.lines > 0);
        }
        self.lines += 1;
        if self.lines == 1 {
            return match memchr::memchr(b'#', line) {
                Some(_) => Err(Refusal::Malformed("the request target has a fragment")),
                None => Ok(false),
            };
        }
        if self.lines > FIELDS + 1 {
            return Err(Refusal::HeadTooLarge);
        }
        let name_is = |name: &str| {
            let start = line.get(..name.len()).unwrap_or_default();
            start.eq_ignore_ascii_case(name.as_bytes()) && line.get(name.len()) == Some(&b':')
        };
        if name_is("content-length") {
            if self.length.is_some() {
                return Err(Refusal::Malformed("Content-Length is there twice"));
            }
            let value = line.get("content-length:".len()..).unwrap_or_default();
            self.length = Some(Length::read(value.trim_ascii()));
        } else if name_is("transfer-encoding") {
            self.chunked = true;
        }
        if self.chunked && self.length.is_some() {
            return Err(Refusal::Malformed(
                "Content-Length next to Transfer-Encoding",
            ));
        }
        Ok(false)
    }

    /// What follows the head.
    fn body(self) -> At {
        match (self.chunked, self.length) {
            (true, _) => At::Chunks(Chunks::Size(None)),
            (false, None | Some(Length::Known(0))) => At::Head,
            (false, Some(Length::Known(length))) => At::Length(length),
            (false, Some(Length::Odd)) => At::Lost,
        }
    }
}

impl Length {
    fn read(value: &[u8]) -> Self {
        let digits = value.iter().all(u8::is_ascii_digit);
        let text = std::str::from_utf8(value).ok().filter(|_| digits);
        text.and_then(|text| text.parse().ok())
            .map_or(Self::Odd, Self::Known)
    }
}

impl Chunks {
    /// What follows a byte that is not data; `None` if it must not be there.
    fn after(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Size(Some(size)) | Self::Extension(size), b'\r') => Self::SizeEnd(size),
            (Self::Size(Some(size)), b';' | b' ' | b'\t') => Self::Extension(size),
            (Self::Size(size), digit) => {
                let digit = char::from(digit).to_digit(16)?;
                let scaled = size.unwrap_or(0).checked_mul(16)?;
                Self::Size(Some(scaled + u64::from(digit)))
            }
            (Self::SizeEnd(0) | Self::TrailerEnd, b'\n') => Self::TrailerStart,
            (Self::SizeEnd(size), b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataEnd,
            (Self::DataEnd, b'\n') => Self::Size(None),
            (Self::TrailerStart, b'\r') => Self::End,
            (Self::Trailer, b'\r') => Self::TrailerEnd,
            (Self::Extension(_) | Self::TrailerStart | Self::Trailer, b'\n')
            | (
                Self::SizeEnd(_)
                | Self::Data(_)
                | Self::DataCr
                | Self::DataEnd
                | Self::TrailerEnd
                | Self::End,
                _,
            ) => return None,
            (Self::Extension(size), _) => Self::Extension(size),
            (Self::TrailerStart | Self::Trailer, _) => Self::Trailer,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 200;

    /// Feeds the text in pieces of every size, and asserts where it leads.
    #[track_caller]
    fn check(text: &str, expected: Result<(bool, bool), &Fault>) {
        for size in 1..=text.len() {
            let mut framing = Framing::new(LIMIT);
            let mut fed = 0;
            let outcome = text.as_bytes().chunks(size).try_for_each(|piece| {
                let outcome = framing.feed(piece);
                // Where a head began is told for the piece.
                let outcome = outcome.map_err(|fault| match fault {
                    Fault::Head(at, refusal) => Fault::Head(fed + at, refusal),
                    Fault::Body(_) => Fault::Body(0),
                });
                fed += piece.len();
                outcome
            });
            let found = outcome
                .as_ref()
                .map(|()| (framing.is_in_head(), framing.is_in_body()));
            match (found, expected) {
                (Err(Fault::Head(at, found)), Err(Fault::Head(start, refusal))) => {
                    assert_eq!(found, refusal, "{text:?} by {size}");
                    assert!(at >= start, "{text:?} by {size}");
                }
                (found, expected) => assert_eq!(found, expected, "{text:?} by {size}"),
            }
        }
    }

    const BETWEEN: Result<(bool, bool), &Fault> = Ok((false, false));
    const IN_HEAD: Result<(bool, bool), &Fault> = Ok((true, false));
    const IN_BODY: Result<(bool, bool), &Fault> = Ok((false, true));

    #[test]
    fn messages_end_where_they_say() {
        check("GET / HTTP/1.1\r\nhost: a\r\n\r\n", BETWEEN);
        check("GET / HTTP/1.1\nhost: a\n\n", BETWEEN);
        check("\r\n\r\nGET / HTTP/1.1\r\n", IN_HEAD);
        check("POST / HTTP/1.1\r\nContent-length: 3\r\n\r\nab", IN_BODY);
        check("POST / HTTP/1.1\r\ncontent-length:3\r\n\r\nabcG", IN_HEAD);
        check("POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n", BETWEEN);
        let chunked = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        for (body, expected) in [
            ("3;a=b\r\nabc\r\n0\r\n\r\n", BETWEEN),
            ("A\r\n0123456789\r\n0\r\nx: y\r\n\r\nG", IN_HEAD),
            ("000000000000000000003\r\nabc\r\n", IN_BODY),
            ("3\r\nab", IN_BODY),
            ("0\r\n\n", Err(&Fault::Body(0))),
            ("0\n", Err(&Fault::Body(0))),
            ("\r\n", Err(&Fault::Body(0))),
            (" 3", Err(&Fault::Body(0))),
            ("3\r\nabcd", Err(&Fault::Body(0))),
            ("3;a\nb\r\nabc", Err(&Fault::Body(0))),
            ("fffffffffffffffff", Err(&Fault::Body(0))),
        ] {
            check(&format!("{chunked}{body}"), expected);
        }
    }

    #[test]
    fn heads_that_could_be_read_in_two_ways_are_refused() {
        let post = "POST / HTTP/1.1\r\n";
        let length = "content-length: 3\r\n";
        let chunks = "Transfer-Encoding: chunked\r\n";
        let twice = Fault::Head(0, Refusal::Malformed("Content-Length is there twice"));
        let both = Refusal::Malformed("Content-Length next to Transfer-Encoding");
        let both = Fault::Head(0, both);
        check(&format!("{post}{length}{length}"), Err(&twice));
        check(&format!("{post}{length}{chunks}"), Err(&both));
        check(&format!("{post}{chunks}{length}"), Err(&both));
        let good = format!("{post}{length}\r\nabc");
        let late = Fault::Head(
            good.len(),
            Refusal::Malformed("the request target has a fragment"),
        );
        check(&format!("{good}GET /#x HTTP/1.1\r\n"), Err(&late));
        let long = "x".repeat(LIMIT);
        let target = Fault::Head(0, Refusal::TargetTooLong);
        check(&format!("GET /{long}"), Err(&target));
        let head = Fault::Head(0, Refusal::HeadTooLarge);
        check(&format!("{post}x: {long}"), Err(&head));
    }

    proptest! {
        #[test]
        fn whatever_comes_it_is_the_same_in_pieces(
            text in "(GET / HTTP/1.1\r\n)?(content-length: [0-9]{1,3}\r\n|transfer-encoding: chunked\r\n|x: #\r\n){0,3}\r\n([0-9a-f;\r\n x]|.){0,40}",
            size in 1usize..40,
        ) {
            let mut whole = Framing::new(LIMIT);
            let mut pieces = Framing::new(LIMIT);
            let first = whole.feed(text.as_bytes()).is_ok();
            let second = text.as_bytes().chunks(size).try_for_each(|piece| pieces.feed(piece)).is_ok();
            prop_assert_eq!(first, second);
            if first {
                prop_assert_eq!(whole.at, pieces.at);
            }
        }
    }
}
