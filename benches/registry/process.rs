//! Command: the registry in a process of its own.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

pub(crate) struct Registry {
    child: Child,
    pub(crate) address: String,
    /// From the start of the process to the first answer that it is ready.
    pub(crate) start_took: Duration,
    folder: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Registry {
    pub(crate) async fn start() -> Self {
        Self::on(tempfile::tempdir().unwrap()).await
    }

    /// Starts on a folder that may have a store already.
    pub(crate) async fn on(folder: tempfile::TempDir) -> Self {
        let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = probe.local_addr().unwrap().to_string();
        drop(probe);
        let started = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_aiwg-rs"))
            .args(["serve", "--bind", &address, "--log", "error", "--state-dir"])
            .arg(folder.path())
            .arg("--identity-store")
            .arg(folder.path().join("ids.json"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Its socket is open before it is ready; connections wait there until it answers.
        loop {
            assert!(started.elapsed() < Duration::from_secs(60), "the registry does not start");
            if TcpStream::connect(&address).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let ready = crate::peers::Caller::connect(&address).await.get("/api/ready").await;
        assert_eq!(ready.0, 200, "{}", ready.1);
        Self { child, address, start_took: started.elapsed(), folder }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// User and system time of the process so far.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let after_name = stat.rsplit_once(')').unwrap().1;
        // Without pid, name and state, user time is the eleventh field; a tick is 10 ms.
        let fields =
            after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
        Duration::from_millis(fields.sum::<u64>() * 10)
    }

    pub(crate) fn resident_mb(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096 / 1_000_000
    }
}
