//! Bounds: on bodies, heads, time, connections, rates, missions and age.

use super::guards::outward_address;
use super::peer::{Peer, Serve, order, soon};
use aiwg_rs::domain::secret::Token;
use aiwg_rs::registry::Config;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn address(serve: &Serve) -> String {
    serve.base.split_once("://").unwrap().1.to_owned()
}

async fn open(serve: &Serve, text: &str) -> TcpStream {
    let mut stream = soon(TcpStream::connect(address(serve))).await.unwrap();
    soon(stream.write_all(text.as_bytes())).await.unwrap();
    stream
}

/// Everything until the other side closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.ok();
    String::from_utf8_lossy(&answer).into_owned()
}

/// What has come so far, once it holds `wanted`.
async fn until(stream: &mut TcpStream, wanted: &str) -> String {
    soon(async {
        let mut answer = Vec::new();
        while !String::from_utf8_lossy(&answer).contains(wanted) {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "closed after {answer:?}");
        }
        String::from_utf8_lossy(&answer).into_owned()
    })
    .await
}

const HEAD: &str =
    "POST /api/v1/executors/register HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";

#[tokio::test]
async fn a_body_over_a_mebibyte_is_refused_whether_it_says_so_or_not() {
    let serve = Serve::start().await;
    let mut said = open(&serve, &format!("{HEAD}content-length: {}\r\n\r\n", (1 << 20) + 1)).await;
    assert!(until(&mut said, "\r\n\r\n").await.starts_with("HTTP/1.1 413"));
    let mut chunked = open(&serve, &format!("{HEAD}transfer-encoding: chunked\r\n\r\n")).await;
    // One byte more than may be, and nothing behind it: what is not read when the registry closes would reset the connection.
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    for chunk in std::iter::repeat_n(chunk.as_str(), 16).chain(["1\r\n \r\n"]) {
        soon(chunked.write_all(chunk.as_bytes())).await.unwrap();
    }
    assert!(until(&mut chunked, "\r\n\r\n").await.starts_with("HTTP/1.1 413"));
    let just = serde_json::to_string(&json!({"pad": "x".repeat((1 << 20) - 10)})).unwrap();
    assert_eq!(just.len(), 1 << 20);
    let mut fits = open(&serve, &format!("{HEAD}content-length: {}\r\n\r\n{just}", just.len())).await;
    assert!(until(&mut fits, "\r\n\r\n").await.starts_with("HTTP/1.1 400"), "read, and not a registration");
    assert_eq!(serve.get("/api/health").await.status, 200);
    serve.stop().await;
}

#[tokio::test]
async fn a_client_that_dawdles_is_cut_off() {
    let short = Duration::from_millis(300);
    let serve = Serve::with(Config { head_timeout: short, body_timeout: short, ..Config::default() }).await;
    // A head that never ends, one byte at a time.
    let mut head = open(&serve, "GET /api/health HTTP/1.1\r\nhost: localhost\r\nx: ").await;
    let dripping = async {
        while head.write_all(b"y").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(dripping).await;
    // A body that never ends.
    let mut body = open(&serve, &format!("{HEAD}content-length: 1000\r\n\r\n{{")).await;
    let answer = until(&mut body, "body_too_slow").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    // A connection on which nothing is asked.
    let mut idle = open(&serve, "GET /api/health HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(rest(&mut idle).await.starts_with("HTTP/1.1 200"), "answered, then closed by the registry");
    assert_eq!(serve.get("/api/health").await.status, 200);
    serve.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_given_up() {
    let config = Config { write_timeout: Duration::from_millis(300), ..Config::default() };
    let serve = Serve::with(config).await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    serve.dispatch("m-1").await;
    let stuck = open(&serve, "GET /api/v1/events?after=0 HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    stuck.readable().await.unwrap();
    assert_eq!(observers(&serve).await, 1);
    // Far more than the kernel keeps for a reader that reads nothing.
    let summary = "x".repeat(500_000);
    soon(async {
        while observers(&serve).await > 0 {
            line.say(&peer.frame("mission.progress", Some("m-1"), json!({"summary": summary}))).await;
        }
    })
    .await;
    drop(stuck);
    serve.stop().await;
}

async fn observers(serve: &Serve) -> u32 {
    let text = serve.http.get(format!("{}/metrics", serve.base)).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find(|line| line.starts_with("aiwg_observers ")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn beyond_the_most_connections_newcomers_wait_for_a_place() {
    let serve = Serve::with(Config { max_connections: 2, ..Config::default() }).await;
    let ask = "GET /api/health HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut first = open(&serve, ask).await;
    until(&mut first, "\"ok\"").await;
    let mut second = open(&serve, ask).await;
    until(&mut second, "\"ok\"").await;
    let mut third = open(&serve, ask).await;
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::from_millis(200), third.read(&mut byte)).await;
    assert!(early.is_err(), "no place yet");
    drop(first);
    until(&mut third, "\"ok\"").await;
    drop((second, third));
    serve.stop().await;
}

#[tokio::test]
async fn a_session_holds_so_many_live_missions_and_says_why_it_takes_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let config = || Config {
        max_missions_per_session: Some(2),
        state_dir: Some(folder.path().to_owned()),
        identity_file: Some(folder.path().join("ids.json")),
        ..Config::default()
    };
    let serve = Serve::with(config()).await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    for mission in ["m-1", "m-2"] {
        assert_eq!(serve.dispatch_in("busy", mission).await.status, 202);
    }
    let refused = serve.dispatch_in("busy", "m-3").await;
    assert_eq!((refused.status, &refused.body["error"]), (503, &json!("session_full")));
    assert_eq!((&refused.body["live"], &refused.body["limit"]), (&json!(2), &json!(2)));
    assert!(
        refused.body["detail"].as_str().unwrap().contains("session busy is full: 2 of its missions are live")
    );
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(
        serve.dispatch_in("busy", "m-1").await.body["idempotent_replayed"],
        true,
        "a replay is no new one"
    );
    assert_eq!(serve.dispatch_in("other", "m-4").await.status, 202);
    line.say(&peer.frame("mission.completed", Some("m-1"), json!({}))).await;
    serve.mission_in("m-1", "done").await;
    assert_eq!(serve.dispatch_in("busy", "m-3").await.status, 202, "there is room again");
    serve.stop().await;
    let serve = Serve::with(config()).await;
    let _line = peer.connect(&serve, &["m-2", "m-3", "m-4"]).await;
    assert_eq!(serve.dispatch_in("busy", "m-5").await.status, 503, "counted again after a restart");
    assert_eq!(serve.post("/api/v1/sessions/other/dispatch", &order("m-6")).await.status, 202);
    serve.stop().await;
}

#[tokio::test]
async fn a_registry_with_nothing_to_do_forgets_what_was_kept_long_enough() {
    let folder = tempfile::tempdir().unwrap();
    let config = |retention| Config {
        retention,
        state_dir: Some(folder.path().to_owned()),
        identity_file: Some(folder.path().join("ids.json")),
        dial_after: Duration::from_secs(600),
        executor_grace: Duration::from_secs(600),
        ..Config::default()
    };
    let serve = Serve::with(config(Duration::from_secs(3_600))).await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    for mission in ["m-old", "m-live"] {
        assert_eq!(serve.dispatch(mission).await.status, 202);
    }
    line.say(&peer.frame("mission.completed", Some("m-old"), json!({}))).await;
    serve.mission_in("m-old", "done").await;
    serve.stop().await;
    let rows = |query: &str| -> u64 {
        let path = folder.path().join("registry/registry.sqlite3");
        rusqlite::Connection::open(path).unwrap().query_row(query, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(rows("SELECT count(*) FROM missions"), 2);
    assert!(rows("SELECT count(*) FROM events WHERE mission_id IS NULL") > 0, "the registration is an event");
    let serve = Serve::with(config(Duration::ZERO)).await;
    soon(async {
        // The newest event is kept, for its number.
        while rows("SELECT count(*) FROM missions") > 1 || rows("SELECT count(*) FROM events") > 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(serve.get("/api/v1/missions/m-old").await.status, 404);
    assert_eq!(serve.get("/api/v1/missions/m-live").await.status, 200);
    serve.stop().await;
}

#[tokio::test]
async fn a_store_that_is_too_large_forgets_what_ended_first_and_no_more_than_it_has_to() {
    const ENDED: usize = 700;
    let folder = tempfile::tempdir().unwrap();
    let config = |max_store_bytes| Config {
        max_store_bytes,
        state_dir: Some(folder.path().to_owned()),
        identity_file: Some(folder.path().join("ids.json")),
        ..Config::default()
    };
    let serve = Serve::with(config(1 << 30)).await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    assert_eq!(serve.dispatch("m-live").await.status, 202);
    for number in 0..ENDED {
        let mission = format!("m-{number}");
        let mut order = order(&mission);
        order["objective"] = "x".repeat(3_000).into();
        assert_eq!(serve.post("/api/v1/sessions/s/dispatch", &order).await.status, 202);
        line.say(&peer.frame("mission.completed", Some(&mission), json!({}))).await;
    }
    serve.mission_in(&format!("m-{}", ENDED - 1), "done").await;
    serve.stop().await;
    // Room for half of them.
    let serve = Serve::with(config(1_500_000)).await;
    soon(async {
        while serve.get("/api/v1/missions/m-0").await.status != 404 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(serve.get("/api/v1/missions/m-live").await.status, 200);
    assert_eq!(serve.get(&format!("/api/v1/missions/m-{}", ENDED - 1)).await.status, 200);
    serve.stop().await;
}

#[tokio::test]
async fn a_peer_elsewhere_has_so_many_connections_and_requests_and_no_more() {
    let Some(elsewhere) = outward_address() else {
        println!("skipped: this host has no address but loopback");
        return;
    };
    let config = Config {
        operator_token: Some(Token::new("operator-secret-123")),
        max_connections_per_peer: 2,
        requests_per_second: 5,
        ..Config::default()
    };
    let mut serve = Serve::on("0.0.0.0:0", config).await;
    let port = serve.base.rsplit(':').next().unwrap().to_owned();
    let local = Serve::elsewhere(format!("http://127.0.0.1:{port}"));
    serve.base = format!("http://{elsewhere}:{port}");
    let ask = format!("GET /api/health HTTP/1.1\r\nhost: {elsewhere}\r\n\r\n");
    let mut first = open(&serve, &ask).await;
    until(&mut first, "\"ok\"").await;
    let mut second = open(&serve, &ask).await;
    until(&mut second, "\"ok\"").await;
    // The registry may have closed before the request was written.
    let mut third = TcpStream::connect(address(&serve)).await.unwrap();
    third.write_all(ask.as_bytes()).await.ok();
    assert_eq!(rest(&mut third).await, "", "closed without an answer");
    assert_eq!(local.get("/api/health").await.status, 200, "others are let in");
    // A burst of ten, two of which are gone.
    let mut answers = String::new();
    for _ in 0..20 {
        first.write_all(ask.as_bytes()).await.unwrap();
        answers.push_str(&until(&mut first, "}").await);
        if answers.contains("429") {
            break;
        }
    }
    let refused = answers.split("HTTP/1.1 ").find(|answer| answer.starts_with("429")).unwrap();
    assert!(refused.contains("retry-after: 1") && refused.contains("too_many_requests"), "{refused}");
    for _ in 0..30 {
        assert_eq!(local.get("/api/health").await.status, 200, "peers on this host have no limit");
    }
    drop((first, second));
    serve.stop().await;
}
