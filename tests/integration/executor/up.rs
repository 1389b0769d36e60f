//! `aiwg-rs up`: a mission dropped into a folder runs in a worktree, and its result is in the folder.

use crate::support::DEADLINE;
use crate::support::repository::Repository;
use aiwg_rs::executor::process_tree;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The program in a repository of its own, with a folder of its own.
struct Up {
    repository: Repository,
    state: tempfile::TempDir,
    process: Child,
}

impl Drop for Up {
    fn drop(&mut self) {
        drop(process_tree::signal(self.process.id(), rustix::process::Signal::TERM));
        self.process.wait().ok();
    }
}

impl Up {
    fn start(more: &[&str]) -> Self {
        let (repository, state) = (Repository::new(), tempfile::tempdir().unwrap());
        let process = Command::new(env!("CARGO_BIN_EXE_aiwg-rs"))
            .args(["--log", "info", "up", "--bind", "127.0.0.1:0", "--runtime", "shell", "--watch-dir"])
            .arg(state.path().join("mc"))
            .arg("--state-dir")
            .arg(state.path().join("state"))
            .args(more)
            .current_dir(repository.root())
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(state.path().join("err")).unwrap())
            .spawn()
            .unwrap();
        let up = Self { repository, state, process };
        up.until("the folder is made", || up.watched().join("inbox").is_dir());
        up.until("the executor is connected", || up.said().contains("connected to the registry"));
        up
    }

    fn watched(&self) -> PathBuf {
        self.state.path().join("mc")
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.state.path().join("err")).unwrap()
    }

    fn until(&self, what: &str, mut look: impl FnMut() -> bool) {
        let deadline = Instant::now() + DEADLINE * 2;
        while !look() {
            assert!(Instant::now() < deadline, "{what}:\n{}", self.said());
            #[expect(clippy::disallowed_methods, reason = "this test has a thread of its own")]
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Drops a file into the inbox, whole from its first instant.
    fn drop_in(&self, name: &str, content: &Value) {
        let unfinished = self.watched().join(format!("inbox/{name}.json.tmp"));
        std::fs::write(&unfinished, content.to_string()).unwrap();
        std::fs::hard_link(unfinished, self.watched().join(format!("inbox/{name}.json"))).unwrap();
    }

    fn missions(&self) -> Vec<Value> {
        let file = self.watched().join("sessions/inbox/session.json");
        let session: Value =
            serde_json::from_slice(&std::fs::read(file).unwrap_or_default()).unwrap_or_default();
        session["missions"].as_array().cloned().unwrap_or_default()
    }
}

#[test]
fn a_dropped_mission_runs_in_a_worktree_and_a_signal_ends_everything_in_order() {
    let mut up = Up::start(&[]);
    up.drop_in("m-1", &json!({"id": "m-1", "objective": "echo made > made.txt; echo well done"}));
    let is_done = || up.missions().first().is_some_and(|mission| mission["status"] == "done");
    up.until("the mission is done", is_done);
    let summary = up.missions()[0]["summary"].as_str().unwrap().to_owned();
    let branch = summary.split_whitespace().last().unwrap();
    assert_eq!(up.repository.show(branch, "made.txt"), "made");
    process_tree::signal(up.process.id(), rustix::process::Signal::TERM).unwrap();
    assert!(up.process.wait().unwrap().success(), "{}", up.said());
    assert_eq!(up.repository.git(["worktree", "list", "--porcelain"]).matches("worktree ").count(), 1);
}

#[test]
fn more_missions_than_the_executor_has_room_for_wait_their_turn_and_all_run() {
    const MISSIONS: usize = 16;
    let up = Up::start(&["--max-concurrency", "1", "--default-resources", ""]);
    let mission = |n: usize| json!({"id": format!("m-{n:02}"), "objective": "sleep 0.6"});
    up.drop_in("backlog", &(0..MISSIONS).map(mission).collect());
    up.until("all of them have ended", || {
        let has_ended = |mission: &Value| mission["status"] == "done" || mission["status"] == "failed";
        let missions = up.missions();
        missions.len() == MISSIONS && missions.iter().all(has_ended)
    });
    for mission in up.missions() {
        assert_eq!(
            (&mission["status"], &mission["dispatchAttempts"]),
            (&json!("done"), &json!(1)),
            "{mission}"
        );
    }
}

#[test]
fn a_second_one_on_the_same_folder_says_who_has_it_and_ends_with_the_code_of_its_trouble() {
    let up = Up::start(&[]);
    let state = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_aiwg-rs"))
        .args(["--log", "error", "up", "--bind", "127.0.0.1:0", "--runtime", "shell", "--watch-dir"])
        .arg(up.watched())
        .arg("--state-dir")
        .arg(state.path())
        .current_dir(up.repository.root())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{error}");
    assert!(
        error.contains(&format!("process {}", up.process.id())) && error.contains("--watch-dir"),
        "{error}"
    );
}
