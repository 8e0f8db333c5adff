//! Where the body of an answer ends, and which of the bytes that come are the body (RFC 9112 §6 and §7).

use super::Malformed;

/// The most that the lines between two pieces of data may come to, and the trailers, in bytes.
const LINES_LIMIT: u32 = 16 << 10;
/// Digits of a chunk's size: those of a `u64`.
const DIGITS_LIMIT: u32 = 16;

/// What is left of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes; with none left it is over.
    Length(u64),
    /// Chunks, up to an empty one.
    Chunked(Chunked),
    /// Everything until the connection ends.
    UntilClose,
}

/// Within a body in chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunked {
    at: At,
    /// Bytes of lines since the last data.
    line_bytes: u32,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size {
        value: u64,
        digits: u32,
    },
    Extension {
        value: u64,
    },
    SizeEnd {
        value: u64,
    },
    Data {
        left: u64,
    },
    DataEnd,
    DataEndLine,
    /// At the start of a line behind the last chunk.
    Trailer,
    InTrailer,
    LastLine,
    End,
    /// Something that is no chunk.
    Lost(&'static str),
}

impl Framing {
    /// A body in chunks, of which nothing has come.
    pub fn chunked() -> Self {
        Self::Chunked(Chunked {
            at: At::Size {
                value: 0,
                digits: 0,
            },
            line_bytes: 0,
        })
    }

    /// A body without a length that is over.
    pub fn ended() -> Self {
        Self::Chunked(Chunked {
            at: At::End,
            line_bytes: 0,
        })
    }

    /// Whether all of it has come.
    pub fn is_over(&self) -> bool {
        matches!(
            self,
            Self::Length(0) | Self::Chunked(Chunked { at: At::End, .. })
        )
    }

    /// Whether what came is no chunk, which [`decode`](Self::decode) tells once all before it has been handed out.
    pub fn is_broken(&self) -> bool {
        matches!(
            self,
            Self::Chunked(Chunked {
                at: At::Lost(_),
                ..
            })
        )
    }

    /// How many bytes are left, where that was announced.
    pub fn left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// The next piece of the body, and steps over what frames it: `bytes` then begins with more of the body, or is empty.
    /// `None` if no more of the body has come.
    ///
    /// # Errors
    /// When what comes is no chunk. All that came before it has been handed out.
    pub fn decode<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
        let data = match self {
            Self::UntilClose => std::mem::take(bytes),
            Self::Length(left) => take(left, bytes),
            Self::Chunked(chunked) => {
                chunked.step(bytes);
                if let At::Lost(why) = chunked.at {
                    return Err(Malformed(why));
                }
                let data = if let At::Data { left } = &mut chunked.at {
                    take(left, bytes)
                } else {
                    &[]
                };
                chunked.step(bytes);
                data
            }
        };
        Ok((!data.is_empty()).then_some(data))
    }
}

/// As many as there are, and no more than are left.
fn take<'a>(left: &mut u64, bytes: &mut &'a [u8]) -> &'a [u8] {
    let most = usize::try_from(*left)
        .unwrap_or(usize::MAX)
        .min(bytes.len());
    let (data, rest) = bytes.split_at(most);
    *left -= data.len() as u64;
    *bytes = rest;
    data
}

impl Chunked {
    /// Over everything that is not data.
    fn step(&mut self, bytes: &mut &[u8]) {
        loop {
            if matches!(self.at, At::Data { left: 0 }) {
                self.at = At::DataEnd;
                self.line_bytes = 0;
            }
            if matches!(self.at, At::Data { .. } | At::End | At::Lost(_)) {
                return;
            }
            let Some((&byte, rest)) = bytes.split_first() else {
                return;
            };
            *bytes = rest;
            self.line_bytes += 1;
            self.at = if self.line_bytes > LINES_LIMIT {
                At::Lost("too much between two chunks")
            } else {
                after(self.at, byte)
            };
        }
    }
}

fn after(at: At, byte: u8) -> At {
    match (at, byte) {
        (At::Size { digits: 0, .. }, b'\r' | b';' | b' ' | b'\t') => {
            At::Lost("a chunk without a size")
        }
        (At::Size { value, .. } | At::Extension { value }, b'\r') => At::SizeEnd { value },
        (At::Size { value, .. }, b';' | b' ' | b'\t') => At::Extension { value },
        (At::Size { value, digits }, _) => match (byte as char).to_digit(16) {
            Some(digit) if digits < DIGITS_LIMIT => At::Size {
                value: value << 4 | u64::from(digit),
                digits: digits + 1,
            },
            _ => At::Lost("a chunk whose size is no number"),
        },
        // A line feed alone would end the line for some and not for others.
        (At::Extension { .. }, b'\n') => At::Lost("a line within a chunk's extension"),
        (At::Extension { value }, _) => At::Extension { value },
        (At::SizeEnd { value: 0 } | At::InTrailer, b'\n') => At::Trailer,
        (At::SizeEnd { value }, b'\n') => At::Data { left: value },
        (At::DataEnd, b'\r') => At::DataEndLine,
        (At::DataEndLine, b'\n') => At::Size {
            value: 0,
            digits: 0,
        },
        (At::Trailer, b'\r') => At::LastLine,
        (At::LastLine, b'\n') => At::End,
        (At::SizeEnd { .. } | At::DataEnd | At::DataEndLine | At::LastLine, _) => {
            At::Lost("a chunk that does not end where it says")
        }
        // Trailers are dropped: no route of Ollama's has any.
        (At::Trailer | At::InTrailer, _) => At::InTrailer,
        (At::Data { .. } | At::End | At::Lost(_), _) => at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decodes pieces as they come: the body, and whether it was over or what was wrong.
    fn decode(framing: Framing, pieces: &[&[u8]]) -> (Vec<u8>, Result<bool, Malformed>) {
        let (mut framing, mut body) = (framing, Vec::new());
        for piece in pieces {
            let mut bytes = *piece;
            loop {
                match framing.decode(&mut bytes) {
                    Ok(Some(data)) => body.extend_from_slice(data),
                    Ok(None) => break,
                    Err(error) => return (body, Err(error)),
                }
            }
            if framing.is_over() && !bytes.is_empty() {
                body.extend_from_slice(b"|");
                body.extend_from_slice(bytes);
            }
        }
        (body, Ok(framing.is_over()))
    }

    #[test]
    fn chunks() {
        #[track_caller]
        fn check(bytes: &str, body: &str, outcome: Result<bool, &'static str>) {
            let whole = decode(Framing::chunked(), &[bytes.as_bytes()]);
            let expected = (body.as_bytes().to_vec(), outcome.map_err(Malformed));
            assert_eq!(whole, expected);
        }
        check("", "", Ok(false));
        check("3\r\nabc\r\n0\r\n\r\n", "abc", Ok(true));
        check("3\r\nabc\r\n", "abc", Ok(false));
        check("3\r\nab", "ab", Ok(false));
        check(
            "003;x=y\r\nabc\r\nA \r\n0123456789\r\n0\r\na: b\r\n\r\n",
            "abc0123456789",
            Ok(true),
        );
        check("0\r\n\r\nHTTP/1.1 200 OK", "|HTTP/1.1 200 OK", Ok(true));
        let no_number = "a chunk whose size is no number";
        check("3\r\nabc\r\nxyz\r\n", "abc", Err(no_number));
        check("-3\r\nabc\r\n", "", Err(no_number));
        check("3\nabc\r\n", "", Err(no_number));
        check("00000000000000003\r\nabc", "", Err(no_number));
        check("\r\n", "", Err("a chunk without a size"));
        check(
            "3;a\nb\r\nabc",
            "",
            Err("a line within a chunk's extension"),
        );
        let wrong_end = "a chunk that does not end where it says";
        check("3\r\nabcd\r\n", "abc", Err(wrong_end));
        check("3\r\nabc\n0\r\n\r\n", "abc", Err(wrong_end));
        check("3\rabc", "", Err(wrong_end));
        let much = format!("3;{}", "x".repeat(20_000));
        check(&much, "", Err("too much between two chunks"));
    }

    #[test]
    fn a_length_ends_where_it_says() {
        let framing = Framing::Length(5);
        assert_eq!(
            decode(framing, &[b"ab", b"cdef"]),
            (b"abcde|f".to_vec(), Ok(true))
        );
        assert_eq!(decode(framing, &[b"ab"]), (b"ab".to_vec(), Ok(false)));
    }

    #[test]
    fn what_ends_with_the_connection_is_never_over_before() {
        assert_eq!(
            decode(Framing::UntilClose, &[b"ab", b"c"]),
            (b"abc".to_vec(), Ok(false))
        );
    }

    proptest! {
        #[test]
        fn however_it_is_cut_it_comes_out_the_same(
            data in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            cuts in prop::collection::vec(1usize..9, 1..40),
        ) {
            let mut bytes = Vec::new();
            for chunk in &data {
                bytes.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
            let mut pieces = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, behind) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = behind;
            }
            prop_assert_eq!(decode(Framing::chunked(), &pieces), (data.concat(), Ok(true)));
        }
    }
}
