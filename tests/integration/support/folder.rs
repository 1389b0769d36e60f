//! A watched folder of its own for each test.

use std::fs;
use std::path::{Path, PathBuf};

use aiwg_rs::disk::fsync::FsyncPolicy;
use aiwg_rs::domain::id::SessionId;
use aiwg_rs::session::store::{SessionStore, WriteMode};

/// A watched folder with one session; removed on drop.
pub(crate) struct Folder {
    directory: tempfile::TempDir,
    pub(crate) session: SessionId,
}

impl Folder {
    /// Makes a folder whose session has the missions `m0`, `m1` …
    pub(crate) fn with_missions(count: usize) -> Self {
        let folder = Self { directory: tempfile::tempdir().unwrap(), session: SessionId::new("s1").unwrap() };
        fs::create_dir_all(folder.file().parent().unwrap()).unwrap();
        fs::write(folder.file(), session_text(count)).unwrap();
        folder
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.root().join("sessions/s1/session.json")
    }

    pub(crate) fn text(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    pub(crate) fn store(&self, mode: WriteMode) -> SessionStore {
        SessionStore::new(self.root(), FsyncPolicy::Never).with_mode(mode)
    }

    /// Returns the names beside `session.json`, its lock left out.
    pub(crate) fn neighbours(&self) -> Vec<String> {
        let entries = fs::read_dir(self.file().parent().unwrap()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> =
            names.filter(|name| name != "session.json" && name != "session.json.lock").collect();
        names.sort();
        names
    }
}

/// Writes a session as Mission Control does.
pub(crate) fn session_text(missions: usize) -> String {
    let mission = |n| {
        format!("    {{\n      \"id\": \"m{n}\",\n      \"status\": \"queued\",\n      \"odd\": 1.10\n    }}")
    };
    let missions: Vec<String> = (0..missions).map(mission).collect();
    format!("{{\n  \"id\": \"s1\",\n  \"missions\": [\n{}\n  ]\n}}\n", missions.join(",\n"))
}
