//! Command: what the executor costs, beside a plain baseline in the same run.
//!
//! `cargo bench --bench executor` prints one line per promise: ours, the baseline, and the ratio or the allowance.
//! Words after `--` choose what is measured, such as `-- ports start`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement that cannot be made must end loudly, and its answer is what it prints"
)]

use aiwg_rs::disk::atomic;
use aiwg_rs::disk::fsync::FsyncPolicy;
use aiwg_rs::domain::id::{ExecutorId, MissionId};
use aiwg_rs::executor::agent_runtime::AgentRuntime;
use aiwg_rs::executor::config::{Config, OnShutdown};
use aiwg_rs::executor::mission_order::Offer;
use aiwg_rs::executor::process_table;
use aiwg_rs::executor::provision::orchestrator::{Orchestrator, Order};
use aiwg_rs::executor::provision::provider::{Disposal, Request};
use aiwg_rs::executor::reporter::Reporter;
use aiwg_rs::executor::roster::{Dispatch, Roster};
use aiwg_rs::executor::run::Limits;
use aiwg_rs::executor::runner_pool::RunnerPool;
use aiwg_rs::executor::store::Store;
use aiwg_rs::executor::worker::Shared;
use aiwg_rs::runtime::shutdown::Shutdown;
use aiwg_rs::runtime::tasks::Tasks;
use serde_json::json;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

fn git(directory: &Path, arguments: &[&str]) {
    let status = Command::new("git")
        .args(["-c", "user.name=b", "-c", "user.email=b@example.org"])
        .args(arguments)
        .current_dir(directory)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "git {arguments:?}");
}

fn repository(files: usize) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    git(directory.path(), &["init", "-q", "-b", "main"]);
    for number in 0..files {
        let path = directory.path().join(format!("d{}/f{number}.txt", number % 50));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{number}\n").repeat(100)).unwrap();
    }
    git(directory.path(), &["add", "-A"]);
    git(directory.path(), &["commit", "-q", "-m", "files"]);
    directory
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn order(root: &Path, session: &str, kind: &str) -> Order {
    Order {
        session_id: session.to_owned(),
        workspace_root: root.to_owned(),
        resources: vec![Request::of(kind)],
        owner: Some(process_table::own()),
    }
}

async fn port_block() {
    let root = tempfile::tempdir().unwrap();
    let orchestrator = Orchestrator::with_built_in();
    for number in 0..500 {
        orchestrator.provision(&order(root.path(), &format!("taken{number}"), "port-range")).await.unwrap();
    }
    let mut times = Vec::new();
    for number in 0..50 {
        let order = order(root.path(), &format!("s{number}"), "port-range");
        let begun = Instant::now();
        let environment = orchestrator.provision(&order).await.unwrap();
        times.push(begun.elapsed());
        orchestrator.release(&environment, Disposal::Save).await.unwrap();
    }
    println!("port block with 500 of 512 taken, written down: {:?} (allowed 1 ms)", median(times));
}

async fn worktree() {
    let repository = repository(2000);
    let root = repository.path().canonicalize().unwrap();
    let orchestrator = Orchestrator::with_built_in();
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for number in 0..7 {
        let order = order(&root, &format!("s{number}"), "git-worktree");
        let begun = Instant::now();
        let environment = orchestrator.provision(&order).await.unwrap();
        ours.push(begun.elapsed());
        orchestrator.release(&environment, Disposal::Save).await.unwrap();
        let begun = Instant::now();
        git(&root, &["worktree", "add", "--quiet", "--detach", "by-hand", "HEAD"]);
        plain.push(begun.elapsed());
        git(&root, &["worktree", "remove", "--force", "by-hand"]);
    }
    let (ours, plain) = (median(ours), median(plain));
    println!(
        "worktree of 2000 files: {ours:?}, by hand {plain:?}: {:.2} (allowed 1.3)",
        ours.as_secs_f64() / plain.as_secs_f64()
    );
}

fn roster(state: &Path, workspace: &Path, concurrency: usize) -> Roster {
    let mut runtimes = AgentRuntime::built_in();
    for runtime in &mut runtimes {
        runtime.terminal = runtime.name == "shell";
    }
    let config = Config {
        name: "bench".into(),
        serve_url: None,
        advertise: None,
        bind: "127.0.0.1:0".parse().unwrap(),
        state_directory: state.to_owned(),
        workspace: workspace.to_owned(),
        runner_program: PathBuf::from(env!("CARGO_BIN_EXE_aiwg-rs")),
        max_concurrency: concurrency,
        max_waiting: 10_000,
        offer: Offer {
            runtimes,
            default_runtime: "shell".into(),
            default_resources: Vec::new(),
            setup: Vec::new(),
            limits: Limits {
                timeout: None,
                stall: None,
                iterations: 1,
                tokens: None,
                time_budget: None,
                answer_within: None,
            },
        },
        grace: Duration::from_secs(1),
        log_limit_bytes: 64 * 1024 * 1024,
        keep_everything: false,
        on_shutdown: OnShutdown::Abort,
        retention: Duration::from_secs(3600),
        isolation: "host".into(),
    };
    let (tasks, store) = (Tasks::new(Shutdown::new()), Store::open(state).unwrap());
    Roster::new(Shared {
        runners: RunnerPool::new(&config, store.claims(), tasks.clone()),
        orchestrator: Orchestrator::with_built_in(),
        slots: Arc::new(Semaphore::new(concurrency)),
        reporter: Reporter::default(),
        tasks,
        store,
        executor: ExecutorId::new("00000000-0000-4000-8000-000000000001").unwrap(),
        config,
    })
}

async fn dispatch(roster: &Roster, mission: &str, objective: &str) {
    let payload = json!({"mission_id": mission, "objective": objective, "completion": "x"});
    let mission = MissionId::new(mission).unwrap();
    roster.dispatch(Dispatch { mission, session: "s".into(), key: None, payload }).await.unwrap();
}

async fn until_there(path: &Path) {
    while !path.exists() {
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

/// What it takes to replace a small file so that it survives a power cut: a dispatch is answered after that.
fn durable_write(directory: &Path) -> Duration {
    let path = directory.join("durable");
    let one = || {
        let begun = Instant::now();
        atomic::write(&path, &[b'x'; 1000], FsyncPolicy::Batch).unwrap();
        begun.elapsed()
    };
    median((0..40).map(|_| one()).collect())
}

async fn started() {
    let (state, workspace) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let roster = roster(state.path(), workspace.path(), 4);
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for number in 0..40 {
        let path = workspace.path().join(format!("plain{number}"));
        let begun = Instant::now();
        let mut child =
            Command::new("/bin/sh").args(["-c", &format!(": > {}", path.display())]).spawn().unwrap();
        until_there(&path).await;
        plain.push(begun.elapsed());
        child.wait().unwrap();
        let path = workspace.path().join(format!("ours{number}"));
        let begun = Instant::now();
        dispatch(&roster, &format!("m{number}"), &format!(": > {}", path.display())).await;
        until_there(&path).await;
        ours.push(begun.elapsed());
        assert!(roster.wait_until_empty(Duration::from_secs(10)).await);
    }
    let (ours, plain) = (median(ours), median(plain));
    println!(
        "dispatch to process: {ours:?}, bare spawn {plain:?}: {:?} over it (allowed 10 ms); one durable write of these takes {:?}",
        ours.saturating_sub(plain),
        durable_write(state.path())
    );
}

/// Runs 100 missions of one command, and the same by hand, several times: on a busy machine one time says little. Nothing is
/// removed in between: an ext4 without a journal takes no inode that was given back within the last minute, and looks at
/// each of them whenever it makes a file.
async fn hundred(objective: &str) {
    let width = 8;
    let (mut ours, mut plain, mut shares, mut kept) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..7 {
        let begun = Instant::now();
        let script = format!("seq 100 | xargs -P {width} -I_ /bin/sh -c '{objective}'");
        let status = Command::new("/bin/sh").args(["-c", &script]).stdout(Stdio::null()).status().unwrap();
        assert!(status.success());
        plain.push(begun.elapsed());
        let state = tempfile::tempdir().unwrap();
        ours.push(hundred_missions(objective, width, state.path()).await);
        kept.push(state);
        shares.push(100.0 * plain[plain.len() - 1].as_secs_f64() / ours[ours.len() - 1].as_secs_f64());
    }
    shares.sort_by(f64::total_cmp);
    println!(
        "100 missions of {objective:?}: {:?}, xargs -P {width} {:?}: {:.0} % of its speed (wanted 60; {:.0} to {:.0} in {} rounds)",
        median(ours),
        median(plain),
        shares[shares.len() / 2],
        shares[0],
        shares[shares.len() - 1],
        shares.len()
    );
}

async fn hundred_missions(objective: &str, width: usize, state: &Path) -> Duration {
    let workspace = tempfile::tempdir().unwrap();
    let roster = roster(state, workspace.path(), width);
    let begun = Instant::now();
    let names: Vec<String> = (0..100).map(|number| format!("m{number}")).collect();
    futures_util::future::join_all(names.iter().map(|name| dispatch(&roster, name, objective))).await;
    while !roster.live().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    begun.elapsed()
}

async fn flood() {
    let (state, workspace) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = workspace.path().join("data");
    let line = "the quick brown fox jumps over the lazy dog 0123456789\n".repeat(20_000);
    let bytes: Vec<u8> = line.bytes().cycle().take(1 << 30).collect();
    std::fs::write(&file, bytes).unwrap();
    let command = format!("cat {}", file.display());
    let plain = {
        let begun = Instant::now();
        let (mut pty, pts) = pty_process::blocking::open().unwrap();
        let mut child =
            pty_process::blocking::Command::new("/bin/sh").args(["-c", &command]).spawn(pts).unwrap();
        let mut buffer = vec![0; 65_536];
        while pty.read(&mut buffer).is_ok_and(|read| read > 0) {}
        child.wait().unwrap();
        begun.elapsed()
    };
    let roster = roster(state.path(), workspace.path(), 1);
    let begun = Instant::now();
    dispatch(&roster, "flood", &command).await;
    let mut peak = 0;
    while !roster.live().is_empty() {
        peak = peak.max(resident(std::process::id()));
        for member in aiwg_rs::executor::process_tree::descendants(std::process::id()) {
            peak = peak.max(resident(member.pid));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let ours = begun.elapsed();
    println!(
        "1 GiB through a terminal: {ours:?}, plain {plain:?}: {:.2} (allowed 2), at most {} MB resident in a runner",
        ours.as_secs_f64() / plain.as_secs_f64(),
        peak / 1024
    );
}

/// Returns the resident size of one of our runners in kB; the benchmark itself holds the data and does not count.
fn resident(pid: u32) -> u64 {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if !line.contains("executor-runner") {
        return 0;
    }
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_ascii_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |word: &str| words.is_empty() || words.iter().any(|wanted| wanted == word);
    if is_wanted("hundred") {
        for objective in ["true", "sleep 0.1", "git --version"] {
            hundred(objective).await;
        }
    }
    if is_wanted("ports") {
        port_block().await;
    }
    if is_wanted("worktree") {
        worktree().await;
    }
    if is_wanted("start") {
        started().await;
    }
    if is_wanted("flood") {
        flood().await;
    }
}
