//! `aiwg-rs demo`, the first thing that a newcomer runs.

use crate::support::DEADLINE;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::path::Path;
use std::process::{Output, Stdio};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

fn demo(temporary: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aiwg-rs"));
    command.arg("demo").env("TMPDIR", temporary).env_remove("AIWG_RS_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn output(mut command: Command) -> Output {
    tokio::time::timeout(DEADLINE, command.output()).await.unwrap().unwrap()
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

#[tokio::test]
async fn the_demonstration_runs_its_three_missions_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let output = output(demo(temporary.path())).await;
    let (said, complained) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{said}\n{complained}");
    assert_eq!(complained, "", "nothing to complain about");
    assert!(is_empty(temporary.path()), "the folder is gone");
    assert!(!said.contains('\x1b'), "no colours where no terminal is");
    let session: Value =
        serde_json::from_str(&said[said.find("\n{").unwrap()..=said.rfind("\n}").unwrap() + 1]).unwrap();
    let missions = session["missions"].as_array().unwrap();
    let told = |key: &str| missions.iter().map(|mission| mission[key].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(told("id"), ["count", "read-plan", "name-release"]);
    assert_eq!(told("status"), ["done", "failed", "done"]);
    assert_eq!(missions[2]["summary"], "it is called aurora");
    for word in ["queued", "running", "hitl_required", "failed", "done"] {
        assert!(said.lines().any(|line| line.split_whitespace().any(|w| w == word)), "{word} in {said}");
    }
}

#[tokio::test]
async fn an_interrupted_demonstration_fails_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let mut running = demo(temporary.path()).spawn().unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    let interrupt = async {
        while !lines.next_line().await.unwrap().unwrap().contains("running") {}
        kill_process(Pid::from_raw(running.id().unwrap().try_into().unwrap()).unwrap(), Signal::INT).unwrap();
        while lines.next_line().await.unwrap().is_some() {}
        running.wait().await.unwrap()
    };
    let status = tokio::time::timeout(DEADLINE, interrupt).await.unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(is_empty(temporary.path()), "the folder is gone");
}

#[tokio::test]
async fn a_kept_folder_is_named_and_is_there() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = demo(temporary.path());
    command.arg("--keep");
    let output = output(command).await;
    let said = String::from_utf8(output.stdout).unwrap();
    let kept = said.lines().find_map(|line| line.strip_prefix("The folder stays: ")).unwrap();
    assert!(Path::new(kept).starts_with(temporary.path()));
    assert!(Path::new(kept).join("sessions/demo/session.json").is_file());
    assert!(Path::new(kept).join("inbox/accepted/name-release.json").is_file());
}
