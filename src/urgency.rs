//! How long a request may wait, and before or after whom, as far as its headers and its route say.

use crate::admission::Class;
use crate::wire::Kind;
use http::{HeaderMap, HeaderName};
use std::time::Duration;

/// `interactive` or `batch`. Anything else says nothing, as if it were not there.
const PRIORITY: HeaderName = HeaderName::from_static("x-llamero-priority");
/// How long a client waits for all of an answer or for its next byte, in seconds, as OpenAI's and Anthropic's libraries
/// write it.
const PATIENCE: [HeaderName; 2] = [
    HeaderName::from_static("x-stainless-timeout"),
    HeaderName::from_static("x-stainless-read-timeout"),
];
/// No client means more than this, in seconds.
const PATIENCE_SECONDS: f64 = 86_400.0;

/// What decides about a request's place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Urgency {
    /// Who goes first.
    pub class: Class,
    /// How long the client waits at most, if it says.
    pub patience: Option<Duration>,
}

impl Urgency {
    /// The urgency of a request to the route of this label. Embeddings are made in heaps, for nobody who looks on.
    pub fn of(label: &'static str, headers: &HeaderMap) -> Self {
        let text = |name: &HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
        let class = match text(&PRIORITY) {
            Some(word) if word.eq_ignore_ascii_case("interactive") => Class::Interactive,
            Some(word) if word.eq_ignore_ascii_case("batch") => Class::Batch,
            _ if Kind::of(label).is_embedding() => Class::Batch,
            _ => Class::Interactive,
        };
        let seconds = |name: &HeaderName| {
            let seconds: f64 = text(name)?.parse().ok()?;
            let said = seconds > 0.0; // zero stands for no limit or for less than a second
            said.then(|| Duration::from_secs_f64(seconds.min(PATIENCE_SECONDS)))
        };
        Self {
            class,
            patience: PATIENCE.iter().filter_map(seconds).min(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[track_caller]
    fn check(
        label: &'static str,
        headers: &[(&'static str, &'static str)],
        class: Class,
        patience: Option<u64>,
    ) {
        let pairs = headers.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        let urgency = Urgency::of(label, &pairs.collect());
        let patience = patience.map(Duration::from_millis);
        assert_eq!(urgency, Urgency { class, patience }, "{label} {headers:?}");
    }

    #[test]
    fn who_may_wait_and_how_long() {
        use Class::{Batch, Interactive};
        check("/api/chat", &[], Interactive, None);
        check("/api/embed", &[], Batch, None);
        check("/v1/embeddings", &[], Batch, None);
        let priority = "x-llamero-priority";
        check("/api/chat", &[(priority, "Batch")], Batch, None);
        check(
            "/api/embed",
            &[(priority, " interactive ")],
            Interactive,
            None,
        );
        check("/api/chat", &[(priority, "urgent")], Interactive, None);
        check("/api/embed", &[(priority, "urgent")], Batch, None);
        let whole = "x-stainless-timeout";
        let read = "x-stainless-read-timeout";
        check("other", &[(whole, "600")], Interactive, Some(600_000));
        check("other", &[(read, "2.5")], Interactive, Some(2500));
        let both = [(whole, "600"), (read, "5.0")];
        check("other", &both, Interactive, Some(5000));
        check("other", &[(read, "1e300")], Interactive, Some(86_400_000));
        for nothing in ["0", "-1", "nan", "inf ", "None", "5s", ""] {
            let patience = (nothing == "inf ").then_some(86_400_000);
            check("other", &[(whole, nothing)], Interactive, patience);
        }
    }
}
