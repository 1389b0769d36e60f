//! Edge: which run a runner has begun, as it says itself before it starts anything.
//!
//! Every runner has one small file, replaced with every run. While the process that it names lives, the run goes on; a
//! run that nobody has claimed was never begun. A runner that ends in order takes its file along: the end of its run is
//! then written down elsewhere. So a file whose runner is gone tells of a run that nobody knows the end of.

use crate::executor::process_identity::ProcessIdentity;
use crate::executor::process_table;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// What stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Who.
    pub runner: ProcessIdentity,
    /// The run, as its files are named.
    pub run: String,
}

/// A runner's own file, made with its first run.
#[derive(Debug)]
pub struct ClaimFile {
    path: PathBuf,
    runner: ProcessIdentity,
    file: Option<File>,
}

impl ClaimFile {
    /// Names the file of this process in the directory of all; makes nothing yet.
    pub fn new(directory: &Path) -> Self {
        let runner = process_table::own();
        let path = directory.join(format!("{}-{}.json", runner.pid, runner.process_start_time));
        Self { path, runner, file: None }
    }

    /// Says that a run begins now, in place of the last one.
    ///
    /// # Errors
    /// What the file system says; the run must not begin then.
    pub fn claim(&mut self, run: &str) -> io::Result<()> {
        let line = serde_json::to_vec(&Claim { runner: self.runner.clone(), run: run.to_owned() })?;
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(
                OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path)?,
            ),
        };
        file.write_all_at(&line, 0)?;
        file.set_len(u64::try_from(line.len()).unwrap_or(u64::MAX))
    }

    /// Takes the file away: the end of the last run is known.
    pub fn remove(self) {
        if self.file.is_some() {
            // What stays is cleaned up with the files of runners that were killed.
            drop(fs::remove_file(self.path));
        }
    }
}

/// Returns who has begun a run and did not write its end down, dead or alive.
pub fn runner_of(directory: &Path, run: &str) -> Option<ProcessIdentity> {
    all(directory).into_iter().find(|(_, claim)| claim.run == run).map(|(_, claim)| claim.runner)
}

/// Returns every claim. Half a file is one that is being written: its run has not begun.
pub fn all(directory: &Path) -> Vec<(PathBuf, Claim)> {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    files
        .filter_map(|entry| {
            let claim = serde_json::from_slice(&fs::read(entry.path()).ok()?).ok()?;
            Some((entry.path(), claim))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_claims_one_run_after_the_other_and_takes_its_file_along() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = ClaimFile::new(directory.path());
        assert!(all(directory.path()).is_empty());
        for run in ["0001.a-long-name-of-a-run", "0002.short"] {
            file.claim(run).unwrap();
            assert_eq!(runner_of(directory.path(), run), Some(process_table::own()));
        }
        assert_eq!(runner_of(directory.path(), "0001.a-long-name-of-a-run"), None);
        fs::write(directory.path().join("1-1.json"), br#"{"runner":{"pid":1"#).unwrap();
        assert_eq!(all(directory.path()).len(), 1);
        file.remove();
        assert!(all(directory.path()).is_empty());
    }
}
