//! Domain: how long to wait before trying again.
//!
//! The delays come from the `backoff` crate, and this is the only file that knows it: the loop, the attempts, the
//! cancellation and `Retry-After` are ours. The crate would read a clock and draw unseeded jitter; it gets a clock that
//! stands still and no jitter, so that the same input always gives the same delay.

use backoff::backoff::Backoff as _;
use std::time::{Duration, Instant};

/// Delays that start at `base`, double up to `cap`, and can be drawn from `[0, delay]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The first delay.
    pub base: Duration,
    /// No delay is longer.
    pub cap: Duration,
    /// Full jitter: each delay is drawn evenly from zero to its nominal length.
    pub jitter: bool,
}

impl RetryPolicy {
    /// Delays of a dispatch that was refused for now: 500 ms doubling to 30 s, without jitter.
    pub const DISPATCH: Self =
        Self { base: Duration::from_millis(500), cap: Duration::from_secs(30), jitter: false };

    /// Delays of a lost connection: 1 s doubling to 30 s, with jitter, so that a restarted server is not stormed.
    pub const RECONNECT: Self =
        Self { base: Duration::from_secs(1), cap: Duration::from_secs(30), jitter: true };

    /// Returns the endless sequence of delays; `seed` decides the jitter.
    ///
    /// The crate insists on a point in time to start from, which no delay depends on: any `start` will do.
    pub fn delays(&self, seed: u64, start: Instant) -> Delays {
        let mut exponential = backoff::exponential::ExponentialBackoff {
            current_interval: self.base,
            initial_interval: self.base,
            randomization_factor: 0.0,
            multiplier: 2.0,
            max_interval: self.cap,
            start_time: start,
            max_elapsed_time: None,
            clock: Standstill(start),
        };
        exponential.reset();
        Delays { exponential, jitter: self.jitter, random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).max(1) }
    }

    /// Returns the delay before attempt `attempt + 1`, given that attempt `attempt` (from 1) failed.
    ///
    /// A longer `retry_after` of the server wins. `seed` and `now` are as in [`RetryPolicy::delays`].
    pub fn delay_after(
        &self,
        attempt: u32,
        retry_after: Option<Duration>,
        seed: u64,
        now: Instant,
    ) -> Duration {
        let index = usize::try_from(attempt.saturating_sub(1).min(64)).unwrap_or(64);
        let nominal = self.delays(seed ^ u64::from(attempt), now).nth(index).unwrap_or(self.cap);
        retry_after.map_or(nominal, |asked| asked.max(nominal))
    }
}

/// An endless iterator of delays; call [`Delays::reset`] after a success.
#[derive(Debug)]
pub struct Delays {
    exponential: backoff::exponential::ExponentialBackoff<Standstill>,
    jitter: bool,
    random: u64,
}

impl Delays {
    /// Starts again at the first delay.
    pub fn reset(&mut self) {
        self.exponential.reset();
    }

    fn draw(&mut self, below: Duration) -> Duration {
        // xorshift64*: the jitter only has to spread clients, not to resist anyone.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let drawn = self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        let millis = u64::try_from(below.as_millis()).unwrap_or(u64::MAX >> 32).min(u64::MAX >> 32);
        Duration::from_millis((millis * drawn) >> 32)
    }
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let nominal = self.exponential.next_backoff()?;
        Some(if self.jitter { self.draw(nominal) } else { nominal })
    }
}

#[derive(Debug, Clone, Copy)]
struct Standstill(Instant);

impl backoff::Clock for Standstill {
    fn now(&self) -> Instant {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap() {
        let policy =
            RetryPolicy { base: Duration::from_secs(1), cap: Duration::from_secs(30), jitter: false };
        let seconds: Vec<u64> = policy.delays(7, Instant::now()).take(7).map(|d| d.as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn a_longer_retry_after_wins_and_a_shorter_one_does_not() {
        let policy = RetryPolicy::DISPATCH;
        let now = Instant::now();
        assert_eq!(policy.delay_after(1, Some(Duration::from_secs(9)), 0, now), Duration::from_secs(9));
        assert_eq!(policy.delay_after(3, Some(Duration::from_millis(1)), 0, now), Duration::from_secs(2));
        assert_eq!(policy.delay_after(1000, None, 0, now), Duration::from_secs(30));
    }

    #[test]
    fn jitter_stays_below_the_nominal_delay_and_follows_its_seed() {
        let policy = RetryPolicy { jitter: true, ..RetryPolicy::DISPATCH };
        let now = Instant::now();
        let plain = RetryPolicy::DISPATCH.delays(0, now);
        let first: Vec<_> = policy.delays(42, now).take(20).collect();
        let again: Vec<_> = policy.delays(42, now).take(20).collect();
        assert_eq!(first, again);
        assert!(first.iter().zip(plain).all(|(jittered, nominal)| *jittered <= nominal));
        assert_ne!(first, policy.delays(43, now).take(20).collect::<Vec<_>>());
    }
}
