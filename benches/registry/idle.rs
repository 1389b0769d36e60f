//! Command: executors that are connected and do nothing.

use crate::peers::{bare_server, executor};
use crate::process::Registry;
use futures_util::StreamExt as _;
use std::time::Duration;

const EXECUTORS: usize = 5_000;

/// Two rounds of pings.
const WATCHED: Duration = Duration::from_secs(30);

async fn watch(registry: &Registry, what: &str) {
    let before = registry.cpu();
    tokio::time::sleep(WATCHED).await;
    let cpu = registry.cpu().saturating_sub(before).as_secs_f64() / WATCHED.as_secs_f64() * 100.0;
    println!("{what:<28} {cpu:>7.2} % of a core  {} MB resident", registry.resident_mb());
}

pub(crate) async fn measure() {
    let registry = Registry::start().await;
    watch(&registry, "nobody connected").await;
    let rest = bare_server().await;
    let before = registry.cpu();
    let mut reading = Vec::new();
    for number in 0..EXECUTORS {
        let mut line = executor(&registry, number, &rest).await;
        // Reading answers the pings.
        reading.push(tokio::spawn(async move { while let Some(Ok(_)) = line.next().await {} }));
    }
    let cpu = registry.cpu().saturating_sub(before) / u32::try_from(EXECUTORS).unwrap();
    println!("registering and connecting       cpu {cpu:.2?} each");
    watch(&registry, "5,000 idle executors").await;
    assert!(reading.iter().all(|line| !line.is_finished()), "an idle line was closed");
}
