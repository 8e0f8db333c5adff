//! How long a request may wait, and before or after whom, as far as its headers and its route say.

use crate::admission::Class;
use crate::wire::Kind;
use http::{HeaderMap, HeaderValue};
use std::time::Duration;

/// `interactive` or `batch`. Anything else says nothing, as if it were not there.
const PRIORITY: &str = "x-llamero-priority";
/// How long a client waits for all of an answer or for its next byte, in seconds, as OpenAI's and Anthropic's libraries
/// write it.
const PATIENCE: [&str; 2] = ["x-stainless-timeout", "x-stainless-read-timeout"];
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
        let (mut class, mut patience) = (None, None);
        // One pass: most requests say nothing of it, and each look-up would cost more than all of this.
        for (name, value) in headers {
            let name = name.as_str();
            if name == PRIORITY {
                class = class.or_else(|| class_of(text(value)));
            } else if PATIENCE.contains(&name) {
                let said = patience_of(text(value));
                patience = patience.into_iter().chain(said).min();
            }
        }
        let usual = if Kind::of(label).is_embedding() {
            Class::Batch
        } else {
            Class::Interactive
        };
        Self {
            class: class.unwrap_or(usual),
            patience,
        }
    }
}

fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or_default().trim()
}

fn class_of(word: &str) -> Option<Class> {
    if word.eq_ignore_ascii_case("interactive") {
        Some(Class::Interactive)
    } else if word.eq_ignore_ascii_case("batch") {
        Some(Class::Batch)
    } else {
        None
    }
}

fn patience_of(seconds: &str) -> Option<Duration> {
    let seconds: f64 = seconds.parse().ok()?;
    let said = seconds > 0.0; // zero stands for no limit or for less than a second
    said.then(|| Duration::from_secs_f64(seconds.min(PATIENCE_SECONDS)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

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
