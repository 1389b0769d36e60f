//! The registry's page: what a person sees and does there. With a real browser where there is one, over its debugging protocol.

use super::browser::{BROWSER_DEADLINE, Browser, browser};
use super::peer::{Peer, Serve, order, soon};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// A mission's texts, as somebody would write them who wants to run a script in the page.
const HOSTILE: &str = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>";

#[tokio::test]
async fn the_page_may_load_nothing_from_elsewhere_and_its_script_makes_no_markup() {
    let serve = Serve::start().await;
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/dashboard.css", "text/css; charset=utf-8"),
        ("/dashboard.js", "text/javascript; charset=utf-8"),
    ] {
        let answer = serve.get(path).await;
        assert_eq!((answer.status, answer.headers["content-type"].to_str().unwrap()), (200, kind), "{path}");
        let policy = answer.headers["content-security-policy"].to_str().unwrap();
        for rule in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
            assert!(policy.contains(rule), "{path}: {policy}");
        }
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    }
    let script =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/registry/http/dashboard/page.js"))
            .unwrap();
    for maker in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("] {
        assert!(!script.contains(maker), "{maker}");
    }
    serve.stop().await;
}

/// A page in the browser.
struct Page {
    browser: Browser,
    line: WebSocketStream<MaybeTlsStream<TcpStream>>,
    asked: u64,
}

impl Page {
    async fn open(program: &Path, url: &str) -> Self {
        let browser = Browser::open(program, "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", url);
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let socket = async {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let Ok(text) = fs::read_to_string(browser.profile.path().join("DevToolsActivePort")) else {
                    continue;
                };
                let Some(port) = text.lines().next() else { continue };
                let Ok(list) = http.get(format!("http://127.0.0.1:{port}/json/list")).send().await else {
                    continue;
                };
                let Ok(Value::Array(pages)) = list.json::<Value>().await else { continue };
                let ours = pages
                    .iter()
                    .find(|page| page["type"] == "page" && page["url"].as_str().unwrap().starts_with(url));
                if let Some(page) = ours {
                    return page["webSocketDebuggerUrl"].as_str().unwrap().to_owned();
                }
            }
        };
        let socket = tokio::time::timeout(BROWSER_DEADLINE, socket).await.unwrap();
        let (line, _) = soon(connect_async(socket)).await.unwrap();
        Self { browser, line, asked: 0 }
    }

    /// Returns what an expression is in the page.
    async fn read(&mut self, expression: &str) -> Value {
        self.asked += 1;
        let question = json!({
            "id": self.asked, "method": "Runtime.evaluate",
            "params": {"expression": expression, "returnByValue": true, "awaitPromise": true}
        });
        soon(self.line.send(Message::Text(question.to_string().into()))).await.unwrap();
        soon(async {
            loop {
                let Some(Ok(Message::Text(text))) = self.line.next().await else { continue };
                let answer: Value = serde_json::from_str(&text).unwrap();
                if answer["id"] == self.asked {
                    assert!(answer["result"]["exceptionDetails"].is_null(), "{expression}: {answer}");
                    return answer["result"]["result"]["value"].clone();
                }
            }
        })
        .await
    }

    /// Waits until an expression is true in the page.
    async fn until(&mut self, expression: &str) {
        let deadline = tokio::time::Instant::now() + BROWSER_DEADLINE;
        // The page may not be there yet.
        let guarded =
            format!("(() => {{ try {{ return Boolean({expression}) }} catch {{ return false }} }})()");
        while self.read(&guarded).await != true {
            let text = if tokio::time::Instant::now() > deadline {
                self.read("document.body.innerText").await
            } else {
                Value::Null
            };
            assert!(text.is_null(), "never came true: {expression}\nthe page says:\n{text}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Clicks on the button with this title.
    async fn click(&mut self, title: &str) {
        let button = format!("document.querySelector(`button[title={}]`)", json!(title));
        self.until(&button).await;
        self.read(&format!("{button}.click()")).await;
    }
}

/// The row of a mission, as its text; empty when there is none.
fn row(mission: &str) -> String {
    format!(
        "([...document.querySelectorAll('#missions tr')].find(row => row.querySelector('.name').textContent === {})?.innerText ?? '')",
        json!(mission)
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_sees_what_happens_answers_pauses_and_aborts() {
    let Some(program) = browser() else {
        println!("skipped: no Chromium here; name one with AIWG_RS_CHROMIUM");
        return;
    };
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &["hitl"]).await;
    let mut page = Page::open(&program, &serve.base).await;
    page.until("document.querySelector('#link').dataset.is === 'live'").await;
    page.until("document.querySelector('#executors').innerText.includes('connected')").await;
    assert_eq!(page.read("document.querySelector('#empty').textContent").await, "No mission has come yet.");

    let mut hostile = order(HOSTILE);
    hostile["objective"] = HOSTILE.into();
    assert_eq!(serve.post("/api/v1/sessions/s1/dispatch", &hostile).await.status, 202);
    page.until(&format!("{}.includes({})", row(HOSTILE), json!(HOSTILE))).await;
    assert_eq!(page.read("document.querySelectorAll('main img, main script').length").await, 0);

    assert_eq!(serve.dispatch("m-1").await.status, 202);
    page.until(&format!("{}.includes('assigned')", row("m-1"))).await;
    line.say(&peer.frame("mission.started", Some("m-1"), json!({"state": "running"}))).await;
    page.until(&format!("{}.includes('running')", row("m-1"))).await;

    let question = json!({"hitl_id": "h-1", "prompt": "Deploy <b>now</b>?"});
    line.say(&peer.frame("mission.hitl_required", Some("m-1"), question)).await;
    page.until("document.querySelector('.question p')?.textContent === 'Deploy <b>now</b>?'").await;
    assert_eq!(page.read("document.title").await, "(1) aiwg-rs");
    // What is half typed stays while other things change.
    page.read("document.querySelector('.question input').value = 'after'").await;
    assert_eq!(serve.dispatch("m-2").await.status, 202);
    page.until(&format!("{}.includes('assigned')", row("m-2"))).await;
    assert_eq!(page.read("document.querySelector('.question input').value").await, "after");
    page.read("document.querySelector('.question input').value += ' lunch'").await;
    page.read("document.querySelector('.question form').requestSubmit()").await;
    assert_eq!(line.hear_event("mission.hitl_responded").await["data"]["response"], "after lunch");
    page.until("document.querySelector('#asking').hidden && document.title === 'aiwg-rs'").await;

    page.click("pause m-1").await;
    assert_eq!(line.hear_event("mission.paused").await["mission_id"], "m-1");
    line.say(&peer.frame("mission.paused", Some("m-1"), json!({"state": "paused"}))).await;
    page.click("resume m-1").await;
    assert_eq!(line.hear_event("mission.resumed").await["mission_id"], "m-1");
    page.read("window.confirm = () => true").await;
    page.click("abort m-1").await;
    assert_eq!(line.hear_event("mission.aborted").await["mission_id"], "m-1");
    let data = json!({"state": "aborted", "aborted_by": "operator", "reason": "enough"});
    line.say(&peer.frame("mission.aborted", Some("m-1"), data)).await;
    page.until(&format!("{}.includes('aborted')", row("m-1"))).await;

    page.read("[...document.querySelectorAll('.name')].find(name => name.textContent === 'm-1').click()")
        .await;
    page.until("document.querySelector('#detail').open && document.querySelector('#said').innerText.includes('enough')").await;
    page.read("document.querySelector('#detail').close()").await;
    page.read("const show = document.querySelector('#filter select'); show.value = 'failed,aborted'; show.dispatchEvent(new Event('input', {bubbles: true}))").await;
    page.until("document.querySelectorAll('#missions tr').length === 1").await;

    serve.stop().await;
    page.until("document.querySelector('#link').dataset.is === 'lost'").await;
    page.browser.end().await;
}
