//! Command: the registry under load, beside a bare server that answers the same requests and does nothing.
//!
//! `cargo bench --bench registry`. The registry is the real binary in a process of its own, with its store on the disk of the
//! temporary folder; callers, the executor and the observers are in this process. The executor answers 202 from raw sockets.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement that cannot go on must end loudly; it prints its figures; its peers are no tasks of the program"
)]

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

const EXECUTOR: &str = "0b7e0c1e-8a53-4c7e-9d52-6f0e5f3f9a11";
const CALLERS: usize = 64;

struct Registry {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Registry {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = probe.local_addr().unwrap().to_string();
        drop(probe);
        let child = Command::new(env!("CARGO_BIN_EXE_aiwg-rs"))
            .args(["serve", "--bind", &address, "--log", "error", "--state-dir"])
            .arg(folder.path())
            .arg("--identity-store")
            .arg(folder.path().join("ids.json"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while TcpStream::connect(&address).await.is_err() {
            assert!(started.elapsed() < Duration::from_secs(10), "the registry does not start");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Self { child, address, _folder: folder }
    }

    /// User and system time of the process so far.
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<u64> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .filter_map(|field| field.parse().ok())
            .collect();
        // Without pid, name and state, user time is the eleventh field; a tick is 10 ms.
        Duration::from_millis((fields[10] + fields[11]) * 10)
    }

    fn resident_mb(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096 / 1_000_000
    }
}

/// A keep-alive connection that writes requests as text and reads the status and the body.
struct Caller {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Caller {
    async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::with_capacity(4096) }
    }

    async fn post(&mut self, path: &str, body: &str) -> (u16, Value) {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await.unwrap();
        self.buffer.clear();
        loop {
            assert_ne!(self.stream.read_buf(&mut self.buffer).await.unwrap(), 0, "cut");
            if let Some((head, length)) = head(&self.buffer)
                && self.buffer.len() >= head + length
            {
                let status = std::str::from_utf8(&self.buffer[9..12]).unwrap().parse().unwrap();
                return (
                    status,
                    serde_json::from_slice(&self.buffer[head..head + length]).unwrap_or(Value::Null),
                );
            }
        }
    }
}

/// Returns the length of the head and of the body, once the head is complete.
fn head(buffer: &[u8]) -> Option<(usize, usize)> {
    let end = buffer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&buffer[..end]).unwrap().to_ascii_lowercase();
    let length =
        text.lines().find_map(|line| line.strip_prefix("content-length:").map(|n| n.trim().parse().unwrap()));
    Some((end, length.unwrap_or(0)))
}

/// Answers every request on a socket with 202.
async fn answer_everything(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = Vec::with_capacity(4096);
    let body = r#"{"status":"accepted"}"#;
    let answer = format!(
        "HTTP/1.1 202 Accepted\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    while matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
        while let Some((head, length)) = head(&buffer)
            && buffer.len() >= head + length
        {
            buffer.drain(..head + length);
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

async fn bare_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer_everything(stream));
        }
    });
    address
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<TcpStream>>;

async fn executor(registry: &Registry) -> Socket {
    let rest = bare_server().await;
    let registration = json!({
        "executor_id": EXECUTOR, "name": "bench", "version": "1", "spec_version": "1.0.0", "capabilities": [],
        "transport_endpoints": {"rest": format!("http://{rest}"), "ws": format!("ws://{rest}")}
    });
    let mut caller = Caller::connect(&registry.address).await;
    let (status, answer) = caller.post("/api/v1/executors/register", &registration.to_string()).await;
    assert_eq!(status, 201, "{answer}");
    let token = answer["token"].as_str().unwrap();
    let url = format!("ws://{}/ws/executors/{EXECUTOR}?token={token}", registry.address);
    let mut socket = tokio_tungstenite::connect_async(url).await.unwrap().0;
    socket.send(frame("executor.resync", None, &json!({"owned_mission_ids": []}))).await.unwrap();
    socket
}

fn frame(event: &str, mission: Option<&str>, data: &Value) -> Message {
    let mut frame =
        json!({"event": event, "executor_id": EXECUTOR, "ts": "2026-01-01T00:00:00.000Z", "data": data});
    if let Some(mission) = mission {
        frame["mission_id"] = mission.into();
    }
    Message::Text(frame.to_string().into())
}

fn order(mission: &str) -> String {
    json!({
        "mission_id": mission, "objective": "make the build green and say what was wrong", "completion": "tests pass",
        "long_running": false, "executor_filter": {"executor_id": null, "capabilities": []},
        "metadata": {"mc_session_id": "bench", "mode": "direct", "priority": "normal"}
    })
    .to_string()
}

struct Load {
    rate: f64,
    p50: Duration,
    p99: Duration,
}

/// Dispatches `count` missions over 64 connections.
async fn load(address: &str, from: usize, count: usize) -> Load {
    let next = Arc::new(AtomicUsize::new(from));
    let started = Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (next, address) = (Arc::clone(&next), address.to_owned());
            tokio::spawn(async move {
                let mut caller = Caller::connect(&address).await;
                let mut took = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= from + count {
                        return took;
                    }
                    let body = order(&format!("m-{number:08}"));
                    let asked = Instant::now();
                    let (status, answer) = caller.post("/api/v1/sessions/bench/dispatch", &body).await;
                    assert_eq!(status, 202, "{answer}");
                    took.push(asked.elapsed());
                }
            })
        })
        .collect();
    let mut took = Vec::with_capacity(count);
    for caller in callers {
        took.extend(caller.await.unwrap());
    }
    let elapsed = started.elapsed();
    took.sort_unstable();
    let rate = f64::from(u32::try_from(count).unwrap()) / elapsed.as_secs_f64();
    Load { rate, p50: took[count / 2], p99: took[count * 99 / 100] }
}

async fn dispatches() {
    let bare = load(&bare_server().await, 0, 20_000).await;
    println!(
        "bare server, no work        {:>8.0}/s  p50 {:>8.2?}  p99 {:>8.2?}",
        bare.rate, bare.p50, bare.p99
    );
    let registry = Registry::start().await;
    let _line = executor(&registry).await;
    load(&registry.address, 0, 2_000).await;
    let before = registry.cpu();
    let count = 20_000;
    let durable = load(&registry.address, 2_000, count).await;
    let cpu = registry.cpu().saturating_sub(before) / u32::try_from(count).unwrap();
    println!(
        "durable dispatch, 64 callers {:>7.0}/s  p50 {:>8.2?}  p99 {:>8.2?}  cpu {cpu:.2?} each  {} MB resident",
        durable.rate,
        durable.p50,
        durable.p99,
        registry.resident_mb()
    );
}

async fn events() {
    const COUNT: usize = 100_000;
    const OBSERVERS: usize = 10;
    let registry = Registry::start().await;
    let mut line = executor(&registry).await;
    load(&registry.address, 0, 1).await;
    let mut watching = Vec::new();
    for _ in 0..OBSERVERS {
        let url = format!("ws://{}/ws/executors/{EXECUTOR}?role=observer", registry.address);
        let mut observer = tokio_tungstenite::connect_async(url).await.unwrap().0;
        line.send(frame("mission.progress", Some("m-00000000"), &json!({"summary": "first"}))).await.unwrap();
        while !observer.next().await.unwrap().unwrap().is_text() {}
        watching.push(tokio::spawn(async move {
            let (mut seen, mut missed) = (0, 0);
            while let Some(Ok(message)) = observer.next().await {
                let Ok(text) = message.to_text() else { continue };
                if text.contains("observer.gap") {
                    let gap: Value = serde_json::from_str(text).unwrap();
                    missed += usize::try_from(gap["data"]["missed"].as_u64().unwrap()).unwrap();
                }
                seen += usize::from(text.contains("\"last\"") || text.contains("\"step\""));
                if text.contains("\"last\"") {
                    break;
                }
            }
            (seen, missed)
        }));
    }
    let before = registry.cpu();
    let started = Instant::now();
    let step = frame("mission.progress", Some("m-00000000"), &json!({"summary": "step", "iteration": 7}));
    for _ in 1..COUNT {
        line.feed(step.clone()).await.unwrap();
    }
    line.send(frame("mission.progress", Some("m-00000000"), &json!({"summary": "last"}))).await.unwrap();
    let mut missed = 0;
    for observer in watching {
        missed += observer.await.unwrap().1;
    }
    let elapsed = started.elapsed();
    let rate = f64::from(u32::try_from(COUNT).unwrap()) / elapsed.as_secs_f64();
    let cpu = registry.cpu().saturating_sub(before) / u32::try_from(COUNT).unwrap();
    println!(
        "events stored, 10 observers  {rate:>7.0}/s  cpu {cpu:.2?} each, {missed} missed by slow observers"
    );
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        dispatches().await;
        events().await;
    });
}
