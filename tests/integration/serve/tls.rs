//! TLS with a real certificate, from the handshake to our own bridge.

use super::peer::{Peer, Serve, soon};
use super::process::{Process, command, free_address};
use crate::cli::Desk;
use crate::support::DEADLINE;
use crate::support::eventually::eventually;
use serde_json::json;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tls");

/// A registry that serves TLS, and clients that know its authority.
async fn serving(folder: &Path) -> Process {
    let address = free_address();
    let mut command = command(folder, &address);
    command.arg("--tls-cert").arg(format!("{FIXTURES}/server.pem"));
    let child = command.arg("--tls-key").arg(format!("{FIXTURES}/server.key")).spawn().unwrap();
    let authority = std::fs::read(format!("{FIXTURES}/ca.pem")).unwrap();
    let port = address.rsplit(':').next().unwrap();
    let process = Process { child, serve: Serve::over_tls(format!("https://localhost:{port}"), &authority) };
    soon(async {
        while process.serve.http.get(format!("{}/api/ready", process.serve.base)).send().await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    process
}

/// Our own bridge; it trusts who the system trusts, and here the system is told.
struct Bridge(Child);

impl Drop for Bridge {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn bridge(folder: &Path, url: &str, authority: &str) -> Bridge {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aiwg-rs"));
    command.args(["mc", "bridge", "--log", "error", "--serve-url", url, "--watch-dir"]).arg(folder);
    command.env_clear().env("SSL_CERT_FILE", authority).stdin(Stdio::null()).stderr(Stdio::null());
    Bridge(command.spawn().unwrap())
}

#[tokio::test]
async fn a_bridge_and_an_executor_do_their_work_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let process = serving(folder.path()).await;
    let (peer, mut line) = Peer::connected(&process.serve, 1, &[]).await;
    let desk = Desk::new();
    let authority = format!("{FIXTURES}/ca.pem");
    let _bridge = bridge(desk.root(), &process.serve.base, &authority);
    desk.mc(&["dispatch", "x", "--id", "m-tls"]).answer();
    process.serve.mission_in("m-tls", "assigned").await;
    line.say(&peer.frame("mission.completed", Some("m-tls"), json!({"exit_code": 0, "summary": "over TLS"})))
        .await;
    let waiting = tokio::task::spawn_blocking(move || {
        let mission = eventually("the result in the file", DEADLINE, || {
            let mission = desk.mission("default", "m-tls");
            (mission["status"] == "done").then_some(mission)
        });
        (desk, mission)
    });
    let (_desk, mission) = waiting.await.unwrap();
    assert_eq!(mission["summary"], "over TLS", "which came over its WebSocket");
}

#[tokio::test]
async fn who_does_not_know_the_authority_or_speaks_no_tls_gets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let process = serving(folder.path()).await;
    let stranger = Serve::elsewhere(process.serve.base.clone());
    let refused = soon(stranger.http.get(format!("{}/api/health", stranger.base)).send()).await.unwrap_err();
    assert!(refused.is_connect(), "{refused:?}");
    let address = process.serve.base.replace("https://localhost", "127.0.0.1");
    let mut plain = TcpStream::connect(&address).await.unwrap();
    plain.write_all(b"GET /api/health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    soon(plain.read_to_end(&mut answer)).await.ok();
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/"), "{answer:?}");
    // And the door is the same behind TLS.
    let foreign = process.serve.http.get(format!("{}/api/v1/missions", process.serve.base));
    let foreign = process.serve.send(foreign.header("origin", "https://evil.example")).await;
    assert_eq!(foreign.status, 403);
}
