//! Command: durable dispatches from 64 callers.

use crate::peers::{Caller, bare_server, executor};
use crate::process::Registry;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CALLERS: usize = 64;

pub(crate) fn order(mission: &str) -> String {
    json!({
        "mission_id": mission, "objective": "make the build green and say what was wrong", "completion": "tests pass",
        "long_running": false, "executor_filter": {"executor_id": null, "capabilities": []},
        "metadata": {"mc_session_id": "bench", "mode": "direct", "priority": "normal"}
    })
    .to_string()
}

/// The n-th mission's id, in no order, as random ids are.
pub(crate) fn mission_id(number: usize) -> String {
    // Times an odd number: no two are alike.
    format!("m-{:016x}", u64::try_from(number).unwrap().wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

pub(crate) struct Load {
    pub(crate) rate: f64,
    pub(crate) took: Duration,
    p50: Duration,
    p99: Duration,
}

/// Dispatches `count` missions over 64 connections.
pub(crate) async fn load(address: &str, from: usize, count: usize) -> Load {
    let next = Arc::new(AtomicUsize::new(from));
    let started = Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (next, address) = (Arc::clone(&next), address.to_owned());
            tokio::spawn(async move {
                let mut caller = Caller::connect(&address).await;
                let mut took = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= from + count {
                        return took;
                    }
                    let body = order(&mission_id(number));
                    let asked = Instant::now();
                    let (status, answer) = caller.post("/api/v1/sessions/bench/dispatch", &body).await;
                    assert_eq!(status, 202, "{answer}");
                    took.push(asked.elapsed());
                }
            })
        })
        .collect();
    let mut times = Vec::with_capacity(count);
    for caller in callers {
        times.extend(caller.await.unwrap());
    }
    let took = started.elapsed();
    times.sort_unstable();
    let rate = f64::from(u32::try_from(count).unwrap()) / took.as_secs_f64();
    Load { rate, took, p50: times[count / 2], p99: times[count * 99 / 100] }
}

pub(crate) async fn measure() {
    const COUNT: usize = 20_000;
    let bare = load(&bare_server().await, 0, COUNT).await;
    println!(
        "bare server, no work         {:>7.0}/s  p50 {:>8.2?}  p99 {:>8.2?}",
        bare.rate, bare.p50, bare.p99
    );
    let registry = Registry::start().await;
    let _line = executor(&registry, 0, &bare_server().await).await;
    load(&registry.address, 0, 2_000).await;
    let before = registry.cpu();
    let durable = load(&registry.address, 2_000, COUNT).await;
    let cpu = registry.cpu().saturating_sub(before) / u32::try_from(COUNT).unwrap();
    println!(
        "durable dispatch, 64 callers {:>7.0}/s  p50 {:>8.2?}  p99 {:>8.2?}  cpu {cpu:.2?} each  {} MB resident",
        durable.rate,
        durable.p50,
        durable.p99,
        registry.resident_mb()
    );
}
