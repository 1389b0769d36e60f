//! Command: events of one executor, stored and copied to observers, beside a relay that only copies.

use crate::dispatches::{load, mission_id};
use crate::peers::{Socket, bare_server, executor, frame, id};
use crate::process::Registry;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;

const COUNT: u32 = 100_000;
const OBSERVERS: usize = 10;

fn progress(summary: &str) -> Message {
    let data = json!({"summary": summary, "iteration": 7});
    frame(0, "mission.progress", Some(&mission_id(0)), &data)
}

async fn connect(url: &str) -> Socket {
    tokio_tungstenite::connect_async(url).await.unwrap().0
}

/// What one observer saw.
#[derive(Default)]
struct Seen {
    events: u64,
    missed: u64,
}

/// Reads until the last event.
async fn observe(mut observer: Socket) -> Seen {
    let mut seen = Seen::default();
    while let Some(Ok(message)) = observer.next().await {
        let Ok(text) = message.to_text() else { continue };
        if text.contains("observer.gap") {
            let gap: Value = serde_json::from_str(text).unwrap();
            seen.missed += gap["data"]["missed"].as_u64().unwrap();
        }
        seen.events += u64::from(text.contains("\"last\"") || text.contains("\"step\""));
        if text.contains("\"last\"") {
            break;
        }
    }
    seen
}

/// Sends the events and waits for the observers.
async fn send(line: &mut Socket, observers: Vec<Socket>) -> (Duration, Seen) {
    let watching: Vec<_> = observers.into_iter().map(|observer| tokio::spawn(observe(observer))).collect();
    let started = Instant::now();
    let step = progress("step");
    for _ in 1..COUNT {
        line.feed(step.clone()).await.unwrap();
    }
    line.send(progress("last")).await.unwrap();
    let mut all = Seen::default();
    for observer in watching {
        let seen = observer.await.unwrap();
        all.events += seen.events;
        all.missed += seen.missed;
    }
    (started.elapsed(), all)
}

/// Copies every text from the first connection to all later ones.
async fn relay() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (sender, _) = broadcast::channel(1 << 17);
        let mut line = accept_async(listener.accept().await.unwrap().0).await.unwrap();
        for _ in 0..OBSERVERS {
            let mut observer = accept_async(listener.accept().await.unwrap().0).await.unwrap();
            let mut copied = sender.subscribe();
            tokio::spawn(async move {
                while let Ok(message) = copied.recv().await {
                    observer.feed(message).await.unwrap();
                    if copied.is_empty() {
                        observer.flush().await.unwrap();
                    }
                }
            });
        }
        while let Some(Ok(message)) = line.next().await {
            sender.send(message).unwrap();
        }
    });
    address
}

pub(crate) async fn measure() {
    let url = format!("ws://{}", relay().await);
    let mut line = connect(&url).await;
    let mut observers = Vec::new();
    for _ in 0..OBSERVERS {
        observers.push(connect(&url).await);
    }
    let (took, _) = send(&mut line, observers).await;
    println!("bare relay, 10 observers     {:>7.0}/s", f64::from(COUNT) / took.as_secs_f64());

    for query in ["role=observer", "after=now"] {
        let registry = Registry::start().await;
        let mut line = executor(&registry, 0, &bare_server().await).await;
        load(&registry.address, 0, 1).await;
        let mut observers = Vec::new();
        for _ in 0..OBSERVERS {
            let url = format!("ws://{}/ws/executors/{}?{query}", registry.address, id(0));
            let mut observer = connect(&url).await;
            // The first event that arrives shows that it observes.
            line.send(progress("first")).await.unwrap();
            while !observer.next().await.unwrap().unwrap().is_text() {}
            observers.push(observer);
        }
        let before = registry.cpu();
        let (took, seen) = send(&mut line, observers).await;
        let cpu = registry.cpu().saturating_sub(before) / COUNT;
        println!(
            "events stored, {query:<13} {:>7.0}/s  cpu {cpu:.2?} each  {} of {} copies seen, {} told as missed  {} MB resident",
            f64::from(COUNT) / took.as_secs_f64(),
            seen.events,
            u64::from(COUNT) * 10,
            seen.missed,
            registry.resident_mb()
        );
    }
}
