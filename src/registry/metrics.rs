//! Service: counters and histograms, written in the text form that Prometheus reads.

use crate::registry::gauges::Gauges;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets, in seconds.
const BOUNDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

/// How long things took.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len()],
    count: AtomicU64,
    sum_micros: AtomicU64,
}

impl Histogram {
    /// Notes one duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        for (bucket, bound) in self.buckets.iter().zip(BOUNDS) {
            if seconds <= bound {
                bucket.fetch_add(1, Ordering::Relaxed);
                break;
            }
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn write(&self, name: &str, help: &str, out: &mut String) {
        head(name, help, "histogram", out);
        let mut below = 0;
        for (bucket, bound) in self.buckets.iter().zip(BOUNDS) {
            below += bucket.load(Ordering::Relaxed);
            writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {below}").ok();
        }
        let count = self.count.load(Ordering::Relaxed);
        let sum = Duration::from_micros(self.sum_micros.load(Ordering::Relaxed)).as_secs_f64();
        writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}").ok();
    }
}

/// Outcomes of a dispatch.
const OUTCOMES: [&str; 7] =
    ["assigned", "replayed", "invalid", "conflict", "no_executor", "forward_failed", "unavailable"];

/// Everything that is measured.
#[derive(Debug, Default)]
pub struct Metrics {
    outcomes: [AtomicU64; OUTCOMES.len()],
    requests: [AtomicU64; 6],
    refused: AtomicU64,
    /// From a dispatch's arrival to its answer.
    pub dispatch: Histogram,
    /// One forward to an executor.
    pub forward: Histogram,
    /// One commit of the store.
    pub commit: Histogram,
    /// From an event's arrival to its release to observers.
    pub event_lag: Histogram,
}

impl Metrics {
    /// Counts a dispatch by the status of its answer.
    pub fn dispatched(&self, status: u16, replayed: bool) {
        let outcome = match (status, replayed) {
            (200..300, false) => 0,
            (200..300, true) => 1,
            (400 | 413 | 415, _) => 2,
            (409 | 422, _) => 3,
            (503, _) => 4,
            (502, _) => 5,
            _ => 6,
        };
        if let Some(counter) = self.outcomes.get(outcome) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a request by the class of its status.
    pub fn request(&self, status: u16, refused_at_the_door: bool) {
        if let Some(counter) = self.requests.get(usize::from(status / 100)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.refused.fetch_add(u64::from(refused_at_the_door), Ordering::Relaxed);
    }

    /// Writes everything down.
    pub fn render(&self, gauges: &Gauges) -> String {
        let mut out = String::with_capacity(8192);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        head("aiwg_dispatches_total", "Dispatches by outcome.", "counter", &mut out);
        for (outcome, counter) in OUTCOMES.iter().zip(&self.outcomes) {
            writeln!(out, "aiwg_dispatches_total{{outcome=\"{outcome}\"}} {}", count(counter)).ok();
        }
        head("aiwg_http_requests_total", "Requests by class of status.", "counter", &mut out);
        for (class, counter) in self.requests.iter().enumerate().skip(1) {
            writeln!(out, "aiwg_http_requests_total{{status=\"{class}xx\"}} {}", count(counter)).ok();
        }
        head("aiwg_requests_refused_total", "Requests refused at the door.", "counter", &mut out);
        writeln!(out, "aiwg_requests_refused_total {}", count(&self.refused)).ok();
        self.dispatch.write("aiwg_dispatch_seconds", "From a dispatch's arrival to its answer.", &mut out);
        self.forward.write("aiwg_forward_seconds", "One forward to an executor.", &mut out);
        self.commit.write("aiwg_store_commit_seconds", "One commit of the store.", &mut out);
        self.event_lag.write(
            "aiwg_event_lag_seconds",
            "From an event's arrival to its release to observers.",
            &mut out,
        );
        head("aiwg_missions_live", "Live missions by state.", "gauge", &mut out);
        for (state, number) in &gauges.missions {
            writeln!(out, "aiwg_missions_live{{state=\"{state}\"}} {number}").ok();
        }
        head("aiwg_executors_registered", "Registered executors.", "gauge", &mut out);
        writeln!(out, "aiwg_executors_registered {}", gauges.executors).ok();
        head("aiwg_executors_connected", "Executors whose line is open.", "gauge", &mut out);
        writeln!(out, "aiwg_executors_connected {}", gauges.connected).ok();
        head("aiwg_observers", "Observers of event streams.", "gauge", &mut out);
        writeln!(out, "aiwg_observers {}", gauges.observers).ok();
        head("aiwg_frames_dropped_total", "Dropped frames by reason.", "counter", &mut out);
        for (reason, number) in &gauges.dropped {
            writeln!(out, "aiwg_frames_dropped_total{{reason=\"{reason}\"}} {number}").ok();
        }
        out
    }
}

fn head(name: &str, help: &str, kind: &str, out: &mut String) {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_end_in_the_count() {
        let metrics = Metrics::default();
        for millis in [1, 20, 60_000] {
            metrics.commit.observe(Duration::from_millis(millis));
        }
        metrics.dispatched(202, true);
        let text = metrics.render(&Gauges::default());
        assert!(text.contains("aiwg_store_commit_seconds_bucket{le=\"0.001\"} 1\n"), "{text}");
        assert!(text.contains("aiwg_store_commit_seconds_bucket{le=\"0.025\"} 2\n"), "{text}");
        assert!(text.contains("aiwg_store_commit_seconds_bucket{le=\"+Inf\"} 3\n"), "{text}");
        assert!(text.contains("aiwg_dispatches_total{outcome=\"replayed\"} 1\n"), "{text}");
    }
}
