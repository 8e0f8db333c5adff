//! Durations as Go writes them: `2s`, `500ms`, `1h30m`, `-1s`.

use std::time::Duration;

/// How long a model stays after its last use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    Until(Duration),
    Forever,
}

/// Reads a duration without a sign. `None` if it is none or too long to count.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    if rest == "0" {
        return Some(total);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = tail;
    }
    Some(total)
}

/// Reads a `keep_alive`: seconds or a duration; below zero means for ever.
pub(super) fn keep_alive(value: &serde_json::Value) -> Option<Keep> {
    if let Some(seconds) = value.as_f64() {
        return Some(Duration::try_from_secs_f64(seconds).map_or(Keep::Forever, Keep::Until));
    }
    let text = value.as_str()?.trim();
    match text.strip_prefix('-') {
        Some(rest) => parse(rest).map(|_| Keep::Forever),
        None => parse(text).map(Keep::Until),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(value: &serde_json::Value, expected: Option<Keep>) {
        assert_eq!(keep_alive(value), expected, "{value}");
    }

    #[test]
    fn keep_alive_has_many_forms() {
        let seconds = |n| Some(Keep::Until(Duration::from_secs(n)));
        check(&json!(0), seconds(0));
        check(&json!("0"), seconds(0));
        check(&json!("0s"), seconds(0));
        check(&json!(90), seconds(90));
        check(&json!("1m30s"), seconds(90));
        check(&json!("1.5m"), seconds(90));
        check(
            &json!("500ms"),
            Some(Keep::Until(Duration::from_millis(500))),
        );
        check(&json!(-1), Some(Keep::Forever));
        check(&json!("-1s"), Some(Keep::Forever));
        for bad in [
            json!(""),
            json!("5"),
            json!("x"),
            json!("5 m"),
            json!(null),
            json!("1e9h"),
        ] {
            check(&bad, None);
        }
    }
}
