//! Times as people type them and read them.

use std::time::Duration;

/// The longest time that can be asked for.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// Reads `250ms`, `2s`, `1.5m` or `1h`; 0 needs no unit.
///
/// # Errors
/// When it is none of these, or more than a week. The text says what is accepted.
pub fn parse(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let wrong = || format!("{text:?} is no time: write 250ms, 2s, 1.5m or 1h");
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .ok_or_else(wrong)?;
    let (number, unit) = text.split_at(end);
    let scale = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * scale)
        .ok()
        .filter(|time| *time <= LONGEST)
        .ok_or_else(wrong)
}

/// Seconds to three digits that count, with a unit: `183 ms`, `2.31 s`, `190 s`.
pub fn text(seconds: f64) -> String {
    if seconds < 0.000_999_5 {
        return format!("{:.2} ms", seconds * 1e3);
    }
    let (number, unit) = if seconds < 0.999_5 {
        (seconds * 1e3, "ms")
    } else {
        (seconds, "s")
    };
    let decimals = match number {
        _ if number < 9.995 => 2,
        _ if number < 99.95 => 1,
        _ => 0,
    };
    format!("{number:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<f64>) {
        assert_eq!(
            parse(text).ok().map(|time| time.as_secs_f64()),
            expected,
            "{text}"
        );
    }

    #[test]
    fn times_are_read() {
        check("250ms", Some(0.25));
        check("2s", Some(2.0));
        check(" 1.5m ", Some(90.0));
        check("1h", Some(3600.0));
        check("0", Some(0.0));
        for bad in ["", "2", "s", "2 s", "-1s", "1e3s", "1.2.3s", "9999h", "2d"] {
            check(bad, None);
        }
    }

    #[track_caller]
    fn check_text(seconds: f64, expected: &str) {
        assert_eq!(text(seconds), expected);
    }

    #[test]
    fn times_are_shown_with_three_digits() {
        check_text(0.0, "0.00 ms");
        check_text(0.000_25, "0.25 ms");
        check_text(0.009_994, "9.99 ms");
        check_text(0.0314, "31.4 ms");
        check_text(0.1834, "183 ms");
        check_text(0.9996, "1.00 s");
        check_text(2.311, "2.31 s");
        check_text(48.26, "48.3 s");
        check_text(190.4, "190 s");
    }
}
