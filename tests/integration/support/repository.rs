//! A real git repository in a temporary folder.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A repository with one commit: `README` and `app/main.txt`, on branch `main`.
pub(crate) struct Repository {
    _directory: tempfile::TempDir,
    root: PathBuf,
}

impl Repository {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap().join("repo");
        std::fs::create_dir(&root).unwrap();
        let repository = Self { _directory: directory, root };
        repository.git(["init", "-q", "-b", "main"]);
        repository.write("README", "hello\n");
        repository.write("app/main.txt", "app\n");
        repository.write("lib/lib.txt", "lib\n");
        repository.write(".gitignore", "target/\n.env\n*.log\n");
        repository.commit("first");
        repository
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        write(&self.root, path, text);
    }

    pub(crate) fn commit(&self, message: &str) {
        commit(&self.root, message);
    }

    pub(crate) fn git<const N: usize>(&self, arguments: [&str; N]) -> String {
        git(&self.root, arguments)
    }

    /// Returns the text of a file on a branch.
    pub(crate) fn show(&self, branch: &str, path: &str) -> String {
        git(&self.root, ["show", &format!("{branch}:{path}")])
    }
}

pub(crate) fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

pub(crate) fn commit(root: &Path, message: &str) {
    git(root, ["add", "-A"]);
    git(root, ["commit", "-q", "-m", message]);
}

/// Runs git as a user without any settings of their own.
pub(crate) fn git<const N: usize>(directory: &Path, arguments: [&str; N]) -> String {
    let output = Command::new("git")
        .args([
            "-c",
            "user.name=Tester",
            "-c",
            "user.email=tester@example.org",
            "-c",
            "protocol.file.allow=always",
        ])
        .args(arguments)
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}
