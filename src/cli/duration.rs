//! Command: lengths of time on the command line, such as `90s` or `1h30m`.

use std::time::Duration;

/// Longest length that is accepted: a year. Longer ones are slips of the finger.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Why a text is no length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// There is a number without a unit, or nothing at all.
    #[error("a number and a unit are needed, such as 500ms, 90s, 5m, 2h or 1h30m")]
    Shape,
    /// The unit is unknown.
    #[error("{unit:?} is no unit; use ms, s, m, h or d")]
    Unit {
        /// The refused unit.
        unit: String,
    },
    /// More than a year.
    #[error("that is longer than a year")]
    TooLong,
}

/// Reads one or more numbers, each with its unit: `ms`, `s`, `m`, `h` or `d`.
///
/// # Errors
/// [`DurationError`] says what is missing.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(DurationError::Shape);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(DurationError::Shape)?;
        let (number, behind) = rest.split_at(digits);
        let unit_end = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, next) = behind.split_at(unit_end);
        if number.is_empty() {
            return Err(DurationError::Shape);
        }
        let milliseconds: u64 = match unit.trim() {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            other => return Err(DurationError::Unit { unit: other.to_owned() }),
        };
        let number: u64 = number.parse().ok().ok_or(DurationError::TooLong)?;
        let part = number.checked_mul(milliseconds).ok_or(DurationError::TooLong)?;
        total = total.checked_add(Duration::from_millis(part)).ok_or(DurationError::TooLong)?;
        rest = next.trim_start();
    }
    if total > LONGEST { Err(DurationError::TooLong) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_add_up() {
        let millis = |text: &str| parse(text).unwrap().as_millis();
        assert_eq!(millis("90s"), 90_000);
        assert_eq!(millis("5m"), 300_000);
        assert_eq!(millis("2h"), 7_200_000);
        assert_eq!(millis("1h 30m"), 5_400_000);
        assert_eq!(millis("1d2h3m4s5ms"), 93_784_005);
        assert_eq!(millis("0s"), 0);
    }

    #[test]
    fn anything_else_says_what_is_missing() {
        for text in ["", " ", "10", "s", "1h30", "-5s", "1.5s"] {
            let error = parse(text).unwrap_err();
            assert!(matches!(error, DurationError::Shape | DurationError::Unit { .. }), "{text}: {error}");
        }
        assert_eq!(parse("3 weeks"), Err(DurationError::Unit { unit: "weeks".to_owned() }));
        assert_eq!(parse("400d"), Err(DurationError::TooLong));
        assert_eq!(parse("99999999999999999999s"), Err(DurationError::TooLong));
    }
}
