//! Lists, the event stream, metrics.

use super::peer::{Peer, Serve, order, soon};
use serde_json::{Value, json};

#[tokio::test]
async fn missions_are_listed_in_pages_and_by_what_they_are() {
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    for number in 0..5 {
        let path = format!("/api/v1/sessions/s{}/dispatch", number % 2);
        assert_eq!(serve.post(&path, &order(&format!("m-{number}"))).await.status, 202);
    }
    line.say(&peer.frame("mission.completed", Some("m-0"), json!({"exit_code": 0}))).await;
    let question = json!({"hitl_id": "h", "prompt": "which way?"});
    line.say(&peer.frame("mission.hitl_required", Some("m-1"), question)).await;
    serve.mission_in("m-1", "hitl-required").await;
    let ids = |body: &Value| -> Vec<String> {
        let missions = body["missions"].as_array().unwrap();
        missions.iter().map(|mission| mission["mission_id"].as_str().unwrap().to_owned()).collect()
    };
    let first = serve.get("/api/v1/missions?limit=3").await.body;
    assert_eq!(ids(&first), ["m-4", "m-3", "m-2"]);
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = serve.get(&format!("/api/v1/missions?limit=3&cursor={cursor}")).await.body;
    assert_eq!(ids(&second), ["m-1", "m-0"]);
    assert!(second["next_cursor"].is_null());
    assert_eq!(ids(&serve.get("/api/v1/sessions/s1/missions").await.body), ["m-3", "m-1"]);
    assert_eq!(ids(&serve.get("/api/v1/missions?state=done").await.body), ["m-0"]);
    assert_eq!(ids(&serve.get("/api/v1/missions?state=hitl-required,done&session=s1").await.body), ["m-1"]);
    assert_eq!(ids(&serve.get(&format!("/api/v1/missions?executor={}", peer.id)).await.body).len(), 5);
    assert!(ids(&serve.get("/api/v1/missions?since=2100-01-01T00:00:00Z").await.body).is_empty());
    for bad in ["state=nonsense", "since=yesterday", "cursor=x", "limit=-1"] {
        let answer = serve.get(&format!("/api/v1/missions?{bad}")).await;
        assert_eq!((answer.status, &answer.body["error"]), (400, &json!("invalid_request")), "{bad}");
    }
    let open = serve.get("/api/v1/hitl").await.body;
    assert_eq!(open["questions"][0]["prompt"], "which way?");
    assert_eq!(open["questions"].as_array().unwrap().len(), 1);
    serve.stop().await;
}

#[tokio::test]
async fn a_list_knows_when_a_mission_was_heard_of_last() {
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    for mission in ["m-1", "m-2"] {
        serve.dispatch(mission).await;
        line.say(&peer.frame("mission.started", Some(mission), json!({}))).await;
        serve.mission_in(mission, "running").await;
    }
    // Another millisecond, so that what is heard now is later than what was.
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let before = serve.get("/api/v1/missions/m-2").await.body["updated_at"].clone();
    for _ in 0..3 {
        line.say(&peer.frame("mission.progress", Some("m-1"), json!({}))).await;
    }
    let heard = soon(async {
        loop {
            let status = serve.get("/api/v1/missions/m-1").await.body;
            if status["recent_events"].as_array().unwrap().len() == 4 {
                return status["updated_at"].clone();
            }
        }
    })
    .await;
    assert!(heard.as_str() > before.as_str(), "{heard} {before}");
    let since = heard.as_str().unwrap();
    let listed = serve.get(&format!("/api/v1/missions?since={since}")).await.body["missions"].clone();
    assert_eq!((&listed[0]["mission_id"], &listed[0]["updated_at"]), (&json!("m-1"), &heard));
    assert_eq!(listed.as_array().unwrap().len(), 1);
    serve.stop().await;
}

/// Reads an event stream until it has seen `count` events; returns their ids and data.
async fn read_stream(serve: &Serve, path: &str, last_id: Option<&str>, count: usize) -> Vec<(String, Value)> {
    let mut request = serve.http.get(format!("{}{path}", serve.base));
    if let Some(id) = last_id {
        request = request.header("last-event-id", id);
    }
    let mut response = soon(request.send()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let mut text = String::new();
    let mut events = Vec::new();
    while events.len() < count {
        let chunk = soon(response.chunk()).await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
        while let Some((block, rest)) = text.split_once("\n\n") {
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
            if let (Some(id), Some(data)) = (field("id: "), field("data: ")) {
                events.push((id.to_owned(), serde_json::from_str(data).unwrap()));
            }
            text = rest.to_owned();
        }
    }
    events
}

#[tokio::test]
async fn a_stream_is_resumed_without_a_gap_or_a_repetition() {
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    serve.dispatch("m-1").await;
    let progress = |number: u32| peer.frame("mission.progress", Some("m-1"), json!({"iteration": number}));
    for number in 0..700 {
        line.say(&progress(number)).await;
    }
    let all = read_stream(&serve, "/api/v1/events?mission=m-1&after=0", None, 700).await;
    let (resume_at, _) = &all[349];
    let (rest, ()) = tokio::join!(
        read_stream(&serve, "/api/v1/events?kind=mission.progress", Some(resume_at), 650),
        async {
            for number in 700..1000 {
                line.say(&progress(number)).await;
            }
        }
    );
    let numbers: Vec<u64> =
        rest.iter().map(|(_, event)| event["data"]["iteration"].as_u64().unwrap()).collect();
    assert!(numbers.into_iter().eq(350..1000));
    let of_another_store = read_stream(&serve, "/api/v1/events", Some("999999"), 1).await;
    assert_eq!(of_another_store[0].0, "1", "a reader from elsewhere begins at the beginning");
    let bad = serve.http.get(format!("{}/api/v1/events", serve.base)).header("last-event-id", "x");
    assert_eq!(serve.send(bad).await.status, 400);
    serve.stop().await;
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let serve = Serve::start().await;
    let (_peer, _line) = Peer::connected(&serve, 1, &[]).await;
    serve.dispatch("m-1").await;
    serve.dispatch("m-1").await;
    let url = format!("{}/metrics", serve.base);
    let text = soon(serve.http.get(url).send()).await.unwrap().text().await.unwrap();
    for line in [
        "aiwg_dispatches_total{outcome=\"assigned\"} 1",
        "aiwg_dispatches_total{outcome=\"replayed\"} 1",
        "aiwg_missions_live{state=\"assigned\"} 1",
        "aiwg_executors_connected 1",
        "aiwg_forward_seconds_count 1",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert_eq!(serve.get("/api/ready").await.body["status"], "ready");
    serve.stop().await;
}
