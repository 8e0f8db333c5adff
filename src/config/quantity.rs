//! Durations and sizes: whole numbers that need a unit, as `"1m30s"` and `"64MiB"`.

use super::value::Problem;
use std::fmt::Write;
use std::ops::RangeInclusive;
use std::time::Duration;
use toml::de::DeValue;

/// Longest time that can be configured.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Largest body that may be kept in memory.
const BODY_BYTES: RangeInclusive<u64> = 1..=1 << 30;
const HEAD_BYTES: RangeInclusive<u64> = 8 << 10..=1 << 20;
/// Memory of the whole process; with less than that it could not do much.
const MEMORY_BYTES: RangeInclusive<u64> = 32 << 20..=1 << 50;
const DURATION_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("B", 1),
];

/// A time above zero, as `"250ms"` or `"1m30s"`.
pub(super) fn duration(value: &DeValue<'_>) -> Result<Duration, Problem> {
    match duration_or_zero(value)? {
        Duration::ZERO => Err(Problem::new("must be longer than zero")),
        duration => Ok(duration),
    }
}

/// A time that may be zero.
pub(super) fn duration_or_zero(value: &DeValue<'_>) -> Result<Duration, Problem> {
    let text = quantity(value, "a duration such as \"5s\"", "s")?;
    let wrong = || {
        Problem::new(format!("is no duration: {text:?}"))
            .help("whole numbers with ms, s, m or h, longest first: \"250ms\", \"5s\", \"1m30s\"")
    };
    if text.is_empty() {
        return Err(wrong());
    }
    let mut total: u64 = 0;
    let mut rest = text;
    let mut units = DURATION_UNITS.iter(); // each is used once, so they have to descend
    while !rest.is_empty() {
        let (number, unit, after) = split_quantity(rest).ok_or_else(wrong)?;
        let (_, scale) = units.find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        total = number
            .checked_mul(*scale)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(wrong)?;
        rest = after;
    }
    let duration = Duration::from_millis(total);
    if duration > LONGEST {
        let longest = duration_text(LONGEST);
        return Err(Problem::new(format!("must be at most {longest}: {text:?}")));
    }
    Ok(duration)
}

/// The size of a body.
pub(super) fn body_size(value: &DeValue<'_>) -> Result<usize, Problem> {
    size(value, BODY_BYTES)
}

/// The size of a request's head.
pub(super) fn head_size(value: &DeValue<'_>) -> Result<usize, Problem> {
    size(value, HEAD_BYTES)
}

/// The memory of the process.
pub(super) fn memory_size(value: &DeValue<'_>) -> Result<usize, Problem> {
    size(value, MEMORY_BYTES)
}

fn size(value: &DeValue<'_>, range: RangeInclusive<u64>) -> Result<usize, Problem> {
    let text = quantity(value, "a size such as \"64MiB\"", "B")?;
    let wrong = || {
        Problem::new(format!("is no size: {text:?}"))
            .help("a whole number with B, KB, MB, GB, KiB, MiB or GiB: \"64MiB\"")
    };
    let (number, unit, rest) = split_quantity(text).ok_or_else(wrong)?;
    let (_, scale) = SIZE_UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit) && rest.is_empty())
        .ok_or_else(wrong)?;
    number
        .checked_mul(*scale)
        .filter(|bytes| range.contains(bytes))
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| {
            let (least, most) = (size_text(*range.start()), size_text(*range.end()));
            Problem::new(format!("must be from {least} to {most}: {text:?}"))
        })
}

/// The text of a number with a unit; a number without one gets the hint that people need.
fn quantity<'v>(value: &'v DeValue<'_>, expected: &str, unit: &str) -> Result<&'v str, Problem> {
    let bare = match value {
        DeValue::String(text) if text.parse::<f64>().is_err() => return Ok(text),
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        other @ (DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_)) => return Err(Problem::kind(expected, other)),
    };
    Err(Problem::new(format!("needs a unit: {bare}")).help(format!("write \"{bare}{unit}\"")))
}

/// `"5s…"` as 5, `s` and the rest.
fn split_quantity(text: &str) -> Option<(u64, &str, &str)> {
    let (number, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let end = rest
        .find(|c: char| c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(end);
    Some((number.parse().ok()?, unit, rest))
}

/// A duration as the configuration writes it, to the millisecond.
pub(crate) fn duration_text(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, scale) in DURATION_UNITS {
        if rest >= scale {
            // Writing to a string cannot fail.
            let _ = write!(text, "{}{unit}", rest / scale);
            rest %= scale;
        }
    }
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

/// A size as the configuration writes it.
pub(crate) fn size_text(bytes: u64) -> String {
    SIZE_UNITS
        .iter()
        .find(|(_, scale)| bytes >= *scale && bytes.is_multiple_of(*scale))
        .map_or("0B".to_owned(), |(unit, scale)| {
            format!("{}{unit}", bytes / scale)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn string(text: &str) -> DeValue<'_> {
        DeValue::String(text.into())
    }

    proptest! {
        #[test]
        fn durations_are_read_as_they_are_written(millis in 0u64..=86_400_000) {
            let duration = Duration::from_millis(millis);
            let read = duration_or_zero(&string(&duration_text(duration)));
            prop_assert_eq!(read.unwrap(), duration);
        }

        #[test]
        fn sizes_are_read_as_they_are_written(bytes in 1u64..=1 << 30) {
            let read = body_size(&string(&size_text(bytes)));
            prop_assert_eq!(read.unwrap() as u64, bytes);
        }
    }
}
