//! Edge: which run a runner has begun, as it says itself before it starts anything.
//!
//! Every runner has one small file, replaced with every run, and a socket beside it where a restarted executor finds it.
//! While the process that the file names lives, the run goes on; a run that nobody has claimed was never begun. A runner that
//! ends in order takes both along: the end of its run is then written down elsewhere. So a file whose runner is gone tells
//! of a run that nobody knows the end of.

use crate::executor::process_identity::ProcessIdentity;
use crate::executor::process_table;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};

/// What stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Who.
    pub runner: ProcessIdentity,
    /// The run, as its files are named.
    pub run: String,
}

/// Returns what the files of a runner are named.
fn stem(pid: u32, start_time: u64) -> String {
    format!("{pid}-{start_time}")
}

/// Returns a path of a runner's socket that is short wherever the directory is: such paths may have only 107 bytes.
fn socket(directory: &File, runner: &ProcessIdentity) -> PathBuf {
    let name = stem(runner.pid, runner.process_start_time);
    PathBuf::from(format!("/proc/self/fd/{}/{name}.sock", directory.as_raw_fd()))
}

/// A runner's own files.
#[derive(Debug)]
pub struct ClaimFile {
    directory: PathBuf,
    runner: ProcessIdentity,
    file: Option<File>,
}

impl ClaimFile {
    /// Names the files of this process in the directory of all; makes none yet.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), runner: process_table::own(), file: None }
    }

    fn path(&self, extension: &str) -> PathBuf {
        let name = stem(self.runner.pid, self.runner.process_start_time);
        self.directory.join(format!("{name}.{extension}"))
    }

    /// Listens for a restarted executor.
    ///
    /// # Errors
    /// What the system says.
    pub fn listen(&self) -> io::Result<UnixListener> {
        // What has our name is from before the last boot.
        drop(fs::remove_file(self.path("sock")));
        UnixListener::bind(socket(&File::open(&self.directory)?, &self.runner))
    }

    /// Says that a run begins now, in place of the last one.
    ///
    /// # Errors
    /// What the file system says; the run must not begin then.
    pub fn claim(&mut self, run: &str) -> io::Result<()> {
        let line = serde_json::to_vec(&Claim { runner: self.runner.clone(), run: run.to_owned() })?;
        let path = self.path("json");
        let file = match &mut self.file {
            Some(file) => file,
            none => none
                .insert(OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?),
        };
        file.write_all_at(&line, 0)?;
        file.set_len(u64::try_from(line.len()).unwrap_or(u64::MAX))
    }

    /// Takes the files away: the end of the last run is known.
    pub fn remove(self) {
        // What stays is cleaned up with the files of runners that were killed.
        drop(fs::remove_file(self.path("sock")));
        drop(fs::remove_file(self.path("json")));
    }
}

/// Connects to a runner of an earlier executor.
///
/// # Errors
/// Nobody listens there.
pub async fn connect(directory: &Path, runner: &ProcessIdentity) -> io::Result<UnixStream> {
    let directory = File::open(directory)?;
    UnixStream::connect(socket(&directory, runner)).await
}

/// Returns who has begun a run and did not write its end down, dead or alive.
///
/// # Errors
/// The claims cannot be read: nobody knows then.
pub fn runner_of(directory: &Path, run: &str) -> io::Result<Option<ProcessIdentity>> {
    Ok(all(directory)?.into_iter().find(|claim| claim.run == run).map(|claim| claim.runner))
}

/// Returns every claim. Half a file is one that is being written: its run has not begun.
///
/// # Errors
/// What the file system says.
pub fn all(directory: &Path) -> io::Result<Vec<Claim>> {
    let mut claims = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            match fs::read(&path) {
                Ok(bytes) => claims.extend(serde_json::from_slice::<Claim>(&bytes).ok()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(claims)
}

/// Returns the files of runners that are gone, each with what its runner claims. Whose claim cannot be read is left alone.
///
/// # Errors
/// What the file system says.
pub fn left_behind(directory: &Path) -> io::Result<Vec<(PathBuf, Option<Claim>)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.split_once('-'));
        let Some((Ok(pid), Ok(process_start_time))) = name.map(|(pid, start)| (pid.parse(), start.parse()))
        else {
            continue;
        };
        if process_table::is_alive(&ProcessIdentity {
            pid,
            boot_id: process_table::boot_id(),
            process_start_time,
        }) {
            continue;
        }
        match fs::read(path.with_extension("json")) {
            Ok(bytes) => files.push((path, serde_json::from_slice(&bytes).ok())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => files.push((path, None)),
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_claims_one_run_after_the_other_and_takes_its_file_along() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = ClaimFile::new(directory.path());
        assert!(all(directory.path()).unwrap().is_empty());
        for run in ["0001.a-long-name-of-a-run", "0002.short"] {
            file.claim(run).unwrap();
            assert_eq!(runner_of(directory.path(), run).unwrap(), Some(process_table::own()));
        }
        assert_eq!(runner_of(directory.path(), "0001.a-long-name-of-a-run").unwrap(), None);
        let torn = directory.path().join("1-1.json");
        fs::write(&torn, br#"{"runner":{"pid":1"#).unwrap();
        assert_eq!(all(directory.path()).unwrap().len(), 1);
        assert_eq!(left_behind(directory.path()).unwrap(), [(torn, None)]);
        file.remove();
        assert!(all(directory.path()).unwrap().is_empty());
        assert!(runner_of(&directory.path().join("nowhere"), "0002.short").is_err());
    }
}
