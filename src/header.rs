//! What a hop in between does to headers: pure functions on a `HeaderMap`.

use crate::address::Address;
use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;
use smallvec::SmallVec;
use std::net::{IpAddr, SocketAddr};

/// Which backend answered.
pub const BACKEND: HeaderName = HeaderName::from_static("x-llamero-backend");
/// On how many backends the request was tried.
pub const ATTEMPTS: HeaderName = HeaderName::from_static("x-llamero-attempts");
/// What a request is called in logs.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What Anthropic's clients call [`REQUEST_ID`].
pub const ANTHROPIC_REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
/// [`RETRY_AFTER`](header::RETRY_AFTER) in milliseconds, as OpenAI's and Anthropic's clients read it.
pub const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
/// Whether OpenAI's and Anthropic's clients ask again, whatever the status.
pub const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// The clients and proxies that a request came by.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Entries of `X-Forwarded-For` that are looked at, from the right.
const FORWARDED_LIMIT: usize = 64;
const REQUEST_ID_BYTES: usize = 128;
/// Room for the lines of a common head, in bytes.
const LINES_BYTES: usize = 512;
/// The content types of streams.
const STREAMS: [&str; 2] = ["application/x-ndjson", "text/event-stream"];

/// Removes what is not meant for the other side, and what else is not.
fn strip(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    let mut gone: SmallVec<[HeaderName; 8]> = SmallVec::new();
    for name in headers.keys() {
        if *name == header::CONNECTION {
            gone.extend(named_by_connection(headers));
        }
        if is_hop_by_hop(name.as_str()) || unwanted(name.as_str()) {
            gone.push(name.clone());
        }
    }
    for name in gone {
        headers.remove(name);
    }
}

fn named_by_connection(headers: &HeaderMap) -> SmallVec<[HeaderName; 8]> {
    let named = headers.get_all(header::CONNECTION).iter();
    named
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect()
}

/// Whether a header speaks to the next hop only (RFC 9110 §7.6.1), even if `Connection` does not name it.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "http2-settings"
    )
}

/// Where a request came from: the peer, or, if the peer is trusted, the right-most address of `X-Forwarded-For` that is
/// not. An entry that is no address ends the search, since nobody can say who wrote what stands left of it.
pub fn client_address(headers: &HeaderMap, peer: &Address, trusted: &[IpNet]) -> Address {
    let is_trusted = |ip: IpAddr| trusted.iter().any(|net| net.contains(&ip.to_canonical()));
    if !is_trusted(peer.ip) {
        return peer.clone();
    }
    let mut client = peer.ip;
    let values = headers.get_all(FORWARDED_FOR).iter().rev();
    let entries = values.flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
    for entry in entries.take(FORWARDED_LIMIT) {
        if !is_trusted(client) {
            break;
        }
        let Some(address) = address_of(entry.trim()) else {
            break;
        };
        client = address;
    }
    client.into()
}

/// Reads an address as proxies write it: bare, with a port, in brackets.
fn address_of(entry: &str) -> Option<IpAddr> {
    let bare = entry.trim_start_matches('[').trim_end_matches(']');
    bare.parse()
        .ok()
        .or_else(|| entry.parse::<SocketAddr>().ok().map(|socket| socket.ip()))
}

/// The lines of a head for any backend, made of a client's headers, but for `Host` and framing: the first differs from
/// backend to backend, the second is decided by the body that is sent.
///
/// `Origin` and what a browser asks with it go, since a backend would judge it against its own name. What is said to the
/// proxy alone goes, since a backend may pass it on to a cloud. What an untrusted peer says about forwarding goes too.
pub fn for_backends(
    headers: &HeaderMap,
    peer: &Address,
    trusted: &[IpNet],
    request_id: &HeaderValue,
    via: &HeaderValue,
) -> BytesMut {
    let peer_trusted = trusted.iter().any(|net| net.contains(&peer.ip));
    // In order, since it is searched for each header and may be long.
    let mut named = named_by_connection(headers);
    named.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    let is_named = |name: &HeaderName| {
        let found = named.binary_search_by(|it| it.as_str().cmp(name.as_str()));
        found.is_ok()
    };
    let is_wanted = |name: &HeaderName| {
        let text = name.as_str();
        let is_said_to_us = matches!(
            text,
            "host" | "content-length" | "expect" | "origin" | "x-forwarded-prefix" | "x-real-ip"
        );
        let is_said_anew = matches!(text, "x-forwarded-for" | "x-request-id");
        let is_said_of_others =
            matches!(text, "forwarded" | "x-forwarded-host" | "x-forwarded-proto");
        !(is_said_to_us
            || is_said_anew
            || (is_said_of_others && !peer_trusted)
            || is_hop_by_hop(text)
            || text.starts_with("access-control-request-")
            || text.starts_with("x-llamero-")
            // Some servers read an underscore as a hyphen, and would take `x_forwarded_for` for what it is not.
            || text.as_bytes().contains(&b'_')
            || is_named(name))
    };
    let mut lines = BytesMut::with_capacity(LINES_BYTES);
    for (name, value) in headers.iter().filter(|(name, _)| is_wanted(name)) {
        put_line(&mut lines, name, value);
    }
    let chain = if peer_trusted && !is_named(&FORWARDED_FOR) {
        chain_of(headers, peer)
    } else {
        None
    };
    put_line(
        &mut lines,
        &FORWARDED_FOR,
        chain.as_ref().unwrap_or(peer.text()),
    );
    let is_told = |name: &HeaderName| peer_trusted && headers.contains_key(name) && !is_named(name);
    if !is_told(&FORWARDED_PROTO) {
        put_line(
            &mut lines,
            &FORWARDED_PROTO,
            &HeaderValue::from_static("http"),
        );
    }
    if let Some(host) = headers.get(header::HOST)
        && !is_told(&FORWARDED_HOST)
    {
        put_line(&mut lines, &FORWARDED_HOST, host);
    }
    put_line(&mut lines, &header::VIA, via);
    put_line(&mut lines, &REQUEST_ID, request_id);
    lines
}

/// Writes a header as a line of a head.
pub fn put_line(lines: &mut BytesMut, name: &HeaderName, value: &HeaderValue) {
    lines.extend_from_slice(name.as_str().as_bytes());
    lines.extend_from_slice(b": ");
    lines.extend_from_slice(value.as_bytes());
    lines.extend_from_slice(b"\r\n");
}

/// `X-Forwarded-For` with one more address, if there is one already.
fn chain_of(headers: &HeaderMap, peer: &Address) -> Option<HeaderValue> {
    let values = headers.get_all(FORWARDED_FOR).iter();
    let mut chain: Vec<_> = values.filter_map(|value| value.to_str().ok()).collect();
    if chain.is_empty() {
        return None;
    }
    chain.push(peer.as_str());
    HeaderValue::try_from(chain.join(", ")).ok()
}

/// What this process is called in `Via`: not the same as another one, which may well stand in front of it.
pub fn new_via() -> HeaderValue {
    let name = format!("1.1 llamero-{:08x}", fastrand::u32(..));
    HeaderValue::try_from(name).unwrap_or(HeaderValue::from_static("1.1 llamero"))
}

/// Whether a request came by a proxy of this name before.
pub fn has_passed(headers: &HeaderMap, via: &HeaderValue) -> bool {
    let values = headers.get_all(header::VIA).iter();
    let mut names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    names.any(|name| name.trim_ascii() == via.as_bytes())
}

/// Turns a backend's headers into those for a client. What it says about origins goes: it was told of none. Framing is left to the body, but for HEAD, whose length no body
/// can tell.
pub fn for_client(headers: &mut HeaderMap, is_head: bool) {
    let tells_length = is_head && !headers.contains_key(header::TRANSFER_ENCODING);
    strip(headers, |name| {
        name.starts_with("access-control-") || (name == "content-length" && !tells_length)
    });
}

/// Asks proxies and caches on the way to the client to hold nothing of a stream back.
pub fn unbuffer(headers: &mut HeaderMap) {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .and_then(|kind| kind.split(';').next())
        .unwrap_or_default()
        .trim();
    if STREAMS
        .iter()
        .any(|stream| stream.eq_ignore_ascii_case(kind))
    {
        headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
        headers
            .entry(header::CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-cache"));
    }
}

/// The client's own id if it is short and plain, else a new one.
pub fn request_id(headers: &HeaderMap) -> HeaderValue {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    let usable = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=REQUEST_ID_BYTES).contains(&bytes.len()) && bytes.iter().all(plain)
    };
    headers
        .get(REQUEST_ID)
        .filter(usable)
        .cloned()
        .unwrap_or_else(|| {
            let random = fastrand::u64(..).to_be_bytes();
            let digits: [u8; 16] = std::array::from_fn(|at| {
                let byte = random.get(at / 2).copied().unwrap_or_default();
                match if at % 2 == 0 { byte >> 4 } else { byte & 15 } {
                    digit @ 0..10 => b'0' + digit,
                    letter => b'a' + letter - 10,
                }
            });
            // The line in the log and the answer share it.
            let shared = Bytes::from_owner(digits);
            HeaderValue::from_maybe_shared(shared).unwrap_or(HeaderValue::from_static("0"))
        })
}

/// Whether the text can be the `Host` of a request: a name or an address with an optional port.
pub fn is_host(host: &HeaderValue) -> bool {
    let valid = |byte: &u8| matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b':' | b'[' | b']' | b'%');
    let Some(text) = host
        .to_str()
        .ok()
        .filter(|text| text.as_bytes().iter().all(valid))
    else {
        return false;
    };
    let name = match text.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') && !name.is_empty() => {
            if port.parse::<u16>().is_err() {
                return false;
            }
            name
        }
        _ => text,
    };
    !name.is_empty() && (!name.contains(':') || name.starts_with('['))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        let mut map = HeaderMap::new();
        pairs.iter().map(pair).for_each(|(name, value)| {
            map.append(name, value);
        });
        map
    }

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn hop_by_hop_headers_and_those_that_connection_names_go() {
        let mut map = headers(&[
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("te", "trailers"),
            ("accept", "*/*"),
        ]);
        strip(&mut map, |_| false);
        assert_eq!(map, headers(&[("accept", "*/*")]));
    }

    #[track_caller]
    fn check_client(forwarded: &[&'static str], peer: &str, client: &str) {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let pairs: Vec<_> = forwarded
            .iter()
            .map(|value| ("x-forwarded-for", *value))
            .collect();
        let found = client_address(&headers(&pairs), &address(peer), &trusted);
        assert_eq!(found.to_string(), client, "{forwarded:?} from {peer}");
    }

    #[test]
    fn the_client_is_the_right_most_untrusted_address() {
        check_client(&[], "192.0.2.1", "192.0.2.1");
        check_client(&["198.51.100.9"], "192.0.2.1", "192.0.2.1");
        check_client(&["198.51.100.9"], "10.0.0.1", "198.51.100.9");
        check_client(
            &["1.1.1.1, 198.51.100.9, 10.2.2.2"],
            "10.0.0.1",
            "198.51.100.9",
        );
        check_client(
            &["1.1.1.1", "198.51.100.9:4711, 10.2.2.2"],
            "10.0.0.1",
            "198.51.100.9",
        );
        check_client(&["1.1.1.1, unknown, 10.2.2.2"], "10.0.0.1", "10.2.2.2");
        check_client(&["[2001:db8::1]"], "fd00::1", "2001:db8::1");
        check_client(&["10.9.9.9"], "10.0.0.1", "10.9.9.9");
        check_client(&[], "::ffff:192.0.2.1", "192.0.2.1");
    }

    fn lines(map: &HeaderMap, peer: &str, trusted: &[IpNet]) -> BytesMut {
        let id = HeaderValue::from_static("id");
        let via = HeaderValue::from_static("1.1 llamero");
        for_backends(map, &address(peer), trusted, &id, &via)
    }

    #[test]
    fn a_backend_hears_who_asks_and_nothing_that_was_meant_for_us() {
        let map = headers(&[
            ("host", "lb.example"),
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("content-length", "3"),
            ("expect", "100-continue"),
            ("origin", "http://x"),
            ("x-forwarded-for", "9.9.9.9"),
            ("x-real-ip", "9.9.9.9"),
            ("forwarded", "for=9.9.9.9"),
            ("x-forwarded-prefix", "/x"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "x"),
            ("access-control-request-private-network", "true"),
            ("x-llamero-backend", "gpu1"),
            ("x-llamero-anything", "1"),
            ("x_forwarded_for", "9.9.9.9"),
            ("authorization", "Bearer ollama"),
        ]);
        let wanted = "authorization: Bearer ollama\r\nx-forwarded-for: 192.0.2.1\r\nx-forwarded-proto: http\r\n\
            x-forwarded-host: lb.example\r\nvia: 1.1 llamero\r\nx-request-id: id\r\n";
        assert_eq!(lines(&map, "192.0.2.1", &[]), wanted);
    }

    #[test]
    fn a_trusted_peer_is_added_to_the_chain() {
        let map = headers(&[
            ("x-forwarded-for", "198.51.100.9"),
            ("x-forwarded-proto", "https"),
            ("x-request-id", "theirs"),
            ("via", "1.0 x"),
            ("host", "a"),
        ]);
        let wanted = "x-forwarded-proto: https\r\nvia: 1.0 x\r\nx-forwarded-for: 198.51.100.9, 10.0.0.1\r\n\
            x-forwarded-host: a\r\nvia: 1.1 llamero\r\nx-request-id: id\r\n";
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        assert_eq!(lines(&map, "10.0.0.1", &trusted), wanted);
    }

    #[test]
    fn answers_lose_their_framing_unless_there_is_no_body_to_tell_it() {
        let framed = [
            ("content-length", "17"),
            ("content-type", "text/plain"),
            ("proxy-authenticate", "x"),
        ];
        let (mut get, mut head) = (headers(&framed), headers(&framed));
        for_client(&mut get, false);
        for_client(&mut head, true);
        assert_eq!(get, headers(&[("content-type", "text/plain")]));
        assert_eq!(
            head,
            headers(&[("content-length", "17"), ("content-type", "text/plain")])
        );
    }

    #[test]
    fn a_proxy_knows_its_own_name_and_no_other() {
        let via = new_via();
        assert!(!has_passed(
            &headers(&[("via", "1.1 llamero, 1.0 x")]),
            &via
        ));
        let mut map = headers(&[("via", "1.0 x")]);
        map.append(header::VIA, via.clone());
        assert!(has_passed(&map, &via));
    }

    #[test]
    fn what_backends_say_about_origins_goes() {
        let mut map = headers(&[
            ("access-control-allow-origin", "*"),
            ("access-control-allow-credentials", "true"),
            ("vary", "accept-encoding"),
        ]);
        for_client(&mut map, false);
        assert_eq!(map, headers(&[("vary", "accept-encoding")]));
    }

    #[track_caller]
    fn check_unbuffered(before: &[(&'static str, &'static str)], cache: Option<&str>) {
        let mut map = headers(before);
        unbuffer(&mut map);
        let text = |name| map.get(name).and_then(|value| value.to_str().ok());
        assert_eq!(text(header::CACHE_CONTROL), cache, "{before:?}");
        let is_stream = text(ACCEL_BUFFERING) == Some("no");
        assert_eq!(is_stream, cache.is_some(), "{before:?}");
    }

    #[test]
    fn streams_are_not_to_be_held_back() {
        let ndjson = ("content-type", "application/x-ndjson");
        check_unbuffered(&[ndjson], Some("no-cache"));
        check_unbuffered(&[ndjson, ("cache-control", "no-store")], Some("no-store"));
        check_unbuffered(
            &[("content-type", "Text/Event-Stream; charset=utf-8")],
            Some("no-cache"),
        );
        check_unbuffered(&[("content-type", "application/json")], None);
        check_unbuffered(&[], None);
    }

    #[test]
    fn request_ids_are_kept_if_plain() {
        assert_eq!(
            request_id(&headers(&[("x-request-id", "a-B_3.x")])),
            "a-B_3.x"
        );
        for odd in ["", "a b", "a\tb", "\"", "x/y"] {
            let id = request_id(&headers(&[("x-request-id", odd)]));
            assert_eq!(id.len(), 16, "{odd:?}");
        }
    }

    #[test]
    fn hosts() {
        for good in [
            "a",
            "a:1",
            "a.example:11434",
            "[::1]",
            "[::1]:80",
            "127.0.0.1",
            "my_host",
        ] {
            assert!(is_host(&HeaderValue::from_static(good)), "{good}");
        }
        for bad in [
            "", "a/b@c", "a, b", "a b", "a:99999", "a:", ":80", "::1", "a:b:1",
        ] {
            assert!(!is_host(&HeaderValue::from_static(bad)), "{bad}");
        }
    }
}
