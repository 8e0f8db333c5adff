//! Which requests belong together because their client says so.

use http::{HeaderMap, HeaderName, HeaderValue};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Headers by which clients name a conversation or a run, the most deliberate first.
const HEADERS: [&str; 7] = [
    "x-llamero-session",
    "x-session-affinity",
    "x-session-id",
    "x-claude-code-session-id",
    "session-id",
    "thread-id",
    "x-openwebui-chat-id",
];
const SEED: u64 = 0x6c6c_616d_6572_6f32;

/// The session that the headers name.
pub(crate) fn of(headers: &HeaderMap) -> Option<u64> {
    // One pass: most requests name none, and each look-up would cost more than all of this.
    let rank = |name: &HeaderName| HEADERS.iter().position(|it| *it == name.as_str());
    let mut best: Option<(usize, &HeaderValue)> = None;
    for (name, value) in headers {
        if let Some(rank) = rank(name)
            && !value.is_empty()
            && best.is_none_or(|(known, _)| rank < known)
        {
            best = Some((rank, value));
        }
    }
    hash(best?.1.as_bytes())
}

/// A session's name as a number, the same in every process, so that the name itself is not kept. `None` for an empty one.
pub(crate) fn hash(name: &[u8]) -> Option<u64> {
    (!name.is_empty()).then(|| xxh3_64_with_seed(name, SEED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_deliberate_name_wins_and_an_empty_one_is_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(of(&headers), None);
        for name in HEADERS.into_iter().rev() {
            headers.insert(name, HeaderValue::from_static(name));
            assert_eq!(of(&headers), hash(name.as_bytes()));
        }
        headers.insert("x-llamero-session", HeaderValue::from_static(""));
        assert_eq!(of(&headers), hash(b"x-session-affinity"));
    }
}
