//! Command: executors that are connected and do nothing, and observers of whom some never read.

use crate::dispatches::{mission_id, order};
use crate::peers::{Caller, Socket, bare_server, executor, frame, id, keep_reading};
use crate::process::Registry;
use futures_util::stream::SplitSink;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::Message;

const EXECUTORS: usize = 5_000;

/// Two rounds of pings.
const WATCHED: Duration = Duration::from_secs(30);

/// Executors that speak, and who listens to each of them.
const SPEAKERS: usize = 20;
const READERS: usize = 150;
const SLEEPERS: usize = 50;
const EVENTS: usize = 500;

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
    let mut lines = Vec::new();
    for number in 0..EXECUTORS {
        lines.push(keep_reading(executor(&registry, number, &rest).await));
    }
    let cpu = registry.cpu().saturating_sub(before) / u32::try_from(EXECUTORS).unwrap();
    println!("registering and connecting       cpu {cpu:.2?} each");
    watch(&registry, "5,000 idle executors").await;
    let metrics = Caller::connect(&registry.address).await.get_text("/metrics").await;
    assert!(metrics.contains("aiwg_executors_connected 5000"), "an idle line was closed: {metrics}");

    let mut caller = Caller::connect(&registry.address).await;
    for number in 0..SPEAKERS {
        let any = r#""executor_id":null"#;
        let pinned = order(&mission_id(number)).replace(any, &format!(r#""executor_id":"{}""#, id(number)));
        let (status, answer) = caller.post("/api/v1/sessions/bench/dispatch", &pinned).await;
        assert_eq!(status, 202, "{answer}");
    }
    let speakers = &mut lines[..SPEAKERS];
    let alone = crowd(&registry, speakers, "first").await;
    println!("150 observers                {:>7.0}/s  {} MB resident", rate(alone), registry.resident_mb());
    let mut sleepers = Vec::new();
    for number in 0..SLEEPERS {
        sleepers.push(observe(&registry, number % SPEAKERS).await);
    }
    let beside = crowd(&registry, speakers, "second").await;
    println!("and 50 that never read       {:>7.0}/s  {} MB resident", rate(beside), registry.resident_mb());
}

fn rate(took: Duration) -> f64 {
    f64::from(u32::try_from(SPEAKERS * EVENTS).unwrap()) / took.as_secs_f64()
}

async fn observe(registry: &Registry, number: usize) -> Socket {
    let url = format!("ws://{}/ws/executors/{}?after=now", registry.address, id(number));
    tokio_tungstenite::connect_async(url).await.unwrap().0
}

/// Lets the speakers speak and returns how long it takes until every reader has everything.
async fn crowd(
    registry: &Registry,
    speakers: &mut [SplitSink<Socket, Message>],
    round: &'static str,
) -> Duration {
    let padding = "x".repeat(8_000);
    let event = move |number: usize, step: usize| {
        let data = json!({"summary": round, "iteration": step, "padding": padding});
        frame(number, "mission.progress", Some(&mission_id(number)), &data)
    };
    let mut readers = Vec::new();
    for number in 0..READERS {
        let mut reader = observe(registry, number % SPEAKERS).await;
        readers.push(tokio::spawn(async move {
            let mut seen = 0;
            while seen < EVENTS {
                let message = reader.next().await.unwrap().unwrap();
                seen += usize::from(message.is_text());
            }
        }));
    }
    // Observing begins a moment after the handshake.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let started = Instant::now();
    for step in 0..EVENTS {
        for (number, speaker) in speakers.iter_mut().enumerate() {
            speaker.send(event(number, step)).await.unwrap();
        }
    }
    for reader in readers {
        tokio::time::timeout(Duration::from_secs(60), reader).await.unwrap().unwrap();
    }
    started.elapsed()
}
