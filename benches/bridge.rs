//! What the bridge costs, each figure beside a plain baseline measured in the same run.
//!
//! `cargo bench --bench bridge` runs everything; names after `--` choose: `latency`, `backlog`, `idle`, `large`, `start`;
//! numbers among them replace the session counts of `backlog`.
//! The bridge is the real binary in a process of its own; the registry is a server that says 202 and nothing else.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot set itself up has nothing to say")]
#![expect(clippy::print_stdout, reason = "the table is the result")]
#![expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people"
)]
#![expect(clippy::disallowed_methods, reason = "threads, clocks and renames of its own, outside the program")]

use aiwg_rs::disk::fsync::FsyncPolicy;
use aiwg_rs::domain::id::SessionId;
use aiwg_rs::session::edits::{Edits, MissionPatch};
use aiwg_rs::session::store::SessionStore;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

const EXECUTOR: &str = "0b7e0c1e-8a53-4c7e-9d52-6f0e5f3f9a11";
const MISSIONS: usize = 10_000;
const IN_FLIGHT: usize = 64;
/// How often each backlog is run.
const ROUNDS: usize = 5;

fn main() {
    let chosen: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |name: &str| chosen.is_empty() || chosen.iter().any(|choice| choice == name);
    let server = Server::start();
    if wanted("latency") {
        for sessions in [1, 10_000] {
            latency(&server, sessions);
        }
    }
    if wanted("backlog") {
        let given: Vec<usize> = chosen.iter().filter_map(|choice| choice.parse().ok()).collect();
        for sessions in if given.is_empty() { vec![1, 100, 5_000] } else { given } {
            backlog(&server, sessions);
        }
    }
    if wanted("large") {
        large(&server);
    }
    if wanted("start") {
        start(&server);
    }
    if wanted("idle") {
        idle(&server);
    }
}

/// Makes a folder in a part of the disk of its own, where the file system can be asked for that.
///
/// An ext4 without a journal gives out no inode that was given back within the last minutes, and looks at each of those
/// nearby whenever a file is made. Without this every measurement would pay for the files that the last one removed, or a
/// build or the tests before it.
fn fresh_folder() -> tempfile::TempDir {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR")).join("apart");
    fs::create_dir_all(&parent).unwrap();
    let directory = fs::File::open(&parent).unwrap();
    if let Ok(flags) = ioctl_getflags(&directory) {
        // Not every file system has this; then there is no such place.
        ioctl_setflags(&directory, flags | IFlags::TOPDIR).ok();
    }
    tempfile::tempdir_in(parent).unwrap()
}

/// Answers every dispatch with 202 and tells when it came.
struct Server {
    url: String,
    arrivals: Arc<Mutex<Receiver<(Instant, String)>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (tell, arrivals): (Sender<(Instant, String)>, _) = channel();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let dispatch = move |headers: axum::http::HeaderMap, _body: axum::body::Bytes| {
            let arrived = Instant::now();
            let key =
                headers.get("idempotency-key").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
            let body = format!(
                "{{\"mission_id\":\"{key}\",\"executor_id\":\"{EXECUTOR}\",\"status\":\"assigned\"}}"
            );
            tell.send((arrived, key)).unwrap();
            async move { (axum::http::StatusCode::ACCEPTED, [("content-type", "application/json")], body) }
        };
        let live = format!(
            "{{\"mission_id\":\"m\",\"executor_id\":\"{EXECUTOR}\",\"state\":\"assigned\",\"recent_events\":[]}}"
        );
        let router = axum::Router::new()
            .route("/api/v1/sessions/{session}/dispatch", axum::routing::post(dispatch))
            .route("/api/v1/missions/{mission}", axum::routing::get(move || async move { live.clone() }));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { url, arrivals: Arc::new(Mutex::new(arrivals)), _runtime: runtime }
    }

    fn next(&self) -> (Instant, String) {
        self.arrivals.lock().unwrap().recv_timeout(Duration::from_secs(60)).unwrap()
    }

    fn forget(&self) {
        while self.arrivals.lock().unwrap().try_recv().is_ok() {}
    }
}

struct Bridge(Child);

impl Bridge {
    fn start(folder: &Path, server: &Server, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aiwg-rs"));
        command
            .args(["mc", "bridge", "--log", "error", "--no-ws", "--serve-url", &server.url, "--watch-dir"])
            .arg(folder);
        Self(command.args(more).stdout(Stdio::null()).spawn().unwrap())
    }

    fn wait(mut self) {
        assert!(self.0.wait().unwrap().success());
    }

    fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn mission(id: &str, status: &str) -> String {
    format!(
        "    {{\n      \"id\": \"{id}\",\n      \"objective\": \"bring the changelog of module {id} up to date\",\n      \
         \"completion\": null,\n      \"status\": \"{status}\",\n      \"loop\": 0,\n      \"maxIterations\": 10,\n      \
         \"priority\": \"normal\",\n      \"mode\": \"direct\"\n    }}"
    )
}

fn session_text(id: &str, missions: &[String]) -> String {
    format!(
        "{{\n  \"id\": \"{id}\",\n  \"name\": \"bench\",\n  \"state\": \"active\",\n  \"maxMissions\": 20000,\n  \"missions\": [\n{}\n  ]\n}}\n",
        missions.join(",\n")
    )
}

fn put(folder: &Path, id: &str, text: &str) {
    let directory = folder.join("sessions").join(id);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(".new.tmp"), text).unwrap();
    fs::rename(directory.join(".new.tmp"), directory.join("session.json")).unwrap();
}

/// Idle sessions with ten ended missions each.
fn fill(folder: &Path, sessions: usize) {
    for n in 0..sessions {
        let missions: Vec<String> = (0..10).map(|m| mission(&format!("old-{n}-{m}"), "done")).collect();
        put(folder, &format!("idle-{n}"), &session_text(&format!("idle-{n}"), &missions));
    }
}

fn quantiles(samples: &mut [Duration]) -> (Duration, Duration, Duration) {
    samples.sort();
    let at = |q: f64| samples[((samples.len() - 1) as f64 * q) as usize];
    (at(0.5), at(0.99), at(1.0))
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// From the rename of a session.json to the request at the server.
fn latency(server: &Server, sessions: usize) {
    const SAMPLES: usize = 400;
    let folder = fresh_folder();
    fill(folder.path(), sessions - 1);
    put(folder.path(), "busy", &session_text("busy", &[mission("warm", "queued")]));
    let bridge = Bridge::start(folder.path(), server, &[]);
    server.next();
    std::thread::sleep(Duration::from_secs(3));
    let mut samples = Vec::new();
    for n in 0..SAMPLES {
        let id = format!("m-{n}");
        let text = session_text("busy", &[mission(&id, "queued")]);
        let directory = folder.path().join("sessions/busy");
        fs::write(directory.join(".new.tmp"), text).unwrap();
        let renamed = Instant::now();
        fs::rename(directory.join(".new.tmp"), directory.join("session.json")).unwrap();
        let (arrived, key) = server.next();
        assert_eq!(key, id);
        samples.push(arrived - renamed);
        std::thread::sleep(Duration::from_millis(8));
    }
    drop(bridge);
    let (p50, p99, max) = quantiles(&mut samples);
    println!(
        "latency, {sessions:>6} sessions          p50 {:6.2} ms   p99 {:6.2} ms   max {:6.2} ms",
        ms(p50),
        ms(p99),
        ms(max)
    );
    let (p50, p99, max) = quantiles(&mut bare_latency(server, SAMPLES));
    println!(
        "  bare inotify, append + fsync, POST p50 {:6.2} ms   p99 {:6.2} ms   max {:6.2} ms",
        ms(p50),
        ms(p99),
        ms(max)
    );
}

/// The least that can be done: be told, read, put one line on the disk, send.
fn bare_latency(server: &Server, count: usize) -> Vec<Duration> {
    use notify::Watcher as _;
    let folder = fresh_folder();
    let (tell, told) = channel();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| {
            event.paths.iter().any(|path| path.ends_with("session.json")) && event.kind.is_modify()
        }) {
            tell.send(()).ok();
        }
    })
    .unwrap();
    watcher.watch(folder.path(), notify::RecursiveMode::NonRecursive).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    aiwg_rs::net::http::install_tls();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/api/v1/sessions/s/dispatch", server.url);
    let mut log = fs::OpenOptions::new().create(true).append(true).open(folder.path().join("log")).unwrap();
    let mut samples = Vec::new();
    for _ in 0..count {
        fs::write(folder.path().join(".new.tmp"), session_text("s", &[mission("m", "queued")])).unwrap();
        let renamed = Instant::now();
        fs::rename(folder.path().join(".new.tmp"), folder.path().join("session.json")).unwrap();
        told.recv_timeout(Duration::from_secs(5)).unwrap();
        let body = fs::read(folder.path().join("session.json")).unwrap();
        log.write_all(b"one line of the journal, about as long as one of ours is, give or take\n").unwrap();
        log.sync_data().unwrap();
        runtime.block_on(async { client.post(&url).body(body).send().await.unwrap().bytes().await.unwrap() });
        samples.push(server.next().0 - renamed);
        while told.try_recv().is_ok() {}
    }
    samples
}

/// Everything queued, dispatched and written back, against the slower of two bare loops: so many rounds of each, one after
/// the other, and the middle one counts. The folders stay until the end: a file system without a journal looks for a free
/// inode among those that were just given back, and the next round would pay for the last one's.
fn backlog(server: &Server, sessions: usize) {
    let folders: Vec<tempfile::TempDir> = (0..ROUNDS).map(|_| fresh_folder()).collect();
    let mut rounds: Vec<Round> =
        folders.iter().map(|folder| Round::run(server, folder.path(), sessions)).collect();
    rounds.sort_by(|a, b| a.share().total_cmp(&b.share()));
    let middle = &rounds[ROUNDS / 2];
    let rate = |duration: Duration| MISSIONS as f64 / duration.as_secs_f64();
    println!(
        "backlog of {MISSIONS} in {sessions:>4} sessions  {:7.2} s  {:6.0}/s = {:3.0} % of the slower bare loop ({:.0} to {:.0} in {ROUNDS} rounds)",
        middle.took.as_secs_f64(),
        rate(middle.took),
        middle.share(),
        rounds[0].share(),
        rounds[ROUNDS - 1].share()
    );
    println!(
        "  first request after {:.0} ms, last after {:.0} ms; written {:.1} x the final size",
        ms(middle.first),
        ms(middle.last),
        middle.written
    );
    println!(
        "  bare POSTs, {IN_FLIGHT} at a time         {:7.2} s  {:6.0}/s",
        middle.posts.as_secs_f64(),
        rate(middle.posts)
    );
    println!("  bare durable replace per session {:7.2} s", middle.replaces.as_secs_f64());
}

/// One backlog, and the bare loops beside it.
struct Round {
    took: Duration,
    first: Duration,
    last: Duration,
    posts: Duration,
    replaces: Duration,
    /// Bytes of `session.json` written, by the final size.
    written: f64,
}

impl Round {
    fn run(server: &Server, folder: &Path, sessions: usize) -> Self {
        let per_session = MISSIONS / sessions;
        for s in 0..sessions {
            let missions: Vec<String> =
                (0..per_session).map(|m| mission(&format!("m-{s}-{m}"), "queued")).collect();
            put(folder, &format!("s-{s}"), &session_text(&format!("s-{s}"), &missions));
        }
        Command::new("sync").status().unwrap();
        server.forget();
        let (began, started) = (SystemTime::now(), Instant::now());
        let in_flight = IN_FLIGHT.to_string();
        Bridge::start(folder, server, &["--once", "--max-inflight", &in_flight]).wait();
        let files: Vec<PathBuf> =
            (0..sessions).map(|s| folder.join(format!("sessions/s-{s}/session.json"))).collect();
        let ended = files.iter().map(|file| fs::metadata(file).unwrap().modified().unwrap()).max().unwrap();
        let mut final_bytes = 0;
        for file in &files {
            let text = fs::read_to_string(file).unwrap();
            final_bytes += text.len();
            assert!(!text.contains("\"queued\""), "{} is not written back", file.display());
        }
        let arrivals: Vec<Instant> =
            server.arrivals.lock().unwrap().try_iter().map(|(arrived, _)| arrived).collect();
        assert_eq!(arrivals.len(), MISSIONS);
        let status: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.join("bridge-status.json")).unwrap()).unwrap();
        Self {
            took: ended.duration_since(began).unwrap(),
            first: *arrivals.iter().min().unwrap() - started,
            last: *arrivals.iter().max().unwrap() - started,
            posts: bare_posts(server),
            replaces: bare_replaces(&files),
            written: status["writtenBytes"].as_u64().unwrap() as f64 / final_bytes as f64,
        }
    }

    /// In per cent of what the slower bare loop does in the same time.
    fn share(&self) -> f64 {
        100.0 * self.posts.max(self.replaces).as_secs_f64() / self.took.as_secs_f64()
    }
}

fn bare_posts(server: &Server) -> Duration {
    aiwg_rs::net::http::install_tls();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let client = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build().unwrap();
    let url = format!("{}/api/v1/sessions/s/dispatch", server.url);
    let body = format!(
        "{{\"mission_id\":\"m-1-1\",\"objective\":\"bring the changelog of module m-1-1 up to date\",\"completion\":\"{}\",\
         \"long_running\":false,\"executor_filter\":{{\"executor_id\":null,\"capabilities\":[]}},\"metadata\":{{\"mc_session_id\":\
         \"s-1\",\"mode\":\"direct\",\"priority\":\"normal\"}}}}",
        aiwg_rs::protocol::executor_v1::DEFAULT_COMPLETION
    );
    let started = Instant::now();
    runtime.block_on(async {
        let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let workers: Vec<_> = (0..IN_FLIGHT)
            .map(|_| {
                let (client, url, body, next) =
                    (client.clone(), url.clone(), body.clone(), Arc::clone(&next));
                tokio::spawn(async move {
                    while next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < MISSIONS {
                        let request = client.post(&url).header("idempotency-key", "k").body(body.clone());
                        request.send().await.unwrap().bytes().await.unwrap();
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.await.unwrap();
        }
    });
    let took = started.elapsed();
    server.forget();
    took
}

fn bare_replaces(files: &[PathBuf]) -> Duration {
    let contents: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let started = Instant::now();
    for (file, content) in files.iter().zip(contents) {
        let directory = file.parent().unwrap();
        let temporary = directory.join(".bare.tmp");
        let mut new = fs::File::create(&temporary).unwrap();
        new.write_all(&content).unwrap();
        new.sync_all().unwrap();
        fs::rename(&temporary, file).unwrap();
        fs::File::open(directory).unwrap().sync_all().unwrap();
    }
    started.elapsed()
}

/// One status change in a session of ten thousand missions, and what it does to another session meanwhile.
fn large(server: &Server) {
    const ROUNDS: usize = 40;
    let folder = fresh_folder();
    let missions: Vec<String> = (0..MISSIONS).map(|m| mission(&format!("m-{m}"), "done")).collect();
    put(folder.path(), "large", &session_text("large", &missions));
    let store = SessionStore::new(folder.path(), FsyncPolicy::Batch);
    let session = SessionId::new("large").unwrap();
    let mut samples = Vec::new();
    for n in 0..ROUNDS {
        let started = Instant::now();
        let updated = store
            .update(&session, &mut |document| {
                let mut edits = Edits::new();
                let state = if n % 2 == 0 { "running" } else { "done" };
                edits.patch_mission(format!("m-{}", n * 200), MissionPatch::new().with_str("status", state));
                document.apply(&edits)
            })
            .unwrap();
        assert!(updated.wrote || n % 2 == 1);
        samples.push(started.elapsed());
    }
    let (p50, p99, max) = quantiles(&mut samples);
    println!(
        "one change among {MISSIONS} missions      p50 {:6.2} ms   p99 {:6.2} ms   max {:6.2} ms",
        ms(p50),
        ms(p99),
        ms(max)
    );
    let file = folder.path().join("sessions/large/session.json");
    let mut samples: Vec<Duration> =
        (0..ROUNDS).map(|_| bare_replaces(std::slice::from_ref(&file))).collect();
    let (p50, p99, max) = quantiles(&mut samples);
    println!(
        "  bare durable replace of the file   p50 {:6.2} ms   p99 {:6.2} ms   max {:6.2} ms",
        ms(p50),
        ms(p99),
        ms(max)
    );

    let missions: Vec<String> = (0..MISSIONS).map(|m| mission(&format!("q-{m}"), "queued")).collect();
    put(folder.path(), "small", &session_text("small", &[]));
    server.forget();
    let bridge = Bridge::start(folder.path(), server, &[]);
    std::thread::sleep(Duration::from_secs(1));
    put(folder.path(), "large", &session_text("large", &missions));
    let mut samples = Vec::new();
    server.next();
    let mut from_large = 1;
    for n in 0..20 {
        let id = format!("small-{n}");
        put(folder.path(), "small", &session_text("small", &[mission(&id, "queued")]));
        let renamed = Instant::now();
        loop {
            let (arrived, key) = server.next();
            if key == id {
                samples.push(arrived.saturating_duration_since(renamed));
                break;
            }
            from_large += 1;
        }
    }
    drop(bridge);
    let (p50, p99, max) = quantiles(&mut samples);
    println!(
        "  another session's mission while {from_large} of the large one's go out: p50 {:.2} ms   p99 {:.2} ms   max {:.2} ms",
        ms(p50),
        ms(p99),
        ms(max)
    );
    server.forget();
}

/// From exec to the first dispatch, with a long history in the folder.
fn start(server: &Server) {
    let folder = fresh_folder();
    fill(folder.path(), 10_000);
    put(folder.path(), "zz-last", &session_text("zz-last", &[mission("waiting", "queued")]));
    server.forget();
    let started = Instant::now();
    let bridge = Bridge::start(folder.path(), server, &[]);
    let (arrived, _) = server.next();
    println!(
        "start, 10,000 sessions, 100,000 ended missions: first dispatch after {:.0} ms",
        ms(arrived - started)
    );
    drop(bridge);
    let started = Instant::now();
    let mut total = 0;
    for entry in fs::read_dir(folder.path().join("sessions")).unwrap() {
        total += fs::read(entry.unwrap().path().join("session.json")).unwrap().len();
    }
    println!("  bare read of every file ({} MB): {:.0} ms", total / 1_000_000, ms(started.elapsed()));
}

/// What an idle bridge over many sessions holds and burns.
fn idle(server: &Server) {
    const WINDOW: Duration = Duration::from_secs(65);
    let folder = fresh_folder();
    fill(folder.path(), 10_000);
    let bridge = Bridge::start(folder.path(), server, &[]);
    std::thread::sleep(Duration::from_secs(5));
    let before = bridge.cpu();
    std::thread::sleep(WINDOW);
    let burnt = bridge.cpu().saturating_sub(before);
    let mut line = String::new();
    write!(line, "idle, 10,000 sessions: {:.1} MiB resident, ", bridge.resident_kib() as f64 / 1024.0)
        .unwrap();
    write!(
        line,
        "{:.2} % of one core over {} s",
        100.0 * burnt.as_secs_f64() / WINDOW.as_secs_f64(),
        WINDOW.as_secs()
    )
    .unwrap();
    println!("{line}");
    drop(bridge);
    let bare = Command::new(env!("CARGO_BIN_EXE_aiwg-rs"))
        .args(["mc", "bridge", "--log", "error", "--watch-dir"])
        .arg(fresh_folder().path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let bare = Bridge(bare);
    std::thread::sleep(Duration::from_secs(2));
    println!("  the same over no folder at all: {:.1} MiB resident", bare.resident_kib() as f64 / 1024.0);
}
