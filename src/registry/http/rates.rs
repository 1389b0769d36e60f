//! Service: how many requests one peer from elsewhere may send.

use crate::registry::http::state::Peer;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

/// Peers that are remembered; beyond it those whose allowance is whole again are forgotten.
const MAX_PEERS: usize = 10_000;

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// A bucket of allowance for each address: it fills evenly, up to two seconds' worth.
#[derive(Debug)]
pub struct Rates {
    per_second: f64,
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

impl Rates {
    /// Makes the limit; none when `per_second` is zero.
    pub fn new(per_second: u32) -> Self {
        Self { per_second: f64::from(per_second), buckets: Mutex::default() }
    }

    /// Takes one request off the peer's allowance; false when there is none left.
    pub fn admit(&self, peer: Peer) -> bool {
        let Some(address) = peer.address() else { return true };
        if self.per_second == 0.0 {
            return true;
        }
        let (now, most) = (Instant::now(), self.per_second * 2.0);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_PEERS && !buckets.contains_key(&address) {
            buckets.retain(|_, bucket| now.duration_since(bucket.at).as_secs_f64() < 2.0);
            if buckets.len() >= MAX_PEERS {
                return false;
            }
        }
        let bucket = buckets.entry(address).or_insert(Bucket { tokens: most, at: now });
        let earned = now.duration_since(bucket.at).as_secs_f64() * self.per_second;
        bucket.tokens = (bucket.tokens + earned).min(most);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_floods_is_held_and_others_are_not() {
        let rates = Rates::new(10);
        let flooding = Peer::from_address("10.0.0.1:1".parse().unwrap());
        let other = Peer::from_address("10.0.0.2:1".parse().unwrap());
        assert_eq!((0..100).filter(|_| rates.admit(flooding)).count(), 20);
        assert!(rates.admit(other));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!((0..100).filter(|_| rates.admit(flooding)).count(), 5);
        assert!((0..1000).all(|_| Rates::new(0).admit(flooding)));
    }
}
