//! What a request's head must not be, though it is HTTP by the letter: what the next hop might read differently.

use crate::error::Error;
use crate::header;
use http::header::{CONNECTION, EXPECT, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, uri};

/// The longest request target, in bytes.
const TARGET_BYTES: usize = 8 << 10;
/// The methods that any route may have.
const METHODS: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];
/// How those are told.
const METHODS_TEXT: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
/// Headers, and starts of headers, that no client may have removed by naming them in `Connection`.
const NEEDED: [&str; 8] = [
    "host",
    "content-",
    "authorization",
    "cookie",
    "forwarded",
    "x-forwarded-",
    "x-real-ip",
    "via",
];

/// Refuses a head that no backend should see. The syntax is hyper's business; this is what it lets through.
///
/// # Errors
/// What is wrong with it.
pub fn check<B>(request: &Request<B>) -> Result<(), Error> {
    let headers = request.headers();
    check_target(request.method(), request.uri())?;
    check_host(request.version(), request.uri(), headers)?;
    if !METHODS.contains(request.method()) {
        return Err(Error::ForeignMethod {
            allow: METHODS_TEXT,
        });
    }
    check_encoding(headers)?;
    if names_what_is_needed(headers) {
        return Err(Error::Malformed("Connection names a header that is needed"));
    }
    let known = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if !headers.get_all(EXPECT).iter().all(known) {
        return Err(Error::Expectation);
    }
    Ok(())
}

fn check_target(method: &Method, uri: &Uri) -> Result<(), Error> {
    let target_bytes = uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    if target_bytes > TARGET_BYTES {
        return Err(Error::TargetTooLong {
            limit: TARGET_BYTES,
        });
    }
    let whole = uri
        .scheme()
        .is_none_or(|scheme| *scheme == uri::Scheme::HTTP || *scheme == uri::Scheme::HTTPS);
    // CONNECT is refused as a method.
    let rooted = uri.path().starts_with('/') || (uri.path() == "*" && *method == Method::OPTIONS);
    if !whole || (!rooted && *method != Method::CONNECT) {
        return Err(Error::Malformed("the request target is no path"));
    }
    if has_broken_encoding(uri.path().as_bytes()) {
        return Err(Error::Malformed("the path has a % without two digits"));
    }
    Ok(())
}

/// One `Host` that can be, and no other one in the target.
fn check_host(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<(), Error> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) if header::is_host(host) => Some(host.as_bytes()),
        (None, None) if version < Version::HTTP_11 => None,
        _ => return Err(Error::Host),
    };
    let Some(named) = uri.authority().filter(|_| uri.scheme().is_some()) else {
        return Ok(());
    };
    let named = named.as_str().as_bytes();
    if named.contains(&b'@') || host.is_some_and(|host| !host.eq_ignore_ascii_case(named)) {
        return Err(Error::Host);
    }
    Ok(())
}

/// A body comes as it is or in chunks, said once; everything else has been read differently by somebody.
fn check_encoding(headers: &HeaderMap) -> Result<(), Error> {
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    match (encodings.next(), encodings.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Error::Malformed("the only Transfer-Encoding is chunked")),
    }
}

fn names_what_is_needed(headers: &HeaderMap) -> bool {
    let needed = |name: &[u8]| {
        let name = name.trim_ascii();
        NEEDED.iter().any(|needed| {
            let start = name.get(..needed.len()).unwrap_or_default();
            let whole = needed.ends_with('-') || name.len() == needed.len();
            whole && start.eq_ignore_ascii_case(needed.as_bytes())
        })
    };
    let mut values = headers.get_all(CONNECTION).iter();
    values.any(|value| value.as_bytes().split(|byte| *byte == b',').any(needed))
}

fn has_broken_encoding(path: &[u8]) -> bool {
    memchr::memchr_iter(b'%', path).any(|at| {
        let digits = path.get(at + 1..at + 3).unwrap_or_default();
        digits.len() < 2 || !digits.iter().all(u8::is_ascii_hexdigit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_status(line: &str, headers: &[(&str, &str)], status: Option<u16>) {
        let (method, target) = line.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let found = check(&request.body(()).unwrap()).err();
        let found = found.map(|error| error.status().as_u16());
        assert_eq!(found, status, "{line} {headers:?}");
    }

    #[test]
    fn targets() {
        let host = [("host", "a:80")];
        check_status("GET /api/tags?x=%", &host, None);
        check_status("GET http://a:80/x", &host, None);
        check_status("GET http://A:80/x", &host, None);
        check_status("GET http://b/x", &host, Some(400));
        check_status("GET http://u@a:80/x", &host, Some(400));
        check_status("GET ftp://a:80/x", &host, Some(400));
        check_status("GET a:80", &host, Some(400));
        check_status("GET *", &host, Some(400));
        check_status("OPTIONS *", &host, None);
        check_status("CONNECT a:80", &host, Some(405));
        check_status("get /", &host, Some(405));
        check_status("GET /x%zz", &host, Some(400));
        check_status("GET /x%2", &host, Some(400));
    }

    #[test]
    fn headers_that_are_read_differently() {
        let with = |name, value| [("host", "a"), (name, value)];
        check_status("POST /", &with("transfer-encoding", "Chunked"), None);
        check_status(
            "POST /",
            &with("transfer-encoding", "gzip, chunked"),
            Some(400),
        );
        check_status("GET /", &with("connection", "close, te, x-mine"), None);
        check_status(
            "GET /",
            &with("connection", "te , X-Forwarded-For"),
            Some(400),
        );
        check_status("GET /", &with("connection", "Content-Type"), Some(400));
        check_status("GET /", &with("connection", "hosting"), None);
        check_status("GET /", &with("expect", "100-Continue"), None);
        check_status("GET /", &with("expect", "x"), Some(417));
    }
}
