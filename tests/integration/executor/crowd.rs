//! Many executors in one repository.

use super::{Registry, text, with_resources};
use crate::support::is_heavy;
use crate::support::repository::Repository;
use aiwg_rs::executor::process_tree;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Executors that end with the test.
struct Crowd(Vec<Child>);

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // The runners go with their missions, which an orderly end of the test has seen ended.
            for member in process_tree::descendants(child.id()) {
                drop(process_tree::signal(member.pid, rustix::process::Signal::KILL));
            }
            drop(child.kill());
            drop(child.wait());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn executors_that_start_at_once_in_one_repository_never_share_a_worktree_or_a_port() {
    let count = if is_heavy() { 50 } else { 6 };
    let limit = Duration::from_secs(if is_heavy() { 600 } else { 120 });
    let (repository, registry) = (Repository::new(), Registry::start().await);
    aiwg_rs::net::http::install_tls();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let id = |number: usize| format!("00000000-0000-4000-8000-{number:012}");
    let deadline = Instant::now() + limit;
    let crowd = (0..count).map(|number| {
        Command::new(env!("CARGO_BIN_EXE_aiwg-rs"))
            .args(["--log", "warn", "executor", "--port", "0", "--runtime", "shell", "--workspace"])
            .arg(repository.root())
            .args(["--executor-id", &id(number), "--aiwg-serve", &registry.url, "--state-dir"])
            .arg(registry.directory.path().join(format!("executor-{number}")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    });
    let _crowd = Crowd(crowd.collect());
    let get = async |path: String| -> Value {
        let answer = http.get(format!("{}{path}", registry.url)).send().await.unwrap();
        answer.json().await.unwrap_or(Value::Null)
    };
    let rest = async |what: &str| {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    for number in 0..count {
        let path = format!("/api/v1/executors/{}", id(number));
        while get(path.clone()).await.get("connected") != Some(&Value::Bool(true)) {
            rest("every executor is connected").await;
        }
    }
    let objective = "echo \"$AGENT_WORKTREE_PATH $AGENT_PORT_RANGE_START\" > \"$AGENT_REPO_ROOT/has-$AIWG_MISSION_ID\"; \
                     while ! test -f \"$AGENT_REPO_ROOT/go\"; do sleep 0.2; done";
    for number in 0..count {
        let mut body = with_resources();
        body["mission_id"] = json!(format!("m-{number}"));
        body["objective"] = json!(objective);
        body["completion"] = json!("it ends");
        body["executor_filter"] = json!({"executor_id": id(number), "capabilities": []});
        let request = http.post(format!("{}/api/v1/sessions/s1/dispatch", registry.url)).json(&body);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 202, "{}", answer.text().await.unwrap());
    }
    let (mut worktrees, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for number in 0..count {
        let has = repository.root().join(format!("has-m-{number}"));
        let has = loop {
            match std::fs::read_to_string(&has) {
                Ok(text) if text.ends_with('\n') => break text,
                _ => rest("every mission has its own").await,
            }
        };
        let (worktree, port) = has.trim().split_once(' ').unwrap();
        assert!(worktrees.insert(worktree.to_owned()), "two have the worktree {worktree}");
        assert!(ports.insert(port.to_owned()), "two have the ports from {port}");
    }
    repository.write("go", "");
    for number in 0..count {
        let path = format!("/api/v1/missions/m-{number}");
        let state = loop {
            let status = get(path.clone()).await;
            match status.get("state").and_then(Value::as_str) {
                Some("done" | "failed" | "aborted") => break status,
                _ => rest("every mission ends").await,
            }
        };
        assert_eq!(text(&state, "/state"), "done", "{state}");
    }
    assert_eq!(repository.git(["worktree", "list", "--porcelain"]).matches("worktree ").count(), 1);
}
