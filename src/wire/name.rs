//! Model names compared as Ollama compares them.

use smallvec::SmallVec;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Longest name that is worth comparing, in bytes: host 350, namespace, model and tag 80 each, with separators.
const NAME_BYTES: usize = 600;
/// Keys up to this length are put together without memory of their own.
const COMMON_BYTES: usize = 128;
const HOST: &str = "registry.ollama.ai";
/// What stands before a bare name.
const LIBRARY: &str = "registry.ollama.ai/library/";
/// The mark of a model in Ollama's cloud.
const CLOUD: &str = "@cloud";
const TAG: &str = "latest";

/// The canonical form of a model name: `host/namespace/model:tag`, lower case, defaults filled in, and a mark for the
/// source suffixes `:cloud` and `:local`.
///
/// `llama3.2`, `LLAMA3.2:latest` and `registry.ollama.ai/library/llama3.2` have one key. A key is for comparing only:
/// what goes to a backend keeps the client's spelling.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelKey {
    /// Reckoned once: it is asked for several times per request. First, so that two keys are mostly told apart by it.
    hash: u64,
    /// Of ASCII.
    text: Arc<[u8]>,
}

impl ModelKey {
    /// Reads a name as clients write it. `None` for names that no Ollama accepts: empty, too long, or with characters
    /// outside the grammar.
    pub fn parse(name: &str) -> Option<Self> {
        let name = name.trim();
        if name.is_empty() || name.len() > NAME_BYTES {
            return None;
        }
        let scheme = memchr::memchr(b'/', name.as_bytes()).and_then(|_| name.find("://"));
        let name = scheme.and_then(|at| name.get(at + 3..)).unwrap_or(name);
        let (path, model) = match name.rsplit_once('/') {
            Some((path, model)) => (Some(path), model),
            None => (None, name),
        };
        let (model, cloud) = without_source(model);
        let (model, tag) = model.rsplit_once(':').unwrap_or((model, TAG));
        let mut key: SmallVec<[u8; COMMON_BYTES]> = SmallVec::new();
        match path {
            None => key.extend_from_slice(LIBRARY.as_bytes()),
            Some(path) => {
                let (host, namespace) = path.rsplit_once('/').unwrap_or((HOST, path));
                if !valid_part(namespace, b"-", 80) || !valid_part(host, b"-.:", 350) {
                    return None;
                }
                for part in [host, "/", namespace, "/"] {
                    key.extend_from_slice(part.as_bytes());
                }
            }
        }
        if !valid_part(model, b"-.", 80) || !valid_part(tag, b"-.", 80) {
            return None;
        }
        let source = if cloud { CLOUD } else { "" };
        for part in [model, ":", tag, source] {
            key.extend_from_slice(part.as_bytes());
        }
        key.make_ascii_lowercase();
        Some(Self {
            hash: xxhash_rust::xxh3::xxh3_64(&key),
            text: Arc::from(&*key),
        })
    }

    /// A hash that is the same in every process and version (xxh3-64 of the canonical form).
    pub fn hash64(&self) -> u64 {
        self.hash
    }

    /// Whether the name asks for a model in Ollama's cloud.
    pub fn is_cloud(&self) -> bool {
        self.text.ends_with(CLOUD.as_bytes())
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.text).unwrap_or_default()
    }
}

impl Hash for ModelKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Takes `:cloud`, `-cloud` and `:local` off the end of a name, as Ollama does before it looks at the rest. The flag says
/// whether it was one of the first two.
fn without_source(name: &str) -> (&str, bool) {
    let without = |suffix: &str| {
        let at = name.len().checked_sub(suffix.len())?;
        let (base, end) = name.split_at_checked(at)?;
        end.eq_ignore_ascii_case(suffix).then_some(base)
    };
    if let Some(base) = without(":cloud") {
        return (base, true);
    }
    // Only a tag may carry the dashed form: `my-cloud` is an ordinary model.
    if let Some(base) = without("-cloud").filter(|base| base.contains(':')) {
        return (base, true);
    }
    (without(":local").unwrap_or(name), false)
}

fn valid_part(part: &str, punctuation: &[u8], longest: usize) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let mut bytes = part.as_bytes().iter();
    part.len() <= longest
        && bytes.next().is_some_and(is_word)
        && bytes.all(|byte| is_word(byte) || punctuation.contains(byte))
}

impl fmt::Debug for ModelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl fmt::Display for ModelKey {
    /// The short form that Ollama shows: default host and namespace left out, the tag never.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        let path = text.strip_prefix(HOST);
        let short = path.and_then(|rest| rest.strip_prefix('/')).unwrap_or(text);
        f.write_str(short.strip_prefix("library/").unwrap_or(short))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn same(names: &[&str]) {
        let keys: Vec<_> = names
            .iter()
            .map(|name| ModelKey::parse(name).unwrap())
            .collect();
        assert!(keys.windows(2).all(|pair| pair[0] == pair[1]), "{keys:?}");
    }

    #[test]
    fn spellings_of_one_model_have_one_key() {
        same(&[
            "llama3.2",
            "llama3.2:latest",
            "library/llama3.2",
            "registry.ollama.ai/library/llama3.2:latest",
            "https://registry.ollama.ai/library/llama3.2",
            "LLAMA3.2",
            " llama3.2 ",
            "llama3.2:local",
        ]);
        same(&["x:8b-cloud", "x:8b:cloud", "X:8b:Cloud"]);
        same(&["hf.co/me/Model-GGUF:Q4_K_M", "hf.co/me/model-gguf:q4_k_m"]);
    }

    #[test]
    fn different_models_have_different_keys() {
        let names = ["a", "a:8b", "me/a", "hf.co/me/a", "a:cloud", "my-cloud"];
        let keys: std::collections::HashSet<_> = names
            .iter()
            .map(|name| ModelKey::parse(name).unwrap())
            .collect();
        assert_eq!(keys.len(), names.len());
        assert!(ModelKey::parse("a:cloud").unwrap().is_cloud());
        assert!(!ModelKey::parse("my-cloud").unwrap().is_cloud());
    }

    #[test]
    fn names_that_no_ollama_accepts_have_no_key() {
        for name in [
            "",
            "  ",
            ":",
            "a:",
            "/a",
            "../../etc/passwd",
            "a b",
            "a\0",
            "-a",
            "a@sha256:1",
            "näm",
        ] {
            assert_eq!(ModelKey::parse(name), None, "{name:?}");
        }
        assert_eq!(ModelKey::parse(&"a".repeat(1 << 20)), None);
    }

    #[test]
    fn the_short_form_is_ollamas() {
        let short = |name: &str| ModelKey::parse(name).unwrap().to_string();
        assert_eq!(short("llama3.2"), "llama3.2:latest");
        assert_eq!(short("me/bot"), "me/bot:latest");
        assert_eq!(short("hf.co/me/bot:q4"), "hf.co/me/bot:q4");
    }
}
