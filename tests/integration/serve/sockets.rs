//! `/ws/executors/{id}`: who is the line and who only listens.

use super::peer::{Peer, Serve, id, soon};
use aiwg_rs::registry::Config;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use std::time::Duration;
use tokio::net::TcpListener;

#[tokio::test]
async fn a_wrong_token_is_closed_with_4001() {
    let serve = Serve::start().await;
    let peer = Peer::register(&serve, 1, &[]).await;
    assert_eq!(serve.socket(&peer.id, "?token=wrong").await.hear().await, Err(4001));
    assert_eq!(serve.socket(&id(7), "?token=x").await.hear().await, Err(4001));
    assert_eq!(serve.socket(&peer.id, "?token=wrong&role=observer").await.hear().await, Err(4001));
    serve.stop().await;
}

#[tokio::test]
async fn a_newer_line_replaces_the_older_one() {
    let serve = Serve::start().await;
    let (peer, mut old) = Peer::connected(&serve, 1, &[]).await;
    old.say(&peer.frame("executor.hello", None, json!({}))).await;
    let mut new = peer.connect(&serve, &[]).await;
    assert_eq!(old.hear().await, Err(4009));
    serve.dispatch("m-1").await;
    serve.post("/api/v1/missions/m-1/abort", &json!({})).await;
    new.hear_event("mission.aborted").await;
    serve.stop().await;
}

#[tokio::test]
async fn a_bridge_with_the_executors_token_never_takes_its_line_and_gets_its_events() {
    let config = Config { dial_after: Duration::from_millis(50), ..Config::default() };
    let serve = Serve::with(config).await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    let mut bridge = serve.socket(&peer.id, &format!("?token={}", peer.token)).await;
    serve.dispatch("m-1").await;
    serve.post("/api/v1/missions/m-1/pause", &json!({})).await;
    line.hear_event("mission.paused").await;
    line.say(&peer.frame("mission.started", Some("m-1"), json!({}))).await;
    let copy = bridge.hear_event("mission.started").await;
    assert_eq!(copy["mission_id"], "m-1");
    serve.stop().await;
}

#[tokio::test]
async fn a_bridge_that_was_there_first_gives_the_line_to_the_executor_that_speaks() {
    let serve = Serve::start().await;
    let peer = Peer::register(&serve, 1, &[]).await;
    let mut bridge = serve.socket(&peer.id, &format!("?token={}", peer.token)).await;
    serve.executor_connected(&peer.id, true).await;
    let mut line = peer.connect(&serve, &[]).await;
    serve.dispatch("m-1").await;
    line.say(&peer.frame("mission.started", Some("m-1"), json!({}))).await;
    assert_eq!(bridge.hear_event("mission.started").await["mission_id"], "m-1");
    serve.post("/api/v1/missions/m-1/abort", &json!({})).await;
    line.hear_event("mission.aborted").await;
    serve.stop().await;
}

#[tokio::test]
async fn an_observer_gets_the_recent_events_of_live_missions_first_and_its_words_count_for_nothing() {
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    serve.dispatch("m-1").await;
    serve.dispatch("m-2").await;
    line.say(&peer.frame("mission.started", Some("m-1"), json!({}))).await;
    line.say(&peer.frame("mission.completed", Some("m-2"), json!({}))).await;
    line.say(&peer.frame("mission.progress", Some("m-1"), json!({"summary": "half", "x_kept": [1.10]})))
        .await;
    serve.mission_in("m-2", "done").await;
    let mut observer = serve.socket(&peer.id, "?role=observer").await;
    assert_eq!(observer.hear().await.unwrap()["event"], "mission.started");
    let progress = observer.hear().await.unwrap();
    assert_eq!(progress["data"]["x_kept"], json!([1.10]), "untouched");
    observer.say(&peer.frame("mission.completed", Some("m-1"), json!({}))).await;
    line.say(&peer.frame("mission.paused", Some("m-1"), json!({}))).await;
    assert_eq!(observer.hear().await.unwrap()["event"], "mission.paused");
    assert_eq!(serve.get("/api/v1/missions/m-1").await.body["state"], "paused");
    serve.stop().await;
}

#[tokio::test]
async fn a_thousand_events_reach_every_observer_in_order() {
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    serve.dispatch("m-1").await;
    let mut observers = Vec::new();
    for _ in 0..5 {
        let mut observer = serve.socket(&peer.id, "").await;
        // Something that arrives shows that the subscription is there.
        line.say(&peer.frame("mission.progress", Some("m-1"), json!({"iteration": 5000}))).await;
        observer.hear_event("mission.progress").await;
        observers.push(observer);
    }
    for number in 0..1000 {
        line.say(&peer.frame("mission.progress", Some("m-1"), json!({"iteration": number}))).await;
    }
    for mut observer in observers {
        let mut expected = 0;
        while expected < 1000 {
            let frame = observer.hear_event("mission.progress").await;
            let number = frame["data"]["iteration"].as_u64().unwrap();
            if number != 5000 {
                assert_eq!(number, expected);
                expected += 1;
            }
        }
    }
    serve.stop().await;
}

#[tokio::test]
async fn an_observer_that_comes_again_with_its_place_misses_nothing() {
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    let (other, mut other_line) = Peer::connected(&serve, 2, &[]).await;
    serve.dispatch_in("s", "m-1").await;
    serve.dispatch_in("s", "m-2").await;
    let (mine, others) = if serve.get("/api/v1/missions/m-1").await.body["executor_id"] == *peer.id {
        ("m-1", "m-2")
    } else {
        ("m-2", "m-1")
    };
    let progress = |number: u32| peer.frame("mission.progress", Some(mine), json!({"iteration": number}));
    line.say(&progress(0)).await;
    let status = format!("/api/v1/missions/{mine}");
    let heard =
        |body: &serde_json::Value| body["recent_events"].as_array().is_some_and(|all| !all.is_empty());
    soon(async { while !heard(&serve.get(&status).await.body) {} }).await;
    let mut observer = serve.socket(&peer.id, "?after=now").await;
    // It observes from some event on, and from there on nothing is missing.
    let mut said = 0;
    let first = loop {
        said += 1;
        line.say(&progress(said)).await;
        if let Ok(frame) = tokio::time::timeout(Duration::from_millis(50), observer.hear()).await {
            break frame.unwrap();
        }
    };
    let place = first["event_id"].as_u64().unwrap();
    drop(observer);
    let from = first["data"]["iteration"].as_u64().unwrap();
    assert!(from > 0, "from now on, not from the beginning");
    let lines = [(&peer, &mut line, mine), (&other, &mut other_line, others)];
    for (peer, line, mission) in lines {
        for number in 0..700 {
            let data = json!({"iteration": u64::from(said) + 1 + number, "event_id": 1});
            line.say(&peer.frame("mission.progress", Some(mission), data)).await;
        }
    }
    let mut observer = serve.socket(&peer.id, &format!("?role=observer&after={place}")).await;
    let mut before = place;
    for expected in from + 1..=u64::from(said) + 700 {
        let frame = observer.hear().await.unwrap();
        assert_eq!((&frame["executor_id"], &frame["data"]["iteration"]), (&json!(peer.id), &json!(expected)));
        let number = frame["event_id"].as_u64().unwrap();
        assert!(number > before, "{number} after {before}");
        before = number;
    }
    let bad = serve.base.replace("http://", "ws://") + &format!("/ws/executors/{}?after=soon", peer.id);
    let refused = tokio_tungstenite::connect_async(bad).await.unwrap_err().to_string();
    assert!(refused.contains("400"), "{refused}");
    serve.stop().await;
}

#[tokio::test]
async fn an_observer_that_was_too_slow_is_told_what_it_missed_and_where_to_get_it() {
    const EVENTS: u64 = 150;
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    serve.dispatch("m-1").await;
    let mut slow = serve.socket(&peer.id, "?role=observer").await;
    let long = "x".repeat(200_000);
    for number in 0..EVENTS {
        line.say(&peer.frame("mission.progress", Some("m-1"), json!({"iteration": number, "x": long}))).await;
    }
    line.say(&peer.frame("mission.completed", Some("m-1"), json!({"iteration": EVENTS}))).await;
    serve.mission_in("m-1", "done").await;
    let (mut seen, mut gap) = (Vec::new(), None);
    while seen.last() != Some(&EVENTS) {
        let frame = slow.hear().await.unwrap();
        if frame["event"] == "observer.gap" {
            assert_eq!(gap, None);
            gap = Some((seen.len(), frame["data"]["missed"].as_u64(), frame["data"]["after"].clone()));
        } else {
            seen.push(frame["data"]["iteration"].as_u64().unwrap());
        }
    }
    let (place, missed, after) = gap.expect("it has missed some");
    let mut again = serve.socket(&peer.id, &format!("?role=observer&after={after}")).await;
    for _ in 0..missed.unwrap() {
        let frame = again.hear().await.unwrap();
        seen.push(frame["data"]["iteration"].as_u64().unwrap());
    }
    assert!(place < seen.len());
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..=EVENTS), "what it got later is what it had missed");
    serve.stop().await;
}

#[tokio::test]
async fn an_executor_that_only_listens_is_dialled() {
    let config = Config { dial_after: Duration::from_millis(20), ..Config::default() };
    let serve = Serve::with(config).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut peer = Peer::register(&serve, 1, &[]).await;
    // The REST surface stays, the WebSocket is on a port of its own.
    let mut registration = peer.registration(&[]);
    registration["transport_endpoints"]["ws"] = json!(format!("ws://{}", listener.local_addr().unwrap()));
    let answer = serve.post("/api/v1/executors/register", &registration).await;
    peer.token = answer.body["token"].as_str().unwrap().to_owned();
    let (stream, _) = soon(listener.accept()).await.unwrap();
    let mut path = String::new();
    #[expect(clippy::result_large_err, reason = "the library's own signature")]
    let look = |request: &tokio_tungstenite::tungstenite::handshake::server::Request, response| {
        path = request.uri().to_string();
        Ok(response)
    };
    let mut socket = soon(tokio_tungstenite::accept_hdr_async(stream, look)).await.unwrap();
    assert_eq!(path, format!("/ws/executors/{}?token={}", peer.id, peer.token));
    serve.executor_connected(&peer.id, true).await;
    assert_eq!(serve.dispatch("m-1").await.status, 202);
    let started = peer.frame("mission.started", Some("m-1"), json!({})).to_string();
    socket.send(started.into()).await.unwrap();
    serve.mission_in("m-1", "running").await;
    serve.post("/api/v1/missions/m-1/abort", &json!({})).await;
    let order = soon(async {
        loop {
            let message = socket.next().await.unwrap().unwrap();
            if message.is_text() {
                return message.into_text().unwrap();
            }
        }
    })
    .await;
    assert!(order.contains("mission.aborted"), "{order}");
    // The line breaks: it is dialled again.
    drop(socket);
    drop(soon(listener.accept()).await.unwrap());
    serve.stop().await;
}

#[tokio::test]
async fn a_deregistered_executor_is_closed_with_1000() {
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    let mut observer = serve.socket(&peer.id, "").await;
    let url = format!("{}/api/v1/executors/{}", serve.base, peer.id);
    assert_eq!(serve.send(serve.http.delete(&url).bearer_auth(&peer.token)).await.status, 204);
    assert_eq!(line.hear().await, Err(1000));
    let told = observer.hear_event("executor.deregistered").await;
    assert_eq!(told["data"]["reason"], "graceful_shutdown");
    serve.stop().await;
}

#[tokio::test]
async fn the_end_of_the_registry_closes_every_line_in_order() {
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    let mut observer = serve.socket(&peer.id, "").await;
    // A connection that says nothing must not hold it up.
    let address = serve.base.strip_prefix("http://").unwrap().to_owned();
    let _idle = tokio::net::TcpStream::connect(address).await.unwrap();
    let ((), heard, seen) = tokio::join!(serve.stop(), line.hear(), observer.hear());
    assert_eq!((heard, seen), (Err(1000), Err(1000)));
}

/// What a Node bridge does: it begins to listen when its dispatch was answered, and needs a moment to note the mission.
#[tokio::test]
async fn an_observer_that_says_nothing_of_itself_hears_of_missions_that_were_too_fast_for_it() {
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    serve.dispatch("m-fast").await;
    for event in ["mission.started", "mission.completed"] {
        line.say(&peer.frame(event, Some("m-fast"), json!({"agent_runtime": "shell"}))).await;
    }
    serve.mission_in("m-fast", "done").await;
    let mut plain = serve.socket(&peer.id, "").await;
    let mut knowing = serve.socket(&peer.id, "?role=observer").await;
    assert_eq!(plain.hear_event("mission.started").await["mission_id"], "m-fast");
    assert_eq!(plain.hear().await.unwrap()["event"], "mission.completed");

    serve.dispatch("m-next").await;
    let said = std::time::Instant::now();
    line.say(&peer.frame("mission.started", Some("m-next"), json!({}))).await;
    assert_eq!(knowing.hear().await.unwrap()["mission_id"], "m-next", "nothing of what ended before");
    let early = tokio::time::timeout(Duration::from_millis(50), plain.hear()).await;
    assert!(early.is_err(), "who says what it is hears at once, the other one not yet: {early:?}");
    line.say(&peer.frame("mission.completed", Some("m-next"), json!({}))).await;
    for event in ["mission.started", "mission.completed"] {
        let frame = plain.hear().await.unwrap();
        assert_eq!((&frame["event"], &frame["mission_id"]), (&json!(event), &json!("m-next")));
        assert!(said.elapsed() >= Duration::from_millis(1900), "{:?}", said.elapsed());
    }
    serve.stop().await;
}
