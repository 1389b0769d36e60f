//! `aiwg-rs up`: a mission dropped into a folder runs in a worktree, and its result is in the folder.

use crate::support::DEADLINE;
use crate::support::repository::Repository;
use aiwg_rs::executor::process_tree;
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn a_dropped_mission_runs_in_a_worktree_and_a_signal_ends_everything_in_order() {
    let repository = Repository::new();
    let state = tempfile::tempdir().unwrap();
    let watched = state.path().join("mc");
    let mut up = Command::new(env!("CARGO_BIN_EXE_aiwg-rs"))
        .args(["--log", "info", "up", "--bind", "127.0.0.1:0", "--runtime", "shell", "--watch-dir"])
        .arg(&watched)
        .arg("--state-dir")
        .arg(state.path().join("state"))
        .current_dir(repository.root())
        .stdin(Stdio::null())
        .stderr(std::fs::File::create(state.path().join("err")).unwrap())
        .spawn()
        .unwrap();
    let said = || std::fs::read_to_string(state.path().join("err")).unwrap();
    let until = |what: &str, look: &mut dyn FnMut() -> bool| {
        let deadline = Instant::now() + DEADLINE * 2;
        while !look() {
            assert!(Instant::now() < deadline, "{what}:\n{}", said());
            #[expect(clippy::disallowed_methods, reason = "this test has a thread of its own")]
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    until("the folder is made", &mut || watched.join("inbox").is_dir());
    until("the executor is connected", &mut || said().contains("connected to the registry"));
    let mission = json!({"id": "m-1", "objective": "echo made > made.txt; echo well done"});
    std::fs::write(watched.join("inbox/m-1.json.tmp"), mission.to_string()).unwrap();
    std::fs::hard_link(watched.join("inbox/m-1.json.tmp"), watched.join("inbox/m-1.json")).unwrap();
    let file = watched.join("sessions/inbox/session.json");
    let status = || {
        let session: Value =
            serde_json::from_slice(&std::fs::read(&file).unwrap_or_default()).unwrap_or_default();
        session.pointer("/missions/0").cloned().unwrap_or_default()
    };
    until("the mission is done", &mut || status().get("status") == Some(&json!("done")));
    let summary = status().get("summary").unwrap().as_str().unwrap().to_owned();
    let branch = summary.split_whitespace().last().unwrap();
    assert_eq!(repository.show(branch, "made.txt"), "made");
    process_tree::signal(up.id(), rustix::process::Signal::TERM).unwrap();
    assert!(up.wait().unwrap().success(), "{}", said());
    assert_eq!(repository.git(["worktree", "list", "--porcelain"]).matches("worktree ").count(), 1);
}
