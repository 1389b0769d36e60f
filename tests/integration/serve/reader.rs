//! Observers that come again where they stopped, over an event stream or a WebSocket.

use super::peer::{soon, spawn};
use futures_util::StreamExt as _;
use serde_json::Value;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_tungstenite::connect_async;

/// Events with their numbers, in the order in which they were seen.
type Seen = Arc<Mutex<Vec<(u64, Value)>>>;

/// One observer.
pub(crate) struct Reader {
    seen: Seen,
    reading: JoinHandle<()>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Reader {
    /// Reads the event stream from the beginning of time.
    pub(crate) fn of_stream(base: &str) -> Self {
        let (seen, url) = (Seen::default(), format!("{base}/api/v1/events"));
        let written = Arc::clone(&seen);
        let reading = spawn(async move {
            loop {
                read_stream(&url, &written).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { seen, reading }
    }

    /// Observes one executor over a WebSocket, from the beginning of time.
    pub(crate) fn of_socket(base: &str, executor: &str) -> Self {
        let base = base.replace("http://", "ws://");
        let (seen, url) = (Seen::default(), format!("{base}/ws/executors/{executor}?role=observer"));
        let written = Arc::clone(&seen);
        let reading = spawn(async move {
            loop {
                read_socket(&url, &written).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { seen, reading }
    }

    /// What it has seen.
    pub(crate) fn seen(&self) -> Vec<(u64, Value)> {
        assert!(!self.reading.is_finished(), "the observer has failed");
        self.seen.lock().unwrap().clone()
    }

    /// Waits until it has seen the event with this number.
    pub(crate) async fn until(&self, number: u64) {
        soon(async {
            while last(&self.seen) < number {
                assert!(!self.reading.is_finished(), "the observer has failed");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

fn last(seen: &Seen) -> u64 {
    seen.lock().unwrap().last().map_or(0, |(number, _)| *number)
}

fn note(seen: &Seen, number: u64, event: Value) {
    assert!(number > last(seen), "event {number} came after {}", last(seen));
    seen.lock().unwrap().push((number, event));
}

/// Reads until the connection breaks.
async fn read_stream(url: &str, seen: &Seen) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http.get(url).header("last-event-id", last(seen).to_string());
    let Ok(mut response) = request.send().await else { return };
    if response.status() != 200 {
        return;
    }
    let mut read = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        read.extend_from_slice(&chunk);
        while let Some(end) = read.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = read.drain(..end + 2).collect();
            let block = std::str::from_utf8(&block).unwrap();
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
            if let (Some(number), Some(data)) = (field("id: "), field("data: ")) {
                note(seen, number.parse().unwrap(), serde_json::from_str(data).unwrap());
            }
        }
    }
}

/// Reads until the connection breaks.
async fn read_socket(url: &str, seen: &Seen) {
    let url = format!("{url}&after={}", last(seen));
    let Ok((mut socket, _)) = connect_async(url).await else { return };
    while let Some(Ok(message)) = socket.next().await {
        if !message.is_text() {
            continue;
        }
        let mut event: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        let number = event.as_object_mut().unwrap().shift_remove("event_id").unwrap().as_u64().unwrap();
        note(seen, number, event);
    }
}
