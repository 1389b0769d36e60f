//! Pure: what a refusal of a dispatch means: once more, when, or never.

use super::{Config, OnNoExecutor};
use crate::domain::mission::FailureReason;
use crate::domain::time::Now;
use std::time::Duration;

/// What a refusal means.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Never again.
    Fail(FailureReason),
    /// Again after this long.
    Again(Duration),
}

/// Judges a refusal of attempt number `attempts`; `seed` decides the jitter.
pub fn judge(
    config: &Config,
    status: u16,
    attempts: u32,
    retry_after: Option<Duration>,
    seed: u64,
    now: Now,
) -> Verdict {
    let last = match status {
        408 | 425 | 429 => FailureReason::ClientError,
        409 if retry_after.is_some() => FailureReason::IdempotencyConflict,
        503 => FailureReason::NoExecutorAvailable,
        400 => return Verdict::Fail(FailureReason::InvalidRequest),
        401 | 403 => return Verdict::Fail(FailureReason::Unauthorized),
        404 => return Verdict::Fail(FailureReason::ExecutorNotFound),
        409 => return Verdict::Fail(FailureReason::IdempotencyConflict),
        422 => return Verdict::Fail(FailureReason::IdempotencyKeyReused),
        // A redirect or an informational status is no answer to a dispatch.
        _ => match status / 100 {
            5 => FailureReason::DispatchError,
            4 => return Verdict::Fail(FailureReason::ClientError),
            _ => return Verdict::Fail(FailureReason::DispatchError),
        },
    };
    let held = status == 503 && config.on_no_executor == OnNoExecutor::Hold;
    if attempts >= config.max_attempts && !held {
        return Verdict::Fail(last);
    }
    Verdict::Again(config.retry.delay_after(attempts, retry_after, seed, now.instant))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Timestamp;
    use std::time::Instant;

    #[test]
    fn every_answer_is_judged_as_the_table_says() {
        use FailureReason as R;
        let config = Config::default();
        let now = Now { instant: Instant::now(), wall: Timestamp::from_millis(1_000_000) };
        let after = Some(Duration::from_secs(7));
        for (status, reason) in [
            (400, R::InvalidRequest),
            (401, R::Unauthorized),
            (403, R::Unauthorized),
            (404, R::ExecutorNotFound),
            (409, R::IdempotencyConflict),
            (418, R::ClientError),
            (422, R::IdempotencyKeyReused),
            (302, R::DispatchError),
        ] {
            assert_eq!(judge(&config, status, 1, None, 7, now), Verdict::Fail(reason), "{status}");
        }
        for (status, last) in [
            (408, R::ClientError),
            (425, R::ClientError),
            (429, R::ClientError),
            (500, R::DispatchError),
            (503, R::NoExecutorAvailable),
        ] {
            assert_eq!(
                judge(&config, status, 1, None, 7, now),
                Verdict::Again(Duration::from_millis(500)),
                "{status}"
            );
            assert_eq!(
                judge(&config, status, 2, after, 7, now),
                Verdict::Again(Duration::from_secs(7)),
                "{status}"
            );
            assert_eq!(judge(&config, status, 5, after, 7, now), Verdict::Fail(last), "{status}");
        }
        assert_eq!(judge(&config, 409, 1, after, 7, now), Verdict::Again(Duration::from_secs(7)));
        let hold = Config { on_no_executor: OnNoExecutor::Hold, ..Config::default() };
        assert_eq!(judge(&hold, 503, 50, None, 7, now), Verdict::Again(Duration::from_secs(30)));
    }
}
