//! Where a backend listens, read as Ollama reads `OLLAMA_HOST`.

use http::HeaderValue;
use http::uri::PathAndQuery;
use std::fmt;
use std::net::IpAddr;
use thiserror::Error;

/// Ollama's own port, used where none is given.
const DEFAULT_PORT: u16 = 11434;

/// Host, port and path prefix of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    host: String,
    port: u16,
    prefix: String,
    authority: HeaderValue,
}

/// Why a text is no address of a backend.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OriginError {
    /// TLS to backends is not built in.
    #[error(
        "https backends are not supported: llamero speaks plain HTTP to Ollama; put a TLS tunnel in between"
    )]
    Tls,
    /// Some other protocol.
    #[error("unknown scheme {0:?}: use http://HOST:PORT, or just HOST")]
    Scheme(String),
    /// No usable host.
    #[error("{0:?} is not a host name or an IP address")]
    Host(String),
    /// The port is no number from 1 to 65535.
    #[error("{0:?} is not a port: use a number from 1 to 65535")]
    Port(String),
    /// The path cannot stand in front of another.
    #[error("{0:?} is not a path that requests can be put under")]
    Path(String),
}

impl Origin {
    /// Reads `[scheme://]host[:port][/path]`. Without a scheme the port is 11434; `http://` without a port means 80.
    ///
    /// # Errors
    /// Unlike Ollama, which falls back to its defaults, anything unusable is refused with the reason.
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        let text = text.trim().trim_matches(['"', '\'']).trim();
        let (scheme, rest) = text
            .split_once("://")
            .map_or((None, text), |(scheme, rest)| (Some(scheme), rest));
        let default_port = match scheme.map(str::to_ascii_lowercase).as_deref() {
            None => DEFAULT_PORT,
            Some("http") => 80,
            Some("https") => return Err(OriginError::Tls),
            Some(other) => return Err(OriginError::Scheme(other.to_owned())),
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = split_port(authority)?;
        let port = match port {
            None => default_port,
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| OriginError::Port(port.to_owned()))?,
        };
        let host = if host.is_empty() { "127.0.0.1" } else { host };
        let prefix = path.trim_end_matches('/');
        if !prefix.is_empty()
            && (prefix.contains(['?', '#']) || PathAndQuery::try_from(prefix).is_err())
        {
            return Err(OriginError::Path(path.to_owned()));
        }
        Self::new(host, port, prefix)
    }

    fn new(host: &str, port: u16, prefix: &str) -> Result<Self, OriginError> {
        let bad = || OriginError::Host(host.to_owned());
        let shown = match host.parse() {
            Ok(IpAddr::V6(v6)) => format!("[{v6}]"),
            Ok(IpAddr::V4(v4)) => v4.to_string(),
            Err(_) if valid_name(host) => host.to_owned(),
            Err(_) => return Err(bad()),
        };
        let authority = HeaderValue::try_from(format!("{shown}:{port}")).map_err(|_| bad())?;
        // An address that means "every interface" to a listener means "this machine" to a client.
        let host = match host.parse::<IpAddr>() {
            Ok(IpAddr::V4(v4)) if v4.is_unspecified() => "127.0.0.1".to_owned(),
            Ok(IpAddr::V6(v6)) if v6.is_unspecified() => "::1".to_owned(),
            _ => host.to_owned(),
        };
        Ok(Self {
            host,
            port,
            prefix: prefix.to_owned(),
            authority,
        })
    }

    /// Host name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path that stands in front of every request's, without a slash at its end; often empty.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What the backend is called in `Host`.
    pub fn authority(&self) -> &HeaderValue {
        &self.authority
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>), OriginError> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest
            .split_once(']')
            .ok_or_else(|| OriginError::Host(authority.to_owned()))?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(OriginError::Host(authority.to_owned())),
        };
    }
    Ok(match authority.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, Some(port)),
        _ => (authority, None), // no colon, or a bare IPv6 address
    })
}

fn valid_name(host: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    host.len() <= 253 && host.trim_end_matches('.').split('.').all(label)
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "http://{}{}",
            self.authority.to_str().unwrap_or_default(),
            self.prefix
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, shown: &str) {
        assert_eq!(
            Origin::parse(text).map(|origin| origin.to_string()),
            Ok(shown.to_owned())
        );
    }

    #[test]
    fn reads_the_grammar_of_ollama_host() {
        check("gpu1", "http://gpu1:11434");
        check(" \"gpu1\" ", "http://gpu1:11434");
        check(":8080", "http://127.0.0.1:8080");
        check("", "http://127.0.0.1:11434");
        check("http://gpu1", "http://gpu1:80");
        check("HTTP://gpu1:1234/", "http://gpu1:1234");
        check("http://box.example/ollama/", "http://box.example:80/ollama");
        check("::1", "http://[::1]:11434");
        check("[fe80::1]:99", "http://[fe80::1]:99");
        check("10.0.0.7:1", "http://10.0.0.7:1");
        assert_eq!(Origin::parse("0.0.0.0").unwrap().host(), "127.0.0.1");
        assert_eq!(Origin::parse("[::]").unwrap().host(), "::1");
    }

    #[test]
    fn refuses_what_cannot_be_reached() {
        for text in [
            "https://x",
            "ftp://x",
            "a b",
            "a:0",
            "a:99999",
            "a:x",
            "[::1",
            "[::1]x",
            "http://a/b?c",
            "a..b",
            "a\0b",
        ] {
            assert!(Origin::parse(text).is_err(), "{text:?}");
        }
    }
}
