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

/// Waits until `at`; for ever when there is nothing to wait for.
///
/// # Cancel safety
/// Safe.
pub async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
