//! Pure: is the registry there?
//!
//! While it is not, the gate is closed: nothing is sent, nobody loses an attempt, and one probe at a time asks whether
//! the registry is back. Any answer at all opens the gate for everyone at once.
//!
//! | state | event | becomes | asks for |
//! |---|---|---|---|
//! | open | a request did not reach it | closed, first delay | – |
//! | closed | the delay has passed | probing | one probe |
//! | probing | the probe was answered | open | – |
//! | probing | the probe was not answered | closed, next delay | – |
//! | any | any request was answered | open | – |

use crate::domain::retry::{Delays, RetryPolicy};
use crate::domain::time::{Now, Timestamp};
use std::time::{Duration, Instant};

/// Delays between probes: 250 ms doubling to 30 s.
pub const PROBE_POLICY: RetryPolicy =
    RetryPolicy { base: Duration::from_millis(250), cap: Duration::from_secs(30), jitter: false };

/// The gate in front of the registry.
#[derive(Debug)]
pub struct Reachability {
    state: State,
    seed: u64,
    /// Since the gate was last open; made when it closes.
    delays: Option<Delays>,
}

#[derive(Debug)]
enum State {
    Open,
    Closed { since: Timestamp, cause: String, probe_at: Instant },
    Probing { since: Timestamp, cause: String },
}

impl Reachability {
    /// Starts with an open gate: the first request finds out.
    pub fn new(seed: u64) -> Self {
        Self { state: State::Open, seed, delays: None }
    }

    /// Says whether requests may leave.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Returns since when and why the registry is away.
    pub fn away(&self) -> Option<(Timestamp, &str)> {
        match &self.state {
            State::Open => None,
            State::Closed { since, cause, .. } | State::Probing { since, cause } => Some((*since, cause)),
        }
    }

    /// A request or a probe did not reach the registry. Returns whether the gate was open until now.
    pub fn on_unreachable(&mut self, cause: &str, now: Now) -> bool {
        match &self.state {
            State::Open => {
                let probe_at = now.instant + self.next_delay(now);
                self.state = State::Closed { since: now.wall, cause: cause.to_owned(), probe_at };
                true
            }
            State::Probing { since, .. } => {
                let since = *since;
                let probe_at = now.instant + self.next_delay(now);
                self.state = State::Closed { since, cause: cause.to_owned(), probe_at };
                false
            }
            // A straggler that left before the gate closed tells nothing new.
            State::Closed { .. } => false,
        }
    }

    fn next_delay(&mut self, now: Now) -> Duration {
        let seed = self.seed;
        let delays = self.delays.get_or_insert_with(|| PROBE_POLICY.delays(seed, now.instant));
        delays.next().unwrap_or(PROBE_POLICY.cap)
    }

    /// The registry answered something. Returns how long it was away when the gate opens by this.
    pub fn on_answer(&mut self, now: Now) -> Option<Duration> {
        let away = self.away().map(|(since, _)| now.wall.since(since));
        self.state = State::Open;
        self.delays = None;
        away
    }

    /// Says whether a probe is due, and if so counts it as sent.
    #[must_use]
    pub fn take_probe(&mut self, now: Now) -> bool {
        match &self.state {
            State::Closed { since, cause, probe_at } if *probe_at <= now.instant => {
                self.state = State::Probing { since: *since, cause: cause.clone() };
                true
            }
            State::Open | State::Closed { .. } | State::Probing { .. } => false,
        }
    }

    /// Returns when [`Reachability::take_probe`] wants to be called.
    pub fn next_wakeup(&self) -> Option<Instant> {
        match &self.state {
            State::Closed { probe_at, .. } => Some(*probe_at),
            State::Open | State::Probing { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, millis: u64) -> Now {
        let wall = Timestamp::from_millis(1_000_000).plus(Duration::from_millis(millis));
        Now { instant: start + Duration::from_millis(millis), wall }
    }

    #[test]
    fn one_probe_at_a_time_with_growing_delays_until_an_answer_opens_the_gate() {
        let start = Instant::now();
        let mut gate = Reachability::new(1);
        assert!(gate.is_open());
        assert!(gate.on_unreachable("refused", at(start, 0)));
        assert!(!gate.on_unreachable("refused", at(start, 1)), "a straggler closes nothing");
        assert!(!gate.take_probe(at(start, 249)));
        assert!(gate.take_probe(at(start, 250)));
        assert!(!gate.take_probe(at(start, 251)), "only one probe is out");
        assert_eq!(gate.next_wakeup(), None);
        gate.on_unreachable("refused", at(start, 252));
        assert_eq!(gate.next_wakeup(), Some(start + Duration::from_millis(752)));
        assert_eq!(gate.away().map(|(since, _)| since.as_millis()), Some(1_000_000));
        assert!(gate.take_probe(at(start, 800)));
        assert_eq!(gate.on_answer(at(start, 900)), Some(Duration::from_millis(900)));
        assert!(gate.is_open());
        assert_eq!(gate.on_answer(at(start, 901)), None);
        gate.on_unreachable("refused", at(start, 1000));
        assert_eq!(gate.next_wakeup(), Some(start + Duration::from_millis(1250)), "delays start again");
    }

    #[test]
    fn the_delay_between_probes_is_never_longer_than_thirty_seconds() {
        let start = Instant::now();
        let mut gate = Reachability::new(1);
        let mut now = at(start, 0);
        for _ in 0..20 {
            gate.on_unreachable("refused", now);
            let due = gate.next_wakeup().unwrap();
            assert!(due - now.instant <= Duration::from_secs(30));
            now = Now { instant: due, wall: now.wall };
            assert!(gate.take_probe(now));
        }
    }
}
