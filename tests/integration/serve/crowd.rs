//! Many observers, of whom some never read.

use super::peer::{Peer, Serve, id, soon, spawn};
use serde_json::json;

const EXECUTORS: u32 = 3;
const READERS: usize = 6;
const SLEEPERS: usize = 2;
const EVENTS: u64 = 300;

#[tokio::test]
async fn observers_that_never_read_keep_nothing_from_the_others() {
    let serve = Serve::start().await;
    let (mut peers, mut sleepers, mut readers) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..EXECUTORS {
        let (peer, line) = Peer::connected(&serve, number, &[]).await;
        let mission = format!("m-{number}");
        let mut order = super::peer::order(&mission);
        order["executor_filter"]["executor_id"] = json!(id(number));
        assert_eq!(serve.post("/api/v1/sessions/s/dispatch", &order).await.status, 202);
        for _ in 0..SLEEPERS {
            sleepers.push(serve.socket(&peer.id, "?role=observer").await);
        }
        for _ in 0..READERS {
            // From the beginning, so that it does not matter when it begins.
            let mut reader = serve.socket(&peer.id, "?role=observer&after=0").await;
            readers.push(spawn(async move {
                let mut expected = 0;
                while expected < EVENTS {
                    let frame = reader.hear().await.unwrap();
                    assert_ne!(frame["event"], "observer.gap");
                    if let Some(number) = frame["data"]["iteration"].as_u64() {
                        assert_eq!(number, expected);
                        expected += 1;
                    }
                }
            }));
        }
        peers.push((peer, line, mission));
    }
    // More than a socket that nobody reads takes.
    let padding = "x".repeat(20_000);
    for number in 0..EVENTS {
        for (peer, line, mission) in &mut peers {
            let data = json!({"iteration": number, "padding": padding});
            line.say(&peer.frame("mission.progress", Some(mission), data)).await;
        }
    }
    for reader in readers {
        soon(reader).await.unwrap();
    }
    drop(sleepers);
    serve.stop().await;
}
