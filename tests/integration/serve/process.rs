//! The real binary: killed at any instant, ended in order, checked, and reached over a Unix socket.

use super::peer::{Peer, Serve, order, soon};
use serde_json::{Value, json};
use std::io::Read as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The registry in a process of its own.
pub(super) struct Process {
    pub(super) child: Child,
    pub(super) serve: Serve,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(super) fn command(folder: &Path, bind: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aiwg-rs"));
    command.args(["serve", "--log", "error", "--bind", bind, "--state-dir"]).arg(folder);
    command.arg("--identity-store").arg(folder.join("ids.json")).env_clear().stdin(Stdio::null());
    command
}

/// An address that was free a moment ago.
pub(super) fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

impl Process {
    pub(crate) async fn start(folder: &Path, address: &str) -> Self {
        let child = command(folder, address).spawn().unwrap();
        let serve = Serve::elsewhere(format!("http://{address}"));
        soon(async {
            while serve.http.get(format!("{}/api/ready", serve.base)).send().await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        Self { child, serve }
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

#[tokio::test]
async fn whatever_was_answered_survives_kill_9_and_nothing_runs_twice() {
    const ROUNDS: u32 = 6;
    let folder = tempfile::tempdir().unwrap();
    let address = free_address();
    let mut process = Process::start(folder.path(), &address).await;
    let peer = Peer::register(&process.serve, 1, &["resumable"]).await;
    peer.surface.lock().unwrap().remembers = true;
    let mut answered: Vec<String> = Vec::new();
    let mut asked = 0_u32;
    for round in 0..ROUNDS {
        let owned: Vec<String> = peer
            .dispatches()
            .iter()
            .map(|(.., body)| body["mission_id"].as_str().unwrap().to_owned())
            .collect();
        let owned: Vec<&str> = owned.iter().map(String::as_str).collect();
        let line = peer.connect(&process.serve, &owned).await;
        let until = asked + 40;
        let dispatching = async {
            let mut taken = Vec::new();
            while asked < until {
                let batch: Vec<String> = (asked..asked + 8).map(|number| format!("m-{number}")).collect();
                asked += 8;
                let url = format!("{}/api/v1/sessions/s/dispatch", process.serve.base);
                let sent =
                    batch.iter().map(|mission| process.serve.http.post(&url).json(&order(mission)).send());
                for (mission, answer) in batch.iter().zip(futures_util::future::join_all(sent).await) {
                    if answer.is_ok_and(|answer| answer.status() == 202) {
                        taken.push(mission.clone());
                    }
                }
            }
            taken
        };
        // The instant of the kill moves through the round.
        let kill = async {
            tokio::time::sleep(Duration::from_millis(u64::from(round) * 13 + 3)).await;
            process.signal(rustix::process::Signal::KILL);
        };
        let (taken, ()) = tokio::join!(dispatching, kill);
        answered.extend(taken);
        drop(line);
        process.child.wait().unwrap();
        process = Process::start(folder.path(), &address).await;
        for mission in &answered {
            let status = process.serve.get(&format!("/api/v1/missions/{mission}")).await;
            let state = status.body["state"].as_str().unwrap_or_default().to_owned();
            // A resync tells that it runs.
            assert!(["assigned", "running"].contains(&state.as_str()), "{mission}: {status:?}");
        }
    }
    let owned: Vec<String> =
        peer.dispatches().iter().map(|(.., body)| body["mission_id"].as_str().unwrap().to_owned()).collect();
    let owned: Vec<&str> = owned.iter().map(String::as_str).collect();
    let _line = peer.connect(&process.serve, &owned).await;
    // Everything is dispatched once more, as a bridge does that was not answered: nothing may reach the executor twice.
    for number in 0..asked {
        let answer = soon(async {
            loop {
                let answer = process.serve.dispatch_in("s", &format!("m-{number}")).await;
                if answer.status != 409 {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        assert_eq!(answer.status, 202, "m-{number}: {answer:?}");
    }
    let mut received: Vec<Value> =
        peer.dispatches().into_iter().map(|(.., body)| body["mission_id"].clone()).collect();
    assert_eq!(received.len(), usize::try_from(asked).unwrap());
    received.sort_by_key(ToString::to_string);
    received.dedup();
    assert_eq!(received.len(), usize::try_from(asked).unwrap(), "some mission reached the executor twice");
}

#[tokio::test]
async fn events_that_an_observer_has_seen_survive_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let address = free_address();
    let mut process = Process::start(folder.path(), &address).await;
    let (peer, mut line) = Peer::connected(&process.serve, 1, &["resumable"]).await;
    process.serve.dispatch("m-1").await;
    let mut observer = process.serve.socket(&peer.id, "").await;
    for number in 0..200 {
        line.say(&peer.frame("mission.progress", Some("m-1"), json!({"iteration": number}))).await;
    }
    let mut seen = 0;
    while seen < 100 {
        seen = observer.hear_event("mission.progress").await["data"]["iteration"].as_u64().unwrap();
    }
    process.signal(rustix::process::Signal::KILL);
    process.child.wait().unwrap();
    let process = Process::start(folder.path(), &address).await;
    let status = process.serve.get("/api/v1/missions/m-1").await.body;
    let last =
        status["recent_events"].as_array().unwrap().last().unwrap()["data"]["iteration"].as_u64().unwrap();
    assert!(last >= seen, "{last} after {seen} had been seen");
}

#[tokio::test]
async fn a_signal_ends_it_in_order_with_exit_status_0() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(folder.path(), &free_address()).await;
    let (_peer, mut line) = Peer::connected(&process.serve, 1, &[]).await;
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(line.hear().await, Err(1000));
    let status = tokio::task::spawn_blocking(move || process.child.wait().unwrap()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_check_says_what_is_wrong_and_exits_with_its_code() {
    let folder = tempfile::tempdir().unwrap();
    let good = command(folder.path(), "127.0.0.1:0").arg("--check").output().unwrap();
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    assert!(String::from_utf8(good.stdout).unwrap().contains("in order"));
    std::fs::write(folder.path().join("ids.json"), "{").unwrap();
    let broken = command(folder.path(), "127.0.0.1:0").arg("--check").output().unwrap();
    assert_eq!(broken.status.code(), Some(4));
    assert!(String::from_utf8(broken.stderr).unwrap().contains("ids.json"));
}

#[tokio::test]
async fn it_is_reached_over_a_unix_socket_that_goes_away_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let listen = format!("unix:{}", socket.display());
    let mut child = command(folder.path(), "127.0.0.1:0").args(["--listen", &listen]).spawn().unwrap();
    let answer = soon(async {
        loop {
            let client = reqwest::Client::builder().no_proxy().unix_socket(socket.clone()).build().unwrap();
            match client.get("http://registry.sock/api/v1/executors").send().await {
                Ok(answer) => return answer.status(),
                Err(_not_yet) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await;
    assert_eq!(answer, 200);
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(!socket.exists());
}

#[tokio::test]
async fn the_service_manager_hears_when_it_is_ready_and_when_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut child = command(folder.path(), "127.0.0.1:0")
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let heard = tokio::task::spawn_blocking(move || {
        let mut heard = Vec::new();
        let mut buffer = [0; 256];
        for _ in 0..2 {
            let length = manager.recv(&mut buffer).unwrap();
            heard.push(String::from_utf8_lossy(&buffer[..length]).trim().to_owned());
        }
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        while heard.last().unwrap() != "STOPPING=1" {
            let length = manager.recv(&mut buffer).unwrap();
            heard.push(String::from_utf8_lossy(&buffer[..length]).trim().to_owned());
        }
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        child.wait().unwrap();
        heard
    });
    let heard = soon(heard).await.unwrap();
    assert_eq!(heard[..2], ["READY=1", "WATCHDOG=1"]);
}
