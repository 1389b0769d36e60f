//! No secret is ever in the log, however much is logged.

use super::peer::{Peer, Serve, id, order, soon};
use super::process::{Process, free_address};
use super::webhooks::Listening;
use serde_json::json;
use std::process::{Command, Stdio};
use std::time::Duration;

#[tokio::test]
async fn no_secret_is_logged_at_any_level() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        use std::os::unix::fs::OpenOptionsExt as _;
        let path = folder.path().join(name);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&path).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        path
    };
    let operator = file("operator", "operator-token-in-the-file");
    let signing = file("signing", "signing-secret-in-the-file");
    let listening = Listening::refusing(2).await;
    let said = tempfile::NamedTempFile::new().unwrap();
    let address = free_address();
    let child = Command::new(env!("CARGO_BIN_EXE_aiwg-rs"))
        .args(["serve", "--log", "trace", "--bind", &address, "--state-dir"])
        .arg(folder.path())
        .arg("--identity-store")
        .arg(folder.path().join("ids.json"))
        .arg("--operator-token-file")
        .arg(&operator)
        .arg("--webhook-secret-file")
        .arg(&signing)
        .args(["--webhook", &format!("{}?key=secret-of-the-webhook", listening.url)])
        .env_clear()
        .stdin(Stdio::null())
        .stderr(said.reopen().unwrap())
        .spawn()
        .unwrap();
    let process = Process { child, serve: Serve::elsewhere(format!("http://{address}")) };
    let serve = &process.serve;
    soon(async {
        while serve.http.get(format!("{}/api/ready", serve.base)).send().await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    // One that dials in, and one that has to be dialled, with its token; nobody takes that call.
    let (peer, mut line) = Peer::connected(serve, 1, &[]).await;
    let dialled = Peer::register(serve, 2, &[]).await;
    let wrong = "a-token-of-nobody";
    assert_eq!(serve.socket(&peer.id, &format!("?token={wrong}")).await.hear().await, Err(4001));
    let executors = format!("{}/api/v1/executors", serve.base);
    assert_eq!(serve.send(serve.http.get(&executors).bearer_auth(wrong)).await.status, 401);
    assert_eq!(
        serve.send(serve.http.get(&executors).bearer_auth("operator-token-in-the-file")).await.status,
        200
    );
    let delete = serve.http.delete(format!("{executors}/{}", id(2))).bearer_auth(wrong);
    assert_eq!(serve.send(delete).await.status, 401);
    let mut told = order("m-1");
    told["metadata"]["aiwg_notify"] = json!(format!("{}?key=secret-of-the-notice", listening.url));
    assert_eq!(serve.post("/api/v1/sessions/s/dispatch", &told).await.status, 202);
    line.say_text(format!("{{\"token\":\"{}\"}}", peer.token)).await;
    line.say(&peer.frame("mission.completed", Some("m-1"), json!({}))).await;
    // Two registrations and the end, which is told twice: to the webhook and to the address of the mission.
    listening.taken(3).await;
    soon(async {
        let is_told = || listening.receiver.lock().unwrap().taken.len() >= 4;
        let dialled = format!("/ws/executors/{}", dialled.id);
        while !(is_told() && std::fs::read_to_string(said.path()).unwrap().contains(&dialled)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let log = std::fs::read_to_string(said.path()).unwrap();
    assert!(log.contains("\"level\":\"TRACE\""), "everything is logged");
    let secrets = [
        peer.token.as_str(),
        dialled.token.as_str(),
        wrong,
        "operator-token-in-the-file",
        "signing-secret-in-the-file",
        "secret-of-the-webhook",
        "secret-of-the-notice",
    ];
    for secret in secrets {
        if let Some(line) = log.lines().find(|line| line.contains(secret)) {
            panic!("{secret} stands in the log: {line}");
        }
    }
}
