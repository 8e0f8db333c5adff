//! What a hop in between does to headers: pure functions on a `HeaderMap`.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;
use std::fmt::Write as _;
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
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Headers that speak to the next hop only (RFC 9110 §7.6.1), besides those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("http2-settings"),
];

/// Entries of `X-Forwarded-For` that are looked at, from the right.
const FORWARDED_LIMIT: usize = 64;
const REQUEST_ID_BYTES: usize = 128;
/// The longest address as text, in bytes.
const ADDRESS_BYTES: usize = 39;
/// The content types of streams.
const STREAMS: [&str; 2] = ["application/x-ndjson", "text/event-stream"];

/// Removes what is not meant for the other side.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

/// Where a request came from: the peer, or, if the peer is trusted, the right-most address of `X-Forwarded-For` that is
/// not. An entry that is no address ends the search, since nobody can say who wrote what stands left of it.
pub fn client_address(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: IpAddr| {
        trusted
            .iter()
            .any(|net| net.contains(&address.to_canonical()))
    };
    let mut client = peer;
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
    client.to_canonical()
}

/// Reads an address as proxies write it: bare, with a port, in brackets.
fn address_of(entry: &str) -> Option<IpAddr> {
    let bare = entry.trim_start_matches('[').trim_end_matches(']');
    bare.parse()
        .ok()
        .or_else(|| entry.parse::<SocketAddr>().ok().map(|socket| socket.ip()))
}

/// Turns a client's headers into those for a backend, but for `Host`, which differs from backend to backend.
///
/// Framing headers go, since the body that is sent decides them. `Origin` and what a browser asks with it go, since a
/// backend would judge it against its own name. What is said to the proxy alone goes, since a backend may pass it on to a
/// cloud. What an untrusted peer says about forwarding goes too.
pub fn for_backends(
    headers: &mut HeaderMap,
    peer: IpAddr,
    trusted: &[IpNet],
    request_id: &HeaderValue,
    via: &HeaderValue,
) {
    strip_hop_by_hop(headers);
    let host = headers.remove(header::HOST);
    for name in [
        header::CONTENT_LENGTH,
        header::EXPECT,
        header::ORIGIN,
        FORWARDED_PREFIX,
        REAL_IP,
    ] {
        headers.remove(name);
    }
    // Some servers read an underscore as a hyphen, and would take `x_forwarded_for` for what it is not.
    remove_where(headers, |name| {
        name.starts_with("access-control-request-")
            || name.starts_with("x-llamero-")
            || name.contains('_')
    });
    let peer_trusted = trusted.iter().any(|net| net.contains(&peer.to_canonical()));
    let mut chain = String::new();
    if peer_trusted {
        let before: Vec<_> = headers
            .get_all(FORWARDED_FOR)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        if !before.is_empty() {
            chain = before.join(", ") + ", ";
        }
    } else {
        headers.remove(header::FORWARDED);
        headers.remove(FORWARDED_HOST);
        headers.remove(FORWARDED_PROTO);
    }
    chain.reserve(ADDRESS_BYTES);
    // Writing to a string does not fail.
    let _ = write!(chain, "{}", peer.to_canonical());
    if let Ok(chain) = HeaderValue::from_str(&chain) {
        headers.insert(FORWARDED_FOR, chain);
    }
    headers
        .entry(FORWARDED_PROTO)
        .or_insert(HeaderValue::from_static("http"));
    if let Some(host) = host {
        headers.entry(FORWARDED_HOST).or_insert(host);
    }
    headers.append(header::VIA, via.clone());
    headers.insert(REQUEST_ID, request_id.clone());
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

/// Removes the headers with such names.
fn remove_where(headers: &mut HeaderMap, such: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| such(name.as_str()))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

/// Turns a backend's headers into those for a client. What it says about origins goes: it was told of none. Framing is left to the body, but for HEAD, whose length no body
/// can tell.
pub fn for_client(headers: &mut HeaderMap, is_head: bool) {
    if !is_head || headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    strip_hop_by_hop(headers);
    remove_where(headers, |name| name.starts_with("access-control-"));
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
            let mut random = String::with_capacity(16);
            // Writing to a string does not fail.
            let _ = write!(random, "{:016x}", fastrand::u64(..));
            HeaderValue::try_from(random).unwrap_or(HeaderValue::from_static("0"))
        })
}

/// Whether the text can be the `Host` of a request: a name or an address with an optional port.
pub fn is_host(host: &HeaderValue) -> bool {
    let Ok(text) = host.to_str() else {
        return false;
    };
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]%".contains(&byte);
    let name = match text.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') && !name.is_empty() => {
            if port.parse::<u16>().is_err() {
                return false;
            }
            name
        }
        _ => text,
    };
    !name.is_empty() && text.bytes().all(valid) && (!name.contains(':') || name.starts_with('['))
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

    #[test]
    fn hop_by_hop_headers_and_those_that_connection_names_go() {
        let mut map = headers(&[
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("te", "trailers"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut map);
        assert_eq!(map, headers(&[("accept", "*/*")]));
    }

    #[track_caller]
    fn check_client(forwarded: &[&'static str], peer: &str, client: &str) {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let pairs: Vec<_> = forwarded
            .iter()
            .map(|value| ("x-forwarded-for", *value))
            .collect();
        let found = client_address(&headers(&pairs), peer.parse().unwrap(), &trusted);
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

    #[test]
    fn a_backend_hears_who_asks_and_nothing_that_was_meant_for_us() {
        let mut map = headers(&[
            ("host", "lb.example"),
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
        for_backends(
            &mut map,
            "192.0.2.1".parse().unwrap(),
            &[],
            &HeaderValue::from_static("id"),
            &HeaderValue::from_static("1.1 llamero"),
        );
        let wanted = headers(&[
            ("authorization", "Bearer ollama"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "lb.example"),
            ("via", "1.1 llamero"),
            ("x-request-id", "id"),
        ]);
        assert_eq!(map, wanted);
    }

    #[test]
    fn a_trusted_peer_is_added_to_the_chain() {
        let mut map = headers(&[
            ("x-forwarded-for", "198.51.100.9"),
            ("x-forwarded-proto", "https"),
            ("host", "a"),
        ]);
        for_backends(
            &mut map,
            "10.0.0.1".parse().unwrap(),
            &["10.0.0.0/8".parse().unwrap()],
            &HeaderValue::from_static("id"),
            &HeaderValue::from_static("1.1 llamero"),
        );
        assert_eq!(map[FORWARDED_FOR], "198.51.100.9, 10.0.0.1");
        assert_eq!(map[FORWARDED_PROTO], "https");
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
