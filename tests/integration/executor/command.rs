//! `aiwg-rs executor` with words that are none, and what it finds on a host.

use crate::support::repository::Repository;
use serde_json::Value;
use std::process::Command;

/// Runs the program in a repository to its end; returns its exit code, what it printed and what it complained about.
fn executor(repository: &Repository, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_aiwg-rs"))
        .args(["--log", "error", "executor", "--port", "0", "--serve-url", "http://127.0.0.1:9"])
        .args(arguments)
        .current_dir(repository.root())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_runtime_or_a_resource_that_is_none_ends_it_with_what_was_probably_meant() {
    let repository = Repository::new();
    for (arguments, code, said) in [
        (["--runtime", "shel"], 2, "did you mean shell?"),
        (["--default-resources", "git-worktree,port-rang"], 2, "did you mean port-range?"),
    ] {
        let (ended, _, error) = executor(&repository, &arguments);
        assert!(ended == Some(code) && error.contains(said) && error.contains(arguments[0]), "{error}");
    }
    for (line, said) in [
        ("runtime = \"claude\"", "did you mean claude-code?"),
        ("default_resources = [\"git-worktre\"]", "did you mean git-worktree?"),
    ] {
        repository.write("my.toml", line);
        let (ended, _, error) = executor(&repository, &["--config", "my.toml"]);
        assert!(ended == Some(3) && error.contains(said) && error.contains("my.toml"), "{error}");
    }
}

#[test]
fn the_doctor_names_what_is_there_and_fails_when_the_default_is_not() {
    let repository = Repository::new();
    let (ended, report, error) = executor(&repository, &["--runtime", "shell", "doctor"]);
    assert_eq!((ended, error.as_str()), (Some(0), ""));
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(
        (&report["defaultRuntime"], &report["defaultRuntimeInstalled"]),
        (&"shell".into(), &true.into())
    );
    repository.write(
        "my.toml",
        "runtime = \"custom:gone\"\n[runtimes.\"custom:gone\"]\ncommand = [\"no-such-program\"]\n",
    );
    let (ended, report, _) = executor(&repository, &["--config", "my.toml", "doctor"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((ended, &report["defaultRuntimeInstalled"]), (Some(1), &false.into()));
}
