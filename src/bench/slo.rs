//! What an answer has to keep to be a good one.

use super::outcome::Outcome;
use super::time;
use serde::{Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The service level objective that goodput counts by. In JSON its times are seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Slo {
    /// The longest until the first token, and the longest for an embedding.
    #[serde(serialize_with = "seconds")]
    pub ttft: Duration,
    /// The longest for each further token, on the mean of one answer.
    #[serde(serialize_with = "seconds")]
    pub tpot: Duration,
}

fn seconds<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(time.as_secs_f64())
}

impl Default for Slo {
    /// What people at a chat window put up with.
    fn default() -> Self {
        Self {
            ttft: Duration::from_secs(2),
            tpot: Duration::from_millis(50),
        }
    }
}

impl Slo {
    /// Whether a request was served well enough.
    pub fn is_met(&self, outcome: &Outcome) -> bool {
        outcome.failure.is_none()
            && outcome.first_token.unwrap_or(outcome.total) <= self.ttft
            && outcome.per_token().is_none_or(|tpot| tpot <= self.tpot)
    }
}

impl fmt::Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |time: Duration| time::text(time.as_secs_f64());
        write!(
            f,
            "first token within {}, then {} a token",
            text(self.ttft),
            text(self.tpot)
        )
    }
}

impl FromStr for Slo {
    type Err = String;

    /// Reads `ttft=2s,tpot=50ms`; what is left out is as in the default.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut slo = Self::default();
        for part in text.split(',') {
            match part.split_once('=').map(|(key, time)| (key.trim(), time)) {
                Some(("ttft", limit)) => slo.ttft = time::parse(limit)?,
                Some(("tpot", limit)) => slo.tpot = time::parse(limit)?,
                _ => return Err(format!("{part:?} is no limit: write ttft=2s,tpot=50ms")),
            }
        }
        Ok(slo)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(u64, u64)>) {
        let expected = expected.map(|(ttft, tpot)| Slo {
            ttft: Duration::from_millis(ttft),
            tpot: Duration::from_millis(tpot),
        });
        assert_eq!(text.parse::<Slo>().ok(), expected, "{text}");
    }

    #[test]
    fn limits_are_read() {
        check("ttft=500ms,tpot=25ms", Some((500, 25)));
        check("tpot=200ms, ttft=10s", Some((10_000, 200)));
        check("ttft=1s", Some((1000, 50)));
        for bad in ["", "ttft", "ttft=", "ttft=2", "e2e=2s", "ttft=1s,"] {
            check(bad, None);
        }
    }
}
