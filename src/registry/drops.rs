//! Service: frames that were dropped: all counted, one in a minute told.

use crate::domain::id::ExecutorId;
use crate::domain::time::Now;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const TELL_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Count {
    total: u64,
    untold: u64,
    told_at: Option<Instant>,
}

/// Counts dropped frames by reason.
#[derive(Debug, Default)]
pub struct Drops {
    counts: Mutex<HashMap<&'static str, Count>>,
}

impl Drops {
    /// Counts one; warns with a sample at most once a minute and reason.
    pub fn count(&self, reason: &'static str, id: &ExecutorId, sample: &str, now: Now) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(reason).or_default();
        count.total += 1;
        count.untold += 1;
        if count.told_at.is_none_or(|told| now.instant.duration_since(told) >= TELL_EVERY) {
            count.told_at = Some(now.instant);
            let since = std::mem::take(&mut count.untold);
            let sample: String = sample.chars().take(80).collect();
            tracing::warn!(executor.id = %id, reason, count = since, sample, "dropped frames of an executor");
        }
    }

    /// Returns how many were dropped for each reason.
    pub fn totals(&self) -> Vec<(&'static str, u64)> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut totals: Vec<_> = counts.iter().map(|(reason, count)| (*reason, count.total)).collect();
        totals.sort_unstable();
        totals
    }
}
