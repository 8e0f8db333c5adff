//! Which requests there are and what is done with each: one table.

use crate::wire::Family;
use http::Method;

/// What the proxy does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Say that a server is there.
    Hello,
    /// Say which version the fleet has in common.
    Version,
    /// Put the lists of all backends together.
    List(Listing),
    /// Read the body, find the model, choose among its holders; may be sent again to another backend.
    Pick,
    /// Give it to any backend, its body passed on while it comes in.
    Any,
    /// Give it to the one backend whose identity all such requests use, its body passed on while it comes in.
    Pin,
    /// Change every backend that holds the model.
    Change,
    /// Bring a model to several backends.
    Pull,
    /// Build a model on several backends.
    Create,
    /// A piece of a model that is to be built, or the question whether it is there.
    Blob,
}

/// A list that the backends have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// `/api/tags`: the models there are.
    Tags,
    /// `/api/ps`: the models that are loaded.
    Loaded,
    /// `/v1/models`: the models there are, as OpenAI lists them.
    OpenAi,
}

/// A request's place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// What is done with it.
    pub action: Action,
    /// Whose clients call it.
    pub family: Family,
    /// Its name in logs: a path of the table, or `other`.
    pub label: &'static str,
}

/// Why a request has no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoute {
    /// The path is known, and takes these methods only.
    Method(&'static str),
    /// The path could mean different things to the proxy and to a backend.
    OddPath,
}

/// The label of what the table does not know.
const OTHER: &str = "other";

struct Row {
    path: &'static str,
    allow: &'static str,
    action: Action,
    family: Family,
}

const fn row(path: &'static str, allow: &'static str, action: Action, family: Family) -> Row {
    Row {
        path,
        allow,
        action,
        family,
    }
}

/// A last segment of `:` stands for any one segment.
const TABLE: &[Row] = &[
    row("/", "GET, HEAD", Action::Hello, Family::Native),
    row("/api/chat", "POST", Action::Pick, Family::Native),
    row("/api/generate", "POST", Action::Pick, Family::Native),
    row("/api/embed", "POST", Action::Pick, Family::Native),
    row("/api/embeddings", "POST", Action::Pick, Family::Native),
    row("/api/show", "POST", Action::Pick, Family::Native),
    row("/api/version", "GET, HEAD", Action::Version, Family::Native),
    row(
        "/api/tags",
        "GET, HEAD",
        Action::List(Listing::Tags),
        Family::Native,
    ),
    row(
        "/api/ps",
        "GET",
        Action::List(Listing::Loaded),
        Family::Native,
    ),
    row("/api/pull", "POST", Action::Pull, Family::Native),
    row("/api/push", "POST", Action::Pin, Family::Native),
    row("/api/create", "POST", Action::Create, Family::Native),
    row("/api/copy", "POST", Action::Change, Family::Native),
    row("/api/delete", "DELETE", Action::Change, Family::Native),
    row("/api/blobs/:", "HEAD, POST", Action::Blob, Family::Native),
    row("/api/status", "GET", Action::Pin, Family::Native),
    row("/api/me", "POST", Action::Pin, Family::Native),
    row("/api/signout", "POST", Action::Pin, Family::Native),
    row("/api/user/keys/:", "DELETE", Action::Pin, Family::Native),
    row(
        "/api/experimental/web_search",
        "POST",
        Action::Pin,
        Family::Native,
    ),
    row(
        "/api/experimental/web_fetch",
        "POST",
        Action::Pin,
        Family::Native,
    ),
    row(
        "/api/experimental/model-recommendations",
        "GET",
        Action::Pin,
        Family::Native,
    ),
    row("/v1/chat/completions", "POST", Action::Pick, Family::OpenAi),
    row("/v1/completions", "POST", Action::Pick, Family::OpenAi),
    row("/v1/embeddings", "POST", Action::Pick, Family::OpenAi),
    row(
        "/v1/audio/transcriptions",
        "POST",
        Action::Pick,
        Family::OpenAi,
    ),
    row(
        "/v1/models",
        "GET",
        Action::List(Listing::OpenAi),
        Family::OpenAi,
    ),
    row("/v1/models/:", "GET", Action::Pick, Family::OpenAi),
    row("/v1/responses", "POST", Action::Pick, Family::Responses),
    row("/v1/messages", "POST", Action::Pick, Family::Anthropic),
];

impl Row {
    fn fits(&self, path: &str) -> bool {
        let before = self.path.strip_suffix(':');
        let last = before.and_then(|before| path.strip_prefix(before));
        last.is_some_and(|last| !last.is_empty() && !last.contains('/'))
    }
}

impl Route {
    /// The route of a request, by method and path. A clean path that the table does not know goes to any backend: the
    /// set of Ollama's routes grows and shrinks with its versions.
    ///
    /// # Errors
    /// When the method is wrong for a known path, or the path is not in the one form that everybody reads alike.
    pub fn of(method: &Method, path: &str) -> Result<Self, NoRoute> {
        if *method == Method::CONNECT || *method == Method::TRACE {
            return Err(NoRoute::Method("GET, HEAD, POST, DELETE"));
        }
        let exact = TABLE.iter().find(|row| row.path == path);
        if exact.is_none() && is_odd(path) {
            return Err(NoRoute::OddPath);
        }
        let Some(row) = exact.or_else(|| TABLE.iter().find(|row| row.fits(path))) else {
            return Ok(Self {
                action: Action::Any,
                family: Family::of(path),
                label: OTHER,
            });
        };
        if !row
            .allow
            .split(", ")
            .any(|allowed| allowed == method.as_str())
        {
            return Err(NoRoute::Method(row.allow));
        }
        Ok(Self {
            action: row.action,
            family: row.family,
            label: row.path,
        })
    }
}

impl Route {
    /// Whether a backend loads the model to answer.
    pub fn loads_models(&self) -> bool {
        self.action == Action::Pick && !matches!(self.label, "/api/show" | "/v1/models/:")
    }

    /// Whether it asks for nothing that takes a backend thought, unlike text, files, or whatever unknown routes do.
    pub fn is_control(&self) -> bool {
        match self.action {
            Action::Pick => !self.loads_models(),
            Action::Pin => !self.reports_progress(),
            Action::Change => true,
            Action::Hello
            | Action::Version
            | Action::List(_)
            | Action::Any
            | Action::Pull
            | Action::Create
            | Action::Blob => false,
        }
    }

    /// Whether its answer tells how a long piece of work gets on, which may be silent for as long as a large file is read.
    pub fn reports_progress(&self) -> bool {
        matches!(self.label, "/api/pull" | "/api/push" | "/api/create")
    }

    /// The path that was meant by one with a slash too many, where it is one of the table's and takes the method.
    pub fn without_slash<'p>(method: &Method, path: &'p str) -> Option<&'p str> {
        let meant = path.strip_suffix('/')?;
        let route = Self::of(method, meant).ok()?;
        (route.label != OTHER).then_some(meant)
    }
}

impl Family {
    /// The family whose clients call a path.
    pub fn of(path: &str) -> Self {
        match path {
            "/v1/messages" => Self::Anthropic,
            "/v1/responses" => Self::Responses,
            _ if path.starts_with("/v1/messages/") => Self::Anthropic,
            _ if path.starts_with("/v1/") => Self::OpenAi,
            _ => Self::Native,
        }
    }
}

/// Whether a path has empty or dot segments, a backslash, or encodings that hide one of those or a control character.
fn is_odd(path: &str) -> bool {
    let segments_odd = !path.starts_with('/')
        || path.contains("//")
        || path.split('/').any(|part| part == "." || part == "..");
    segments_odd || path.contains('\\') || hides_structure(path.as_bytes())
}

fn hides_structure(path: &[u8]) -> bool {
    let hex = |digit: Option<&u8>| digit.and_then(|digit| char::from(*digit).to_digit(16));
    let mut rest = path;
    while let Some(at) = memchr::memchr(b'%', rest) {
        rest = rest.get(at + 1..).unwrap_or_default();
        match (hex(rest.first()), hex(rest.get(1))) {
            (Some(high), Some(low))
                if !matches!(high * 16 + low, 0..32 | 0x2e | 0x2f | 0x5c | 0x7f) => {}
            _ => return true,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &Method, path: &str, action: Action, family: Family) {
        let route = Route::of(method, path).unwrap();
        assert_eq!((route.action, route.family), (action, family), "{path}");
    }

    #[test]
    fn every_row_takes_its_methods_and_no_other() {
        assert!(!TABLE.is_empty());
        for row in TABLE {
            for method in [
                Method::GET,
                Method::HEAD,
                Method::POST,
                Method::DELETE,
                Method::PUT,
                Method::OPTIONS,
            ] {
                let allowed = row
                    .allow
                    .split(", ")
                    .any(|allowed| allowed == method.as_str());
                match Route::of(&method, row.path) {
                    Ok(route) => {
                        assert!(allowed && route.action == row.action && route.label == row.path);
                    }
                    Err(refusal) => assert!(!allowed && refusal == NoRoute::Method(row.allow)),
                }
            }
            assert_eq!(Family::of(row.path), row.family, "{}", row.path);
        }
    }

    #[test]
    fn unknown_clean_paths_go_to_any_backend() {
        check(
            &Method::POST,
            "/api/unheard-of",
            Action::Any,
            Family::Native,
        );
        check(
            &Method::GET,
            "/v1/models/llama3.2:1b",
            Action::Pick,
            Family::OpenAi,
        );
        check(&Method::GET, "/v1/models/a/b", Action::Any, Family::OpenAi);
        check(
            &Method::POST,
            "/v1/messages/count_tokens",
            Action::Any,
            Family::Anthropic,
        );
        check(
            &Method::POST,
            "/api/blobs/sha256:00",
            Action::Blob,
            Family::Native,
        );
        check(&Method::GET, "/a%20b", Action::Any, Family::Native);
        check(&Method::GET, "/API/tags", Action::Any, Family::Native);
    }

    #[test]
    fn odd_paths_have_no_route() {
        let odd = [
            "//api/chat",
            "/api/../admin",
            "/api/%2e%2e/admin",
            "/api%2fchat",
            "/api/./tags",
            "/x%zz",
            "/x%2",
            "/x\\y",
            "/x%5Cy",
            "/x%0d%0aX:%201",
            "/x%00",
            "",
            "*",
            "x",
        ];
        for path in odd {
            assert_eq!(
                Route::of(&Method::GET, path),
                Err(NoRoute::OddPath),
                "{path}"
            );
        }
        assert!(Route::of(&Method::CONNECT, "").is_err_and(|refusal| refusal != NoRoute::OddPath));
    }
}
