//! Command: the verbs of Mission Control, tried as a shell would: the real binary on a folder of its own.

mod beside_bridge;
mod crowd;
mod dispatching;
mod steering;
mod views;
mod waiting;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// What one run of the program came to.
pub(crate) struct Ran {
    /// Its exit status.
    pub(crate) code: i32,
    /// What it answered.
    pub(crate) out: String,
    /// What it said besides.
    pub(crate) err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The answer of a run that had to succeed, without its line break.
    pub(crate) fn answer(self) -> String {
        assert_eq!(self.code, 0, "{}", self.err);
        self.out.trim_end().to_owned()
    }

    /// The answer's lines as JSON.
    pub(crate) fn json(self) -> Vec<Value> {
        self.answer().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Asserts that it failed with this status and said all of these.
    pub(crate) fn refused(self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        assert!(self.err.starts_with("error: "), "{}", self.err);
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in: {}", self.err);
        }
    }
}

/// A watched folder, and the program to use on it.
pub(crate) struct Desk {
    directory: tempfile::TempDir,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn session_file(&self, session: &str) -> PathBuf {
        self.root().join("sessions").join(session).join("session.json")
    }

    pub(crate) fn session(&self, session: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.session_file(session)).unwrap()).unwrap()
    }

    pub(crate) fn mission(&self, session: &str, mission: &str) -> Value {
        let session = self.session(session);
        let missions = session["missions"].as_array().unwrap();
        missions.iter().find(|m| m["id"] == mission).unwrap().clone()
    }

    /// Writes a session as another program would: whole, in place, with no lock.
    pub(crate) fn write(&self, session: &str, text: &str) {
        let path = self.session_file(session);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Writes a session with these missions.
    pub(crate) fn write_missions(&self, session: &str, missions: &Value) {
        let value = serde_json::json!({"id": session, "state": "active", "missions": missions});
        self.write(session, &serde_json::to_string_pretty(&value).unwrap());
    }

    /// Prepares `mc <words>` on this folder.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aiwg-rs"));
        command.arg("mc").args(words).env("AIWG_RS_WATCH_DIR", self.root()).env_remove("AIWG_RS_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn start(&self, words: &[&str]) -> Child {
        self.command(words).spawn().unwrap()
    }

    pub(crate) fn mc(&self, words: &[&str]) -> Ran {
        Ran::of(self.command(words).output().unwrap())
    }
}

pub(crate) fn finish(child: Child) -> Ran {
    Ran::of(child.wait_with_output().unwrap())
}
