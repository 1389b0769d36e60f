//! `aiwg-rs provision` as a script uses it.

use super::worktrees;
use crate::support::repository::{Repository, write};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn provision(repository: &Repository, arguments: &[&str]) -> Result<Value, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_aiwg-rs"))
        .args(["--log", "error", "provision"])
        .args(arguments)
        .current_dir(repository.root())
        .output()
        .unwrap();
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    } else {
        Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).unwrap_or_else(|| panic!("{pointer} in {value}")).as_str().unwrap()
}

#[test]
fn a_script_leases_works_and_releases() {
    let repository = Repository::new();
    let leased = provision(&repository, &["acquire", "--session", "job 1"]).unwrap();
    let directory = Path::new(text(&leased, "/snapshot/workingDirectory"));
    assert!(Path::new(text(&leased, "/env/AGENT_DISCOVERY_FILE")).starts_with(directory));
    let snapshot = provision(&repository, &["snapshot", "--session", "job 1"]).unwrap();
    assert_eq!(Some(&snapshot), leased.get("snapshot"));
    write(directory, "result.txt", "42\n");
    let listed = provision(&repository, &["list"]).unwrap();
    assert_eq!(listed.pointer("/worktrees/0/unsavedWork"), Some(&Value::Bool(true)));
    assert_eq!(text(&listed, "/worktrees/0/state"), "in-use");
    assert_eq!(text(&listed, "/ports/0/sessionId"), "job 1");
    let cleaned = provision(&repository, &["gc"]).unwrap();
    assert_eq!(cleaned.pointer("/worktrees"), Some(&Value::Array(Vec::new())));
    let released = provision(&repository, &["release", "--session", "job 1"]).unwrap();
    assert_eq!(repository.show(text(&released, "/kept/0/name"), "result.txt"), "42");
    assert_eq!(worktrees(&repository), 0);
    let again = provision(&repository, &["release", "--session", "job 1"]).unwrap_err();
    assert!(again.contains("has nothing leased"), "{again}");
}

#[test]
fn a_second_lease_of_one_name_is_refused_and_takes_nothing_from_the_first() {
    let repository = Repository::new();
    let first = provision(&repository, &["acquire", "--session", "t1"]).unwrap();
    for more in [&["--resource", "git-worktree"][..], &["--resource", "port-range"], &[]] {
        let again = provision(&repository, &[&["acquire", "--session", "t1"], more].concat()).unwrap_err();
        assert!(again.contains("session \"t1\" has leased git-worktree, port-range already"), "{again}");
        assert!(again.contains("hint: ") && again.contains("provision release"), "{again}");
    }
    let snapshot = provision(&repository, &["snapshot", "--session", "t1"]).unwrap();
    assert_eq!(Some(&snapshot), first.get("snapshot"));
    let listed = provision(&repository, &["list"]).unwrap();
    assert_eq!(listed.pointer("/ports").unwrap().as_array().unwrap().len(), 1, "{listed}");
    provision(&repository, &["release", "--session", "t1"]).unwrap();
    let listed = provision(&repository, &["list"]).unwrap();
    for what in ["worktrees", "ports", "environments"] {
        assert_eq!(listed.get(what), Some(&Value::Array(Vec::new())), "{listed}");
    }
    provision(&repository, &["acquire", "--session", "t1"]).unwrap();
}

#[test]
fn a_worktree_that_was_removed_by_hand_is_cleaned_up_and_the_rest_can_be_released() {
    let repository = Repository::new();
    let leased = provision(&repository, &["acquire", "--session", "s"]).unwrap();
    std::fs::remove_dir_all(text(&leased, "/snapshot/workingDirectory")).unwrap();
    let listed = provision(&repository, &["list"]).unwrap();
    assert_eq!(text(&listed, "/worktrees/0/state"), "abandoned");
    let cleaned = provision(&repository, &["gc"]).unwrap();
    assert_eq!(text(&cleaned, "/worktrees/0"), text(&leased, "/snapshot/workingDirectory"));
    let listed = provision(&repository, &["list"]).unwrap();
    assert_eq!(listed.pointer("/worktrees"), Some(&Value::Array(Vec::new())));
    assert_eq!(text(&listed, "/ports/0/state"), "in-use", "nobody said that the ports are not needed");
    provision(&repository, &["release", "--session", "s"]).unwrap();
    let listed = provision(&repository, &["list"]).unwrap();
    assert_eq!(listed.pointer("/ports"), Some(&Value::Array(Vec::new())));
}

#[test]
fn leases_of_an_ended_owner_are_cleaned_up() {
    let repository = Repository::new();
    let mut owner = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = owner.id().to_string();
    provision(&repository, &["acquire", "--session", "s", "--owner-pid", &pid]).unwrap();
    let cleaned = provision(&repository, &["gc"]).unwrap();
    assert_eq!(cleaned.pointer("/worktrees"), Some(&Value::Array(Vec::new())));
    owner.kill().unwrap();
    owner.wait().unwrap();
    let cleaned = provision(&repository, &["gc"]).unwrap();
    for what in ["worktrees", "ports", "environments"] {
        assert_eq!(cleaned.get(what).unwrap().as_array().unwrap().len(), 1, "{what} in {cleaned}");
    }
    assert_eq!(worktrees(&repository), 0);
}

#[test]
fn processes_that_start_at_once_get_different_resources() {
    let repository = Repository::new();
    let children: Vec<_> = (0..12)
        .map(|index| {
            Command::new(env!("CARGO_BIN_EXE_aiwg-rs"))
                .args(["--log", "error", "provision", "acquire", "--session", &format!("s{index}")])
                .current_dir(repository.root())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut ports = std::collections::BTreeSet::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let leased: Value = serde_json::from_slice(&output.stdout).unwrap();
        ports.insert(text(&leased, "/env/AGENT_PORT_RANGE_START").to_owned());
    }
    assert_eq!((ports.len(), worktrees(&repository)), (12, 12));
}

#[test]
fn wrong_orders_say_what_is_wrong() {
    let repository = Repository::new();
    let error = provision(&repository, &["acquire", "--session", "s", "--resource", "cgroup"]).unwrap_err();
    assert!(error.contains("no provider of kind \"cgroup\"; there are git-worktree, port-range"), "{error}");
    let options = "port-range={\"basePort\": 65000, \"blockSize\": 100, \"blockCount\": 7}";
    let error = provision(&repository, &["acquire", "--session", "s", "--resource", options]).unwrap_err();
    assert!(error.contains("65000") && error.contains("beyond port 65535"), "{error}");
    let error =
        provision(&repository, &["acquire", "--session", "s", "--resource", "port-range=[]"]).unwrap_err();
    assert!(error.contains("exit status: 2"), "{error}");
    let options = "port-range={\"count\":3}";
    let wish = ["acquire", "--session", "s", "--resource", "git-worktree", "--resource", options];
    let error = provision(&repository, &wish).unwrap_err();
    assert!(
        error.contains("exit status: 2") && error.contains("port-range has no option \"count\""),
        "{error}"
    );
    assert!(error.contains("did you mean blockCount?"), "{error}");
    assert!(!repository.root().join(".ai_ops").exists(), "nothing was leased to find that out");
}
