//! Domain: points in time as values; nothing here reads a clock.
//!
//! Wall time orders what people and other programs see; the monotonic instant orders what we wait for. A [`Now`]
//! carries both, is made by the services, and is handed to every decision, so that decisions can be tested on any day.

use std::fmt;
use std::time::{Duration, Instant};

/// A point in wall time: UTC, milliseconds, written as RFC 3339 with `Z`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(i64);

/// A text that is not an RFC 3339 time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a time; write it like 2026-01-31T12:00:00.000Z")]
pub struct TimestampError {
    /// The refused text.
    pub text: String,
}

impl Timestamp {
    /// The start of 1970: the stand-in for "never".
    pub const EPOCH: Self = Self(0);

    /// Makes a timestamp from milliseconds since 1970.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Returns milliseconds since 1970.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Parses RFC 3339 with any offset; finer fractions are cut to milliseconds.
    ///
    /// # Errors
    /// [`TimestampError`] when the text is no such time.
    pub fn parse(text: &str) -> Result<Self, TimestampError> {
        let parsed: Result<jiff::Timestamp, _> = text.parse();
        match parsed {
            Ok(t) => Ok(Self(t.as_millisecond())),
            Err(_syntax) => Err(TimestampError { text: text.chars().take(64).collect() }),
        }
    }

    /// Returns this time moved forward.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// Returns the time `duration` before.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(millis))
    }

    /// Returns how long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(t) => write!(f, "{t:.3}"),
            Err(_out_of_range) => f.write_str("1970-01-01T00:00:00.000Z"),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// One reading of both clocks, taken by a service and handed to decisions.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Monotonic: for waiting.
    pub instant: Instant,
    /// Wall: for stamps.
    pub wall: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_written_with_milliseconds_and_z() {
        assert_eq!(Timestamp::from_millis(1_767_182_400_007).to_string(), "2025-12-31T12:00:00.007Z");
        assert_eq!(Timestamp::from_millis(0).to_string(), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn offsets_and_finer_fractions_are_understood() {
        let utc = Timestamp::parse("2026-01-01T00:00:00.123456Z").unwrap();
        let offset = Timestamp::parse("2026-01-01T01:00:00.123+01:00").unwrap();
        assert_eq!(utc, offset);
        assert!(Timestamp::parse("yesterday").is_err());
    }
}
