//! Which web pages may call, by Ollama's own rules, so that no backend has to judge an origin.

use crate::error::Error;
use crate::reply::Source;
use crate::route::{NoRoute, Route};
use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ALLOW, HOST, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use std::fmt;
use thiserror::Error;

/// Schemes of desktop programs, whatever comes after them.
const PROGRAMS: [&str; 5] = ["app", "file", "tauri", "vscode-webview", "vscode-file"];
/// Hosts whose pages come from the client's own machine, on any port.
const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "0.0.0.0"];

const METHODS: HeaderValue = HeaderValue::from_static("GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS");
/// Text and order are Ollama's.
const HEADERS: HeaderValue = HeaderValue::from_static(
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,\
     X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,\
     X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,\
     X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout",
);
/// Seconds for which a browser need not ask again.
const MAX_AGE: HeaderValue = HeaderValue::from_static("43200");
/// What a page may read besides the headers that every page may.
const EXPOSED: HeaderValue =
    HeaderValue::from_static("x-llamero-backend,x-llamero-attempts,x-request-id");
const ANY: HeaderValue = HeaderValue::from_static("*");
const VARY_ORIGIN: HeaderValue = HeaderValue::from_static("Origin");
const VARY_PREFLIGHT: [HeaderValue; 2] = [
    HeaderValue::from_static("Access-Control-Request-Method"),
    HeaderValue::from_static("Access-Control-Request-Headers"),
];

/// Origins that may call besides the usual ones: one, or with a `*` any that begin and end like it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

/// Why a text names no origins.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PatternError {
    /// There is no text.
    #[error("is empty")]
    Empty,
    /// It has spaces, commas, or characters that no origin has.
    #[error("has a character that no origin has: {0:?}")]
    Character(char),
    /// Only one star has a meaning.
    #[error("has more than one `*`")]
    Stars,
    /// A browser always sends a scheme.
    #[error("has no scheme")]
    Scheme,
    /// A browser sends scheme, host and port alone.
    #[error("has a path, and origins have none")]
    Path,
}

impl Pattern {
    /// Reads `https://app.example`, `https://*.example`, or `*` for every origin.
    ///
    /// # Errors
    /// When no origin that a browser sends could be meant.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if let Some(odd) = text.chars().find(|c| !c.is_ascii_graphic() || *c == ',') {
            return Err(PatternError::Character(odd));
        }
        if text.matches('*').count() > 1 {
            return Err(PatternError::Stars);
        }
        if text != "*" {
            let rest = match text.split_once("://") {
                Some((scheme, rest)) if !scheme.is_empty() && !rest.is_empty() => rest,
                _ => return Err(PatternError::Scheme),
            };
            if rest.contains(['/', '?', '#']) {
                return Err(PatternError::Path);
            }
        }
        Ok(Self(text.to_owned()))
    }

    fn matches(&self, origin: &str) -> bool {
        match self.0.split_once('*') {
            None => self.0 == origin,
            Some((before, after)) => origin
                .strip_prefix(before)
                .is_some_and(|rest| rest.ends_with(after)),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a request is to a browser's rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cors {
    /// No page sent it, or a page of the proxy's own name.
    Plain,
    /// A page that may call sent it; the value is what it is told.
    Page(HeaderValue),
    /// A browser asks on behalf of a page that may call.
    Preflight(HeaderValue),
    /// A page that may not call sent it.
    Foreign,
}

impl Cors {
    /// Judges a request by what its client sent. `more` adds to the origins that Ollama allows by itself.
    pub fn of(method: &Method, headers: &HeaderMap, more: &[Pattern]) -> Self {
        let mut origins = headers.get_all(ORIGIN).iter();
        let origin = match (origins.next(), origins.next()) {
            (None, _) => return Self::Plain,
            (Some(origin), None) => origin,
            (Some(_), Some(_)) => return Self::Foreign,
        };
        if origin.is_empty() || is_same(origin, headers.get(HOST)) {
            return Self::Plain;
        }
        let Ok(text) = origin.to_str() else {
            return Self::Foreign;
        };
        let told = if more.iter().any(|pattern| pattern.0 == "*") {
            ANY
        } else if is_usual(text) || more.iter().any(|pattern| pattern.matches(text)) {
            origin.clone()
        } else {
            return Self::Foreign;
        };
        if *method == Method::OPTIONS {
            Self::Preflight(told)
        } else {
            Self::Page(told)
        }
    }

    /// The answer, where this alone decides it: nobody else is asked then.
    pub fn answer(&self, path: &str) -> Option<Result<Response<Source>, Error>> {
        match self {
            Self::Plain | Self::Page(_) => None,
            Self::Foreign => Some(Err(Error::ForeignOrigin)),
            Self::Preflight(_) => {
                let mut response = Response::new(Source::Own(Bytes::new()));
                *response.status_mut() = StatusCode::NO_CONTENT;
                if let Err(NoRoute::Method(allow)) = Route::of(&Method::OPTIONS, path) {
                    let allow = HeaderValue::from_static(allow);
                    response.headers_mut().insert(ALLOW, allow);
                }
                Some(Ok(response))
            }
        }
    }

    /// Adds to an answer what the browser needs to hand it to the page.
    pub fn grant(&self, headers: &mut HeaderMap) {
        let (Self::Page(told) | Self::Preflight(told)) = self else {
            return;
        };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, told.clone());
        let varies = told != ANY;
        if varies && !varies_by_origin(headers) {
            headers.append(VARY, VARY_ORIGIN);
        }
        if matches!(self, Self::Page(_)) {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
            return;
        }
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
        headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        for name in VARY_PREFLIGHT.into_iter().filter(|_| varies) {
            headers.append(VARY, name);
        }
    }
}

/// Whether a page comes from the very host that it calls.
fn is_same(origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    let origin = origin.as_bytes();
    let bare = origin
        .strip_prefix(b"http://")
        .or_else(|| origin.strip_prefix(b"https://"));
    bare.is_some_and(|bare| host.is_some_and(|host| host.as_bytes() == bare))
}

/// Whether Ollama allows an origin without being told to.
fn is_usual(origin: &str) -> bool {
    let Some((scheme, rest)) = origin.split_once("://") else {
        return false;
    };
    match scheme {
        "http" | "https" => {
            let host = rest.split(':').next().unwrap_or(rest);
            LOCAL_HOSTS.contains(&host)
        }
        _ => PROGRAMS.contains(&scheme),
    }
}

fn varies_by_origin(headers: &HeaderMap) -> bool {
    let values = headers.get_all(VARY).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim().eq_ignore_ascii_case("origin"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn judge(method: &Method, origin: &str, host: &str, more: &[&str]) -> Cors {
        let more: Vec<_> = more
            .iter()
            .map(|text| Pattern::parse(text).unwrap())
            .collect();
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, origin.parse().unwrap());
        headers.insert(HOST, host.parse().unwrap());
        Cors::of(method, &headers, &more)
    }

    #[track_caller]
    fn check(origin: &str, more: &[&str], allowed: bool) {
        let judged = judge(&Method::POST, origin, "lb.example", more);
        let expected = if allowed {
            Cors::Page(origin.parse().unwrap())
        } else {
            Cors::Foreign
        };
        assert_eq!(judged, expected, "{origin} with {more:?}");
    }

    #[test]
    fn usual_origins() {
        for scheme in ["http", "https"] {
            for host in LOCAL_HOSTS {
                check(&format!("{scheme}://{host}"), &[], true);
                check(&format!("{scheme}://{host}:3000"), &[], true);
                check(&format!("{scheme}://{host}.example"), &[], false);
                check(&format!("{scheme}://x{host}"), &[], false);
            }
        }
        for scheme in PROGRAMS {
            check(&format!("{scheme}://"), &[], true);
            check(&format!("{scheme}://anything"), &[], true);
            check(&format!("x{scheme}://anything"), &[], false);
        }
        for origin in [
            "null",
            "chrome-extension://abc",
            "moz-extension://abc",
            "safari-web-extension://abc",
            "http://example.com",
            "HTTP://localhost",
            "http://LOCALHOST",
            "http://[::1]",
            "http:/localhost",
            "localhost",
            "*",
        ] {
            check(origin, &[], false);
        }
    }

    #[test]
    fn patterns_add_to_the_usual_origins() {
        check("https://a.example", &["https://a.example"], true);
        check("https://a.example:1", &["https://a.example"], false);
        check("https://A.example", &["https://a.example"], false);
        check("http://localhost", &["https://a.example"], true);
        check("https://b.a.example", &["https://*.a.example"], true);
        check("https://a.example", &["https://*.a.example"], false);
        check("https://a.example:8443", &["https://a.example:*"], true);
        check("chrome-extension://abc", &["chrome-extension://*"], true);
        check("https://x", &["http://y", "*://x"], true);
        check("http://aba", &["http://ab*ba"], false);
        check("null", &["https://*"], false);
    }

    #[test]
    fn a_lone_star_stands_for_all_and_says_so() {
        for origin in ["null", "http://localhost", "chrome-extension://x"] {
            let judged = judge(&Method::GET, origin, "lb", &["http://x", "*"]);
            assert_eq!(judged, Cors::Page(ANY));
            let mut headers = HeaderMap::new();
            judged.grant(&mut headers);
            assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
            assert!(!headers.contains_key(VARY));
        }
    }

    #[test]
    fn pages_of_the_hosts_own_name_need_no_leave() {
        for (origin, host, same) in [
            ("http://lb.example", "lb.example", true),
            ("https://lb.example", "lb.example", true),
            ("http://lb.example:81", "lb.example:81", true),
            ("http://lb.example:81", "lb.example", false),
            ("http://LB.example", "lb.example", false),
            ("ftp://lb.example", "lb.example", false),
        ] {
            for method in [Method::GET, Method::OPTIONS] {
                let judged = judge(&method, origin, host, &[]);
                let expected = if same { Cors::Plain } else { Cors::Foreign };
                assert_eq!(judged, expected, "{origin} at {host}");
            }
        }
    }

    #[test]
    fn two_origins_are_no_origin() {
        let mut headers = HeaderMap::new();
        headers.append(ORIGIN, HeaderValue::from_static("http://localhost"));
        headers.append(ORIGIN, HeaderValue::from_static("http://localhost"));
        assert_eq!(Cors::of(&Method::GET, &headers, &[]), Cors::Foreign);
    }

    #[test]
    fn a_vary_is_added_once() {
        for (before, after) in [
            (None, vec!["Origin"]),
            (Some("Accept-Encoding"), vec!["Accept-Encoding", "Origin"]),
            (Some("accept, origin"), vec!["accept, origin"]),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(before) = before {
                headers.insert(VARY, HeaderValue::from_static(before));
            }
            judge(&Method::GET, "app://x", "lb", &[]).grant(&mut headers);
            let found: Vec<_> = headers.get_all(VARY).iter().collect();
            assert_eq!(found, after);
        }
    }

    #[test]
    fn texts_that_name_no_origins() {
        for (text, error) in [
            ("", PatternError::Empty),
            ("https://a b", PatternError::Character(' ')),
            ("https://a,https://b", PatternError::Character(',')),
            ("https://é", PatternError::Character('é')),
            ("https://*.a.*", PatternError::Stars),
            ("**", PatternError::Stars),
            ("a.example", PatternError::Scheme),
            ("*.example", PatternError::Scheme),
            ("://a", PatternError::Scheme),
            ("https://", PatternError::Scheme),
            ("https://a.example/", PatternError::Path),
        ] {
            assert_eq!(Pattern::parse(text), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_sent_only_the_same_bytes_or_a_star_come_back(
            origin in proptest::collection::vec(any::<u8>(), 0..40),
            scheme in "(http|https|app|null|)(://)?",
            host in "[ -~]{0,12}",
            pattern in "(https?://)?[a-z*.:/]{0,8}",
            options in any::<bool>(),
        ) {
            let origin = [scheme.as_bytes(), &origin].concat();
            let (Ok(origin), Ok(host)) = (HeaderValue::from_bytes(&origin), HeaderValue::try_from(host)) else {
                return Ok(());
            };
            let headers = HeaderMap::from_iter([(ORIGIN, origin.clone()), (HOST, host)]);
            let more: Vec<_> = Pattern::parse(&pattern).into_iter().collect();
            let method = if options { Method::OPTIONS } else { Method::GET };
            let judged = Cors::of(&method, &headers, &more);
            let mut answer = HeaderMap::new();
            judged.grant(&mut answer);
            if let Some(told) = answer.get(ACCESS_CONTROL_ALLOW_ORIGIN) {
                prop_assert!(told == origin || told == "*");
                prop_assert!(told.to_str().is_ok());
            }
            prop_assert!(!answer.contains_key("access-control-allow-credentials"));
        }
    }
}
