//! Edge: waits, on a blocking thread, for something that only asking again can tell.

use std::time::{Duration, Instant};

/// Asks `look` until it has an answer, at growing distances from `first` to `longest`; nothing when `total` is over.
///
/// It blocks the thread: call it from `spawn_blocking`.
pub fn until<T>(
    first: Duration,
    longest: Duration,
    total: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> Option<T> {
    let deadline = Instant::now() + total;
    let mut pause = first;
    loop {
        if let Some(answer) = look() {
            return Some(answer);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        rest(pause.min(left));
        pause = (pause * 2).min(longest);
    }
}

/// Lets the thread rest.
#[expect(
    clippy::disallowed_methods,
    reason = "the doors to the disk are blocking and run on blocking threads"
)]
pub fn rest(pause: Duration) {
    std::thread::sleep(pause);
}
