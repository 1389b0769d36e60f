//! The bridge as a process, against a registry that is not ours.

mod answers;
mod disk;
mod drops;
mod durability;
mod faults;
mod files;
pub(crate) mod foreign_writer;
mod kill;
mod locks;
pub(crate) mod registry;
mod steering;

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// A folder to watch, with one session or more.
pub(crate) struct Watched {
    directory: tempfile::TempDir,
}

impl Watched {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("sessions")).unwrap();
        Self { directory }
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn file(&self, session: &str) -> PathBuf {
        self.root().join("sessions").join(session).join("session.json")
    }

    /// Writes a session as a careful writer does.
    pub(crate) fn put(&self, session: &str, value: &Value) {
        self.put_text(session, &serde_json::to_string_pretty(value).unwrap());
    }

    pub(crate) fn put_text(&self, session: &str, text: &str) {
        let path = self.file(session);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let temporary = path.with_file_name(".test.tmp");
        fs::write(&temporary, text).unwrap();
        #[expect(clippy::disallowed_methods, reason = "another program's rename")]
        fs::rename(temporary, path).unwrap();
    }

    /// Puts a session with these many queued missions `<session>-<n>`.
    pub(crate) fn queue(&self, session: &str, count: usize) {
        let mission = |n| serde_json::json!({"id": format!("{session}-{n}"), "objective": "true", "status": "queued", "mine": n});
        let missions: Vec<Value> = (0..count).map(mission).collect();
        self.put(session, &serde_json::json!({"id": session, "state": "active", "missions": missions}));
    }

    /// Reads a session; nothing while somebody is in the middle of writing it.
    pub(crate) fn read(&self, session: &str) -> Option<Value> {
        serde_json::from_str(&fs::read_to_string(self.file(session)).ok()?).ok()
    }

    pub(crate) fn mission(&self, session: &str, id: &str) -> Option<Value> {
        self.read(session)?["missions"].as_array()?.iter().find(|mission| mission["id"] == id).cloned()
    }

    /// Returns how many missions of a session say this.
    pub(crate) fn count(&self, session: &str, status: &str) -> Option<usize> {
        let missions = self.read(session)?["missions"].as_array()?.clone();
        Some(missions.iter().filter(|mission| mission["status"] == status).count())
    }

    /// Changes one mission in place, as an editor does.
    pub(crate) fn edit(&self, session: &str, id: &str, change: impl FnOnce(&mut Value)) {
        let mut value = self.read(session).unwrap();
        let missions = value["missions"].as_array_mut().unwrap();
        change(missions.iter_mut().find(|mission| mission["id"] == id).unwrap());
        fs::write(self.file(session), serde_json::to_string_pretty(&value).unwrap()).unwrap();
    }
}
