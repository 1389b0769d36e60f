//! Waiting for a fact, under one generous deadline.

use std::time::{Duration, Instant};

/// Looks every few milliseconds until `fact` is there.
pub(crate) fn eventually<T>(what: &str, patience: Duration, mut fact: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = fact() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {} s for {what}", patience.as_secs());
        aiwg_rs::disk::wait::rest(Duration::from_millis(5));
    }
}
