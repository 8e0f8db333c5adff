//! The path below which the proxy is found, as in `OLLAMA_HOST=https://box.example/ollama`.

use http::header::LOCATION;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri};
use std::fmt;
use thiserror::Error;

/// First segments of Ollama's own paths, which would mean two things.
const TAKEN: [&str; 2] = ["api", "v1"];

/// A path such as `/ollama`, or none. What comes without it is served too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount(String);

/// Why a text is no path to be mounted under.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MountError {
    /// It begins with something else than a slash.
    #[error("does not begin with `/`")]
    Start,
    /// It ends with a slash.
    #[error("ends with `/`")]
    End,
    /// It has empty or dot segments, or characters that are written in more than one way.
    #[error("is not plain: segments of letters, digits, `.`, `_`, `~` and `-`")]
    Odd,
    /// Ollama has paths there.
    #[error("begins with `/{0}`, where Ollama has paths of its own")]
    Taken(&'static str),
}

impl Mount {
    /// Reads a path; empty is none.
    ///
    /// # Errors
    /// When the path is not in the one form that everybody reads alike, or hides a path of Ollama.
    pub fn parse(text: &str) -> Result<Self, MountError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let path = text.strip_prefix('/').ok_or(MountError::Start)?;
        if path.is_empty() || path.ends_with('/') {
            return Err(MountError::End);
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "._~-".contains(c);
        for (at, segment) in path.split('/').enumerate() {
            if matches!(segment, "" | "." | "..") || !segment.chars().all(plain) {
                return Err(MountError::Odd);
            }
            if let Some(taken) = TAKEN.into_iter().find(|taken| at == 0 && *taken == segment) {
                return Err(MountError::Taken(taken));
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// The path; empty if there is none.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Takes the path off a target, which keeps its query. Says whether it was there.
    pub fn strip(&self, uri: &mut Uri) -> bool {
        let Some(rest) = self.below(uri) else {
            return false;
        };
        let rest = if rest.starts_with('/') {
            PathAndQuery::try_from(rest)
        } else {
            PathAndQuery::try_from(format!("/{rest}"))
        };
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = rest.ok();
        match Uri::from_parts(parts) {
            Ok(stripped) => {
                *uri = stripped;
                true
            }
            Err(_) => false,
        }
    }

    /// A path without this one, where it is below it.
    pub fn rest<'p>(&self, path: &'p str) -> &'p str {
        let rest = path.strip_prefix(&self.0);
        rest.filter(|rest| rest.starts_with('/')).unwrap_or(path)
    }

    /// What follows the path in a target: nothing, a query, or a path.
    fn below<'u>(&self, uri: &'u Uri) -> Option<&'u str> {
        if self.0.is_empty() {
            return None;
        }
        let rest = uri.path_and_query()?.as_str().strip_prefix(&self.0)?;
        (rest.is_empty() || rest.starts_with(['/', '?'])).then_some(rest)
    }

    /// Puts the path before a place that an answer sends the client to, unless it is there or that is another host.
    pub fn lead(&self, headers: &mut HeaderMap) {
        let is_below = |location: &str| {
            let rest = location.strip_prefix(&self.0);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
        };
        let moved = headers
            .get(LOCATION)
            .and_then(|location| location.to_str().ok())
            .filter(|location| location.starts_with('/') && !location.starts_with("//"))
            .filter(|location| !is_below(location))
            .and_then(|location| HeaderValue::try_from(format!("{}{location}", self.0)).ok());
        if let Some(moved) = moved {
            headers.insert(LOCATION, moved);
        }
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mount: &str, target: &str, stripped: Option<&str>) {
        let mount = Mount::parse(mount).unwrap();
        let mut uri: Uri = target.parse().unwrap();
        assert_eq!(mount.strip(&mut uri), stripped.is_some(), "{target}");
        assert_eq!(uri.to_string(), stripped.unwrap_or(target));
    }

    #[test]
    fn the_path_goes_and_the_query_stays() {
        check("/ollama", "/ollama/api/tags", Some("/api/tags"));
        check(
            "/ollama",
            "/ollama/api/tags?a=%2F&b",
            Some("/api/tags?a=%2F&b"),
        );
        check("/ollama", "/ollama", Some("/"));
        check("/ollama", "/ollama/", Some("/"));
        check("/ollama", "/ollama?a=1", Some("/?a=1"));
        check("/ollama", "/ollama//x", Some("//x"));
        check("/ollama", "/ollama/ollama/x", Some("/ollama/x"));
        check("/ollama", "http://h:1/ollama/x", Some("http://h:1/x"));
        check("/ollama", "/ollamas/x", None);
        check("/ollama", "/Ollama/x", None);
        check("/ollama", "/%6Fllama/x", None);
        check("/ollama", "/x/ollama", None);
        check("/ollama", "*", None);
        check("/a/b", "/a/b/c", Some("/c"));
        check("/a/b", "/a", None);
        check("", "/api/tags", None);
        check("", "/", None);
    }

    #[track_caller]
    fn check_location(location: &'static str, led: &str) {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, HeaderValue::from_static(location));
        Mount::parse("/p").unwrap().lead(&mut headers);
        assert_eq!(headers[LOCATION], led);
    }

    #[test]
    fn places_on_this_host_are_below_the_path_too() {
        check_location("/api/tags?x", "/p/api/tags?x");
        check_location("/", "/p/");
        check_location("/p/x", "/p/x");
        check_location("/p?x", "/p?x");
        check_location("/px", "/p/px");
        check_location("//other/x", "//other/x");
        check_location("https://other/x", "https://other/x");
        check_location("x", "x");
    }

    #[test]
    fn paths_that_cannot_be_mounted_under() {
        for (text, error) in [
            ("ollama", MountError::Start),
            ("/", MountError::End),
            ("/ollama/", MountError::End),
            ("/a//b", MountError::Odd),
            ("/a/../b", MountError::Odd),
            ("/.", MountError::Odd),
            ("/a b", MountError::Odd),
            ("/a%20b", MountError::Odd),
            ("/a?b", MountError::Odd),
            ("/ä", MountError::Odd),
            ("/api", MountError::Taken("api")),
            ("/v1/x", MountError::Taken("v1")),
        ] {
            assert_eq!(Mount::parse(text), Err(error), "{text}");
        }
        assert!(Mount::parse("/x/v1").is_ok());
    }
}
