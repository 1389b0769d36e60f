//! Service: the one place that reads the clocks.

use crate::domain::time::{Now, Timestamp};

/// Reads both clocks. Under a paused tokio clock the instant is the paused one.
pub fn now() -> Now {
    Now { instant: tokio::time::Instant::now().into_std(), wall: wall() }
}

/// Reads the wall clock alone.
pub fn wall() -> Timestamp {
    Timestamp::from_millis(jiff::Timestamp::now().as_millisecond())
}
