//! What a whole body says about its request: the model it names, and facts that routing may use.

use crate::error::Error;
use crate::route::Route;
use crate::wire::{Ask, Facts, Kind, ZstdError, form, zstd};
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, request};
use std::borrow::Cow;

/// The route whose body is a form.
const TRANSCRIPTIONS: &str = "/v1/audio/transcriptions";
/// The routes on which Ollama decodes Zstandard.
const ZSTD: [&str; 5] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
];
/// The routes on which Ollama takes `name` for `model`; elsewhere it does not know the key.
const NAMED: [&str; 5] = [
    "/api/show",
    "/api/pull",
    "/api/push",
    "/api/delete",
    "/api/create",
];

/// How a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Plain,
    /// As Zstandard, where Ollama reads it.
    Zstd,
}

impl Encoding {
    /// The encoding of a route's body.
    ///
    /// # Errors
    /// When Ollama would not understand it.
    pub fn of(route: Route, headers: &HeaderMap) -> Result<Self, Error> {
        let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
        let (first, second) = (encodings.next(), encodings.next());
        let first = first.map_or(b"".as_slice(), |value| value.as_bytes().trim_ascii());
        match (first, second) {
            (b"", None) => Ok(Self::Plain),
            (name, None) if name.eq_ignore_ascii_case(b"identity") => Ok(Self::Plain),
            (name, None) if name.eq_ignore_ascii_case(b"zstd") && ZSTD.contains(&route.label) => {
                Ok(Self::Zstd)
            }
            _ => Err(Error::Encoding),
        }
    }
}

/// What was read.
#[derive(Debug, Default)]
pub struct Reading {
    /// The model's name, as the client wrote it.
    pub name: Option<String>,
    /// The rest.
    pub facts: Facts,
}

/// Reads a body that came in whole; it stays as it is.
///
/// # Errors
/// When it is not what the route needs.
pub async fn read(
    route: Route,
    encoding: Encoding,
    parts: &request::Parts,
    body: &Bytes,
) -> Result<Reading, Error> {
    if route.label == TRANSCRIPTIONS {
        return Ok(Reading {
            name: transcriptions_model(parts, body),
            facts: Facts::default(),
        });
    }
    match encoding {
        Encoding::Plain => json(route, body),
        Encoding::Zstd => {
            let encoded = body.clone();
            // Decoding keeps a core busy for long enough that other requests would notice.
            let decoded = tokio::task::spawn_blocking(move || zstd::decode(&encoded)).await;
            let decoded = decoded.map_err(|error| ZstdError::Invalid(error.to_string()));
            json(route, &decoded.and_then(|outcome| outcome)?)
        }
    }
}

fn json(route: Route, body: &[u8]) -> Result<Reading, Error> {
    let mut ask = Ask::read_as(Kind::of(route.label), body)?;
    let facts = std::mem::take(&mut ask.facts);
    let name = if NAMED.contains(&route.label) {
        ask.model_or_name()
    } else {
        ask.model
    };
    Ok(Reading {
        name: name.map(Cow::into_owned),
        facts,
    })
}

/// `model` of the query, even if it is empty, else of the form: Go's order. A backend says what is wrong if there is none.
fn transcriptions_model(parts: &request::Parts, body: &[u8]) -> Option<String> {
    let from_query = parts
        .uri
        .query()
        .and_then(|query| query_value(query, "model"));
    from_query.or_else(|| {
        let content_type = parts.headers.get(CONTENT_TYPE)?.to_str().ok()?;
        let field = form::field(content_type, body, "model")?;
        Some(String::from_utf8_lossy(field).into_owned())
    })
}

/// The first value of a key in a query.
fn query_value(query: &str, key: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name)? == key).then(|| decoded(value)).flatten()
    })
}

/// Text of a query, its encodings undone.
fn decoded(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    let bytes = percent_encoding::percent_decode_str(&spaced);
    Some(bytes.decode_utf8().ok()?.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderValue, Method};

    #[track_caller]
    fn check_query(query: &str, model: Option<&str>) {
        assert_eq!(query_value(query, "model").as_deref(), model, "{query}");
    }

    #[test]
    fn queries_are_read_as_forms() {
        check_query("model=a", Some("a"));
        check_query("x=1&m%6fdel=a%2Fb:1+2&model=c", Some("a/b:1 2"));
        check_query("model", Some(""));
        check_query("Model=a&models=b", None);
        check_query("", None);
    }

    #[track_caller]
    fn check_encoding(path: &str, encodings: &[&'static str], expected: Option<Encoding>) {
        let route = Route::of(&Method::POST, path).unwrap();
        let mut headers = HeaderMap::new();
        for encoding in encodings {
            headers.append(CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        assert_eq!(
            Encoding::of(route, &headers).ok(),
            expected,
            "{path} {encodings:?}"
        );
    }

    #[test]
    fn zstd_is_known_where_ollama_knows_it() {
        for path in ZSTD {
            check_encoding(path, &["ZSTD"], Some(Encoding::Zstd));
        }
        for path in ["/api/chat", "/api/generate", TRANSCRIPTIONS] {
            check_encoding(path, &["zstd"], None);
            check_encoding(path, &["identity"], Some(Encoding::Plain));
            check_encoding(path, &[], Some(Encoding::Plain));
        }
        for encodings in [
            &["gzip"][..],
            &["br"],
            &["deflate"],
            &["zstd, gzip"],
            &["zstd", "zstd"],
        ] {
            check_encoding("/v1/responses", encodings, None);
        }
    }
}
