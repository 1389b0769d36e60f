//! Events out to webhooks.

use super::peer::{Peer, Serve, soon};
use aiwg_rs::domain::secret::Token;
use aiwg_rs::registry::Webhook;
use aiwg_rs::registry::{Config, signature};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

/// What a receiver does, and what it was sent.
#[derive(Default)]
pub(super) struct Receiver {
    /// So many requests are answered 503 first.
    pub(super) refuse: usize,
    pub(super) taken: Vec<(HeaderMap, String)>,
}

/// A receiver that listens until it is dropped.
pub(super) struct Listening {
    pub(super) url: String,
    pub(super) receiver: Arc<Mutex<Receiver>>,
    running: tokio::task::JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Listening {
    /// Listens, and answers 503 to so many requests first.
    pub(super) async fn refusing(refuse: usize) -> Self {
        let receiver = Arc::new(Mutex::new(Receiver { refuse, ..Receiver::default() }));
        let app =
            axum::Router::new().route("/hook", axum::routing::post(take)).with_state(Arc::clone(&receiver));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let running = super::peer::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, receiver, running }
    }

    /// Waits until this many different events have been taken, and returns them.
    pub(super) async fn taken(&self, wanted: usize) -> Vec<(HeaderMap, String)> {
        soon(async {
            loop {
                let taken = distinct(&self.receiver.lock().unwrap().taken);
                if taken.len() >= wanted {
                    return taken;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await
    }
}

async fn take(State(receiver): State<Arc<Mutex<Receiver>>>, headers: HeaderMap, body: String) -> StatusCode {
    let mut receiver = receiver.lock().unwrap();
    if receiver.refuse > 0 {
        receiver.refuse -= 1;
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    receiver.taken.push((headers, body));
    StatusCode::NO_CONTENT
}

/// What was taken, each id once.
fn distinct(taken: &[(HeaderMap, String)]) -> Vec<(HeaderMap, String)> {
    let mut ids = std::collections::HashSet::new();
    taken.iter().filter(|(headers, _)| ids.insert(headers["x-aiwg-event-id"].clone())).cloned().collect()
}

#[tokio::test]
async fn events_are_delivered_in_order_signed_retried_and_go_on_after_a_restart() {
    let listening = Listening::refusing(1).await;
    let folder = tempfile::tempdir().unwrap();
    let config = || Config {
        state_dir: Some(folder.path().to_owned()),
        identity_file: Some(folder.path().join("ids.json")),
        webhooks: vec![Webhook {
            url: listening.url.clone(),
            kinds: vec!["mission.".to_owned()],
            secret: Some(Token::new("hook-secret")),
        }],
        ..Config::default()
    };
    let serve = Serve::with(config()).await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    serve.dispatch("m-1").await;
    for number in 0..5 {
        line.say(&peer.frame("mission.progress", Some("m-1"), json!({"iteration": number}))).await;
    }
    listening.taken(5).await;
    serve.stop().await;
    let serve = Serve::with(config()).await;
    let mut line = peer.connect(&serve, &["m-1"]).await;
    line.say(&peer.frame("mission.completed", Some("m-1"), json!({}))).await;
    // At least once: what was on its way at the restart may come again, under the same id.
    let taken = listening.taken(7).await;
    serve.stop().await;
    let kinds: Vec<&str> =
        taken.iter().map(|(headers, _)| headers["x-aiwg-event"].to_str().unwrap()).collect();
    assert_eq!(kinds[..5], ["mission.progress"; 5]);
    assert_eq!(kinds[5..], ["mission.started", "mission.completed"]);
    for (number, (headers, body)) in taken.iter().enumerate().take(5) {
        let event: Value = serde_json::from_str(body).unwrap();
        assert_eq!(event["data"]["iteration"], number);
        let signed = headers[signature::HEADER].to_str().unwrap();
        let seconds = signed.strip_prefix("t=").unwrap().split(',').next().unwrap().parse().unwrap();
        assert_eq!(signed, signature::sign(b"hook-secret", seconds, body.as_bytes()));
    }
}

#[tokio::test]
async fn an_event_with_any_name_reaches_streams_and_webhooks_and_holds_nobody_up() {
    let listening = Listening::refusing(0).await;
    let webhook = Webhook { url: listening.url.clone(), kinds: Vec::new(), secret: None };
    let serve = Serve::with(Config { webhooks: vec![webhook], ..Config::default() }).await;
    let reader = super::reader::Reader::of_stream(&serve.base);
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    serve.dispatch("m-1").await;
    let names =
        ["mission.a\r\nid: 9\n\ndata: x", "mission.\u{e9}", "mission.\0", "mission.b c", "mission.last"];
    for name in names {
        line.say(&peer.frame(name, Some("m-1"), json!({}))).await;
    }
    // The executor's registration and connection are events too.
    let last = soon(async {
        loop {
            let taken = distinct(&listening.receiver.lock().unwrap().taken);
            if let Some((headers, _)) = taken.iter().find(|(h, _)| h["x-aiwg-event"] == "mission.last") {
                return headers["x-aiwg-event-id"].to_str().unwrap().parse().unwrap();
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    reader.until(last).await;
    let is_ours = |event: &Value| event["event"].as_str().is_some_and(|name| names.contains(&name));
    let seen: Vec<Value> = reader.seen().into_iter().map(|(_, event)| event).filter(is_ours).collect();
    let seen: Vec<&str> = seen.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(seen, names);
    let taken = listening.taken(names.len()).await;
    let told = |name: &str| taken.iter().any(|(headers, _)| headers["x-aiwg-event"] == name);
    assert!(
        told("mission.a%0D%0Aid%3A%209%0A%0Adata%3A%20x") && told("mission.%C3%A9") && told("mission.b%20c")
    );
    serve.stop().await;
}
