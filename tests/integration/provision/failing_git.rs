//! Git fails at each of its commands in turn.

use crate::support::repository::{Repository, write};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A `git` before the real one whose call of a given number fails, as on a broken disk.
struct BrokenGit {
    directory: tempfile::TempDir,
    path: std::ffi::OsString,
}

impl BrokenGit {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = std::env::var_os("PATH").unwrap();
        let real = std::env::split_paths(&path).map(|d| d.join("git")).find(|git| git.exists()).unwrap();
        let program = directory.path().join("git");
        let home = directory.path().display();
        let script = format!(
            "#!/bin/sh\nn=$(($(cat {home}/calls) + 1)); echo $n > {home}/calls\n\
             if [ \"$n\" = \"$(cat {home}/fails)\" ]; then echo 'fatal: broken on purpose' >&2; exit 128; fi\n\
             exec {} \"$@\"\n",
            real.display()
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = std::env::join_paths(
            std::iter::once(directory.path().to_owned()).chain(std::env::split_paths(&path)),
        );
        Self { path: path.unwrap(), directory }
    }

    /// Runs `aiwg-rs provision` with a git whose call `fails` fails; says also whether there was such a call.
    fn provision(&self, repository: &Repository, fails: u32, arguments: &[&str]) -> (Output, bool) {
        std::fs::write(self.directory.path().join("fails"), fails.to_string()).unwrap();
        std::fs::write(self.directory.path().join("calls"), "0").unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_aiwg-rs"))
            .args(["--log", "error", "provision"])
            .args(arguments)
            .current_dir(repository.root())
            .env("PATH", &self.path)
            .output()
            .unwrap();
        let calls = std::fs::read_to_string(self.directory.path().join("calls")).unwrap();
        (output, calls.trim().parse::<u32>().unwrap() >= fails)
    }
}

fn acquired(output: &Output) -> PathBuf {
    let leased: Value = serde_json::from_slice(&output.stdout).unwrap();
    PathBuf::from(leased.pointer("/snapshot/workingDirectory").and_then(Value::as_str).unwrap())
}

fn locks(repository: &Repository) -> usize {
    std::fs::read_dir(repository.root().join(".ai_ops/locks/ports")).map_or(0, |entries| {
        entries
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|e| e == "lock"))
            .count()
    })
}

#[test]
fn a_lease_that_fails_at_any_command_leaves_nothing_in_the_way() {
    let git = BrokenGit::new();
    let mut fails = 1;
    loop {
        let repository = Repository::new();
        let acquire = ["acquire", "--session", "s"];
        let (output, happened) = git.provision(&repository, fails, &acquire);
        if !happened {
            assert!(output.status.success() && fails > 2, "{fails}: {output:?}");
            break;
        }
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains("broken on purpose"), "call {fails}: {said}");
            assert_eq!(locks(&repository), 0, "call {fails}");
            let (again, _) = git.provision(&repository, 0, &acquire);
            assert!(again.status.success(), "after call {fails}: {}", String::from_utf8_lossy(&again.stderr));
        }
        fails += 1;
    }
}

#[test]
fn work_is_never_lost_whichever_command_of_a_release_fails() {
    let git = BrokenGit::new();
    let mut fails = 1;
    loop {
        let repository = Repository::new();
        let (output, _) = git.provision(&repository, 0, &["acquire", "--session", "s"]);
        let worktree = acquired(&output);
        write(&worktree, "work.txt", "precious\n");
        let release = ["release", "--session", "s"];
        let (output, happened) = git.provision(&repository, fails, &release);
        assert!(is_there(&repository, &worktree), "call {fails} lost it: {output:?}");
        if !happened {
            assert!(output.status.success() && fails > 5, "{fails}: {output:?}");
            break;
        }
        // Whoever tries again later, or cleans up, gets rid of the worktree and still loses nothing.
        git.provision(&repository, 0, &release);
        git.provision(&repository, 0, &["gc"]);
        assert!(is_there(&repository, &worktree), "after call {fails}");
        assert_eq!(locks(&repository), 0, "call {fails}");
        fails += 1;
    }
}

/// Says whether the work lies in the worktree or on a branch.
fn is_there(repository: &Repository, worktree: &Path) -> bool {
    let branches = repository.git(["branch", "--list", "--format=%(refname:short)", "aiwg/*"]);
    let on_branch = branches.lines().any(|branch| repository.show(branch, "work.txt") == "precious");
    on_branch || std::fs::read_to_string(worktree.join("work.txt")).is_ok_and(|text| text == "precious\n")
}
