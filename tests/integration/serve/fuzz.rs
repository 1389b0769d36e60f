//! Whatever arrives: ten thousand made-up requests and frames, or as many as `AIWG_RS_FUZZ_CASES` says, against a registry in a process
//! of its own. It must answer each as its OpenAPI document says, blame itself for none, drop what it cannot use, and stay small.
//!
//! `AIWG_RS_FUZZ_SEED` repeats a run. Nothing that is made up here leads the registry to another host: it never dials, and the
//! addresses that it is told lead to a closed port of this one.

use super::peer::{Peer, Serve, Socket, id, order, soon, spawn};
use crate::support::dice::Dice;
use crate::support::role::{Process, report};
use aiwg_rs::protocol::route;
use aiwg_rs::registry::{Config, server};
use aiwg_rs::runtime::shutdown::Shutdown;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const WORKERS: u64 = 4;

/// Most memory that the registry may ever have had. It starts with 20 MiB, and a bounded number of missions stay in memory.
const MAX_RESIDENT_KIB: u64 = 512 << 10;

/// The process under test.
pub(crate) fn serve_for_ever(folder: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        aiwg_rs::net::http::install_tls();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        report(listener.local_addr().unwrap().port().into());
        let config = Config {
            state_dir: Some(folder.to_owned()),
            identity_file: Some(folder.join("ids.json")),
            dial_after: Duration::from_secs(86_400),
            ..Config::default()
        };
        server::run(listener, config, Shutdown::new()).await.unwrap();
    });
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_arrives_is_answered_as_described_and_nothing_breaks() {
    let cases = number("AIWG_RS_FUZZ_CASES", 10_000);
    let seed = number("AIWG_RS_FUZZ_SEED", u64::from(std::process::id()));
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start("registry", folder.path());
    let port = process.next_report().unwrap();
    let serve = Arc::new(Serve::elsewhere(format!("http://127.0.0.1:{port}")));
    let document = Arc::new(serve.get("/api/v1/openapi.json").await.body);
    let started = std::time::Instant::now();
    let workers = (0..WORKERS).map(|worker| {
        let (serve, document) = (Arc::clone(&serve), Arc::clone(&document));
        spawn(async move {
            let dice = Dice::new(seed.wrapping_mul(WORKERS).wrapping_add(worker));
            Box::pin(Fuzz::begin(serve, document, dice, worker)).await.run(cases / WORKERS).await
        })
    });
    let mut counts = std::collections::BTreeMap::<String, u64>::new();
    for worker in workers {
        let made = worker.await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        for (kind, count) in made {
            *counts.entry(kind).or_default() += count;
        }
    }
    let resident = resident_kib(process.id());
    println!(
        "{cases} cases of seed {seed} in {:?}, at most {resident} KiB resident: {counts:?}",
        started.elapsed()
    );
    assert!(resident < MAX_RESIDENT_KIB, "seed {seed}: {resident} KiB resident");
    assert_eq!(serve.get("/api/ready").await.status, 200, "seed {seed}");
    let metrics =
        serve.http.get(format!("{}/metrics", serve.base)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("aiwg_frames_dropped_total{"), "bad frames are counted: {metrics}");
    process.kill();
}

/// The most memory that a process has had.
fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A refusal says what it is, and blames the registry for nothing that a client did.
fn check_problem(status: u16, answer: &str, shown: &str) {
    let problem: Value =
        serde_json::from_str(answer).unwrap_or_else(|_| panic!("{status} {answer}: {shown}"));
    let word = problem["error"].as_str().unwrap();
    assert!(problem["detail"].is_string() && problem["status"] == status, "{problem}");
    let is_of_the_contract = match status {
        503 => ["no_executor_available", "no_resumable_executor_available", "executor_not_connected"]
            .contains(&word),
        502 => ["executor_unreachable", "executor_forward_failed"].contains(&word),
        _ => status < 500,
    };
    assert!(is_of_the_contract, "{status} {word}: {shown}");
}

struct Fuzz {
    serve: Arc<Serve>,
    document: Arc<Value>,
    dice: Dice,
    worker: u64,
    peer: Peer,
    line: Socket,
    observer: Socket,
    connection: Option<TcpStream>,
    counts: std::collections::BTreeMap<String, u64>,
}

/// Bits of text that have broken programs before.
const SNIPPETS: [&str; 24] = [
    "",
    " ",
    "\0",
    "\u{7f}",
    "'",
    "\"",
    "\\",
    "%00",
    "%",
    "../",
    "{}",
    "[]",
    "null",
    "-1",
    "1e999",
    "18446744073709551616",
    "é",
    "\u{202e}",
    "😀",
    "a,b",
    "%ff",
    "\r\n",
    "0",
    "true",
];

const EVENTS: [&str; 18] = [
    "executor.registered",
    "executor.deregistered",
    "executor.resync",
    "mission.assigned",
    "mission.started",
    "mission.progress",
    "mission.hitl_required",
    "mission.hitl_responded",
    "mission.paused",
    "mission.resumed",
    "mission.suspended",
    "mission.reconnected",
    "mission.completed",
    "mission.failed",
    "mission.aborted",
    "x.unknown",
    "executor.draining",
    "executor.ready",
];

impl Fuzz {
    async fn begin(serve: Arc<Serve>, document: Arc<Value>, dice: Dice, worker: u64) -> Self {
        let number = u32::try_from(worker).unwrap() + 1;
        let (peer, line) = Peer::connected(&serve, number, &["hitl", "resumable"]).await;
        let observer = serve.socket(&peer.id, "?role=observer").await;
        let counts = std::collections::BTreeMap::new();
        Self { serve, document, dice, worker, peer, line, observer, connection: None, counts }
    }

    async fn run(mut self, cases: u64) -> std::collections::BTreeMap<String, u64> {
        for case in 0..cases {
            let kind = match self.dice.below(100) {
                0..55 => self.request().await,
                55..60 => self.garbage().await,
                60..88 => self.frame().await,
                88..92 => self.raw_frames().await,
                92..99 => self.observer_speaks().await,
                _ => self.stream().await,
            };
            *self.counts.entry(kind).or_default() += 1;
            if case % 200 == 199 {
                self.line_still_works(case).await;
            }
        }
        self.line_still_works(cases).await;
        self.counts
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[usize::try_from(self.dice.below(from.len().try_into().unwrap())).unwrap()]
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.dice.below(chances) == 0
    }

    fn text(&mut self) -> String {
        match self.dice.below(8) {
            0 => "x".repeat(usize::try_from(self.dice.below(3_000)).unwrap()),
            1 => (0..self.dice.below(12))
                .map(|_| char::from_u32(u32::try_from(self.dice.below(0x2ff)).unwrap()).unwrap())
                .collect(),
            _ => self.pick(&SNIPPETS).to_owned(),
        }
    }

    fn mission(&mut self) -> String {
        if self.one_in(8) { self.text() } else { format!("m-{}-{}", self.worker, self.dice.below(60)) }
    }

    fn executor(&mut self) -> String {
        match self.dice.below(6) {
            0 => self.text(),
            1 => id(1_000 + u32::try_from(self.dice.below(50)).unwrap()),
            _ => self.peer.id.clone(),
        }
    }

    fn value(&mut self, depth: u64) -> Value {
        match self.dice.below(if depth == 0 { 6 } else { 8 }) {
            0 => Value::Null,
            1 => self.one_in(2).into(),
            2 => (i64::try_from(self.dice.below(1 << 30)).unwrap() - (1 << 29)).into(),
            3 => json!(1e300),
            4 | 5 => self.text().into(),
            6 => (0..self.dice.below(4)).map(|_| self.value(depth - 1)).collect(),
            _ => (0..self.dice.below(4))
                .map(|_| (self.text(), self.value(depth - 1)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }

    /// Changes a few values, however deep, to something else, and takes some out.
    fn mutated(&mut self, mut value: Value) -> Value {
        for _ in 0..self.dice.below(3) {
            self.change(&mut value);
        }
        value
    }

    fn change(&mut self, place: &mut Value) {
        let deeper = !self.one_in(3);
        match place {
            Value::Object(members) if deeper && !members.is_empty() => {
                let at = self.dice.below(members.len().try_into().unwrap());
                let key = members.keys().nth(at.try_into().unwrap()).unwrap().clone();
                if self.one_in(5) {
                    members.remove(&key);
                } else {
                    self.change(members.get_mut(&key).unwrap());
                }
            }
            Value::Array(items) if deeper && !items.is_empty() => {
                let at = self.dice.below(items.len().try_into().unwrap());
                self.change(&mut items[usize::try_from(at).unwrap()]);
            }
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)
            | Value::Object(_) => {
                *place = self.value(3);
            }
        }
    }

    /// Changes a few bytes.
    fn broken(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..=self.dice.below(4) {
            let at = usize::try_from(self.dice.below(u64::try_from(bytes.len()).unwrap() + 1)).unwrap();
            let byte = u8::try_from(self.dice.below(256)).unwrap();
            match self.dice.below(3) {
                0 => bytes.insert(at, byte),
                1 => bytes.truncate(at),
                _ => {
                    if let Some(place) = bytes.get_mut(at) {
                        *place = byte;
                    }
                }
            }
        }
        bytes
    }

    fn body(&mut self, path: &str) -> Vec<u8> {
        let body = if path.ends_with("/register") {
            let registration = json!({
                "executor_id": id(1_000 + u32::try_from(self.dice.below(50)).unwrap()), "name": "n", "version": "1",
                "spec_version": "1.0.0", "capabilities": ["hitl", "x-a"], "a2a_instance_id": "a",
                "transport_endpoints": {"rest": "http://127.0.0.1:1", "ws": "ws://127.0.0.1:1", "grpc": "g"}
            });
            // Only values are changed: a byte in an address could make another one of it.
            return self.mutated(registration).to_string().into_bytes();
        } else if path.ends_with("/hitl_response") {
            json!({"hitl_id": format!("h-{}", self.dice.below(3)), "response": self.text(), "text": "t"})
        } else {
            let mut order = order(&self.mission());
            order["executor_filter"]["executor_id"] = self.executor().into();
            if self.one_in(10) {
                order["metadata"]["aiwg_notify"] = "http://127.0.0.1:1/".into();
                return self.mutated(order).to_string().into_bytes();
            }
            if self.one_in(2) {
                order["executor_filter"]["executor_id"] = Value::Null;
            }
            order
        };
        let text = self.mutated(body).to_string();
        match self.dice.below(12) {
            0 => self.broken(text.into_bytes()),
            1 => format!("{}{text}{}", "[".repeat(500), "]".repeat(500)).into_bytes(),
            2 => vec![b' '; (1 << 20) + 1],
            3 => Vec::new(),
            _ => text.into_bytes(),
        }
    }

    /// The path of a route and perhaps a query, and the id that stands in it.
    fn target(&mut self, template: &str) -> (String, String) {
        let given = match template.split('/').nth(3).unwrap_or_default() {
            "executors" => self.executor(),
            "missions" => self.mission(),
            _ => format!("s-{}", self.dice.below(3)),
        };
        let given = if self.one_in(30) {
            self.pick(&["%ff", "%c3%28", ".", "..", "%2e%2e", "%"]).to_owned()
        } else {
            route::segment(&given)
        };
        let mut target = template.replace("{id}", &given);
        if self.one_in(3) {
            let names = ["state", "session", "executor", "since", "cursor", "limit", "x"];
            for mark in ["?", "&"].into_iter().take(usize::try_from(self.dice.below(3)).unwrap()) {
                let (name, value) = (self.pick(&names).to_owned(), self.text());
                target = format!("{target}{mark}{name}={}", route::segment(&value));
            }
        }
        (target, given)
    }

    /// The lines of a head after the first, without the length of the body.
    fn fields(&mut self, method: &str) -> String {
        let host = if self.one_in(40) { "evil.example" } else { "localhost" };
        let mut fields = vec![format!("host: {host}")];
        if method == "POST" {
            let odd = self.one_in(25);
            let kind =
                if odd { self.pick(&["text/plain", "", "application/json;a=b"]) } else { "application/json" };
            fields.push(format!("content-type: {kind}"));
        }
        for (chances, name) in
            [(15, "idempotency-key"), (40, "origin"), (12, "authorization"), (60, "last-event-id")]
        {
            if self.one_in(chances) {
                // Not to take itself out.
                let token = if method == "DELETE" { "x" } else { &self.peer.token };
                let bearer = format!("Bearer {token}");
                let text = self.text();
                let value =
                    self.pick(&[text.as_str(), bearer.as_str(), "null"]).replace(['\r', '\n', '\0'], "?");
                fields.push(format!("{name}: {value}"));
            }
        }
        fields.join("\r\n")
    }

    /// A request to a route of the document, nearly right.
    async fn request(&mut self) -> String {
        let document = Arc::clone(&self.document);
        let paths = document["paths"].as_object().unwrap();
        let at = self.dice.below(u64::try_from(paths.len()).unwrap());
        let template = paths.keys().nth(at.try_into().unwrap()).unwrap().clone();
        if template == "/api/v1/events" || template.starts_with("/ws/") {
            return self.stream().await;
        }
        let operations = paths[&template].as_object().unwrap();
        let mut method = operations.keys().next().unwrap().to_uppercase();
        if self.one_in(20) {
            method = self.pick(&["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]).to_owned();
        }
        let (target, given) = self.target(&template);
        let body = if method == "POST" { self.body(&template) } else { Vec::new() };
        let head = format!("{method} {target} HTTP/1.1\r\n{}\r\n", self.fields(&method));
        if self.one_in(50) {
            let request = self.broken(head.into_bytes());
            self.connection = None;
            self.exchange_to_end(&request).await;
            return "request, broken".to_owned();
        }
        let mut request = head.into_bytes();
        if !body.is_empty() && self.one_in(10) {
            request.extend_from_slice(
                format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n", body.len()).as_bytes(),
            );
            request.extend_from_slice(&body);
            request.extend_from_slice(b"\r\n0\r\n\r\n");
        } else {
            request.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
            request.extend_from_slice(&body);
        }
        let Some((status, answer)) = self.exchange(&request, method != "HEAD").await else {
            return "request, cut off".to_owned();
        };
        let operation = operations.get(&method.to_lowercase());
        let described = operation.map(|operation| !operation["responses"][status.to_string()].is_null());
        // What no longer leads to the route is nobody's.
        let elsewhere = given.is_empty() || given.contains(['.', '%']);
        let is_known = match described {
            Some(described) => described || elsewhere && matches!(status, 404 | 405),
            None => status < 500,
        };
        let shown = String::from_utf8_lossy(&request[..request.len().min(2_000)]).into_owned();
        // Below the routes: a head that HTTP itself does not allow.
        let is_malformed = status == 400 && answer.is_empty();
        assert!(is_known || is_malformed, "{status} is not described: {shown}\n{answer}");
        if status >= 400 && method != "HEAD" && !is_malformed {
            check_problem(status, &answer, &shown);
        }
        format!("request, {}xx", status / 100)
    }

    /// Sends a request on the connection that is kept, or a new one; `None` when that was closed without an answer.
    async fn exchange(&mut self, request: &[u8], expects_body: bool) -> Option<(u16, String)> {
        let address = self.serve.base.strip_prefix("http://").unwrap().to_owned();
        let mut stream = match self.connection.take() {
            Some(stream) => stream,
            None => soon(TcpStream::connect(address)).await.unwrap(),
        };
        // A registry that has refused the head does not read the body.
        soon(stream.write_all(request)).await.ok();
        let mut received = Vec::new();
        loop {
            if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&received[..end]).to_lowercase();
                let status: u16 = text.split(' ').nth(1).unwrap().parse().unwrap();
                let field = |name: &str| {
                    text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
                };
                let length = field("content-length:").map_or(0, |length| length.parse().unwrap());
                let wanted = end + 4 + if expects_body && status != 204 { length } else { 0 };
                while received.len() < wanted && soon(stream.read_buf(&mut received)).await.unwrap_or(0) > 0 {
                }
                let body = received.get(end + 4..).unwrap_or_default();
                if received.len() == wanted
                    && field("connection:").as_deref() != Some("close")
                    && status < 400
                {
                    self.connection = Some(stream);
                }
                return Some((status, String::from_utf8_lossy(body).into_owned()));
            }
            if soon(stream.read_buf(&mut received)).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Sends anything, says that there is no more, and takes what comes until the end.
    async fn exchange_to_end(&mut self, bytes: &[u8]) {
        let address = self.serve.base.strip_prefix("http://").unwrap().to_owned();
        let mut stream = soon(TcpStream::connect(address)).await.unwrap();
        soon(stream.write_all(bytes)).await.ok();
        soon(stream.shutdown()).await.ok();
        let mut answer = Vec::new();
        soon(stream.read_to_end(&mut answer)).await.ok();
        let answer = String::from_utf8_lossy(&answer);
        for line in answer.lines().filter(|line| line.starts_with("HTTP/1.1 5")) {
            assert!(line.starts_with("HTTP/1.1 50"), "{line}");
            assert!(!line.starts_with("HTTP/1.1 500"), "{}", String::from_utf8_lossy(bytes));
        }
    }

    async fn garbage(&mut self) -> String {
        let length = self.dice.below(400);
        let mut bytes: Vec<u8> = (0..length).map(|_| u8::try_from(self.dice.below(256)).unwrap()).collect();
        if self.one_in(2) {
            let mut start = b"GET /api/health HTTP/1.1\r\nhost: localhost\r\n".to_vec();
            start.append(&mut bytes);
            bytes = start;
        }
        self.exchange_to_end(&bytes).await;
        "garbage".to_owned()
    }

    fn frame_text(&mut self) -> String {
        let kind = self.pick(&EVENTS).to_owned();
        let owned: Vec<String> = (0..self.dice.below(4)).map(|_| self.mission()).collect();
        let data = json!({
            "state": "running", "owned_mission_ids": owned, "hitl_id": format!("h-{}", self.dice.below(3)), "prompt": "?",
            "reason": "r", "checkpoint_id": "c", "exit_code": 1, "summary": self.text(), "iteration": 3, "pct_complete": 5,
            "expires_at": "2100-01-01T00:00:00Z", "response": "x", "name": "n", "capabilities": []
        });
        let mission = self.mission();
        let frame = self.peer.frame(&kind, Some(&mission), data);
        let frame = if self.one_in(2) { self.mutated(frame) } else { frame };
        match self.dice.below(30) {
            0 => String::from_utf8_lossy(&self.broken(frame.to_string().into_bytes())).into_owned(),
            1 => format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000)),
            2 => format!("{{\"event\":\"{}\"}}", "x".repeat(1_100_000)),
            _ => frame.to_string(),
        }
    }

    async fn frame(&mut self) -> String {
        let text = self.frame_text();
        self.line.say_text(text).await;
        "frame of the executor".to_owned()
    }

    async fn observer_speaks(&mut self) -> String {
        let text = self.frame_text();
        self.observer.say_text(text).await;
        "frame of an observer".to_owned()
    }

    /// The line has stayed, whatever was said on it: what it says now still reaches the observer.
    async fn line_still_works(&mut self, case: u64) {
        let marker = self.peer.frame("x.marker", None, json!({"case": case}));
        self.line.say(&marker).await;
        loop {
            let seen = self.observer.hear_event("x.marker").await;
            if seen["data"]["case"] == case {
                return;
            }
        }
    }

    /// Bytes that are no frames, on a line of their own.
    async fn raw_frames(&mut self) -> String {
        let query =
            if self.one_in(2) { format!("?token={}", self.peer.token) } else { "?role=observer".to_owned() };
        let mut bytes = format!(
            "GET /ws/executors/{}{query} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: YWFhYWFhYWFhYWFhYWFhYQ==\r\n\r\n",
            self.peer.id
        )
        .into_bytes();
        for _ in 0..self.dice.below(5) {
            let payload = self.dice.below(130);
            bytes.push(u8::try_from(self.dice.below(256)).unwrap());
            bytes.push(u8::try_from(self.dice.below(256)).unwrap());
            bytes.extend((0..payload).map(|_| u8::try_from(self.dice.below(256)).unwrap()));
        }
        self.exchange_to_end(&bytes).await;
        "bytes that are no frames".to_owned()
    }

    /// The beginning of a stream, with odd parameters.
    async fn stream(&mut self) -> String {
        let (after, kind, executor) = (self.text(), self.text(), self.executor());
        let target = format!(
            "/api/v1/events?after={}&kind={}&executor={}",
            route::segment(&after),
            route::segment(&kind),
            route::segment(&executor)
        );
        let request = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        self.connection = None;
        let (status, answer) = self.exchange(request.as_bytes(), true).await.unwrap();
        self.connection = None;
        assert!(matches!(status, 200 | 400), "{status} {answer}: {target}");
        "stream".to_owned()
    }
}
