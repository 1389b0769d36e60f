//! The executor as a real program, driven by the real registry, running real processes.

mod command;
mod crowd;
mod disk;
mod endings;
mod humans;
mod load;
mod node_server;
mod orders;
mod outages;
mod restarts;
mod runners;
mod surface;
mod up;

use crate::support::DEADLINE;
use crate::support::repository::Repository;
use aiwg_rs::executor::claim::{self, Claim};
use aiwg_rs::executor::process_table;
use aiwg_rs::executor::process_tree;
use aiwg_rs::registry;
use aiwg_rs::runtime::shutdown::{Cause, Shutdown};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A registry inside the test.
pub(crate) struct Registry {
    pub(crate) url: String,
    address: std::net::SocketAddr,
    shutdown: Shutdown,
    running: tokio::task::JoinHandle<()>,
    pub(crate) directory: tempfile::TempDir,
}

impl Registry {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let running = Self::serve(listener, directory.path(), shutdown.clone());
        Self { url: format!("http://{address}"), address, shutdown, running, directory }
    }

    fn serve(
        listener: tokio::net::TcpListener,
        directory: &Path,
        end: Shutdown,
    ) -> tokio::task::JoinHandle<()> {
        let config = registry::Config {
            identity_file: Some(directory.join("identities.json")),
            state_dir: Some(directory.join("state")),
            ..registry::Config::default()
        };
        crate::support::chaos_proxy::spawn(async move {
            registry::server::run(listener, config, end).await.unwrap();
        })
    }

    /// Ends it, and with it every line.
    pub(crate) async fn stop(&mut self) {
        self.shutdown.start(Cause::Finished);
        (&mut self.running).await.unwrap();
    }

    /// Starts it again where it was.
    pub(crate) async fn start_again(&mut self) {
        self.shutdown = Shutdown::new();
        let listener = tokio::net::TcpListener::bind(self.address).await.unwrap();
        self.running = Self::serve(listener, self.directory.path(), self.shutdown.clone());
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shutdown.start(Cause::Finished);
    }
}

/// An executor as a process, with a repository to work on.
pub(crate) struct Host {
    pub(crate) repository: Repository,
    pub(crate) registry: Registry,
    pub(crate) state: tempfile::TempDir,
    arguments: Vec<String>,
    /// The state lies on a disk of this size that only the executor sees.
    disk: Option<&'static str>,
    process: Option<Child>,
    http: reqwest::Client,
}

pub(crate) async fn host(arguments: &[&str]) -> Host {
    host_with(arguments, "").await
}

pub(crate) async fn host_with(arguments: &[&str], settings: &str) -> Host {
    host_on(arguments, settings, None).await
}

pub(crate) async fn host_on(arguments: &[&str], settings: &str, disk: Option<&'static str>) -> Host {
    aiwg_rs::net::http::install_tls();
    let state = tempfile::tempdir().unwrap();
    std::fs::write(state.path().join("executor.toml"), settings).unwrap();
    let mut host = Host {
        repository: Repository::new(),
        registry: Registry::start().await,
        state,
        arguments: arguments.iter().map(|&a| a.to_owned()).collect(),
        disk,
        process: None,
        http: reqwest::Client::builder().no_proxy().build().unwrap(),
    };
    host.start().await;
    host
}

impl Host {
    pub(crate) async fn start(&mut self) {
        self.until("the old line is gone", async || {
            let list = self.get("/api/v1/executors").await;
            (list.pointer("/executors/0/connected") != Some(&Value::Bool(true))).then_some(())
        })
        .await;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.state.path().join("executor.err"))
            .unwrap();
        let child = self
            .program()
            .args(["--log", "debug,hyper=warn,reqwest=warn", "--log-format", "human", "executor"])
            .arg("--workspace")
            .arg(self.repository.root())
            .arg("--state-dir")
            .arg(if self.disk.is_some() {
                self.state.path().join("disk")
            } else {
                self.state.path().to_owned()
            })
            .arg("--config")
            .arg(self.state.path().join("executor.toml"))
            .args(["--aiwg-serve", &self.registry.url, "--port", "0", "--runtime", "shell"])
            .args(&self.arguments)
            .env("SECRET_OF_THE_DAEMON", "hunter2")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(child);
        self.until("the executor is connected", async || {
            let list = self.get("/api/v1/executors").await;
            let connected = list.pointer("/executors/0/connected") == Some(&Value::Bool(true));
            connected.then_some(())
        })
        .await;
    }

    /// Returns what runs the executor: itself, or a loop that starts it again beside a disk that nobody else sees.
    fn program(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_aiwg-rs");
        let Some(size) = self.disk else { return Command::new(program) };
        std::fs::create_dir_all(self.state.path().join("disk")).unwrap();
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
            .arg("mount -t tmpfs -o size=\"$1\" tmpfs \"$2\" || exit; shift 2; while :; do \"$@\"; sleep 0.1; done")
            .args(["sh", size])
            .arg(self.state.path().join("disk"))
            .arg(program);
        command
    }

    /// Returns where the executor keeps its state, as seen from here.
    pub(crate) fn state_directory(&self) -> PathBuf {
        let own = self.state.path();
        match (&self.disk, &self.process) {
            (Some(_), Some(process)) => PathBuf::from(format!("/proc/{}/root", process.id()))
                .join(own.strip_prefix("/").unwrap())
                .join("disk"),
            _ => own.to_owned(),
        }
    }

    /// Finds the executor that runs in a loop.
    fn looped(&self) -> Option<u32> {
        let members = process_tree::descendants(self.process.as_ref()?.id());
        members.iter().map(|member| member.pid).find(|pid| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.contains("--state-dir") && !line.starts_with("sh")
        })
    }

    /// Kills the executor that runs in a loop, and waits for the next one.
    pub(crate) async fn next_in_loop(&self) {
        let old = self.looped().unwrap();
        process_tree::signal(old, Signal::KILL).unwrap();
        self.until("the next executor is connected", async || {
            let list = self.get("/api/v1/executors").await;
            let is_connected = list.pointer("/executors/0/connected") == Some(&Value::Bool(true));
            (is_connected && self.looped().is_some_and(|pid| pid != old)).then_some(())
        })
        .await;
    }

    /// Kills the executor without a chance to do anything.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Ends the executor in order and returns how.
    pub(crate) fn terminate(&mut self) -> std::process::ExitStatus {
        let mut process = self.process.take().unwrap();
        process_tree::signal(process.id(), Signal::TERM).unwrap();
        process.wait().unwrap()
    }

    /// Waits until `look` sees something.
    pub(crate) async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE * 3;
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            assert!(Instant::now() < deadline, "{what} did not happen; the executor said:\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn said(&self) -> String {
        let text = std::fs::read_to_string(self.state.path().join("executor.err")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(40).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = self.http.get(format!("{}{path}", self.registry.url)).send().await;
        match answer {
            Ok(answer) => answer.json().await.unwrap_or(Value::Null),
            Err(_not_yet) => Value::Null,
        }
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = self.http.post(format!("{}{path}", self.registry.url)).json(body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
    }

    pub(crate) async fn dispatch(&self, mission: &str, objective: &str, more: Value) -> (u16, Value) {
        let mut body = json!({
            "mission_id": mission, "objective": objective,
            "completion": "the agent process exits with status 0", "metadata": {},
        });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        self.post("/api/v1/sessions/s1/dispatch", &body).await
    }

    /// Dispatches and waits for the end; returns the last event.
    /// Dispatches as the registry does, with a key of the caller's choice; returns the status, whether the answer says when
    /// to come back, and the answer.
    pub(crate) async fn dispatch_to_itself(
        &self,
        mission: &str,
        objective: &str,
        key: Option<&str>,
    ) -> (u16, bool, Value) {
        let identities = std::fs::read(self.registry.directory.path().join("identities.json")).unwrap();
        let identities: Value = serde_json::from_slice(&identities).unwrap();
        let url = surface::own_url(self).await;
        let body = json!({"mission_id": mission, "objective": objective, "completion": "x"});
        let request = self.http.post(format!("{url}/dispatch")).bearer_auth(text(&identities, "/0/token"));
        let request = key.into_iter().fold(request, |request, key| request.header("idempotency-key", key));
        let answer = request.json(&body).send().await.unwrap();
        let (status, wait) = (answer.status().as_u16(), answer.headers().get("retry-after").is_some());
        (status, wait, answer.json().await.unwrap())
    }

    pub(crate) async fn run(&self, mission: &str, objective: &str, more: Value) -> Value {
        let (status, answer) = self.dispatch(mission, objective, more).await;
        assert_eq!(status, 202, "{answer}\n{}", self.said());
        self.end_of(mission).await
    }

    pub(crate) async fn state_of(&self, mission: &str) -> String {
        let status = self.get(&format!("/api/v1/missions/{mission}")).await;
        status.get("state").and_then(Value::as_str).unwrap_or("unknown").to_owned()
    }

    pub(crate) async fn reaches(&self, mission: &str, state: &str) {
        self.until(&format!("{mission} becomes {state}"), async || {
            let now = self.state_of(mission).await;
            assert!(
                now == state || !matches!(now.as_str(), "done" | "failed" | "aborted"),
                "{mission} is {now}, not {state}\n{}",
                self.said()
            );
            (now == state).then_some(())
        })
        .await;
    }

    pub(crate) async fn end_of(&self, mission: &str) -> Value {
        self.until(&format!("{mission} ends"), async || {
            let status = self.get(&format!("/api/v1/missions/{mission}")).await;
            let ended = matches!(status.get("state")?.as_str()?, "done" | "failed" | "aborted");
            let last = status.get("recent_events")?.as_array()?.last()?.clone();
            ended.then_some(last)
        })
        .await
    }

    pub(crate) async fn events(&self, mission: &str) -> Vec<Value> {
        let status = self.get(&format!("/api/v1/missions/{mission}")).await;
        status.get("recent_events").and_then(Value::as_array).cloned().unwrap_or_default()
    }

    pub(crate) fn mission_directory(&self, mission: &str) -> PathBuf {
        self.state_directory()
            .join("missions")
            .join(aiwg_rs::executor::provision::path_rules::scoped_name(mission))
    }

    pub(crate) fn record(&self, mission: &str) -> Value {
        let text = std::fs::read_to_string(self.mission_directory(mission).join("mission.jsonl")).unwrap();
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    }

    /// Returns the executor's process, and the mission's runner once there is one.
    pub(crate) fn own_processes(&self, mission: &str) -> Vec<u32> {
        let mut own: Vec<u32> = self.process.iter().map(Child::id).collect();
        let record = self.record(mission);
        let is_its = |claim: &Claim| claim.run.starts_with(text(&record, "/run_id"));
        own.extend(self.claims().into_iter().filter(is_its).map(|claim| claim.runner.pid));
        own
    }

    /// Returns which runs runners have begun.
    pub(crate) fn claims(&self) -> Vec<Claim> {
        claim::all(&self.state_directory().join("runners")).unwrap_or_default()
    }

    pub(crate) fn processes_of(&self, mission: &str) -> usize {
        let record = self.record(mission);
        process_tree::marked("AIWG_RUN_ID", record.get("run_id").unwrap().as_str().unwrap()).len()
    }

    /// Waits until the executor itself is done with a mission: the registry may have called it ended before.
    pub(crate) async fn done_with(&self, mission: &str) {
        self.until(&format!("the executor is done with {mission}"), async || {
            let record = self.record(mission);
            matches!(text(&record, "/state"), "done" | "failed" | "aborted").then_some(())
        })
        .await;
    }

    /// Checks that a mission left no process, worktree or lock.
    pub(crate) fn assert_clean(&self, mission: &str) {
        assert_eq!(self.processes_of(mission), 0, "processes of {mission}");
        let worktrees = self.repository.git(["worktree", "list", "--porcelain"]).matches("worktree ").count();
        assert_eq!(worktrees, 1, "worktrees");
        let locks = self.repository.root().join(".ai_ops/locks/ports");
        let left = std::fs::read_dir(locks).map_or(0, |entries| {
            entries.filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|x| x == "lock")).count()
        });
        assert_eq!(left, 0, "port locks");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let claims = self.claims();
        let looped = self.looped();
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
        if let Some(pid) = looped.filter(|_| self.disk.is_some()) {
            drop(process_tree::signal(pid, Signal::KILL));
        }
        for Claim { runner, .. } in claims {
            if process_table::is_alive(&runner) {
                for member in process_tree::descendants(runner.pid) {
                    drop(process_tree::signal(member.pid, Signal::KILL));
                }
                drop(process_tree::signal(runner.pid, Signal::KILL));
            }
        }
    }
}

pub(crate) fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{pointer} in {value}"))
}

pub(crate) fn with_resources() -> Value {
    json!({"metadata": {"resources": [{"kind": "git-worktree"}, {"kind": "port-range"}]}})
}
