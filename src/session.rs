//! Which requests belong together because their client says so.

use http::{HeaderMap, HeaderName};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Headers by which clients name a conversation or a run, the most deliberate first.
static HEADERS: [HeaderName; 7] = [
    HeaderName::from_static("x-llamero-session"),
    HeaderName::from_static("x-session-affinity"),
    HeaderName::from_static("x-session-id"),
    HeaderName::from_static("x-claude-code-session-id"),
    HeaderName::from_static("session-id"),
    HeaderName::from_static("thread-id"),
    HeaderName::from_static("x-openwebui-chat-id"),
];
const SEED: u64 = 0x6c6c_616d_6572_6f32;

/// The session that the headers name.
pub(crate) fn of(headers: &HeaderMap) -> Option<u64> {
    HEADERS
        .iter()
        .find_map(|name| hash(headers.get(name)?.as_bytes()))
}

/// A session's name as a number, the same in every process, so that the name itself is not kept. `None` for an empty one.
pub(crate) fn hash(name: &[u8]) -> Option<u64> {
    (!name.is_empty()).then(|| xxh3_64_with_seed(name, SEED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn the_most_deliberate_name_wins_and_an_empty_one_is_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(of(&headers), None);
        for name in HEADERS.iter().rev() {
            headers.insert(name, HeaderValue::try_from(name.as_str()).unwrap());
            assert_eq!(of(&headers), hash(name.as_str().as_bytes()));
        }
        headers.insert("x-llamero-session", HeaderValue::from_static(""));
        assert_eq!(of(&headers), hash(b"x-session-affinity"));
    }
}
