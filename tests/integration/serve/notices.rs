//! The end of a mission, told to the address that the mission named.

use super::peer::{Peer, Serve, order, soon};
use super::process::{command, free_address};
use super::webhooks::Listening;
use crate::cli::Desk;
use crate::support::DEADLINE;
use crate::support::daemon::Daemon;
use crate::support::eventually::eventually;
use aiwg_rs::domain::secret::Token;
use aiwg_rs::registry::store::Store;
use aiwg_rs::registry::{Config, signature};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

fn kept_in(folder: &Path) -> Config {
    Config {
        state_dir: Some(folder.to_owned()),
        identity_file: Some(folder.join("ids.json")),
        ..Config::default()
    }
}

/// A dispatch whose end is to be told.
fn telling(mission: &str, url: &str) -> Value {
    let mut order = order(mission);
    order["metadata"]["aiwg_notify"] = url.into();
    order
}

fn waiting_notices(folder: &Path) -> u64 {
    let path = folder.join("registry/registry.sqlite3");
    let store = rusqlite::Connection::open(path).unwrap();
    store.query_row("SELECT count(*) FROM notices", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn an_address_given_to_mc_dispatch_hears_how_the_mission_ended() {
    let listening = Listening::refusing(0).await;
    let serve =
        Serve::with(Config { notify_secret: Some(Token::new("notify-secret")), ..Config::default() }).await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    let desk = Desk::new();
    let _bridge = Daemon::bridge(desk.root(), &serve.base, &[]);
    let words = ["dispatch", "x", "--id", "m-told", "--metadata", "n=1.10", "--notify", &listening.url];
    desk.mc(&words).answer();
    desk.mc(&["dispatch", "y", "--id", "m-other"]).answer();
    let metadata = desk.mission("default", "m-told")["metadata"].clone();
    assert_eq!(metadata, json!({"n": 1.1, "aiwg_notify": listening.url}));
    for mission in ["m-told", "m-other"] {
        soon(async {
            while serve.get(&format!("/api/v1/missions/{mission}")).await.status != 200 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        line.say(&peer.frame("mission.started", Some(mission), json!({}))).await;
        line.say(&peer.frame("mission.progress", Some(mission), json!({"iteration": 1}))).await;
    }
    line.say(&peer.frame("mission.failed", Some("m-other"), json!({"reason": "no"}))).await;
    line.say(&peer.frame("mission.completed", Some("m-told"), json!({"exit_code": 0}))).await;
    let taken = listening.taken(1).await;
    serve.mission_in("m-other", "failed").await;
    assert_eq!(taken.len(), 1, "only its end, and only of the mission that asked");
    let (headers, body) = &taken[0];
    let event: Value = serde_json::from_str(body).unwrap();
    assert_eq!((&event["event"], &event["mission_id"]), (&json!("mission.completed"), &json!("m-told")));
    assert_eq!(headers["x-aiwg-event"], "mission.completed");
    let signed = headers[signature::HEADER].to_str().unwrap();
    let seconds = signed.strip_prefix("t=").unwrap().split(',').next().unwrap().parse().unwrap();
    assert_eq!(signed, signature::sign(b"notify-secret", seconds, body.as_bytes()));
    desk.mc(&["dispatch", "x", "--notify", "ftp://h"]).refused(2, &["--notify", "http"]);
    serve.stop().await;
}

#[tokio::test]
async fn a_notice_is_retried_and_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let listening = Listening::refusing(1_000).await;
    let serve = Serve::with(kept_in(folder.path())).await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    for mission in ["m-1", "m-2"] {
        let answer = serve.post("/api/v1/sessions/s/dispatch", &telling(mission, &listening.url)).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        line.say(&peer.frame("mission.completed", Some(mission), json!({}))).await;
    }
    soon(async {
        while listening.receiver.lock().unwrap().refuse > 996 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    serve.stop().await;
    assert_eq!(waiting_notices(folder.path()), 2);
    listening.receiver.lock().unwrap().refuse = 0;
    let serve = Serve::with(kept_in(folder.path())).await;
    let taken = listening.taken(2).await;
    let mut missions: Vec<Value> = taken
        .iter()
        .map(|(_, body)| serde_json::from_str::<Value>(body).unwrap()["mission_id"].clone())
        .collect();
    missions.sort_by_key(ToString::to_string);
    assert_eq!(missions, [json!("m-1"), json!("m-2")]);
    soon(async {
        while waiting_notices(folder.path()) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    serve.stop().await;
}

#[tokio::test]
async fn a_notice_is_dead_after_a_day_and_the_log_says_so_without_its_secret() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open(&folder.path().join("registry")).unwrap());
    let listening = Listening::refusing(1_000).await;
    let url = format!("{}?secret=hook-key", listening.url);
    let day_ago = jiff::Timestamp::now().as_millisecond() - 24 * 60 * 60 * 1000;
    {
        let store = rusqlite::Connection::open(folder.path().join("registry/registry.sqlite3")).unwrap();
        for (seq, since) in [(1, day_ago - 1), (2, day_ago + 60 * 60 * 1000)] {
            let insert = "INSERT INTO notices VALUES (?1, ?2, 'mission.completed', '{}', ?3, 99, ?3)";
            store.execute(insert, rusqlite::params![seq, url, since]).unwrap();
        }
    }
    let said = tempfile::NamedTempFile::new().unwrap();
    let mut child = command(folder.path(), &free_address()).stderr(said.reopen().unwrap()).spawn().unwrap();
    let state = folder.path().to_owned();
    let line = tokio::task::spawn_blocking(move || {
        let line = eventually("a line that says so", DEADLINE, || {
            let text = std::fs::read_to_string(said.path()).unwrap();
            text.lines().find(|line| line.contains("notice given up")).map(str::to_owned)
        });
        eventually("its row to go", DEADLINE, || (waiting_notices(&state) == 1).then_some(()));
        child.kill().unwrap();
        child.wait().unwrap();
        line
    });
    let line: Value = serde_json::from_str(&line.await.unwrap()).unwrap();
    assert_eq!(
        (&line["level"], &line["event.seq"], &line["http.status"]),
        (&json!("ERROR"), &json!(1), &json!(503))
    );
    assert!(!line.to_string().contains("hook-key"), "{line}");
    assert_eq!(waiting_notices(folder.path()), 1, "the younger one is still tried");
}

#[tokio::test]
async fn an_address_that_leads_where_it_must_not_is_refused_or_does_nothing() {
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    let path = "/api/v1/sessions/s/dispatch";
    for url in ["http://169.254.169.254/latest/", "http://0.0.0.0/", "gopher://h/", "http://u:p@h/"] {
        let refused = serve.post(path, &telling("m-x", url)).await;
        assert_eq!(refused.status, 400, "{url}");
        assert_eq!(refused.body["field"], "metadata.aiwg_notify", "{url}");
    }
    assert_eq!(serve.dispatch("m-victim").await.status, 202);
    let operating = format!("{}/api/v1/missions/m-victim/abort", serve.base);
    assert_eq!(serve.post(path, &telling("m-1", &operating)).await.status, 202);
    let refused_before = refused_at_the_door(&serve).await;
    line.say(&peer.frame("mission.completed", Some("m-1"), json!({}))).await;
    soon(async {
        while refused_at_the_door(&serve).await == refused_before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(serve.get("/api/v1/missions/m-victim").await.body["state"], "assigned");
    serve.stop().await;
}

async fn refused_at_the_door(serve: &Serve) -> String {
    let text = serve.http.get(format!("{}/metrics", serve.base)).send().await.unwrap().text().await.unwrap();
    text.lines().find(|line| line.starts_with("aiwg_requests_refused_total ")).unwrap().to_owned()
}

#[test]
fn a_secret_that_others_may_read_is_not_used() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("hook-secret");
    let check = || {
        let mut command = command(folder.path(), "127.0.0.1:0");
        command
            .arg("--check")
            .arg("--webhook-secret-file")
            .arg(&secret)
            .stdout(Stdio::null())
            .output()
            .unwrap()
    };
    assert_eq!(check().status.code(), Some(0), "made when absent");
    assert_eq!(std::fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o640)).unwrap();
    let refused = check();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(4), "{said}");
    assert!(
        said.contains("webhook secret") && said.contains("hook-secret") && said.contains("chmod 600"),
        "{said}"
    );
}
