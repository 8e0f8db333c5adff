//! Whether a `keep_alive` is zero, which asks for a model to be unloaded.

/// Nanoseconds of Go's units of time.
const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("μs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// Whether a JSON value is zero as a number of seconds or as a duration that Go reads; what is less than a nanosecond
/// is zero to Go.
pub(super) fn is_zero(raw: &str) -> bool {
    if let Ok(seconds) = serde_json::from_str::<f64>(raw) {
        // Anything below zero means for ever.
        return (0.0..1e-9).contains(&seconds);
    }
    serde_json::from_str::<String>(raw).is_ok_and(|text| is_zero_duration(&text))
}

fn is_zero_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    let mut zero = !rest.is_empty();
    while !rest.is_empty() {
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        let (number, tail) = rest.split_at(rest.find(|c| !is_number(c)).unwrap_or(rest.len()));
        let (unit, tail) = tail.split_at(tail.find(is_number).unwrap_or(tail.len()));
        let nanoseconds = UNITS.iter().find(|(name, _)| *name == unit);
        // Each part is cut off to whole nanoseconds by itself.
        zero &= match (number.parse::<f64>(), nanoseconds) {
            (Ok(number), Some((_, unit))) => number * unit < 1.0,
            _ => false,
        };
        rest = tail;
    }
    zero
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_has_many_forms() {
        for zero in [
            "0",
            "-0",
            "0.0",
            "0e9",
            "1e-10",
            r#""0""#,
            r#""-0""#,
            r#""0s""#,
            r#""+0m""#,
            r#""0h0m0.0s""#,
            r#"".0s""#,
            r#""0.9ns""#,
            r#""0\u0073""#,
        ] {
            assert!(is_zero(zero), "{zero}");
        }
    }

    #[test]
    fn everything_else_is_not_zero() {
        for other in [
            "1",
            "-1",
            "0.5",
            "1e400",
            "null",
            "true",
            "[]",
            "{}",
            r#""""#,
            r#""-""#,
            r#""0x""#,
            r#""s""#,
            r#"".s""#,
            r#""00""#,
            r#""5m""#,
            r#""0s1ns""#,
            r#""1ns0s""#,
            r#"" 0s""#,
            r#""-1s""#,
        ] {
            assert!(!is_zero(other), "{other}");
        }
    }
}
