//! The head of an answer, as it comes from a backend, and what it says of the body behind it.

use super::Malformed;
use super::framing::Framing;
use bytes::BytesMut;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version};
use httparse::{ParserConfig, Status};
use smallvec::SmallVec;
use std::mem::MaybeUninit;
use std::ops::Range;

/// The most that a head may take, in bytes, those of interim answers aside.
const HEAD_BYTES: usize = 16 << 10;
const FIELDS_LIMIT: usize = 100;
/// What is wrong with a length that is none.
const NO_NUMBER: &str = "a length that is no number";
/// Fields that an answer gets on its way to the client.
const ADDED: usize = 5;
/// Fields whose places fit on the stack: more than Ollama sends.
const FIELDS_COMMON: usize = 16;

/// The head of an answer.
#[derive(Debug)]
pub struct Head {
    /// Status, version and fields as they came.
    pub response: Response<()>,
    /// What the body behind it is.
    pub framing: Framing,
    /// Whether the connection may be used again after it.
    pub keeps_alive: bool,
}

/// Takes a head off the front of what has come; `None` if it is not whole. Its fields go into `spare`, an empty map that may
/// have room already.
///
/// # Errors
/// When it is no head, or one that is too long.
pub fn take(
    come: &mut BytesMut,
    spare: &mut HeaderMap,
    answers_head: bool,
) -> Result<Option<Head>, Malformed> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_LIMIT];
    let mut parsed = httparse::Response::new(&mut []);
    let length = ParserConfig::default()
        .parse_response_with_uninit_headers(&mut parsed, come, &mut fields)
        .map_err(|error| Malformed(describe(error)))?;
    let Status::Complete(length) = length else {
        if come.len() >= HEAD_BYTES {
            return Err(Malformed("a head that is too long"));
        }
        return Ok(None);
    };
    let status = StatusCode::from_u16(parsed.code.unwrap_or_default())
        .map_err(|_| Malformed("a status that is none"))?;
    let version = match parsed.version {
        Some(1) => Version::HTTP_11,
        _ => Version::HTTP_10,
    };
    let place = |part: &[u8]| {
        let start = part.as_ptr().addr() - come.as_ptr().addr();
        start..start + part.len()
    };
    let places: SmallVec<[(Range<usize>, Range<usize>); FIELDS_COMMON]> = parsed
        .headers
        .iter()
        .map(|field| (place(field.name.as_bytes()), place(field.value)))
        .collect();
    let bytes = come.split_to(length).freeze();
    let mut headers = std::mem::take(spare);
    headers.reserve(places.len() + ADDED);
    let mut said = Said::default();
    for (name, value) in places {
        let name = HeaderName::from_bytes(bytes.get(name).unwrap_or_default());
        let value = HeaderValue::from_maybe_shared(bytes.slice(value));
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(Malformed("a field that is none"));
        };
        said.hear(&name, &value);
        headers.append(name, value);
    }
    let framing = said.framing(status, version, answers_head)?;
    let keeps_alive = said.keeps_alive(version, framing);
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = version;
    *response.headers_mut() = headers;
    Ok(Some(Head {
        response,
        framing,
        keeps_alive,
    }))
}

/// What the fields say of the body and of the connection.
#[derive(Debug, Default)]
struct Said {
    length: Option<Length>,
    coding: Option<Coding>,
    closes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Known(u64),
    Odd(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Chunked,
    Unknown,
}

impl Said {
    fn hear(&mut self, name: &HeaderName, value: &HeaderValue) {
        let mut parts = value.as_bytes().split(|byte| *byte == b',');
        if *name == CONTENT_LENGTH {
            for part in parts {
                let length = number(part).map_or(Length::Odd(NO_NUMBER), Length::Known);
                self.length = Some(match self.length {
                    // The same length said twice, in one field or in two, is one length.
                    Some(known @ Length::Known(_)) if known != length => Length::Odd("two lengths"),
                    Some(known) => known,
                    None => length,
                });
            }
        } else if *name == TRANSFER_ENCODING {
            let is_chunked = value.as_bytes().eq_ignore_ascii_case(b"chunked");
            self.coding = Some(match self.coding {
                None if is_chunked => Coding::Chunked,
                _ => Coding::Unknown,
            });
        } else if *name == CONNECTION {
            self.closes |= parts.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"));
        }
    }

    /// RFC 9112 §6.3.
    fn framing(
        &self,
        status: StatusCode,
        version: Version,
        answers_head: bool,
    ) -> Result<Framing, Malformed> {
        let is_empty = answers_head
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        match (self.coding, self.length) {
            _ if is_empty => Ok(Framing::Length(0)),
            (Some(Coding::Chunked), _) if version == Version::HTTP_11 => Ok(Framing::chunked()),
            (Some(_), _) => Err(Malformed("an unknown transfer coding")),
            (None, Some(Length::Known(length))) => Ok(Framing::Length(length)),
            (None, Some(Length::Odd(why))) => Err(Malformed(why)),
            (None, None) => Ok(Framing::UntilClose),
        }
    }

    fn keeps_alive(&self, version: Version, framing: Framing) -> bool {
        // What names two framings may be read in two ways: nothing that comes behind it is trusted.
        let is_ambiguous = self.coding.is_some() && self.length.is_some();
        let ends = framing == Framing::UntilClose;
        version == Version::HTTP_11 && !self.closes && !is_ambiguous && !ends
    }
}

fn number(text: &[u8]) -> Option<u64> {
    let digits = text.trim_ascii();
    let is_number = digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
}

fn describe(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::TooManyHeaders => "a head with too many fields",
        httparse::Error::Version => "another protocol",
        httparse::Error::Status => "a status that is none",
        httparse::Error::HeaderName
        | httparse::Error::HeaderValue
        | httparse::Error::NewLine
        | httparse::Error::Token => "a head that is none",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fields: &str, framing: Result<Framing, &'static str>, keeps_alive: bool) {
        let mut come = BytesMut::from(format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_str());
        let head =
            take(&mut come, &mut HeaderMap::new(), false).map(|head| head.expect("it is whole"));
        assert_eq!(
            head.as_ref().map(|head| head.framing).map_err(|it| it.0),
            framing,
            "{fields}"
        );
        if let Ok(head) = head {
            assert_eq!(head.keeps_alive, keeps_alive, "{fields}");
        }
        assert!(come.is_empty());
    }

    #[test]
    fn what_the_fields_say_of_the_body() {
        let until_close = Ok(Framing::UntilClose);
        let chunked = Ok(Framing::chunked());
        check("", until_close, false);
        check("content-length: 12\r\n", Ok(Framing::Length(12)), true);
        check(
            "content-length: 12\r\nContent-Length: 12\r\n",
            Ok(Framing::Length(12)),
            true,
        );
        check(
            "content-length: 12\r\ncontent-length: 13\r\n",
            Err("two lengths"),
            true,
        );
        check(
            "content-length: +12\r\n",
            Err("a length that is no number"),
            true,
        );
        check(
            "content-length: \r\n",
            Err("a length that is no number"),
            true,
        );
        check(
            "content-length: 99999999999999999999\r\n",
            Err("a length that is no number"),
            true,
        );
        check("content-length: 12, 012\r\n", Ok(Framing::Length(12)), true);
        check("content-length: 12,\r\n", Err("two lengths"), true);
        check("transfer-encoding: Chunked\r\n", chunked, true);
        check(
            "transfer-encoding: chunked\r\ncontent-length: 3\r\n",
            chunked,
            false,
        );
        check(
            "transfer-encoding: chunked\r\nconnection: x, Close\r\n",
            chunked,
            false,
        );
        let unknown = Err("an unknown transfer coding");
        check("transfer-encoding: gzip, chunked\r\n", unknown, true);
        check(
            "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n",
            unknown,
            true,
        );
    }

    #[test]
    fn some_answers_have_no_body_whatever_they_say() {
        #[track_caller]
        fn check(status: u16, answers_head: bool) {
            let text = format!("HTTP/1.1 {status} X\r\ncontent-length: 5\r\n\r\n");
            let head = take(
                &mut BytesMut::from(text.as_str()),
                &mut HeaderMap::new(),
                answers_head,
            );
            let head = head.unwrap().unwrap();
            assert_eq!(head.framing, Framing::Length(0));
            assert_eq!(head.response.headers()[CONTENT_LENGTH], "5");
        }
        check(204, false);
        check(304, false);
        check(103, false);
        check(200, true);
    }

    #[test]
    fn what_is_no_head_is_refused() {
        #[track_caller]
        fn check(text: &str, why: &'static str) {
            let taken = take(&mut BytesMut::from(text), &mut HeaderMap::new(), false);
            assert_eq!(
                taken.map(|head| head.is_some()),
                Err(Malformed(why)),
                "{text}"
            );
        }
        check("SSH-2.0-OpenSSH_9.2\r\n", "another protocol");
        check("HTTP/2 200 OK\r\n\r\n", "another protocol");
        check("HTTP/1.1 99 X\r\n\r\n", "a status that is none");
        check("HTTP/1.1 2000 X\r\n\r\n", "a status that is none");
        check("HTTP/1.1 200 OK\r\na b: c\r\n\r\n", "a head that is none");
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101));
        check(&many, "a head with too many fields");
        let long = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(20_000));
        check(&long, "a head that is too long");
    }

    #[test]
    fn a_part_of_a_head_is_waited_for() {
        let text = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
        for end in 0..text.len() - 2 {
            let mut come = BytesMut::from(&text[..end]);
            assert!(
                take(&mut come, &mut HeaderMap::new(), false)
                    .unwrap()
                    .is_none()
            );
            assert_eq!(come, text[..end]);
        }
        let mut come = BytesMut::from(text);
        assert!(
            take(&mut come, &mut HeaderMap::new(), false)
                .unwrap()
                .is_some()
        );
        assert_eq!(come, "hi");
    }
}
