//! Pure: how long a receiver that does not take an event is tried.
//!
//! | the receiver | tried for | then |
//! |---|---|---|
//! | cannot be reached, answers 5xx, 408, 425 or 429 | a day | the event is dead |
//! | refuses for good: any other status that is not 2xx | an hour, should it change its mind | the event is dead |

use crate::domain::retry::RetryPolicy;
use crate::domain::time::{Now, Timestamp};
use std::time::Duration;

/// How long an event is tried before it is dead. A day.
const DEAD_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a receiver that refuses an event for good gets to change its mind. An hour.
const REFUSED_FOR_GOOD_AFTER: Duration = Duration::from_secs(60 * 60);

/// Delays between attempts: 1 s doubling to 5 min, with jitter.
pub const RETRY: RetryPolicy =
    RetryPolicy { base: Duration::from_secs(1), cap: Duration::from_secs(300), jitter: true };

/// Shortest delay, whatever the jitter draws.
const AT_LEAST: Duration = Duration::from_millis(200);

/// An attempt that failed.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// The status of the answer; 0 when there was none.
    pub status: u16,
    /// Since when the event has been waiting for its receiver.
    pub since: Timestamp,
    /// How many attempts have failed, this one included.
    pub failed: u32,
    /// For the jitter.
    pub seed: u64,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Try again after this long.
    Again(Duration),
    /// The event is dead.
    GiveUp,
}

/// Says whether the receiver has the event.
pub fn is_taken(status: u16) -> bool {
    (200..300).contains(&status)
}

/// Judges a failed attempt.
pub fn judge(attempt: Attempt, now: Now) -> Verdict {
    let waits = matches!(attempt.status, 0 | 408 | 425 | 429 | 500..);
    let limit = if waits { DEAD_AFTER } else { REFUSED_FOR_GOOD_AFTER };
    if now.wall.since(attempt.since) >= limit {
        return Verdict::GiveUp;
    }
    let delay = RETRY.delay_after(attempt.failed, None, attempt.seed, now.instant);
    Verdict::Again(delay.max(AT_LEAST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn after(seconds: u64, status: u16, failed: u32) -> Verdict {
        let now = Now {
            instant: Instant::now(),
            wall: Timestamp::from_millis(0).plus(Duration::from_secs(seconds)),
        };
        judge(Attempt { status, since: Timestamp::from_millis(0), failed, seed: 7 }, now)
    }

    #[test]
    fn an_event_is_dead_after_a_day_and_not_before() {
        for status in [0, 408, 425, 429, 500, 503, 599] {
            assert!(matches!(after(86_399, status, 300), Verdict::Again(_)), "{status}");
            assert_eq!(after(86_400, status, 300), Verdict::GiveUp, "{status}");
        }
    }

    #[test]
    fn a_refusal_for_good_is_believed_after_an_hour() {
        for status in [301, 400, 403, 404, 410, 422] {
            assert!(matches!(after(3_599, status, 20), Verdict::Again(_)), "{status}");
            assert_eq!(after(3_600, status, 20), Verdict::GiveUp, "{status}");
        }
    }

    #[test]
    fn delays_grow_to_five_minutes_and_are_never_nothing() {
        for failed in 1..2_000 {
            let Verdict::Again(delay) = after(0, 0, failed) else { panic!("given up at once") };
            let most =
                Duration::from_secs(1 << failed.saturating_sub(1).min(20)).min(Duration::from_secs(300));
            assert!(delay >= AT_LEAST && delay <= most, "{failed}: {delay:?}");
        }
    }

    #[test]
    fn a_clock_that_was_set_back_gives_up_nothing() {
        let now = Now { instant: Instant::now(), wall: Timestamp::from_millis(0) };
        let since = Timestamp::from_millis(i64::from(u32::MAX));
        let verdict = judge(Attempt { status: 0, since, failed: 1, seed: 0 }, now);
        assert!(matches!(verdict, Verdict::Again(_)));
    }
}
