//! The examples, as their readers run them.

use crate::serve::peer::{Serve, soon};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// Builds an example, which is nothing to do when all tests are run, and returns where it lies.
fn example(name: &str) -> PathBuf {
    let target = PathBuf::from(env!("CARGO_BIN_EXE_aiwg-rs"));
    let mut cargo = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--quiet", "--locked", "--example", name]);
    // What cargo tells a test about its package would make its build scripts look outdated.
    for (variable, _) in std::env::vars_os() {
        let name = variable.to_string_lossy();
        if ["CARGO_MANIFEST", "CARGO_PKG", "CARGO_BIN", "LD_LIBRARY_PATH"].iter().any(|p| name.starts_with(p))
        {
            cargo.env_remove(&variable);
        }
    }
    if target.parent().unwrap().ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success());
    target.with_file_name("examples").join(name)
}

fn minimal_executor(serve: &Serve) -> Child {
    let mut command = Command::new(example("minimal_executor"));
    command.arg(&serve.base).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap()
}

/// Starts an example that prints lines.
fn printing(name: &str, arguments: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut command = Command::new(example(name));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

async fn line_with(lines: &mut Lines<BufReader<ChildStdout>>, text: &str) -> String {
    soon(async {
        loop {
            let line = lines.next_line().await.unwrap().unwrap();
            if line.contains(text) {
                return line;
            }
        }
    })
    .await
}

async fn connected(serve: &Serve) {
    soon(async {
        while serve.get("/api/v1/executors").await.body["executors"][0]["connected"] != json!(true) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

async fn dispatch(serve: &Serve, mission: &str, objective: &str) {
    let body = json!({
        "mission_id": mission, "objective": objective, "completion": "it is done"
    });
    let answer = serve.post("/api/v1/sessions/s1/dispatch", &body).await;
    assert_eq!(answer.status, 202, "{:?}", answer.body);
}

fn events(status: &Value) -> Vec<&str> {
    status["recent_events"].as_array().unwrap().iter().map(|event| event["event"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_minimal_executor_runs_reports_and_stops() {
    let serve = Serve::start().await;
    let mut executor = minimal_executor(&serve);
    connected(&serve).await;

    dispatch(&serve, "good", "echo one; echo two >&2").await;
    let done = serve.mission_in("good", "done").await;
    assert_eq!(done["exit_code"], 0);
    assert_eq!(
        events(&done),
        ["mission.started", "mission.progress", "mission.progress", "mission.completed"]
    );
    assert_eq!(done["recent_events"][2]["data"]["summary"], "two");

    dispatch(&serve, "bad", "exit 3").await;
    assert_eq!(serve.mission_in("bad", "failed").await["exit_code"], 3);
    // What `mc retry` sends: the same mission under another key.
    let body = json!({"mission_id": "bad", "objective": "exit 0", "completion": "it is done"});
    let request = serve.http.post(format!("{}/api/v1/sessions/s1/dispatch", serve.base)).json(&body);
    assert_eq!(serve.send(request.header("idempotency-key", "bad#2")).await.status, 202);
    serve.mission_in("bad", "done").await;

    let folder = tempfile::tempdir().unwrap();
    let late = folder.path().join("late");
    dispatch(&serve, "long", &format!("sleep 600; touch {}", late.display())).await;
    serve.mission_in("long", "running").await;
    assert_eq!(serve.post("/api/v1/missions/long/abort", &json!({})).await.status, 202);
    serve.mission_in("long", "aborted").await;
    assert!(!late.exists());

    serve.stop().await;
    assert!(!soon(executor.wait()).await.unwrap().success(), "its line was lost, which is its end");
}

#[tokio::test]
async fn an_executor_is_followed_as_an_observer() {
    let serve = Serve::start().await;
    let _executor = minimal_executor(&serve);
    connected(&serve).await;
    let list = serve.get("/api/v1/executors").await;
    let id = list.body["executors"][0]["executor_id"].as_str().unwrap();
    let (_follower, mut lines) = printing("follow_events", &[&serve.base, id]);
    line_with(&mut lines, "connected").await;
    dispatch(&serve, "m", "echo hello").await;
    let line = line_with(&mut lines, "mission.progress").await;
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["data"]["summary"], "hello");
    line_with(&mut lines, "mission.completed").await;
    serve.stop().await;
}

#[tokio::test]
async fn a_session_that_is_written_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (_watcher, mut lines) = printing("watch_sessions", &[folder.path().to_str().unwrap()]);
    let session = folder.path().join("sessions/s1");
    std::fs::create_dir_all(&session).unwrap();
    std::fs::write(session.join("session.json"), r#"{"id": "s1", "missions": []}"#).unwrap();
    line_with(&mut lines, "s1: 0 missions").await;
    std::fs::write(session.join("session.json"), r#"{"id": "s1", "missions": [{"id": "m"}]}"#).unwrap();
    line_with(&mut lines, "s1: 1 missions").await;
}

#[test]
fn resources_are_leased_worked_in_and_given_back() {
    let repository = crate::support::repository::Repository::new();
    let output =
        std::process::Command::new(example("lease_resources")).arg(repository.root()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let branch = said.lines().last().unwrap().strip_prefix("branch ").unwrap();
    assert_eq!(repository.show(branch, "hello.txt"), "hello", "{said}");
    assert!(said.contains("AGENT_PORT_PRIMARY="), "{said}");
}
