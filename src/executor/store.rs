//! Edge: missions on disk, so that a restart finds them.
//!
//! One directory per mission. What is known of it is in `mission.jsonl`, a line for every change, of which the last whole one
//! counts: what was promised is synced before anybody is answered, and to append costs a file system much less than to
//! replace a file. Its log and the files of its runs lie beside it. A record that cannot be read is reported by name and left
//! alone.

use crate::disk::append::LineFile;
use crate::disk::atomic;
use crate::disk::fsync::FsyncPolicy;
use crate::domain::id::MissionId;
use crate::domain::lifecycle::MissionState;
use crate::domain::time::Timestamp;
use crate::executor::hitl_files::QuestionDirectories;
use crate::executor::outcome::Outcome;
use crate::executor::provision::path_rules::scoped_name;
use crate::executor::run::Run;
use crate::executor::runner_protocol::RunFiles;
use crate::protocol::executor_v1::wire_state;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The version of the records; a newer one is refused.
pub const FORMAT: u32 = 1;

/// What is known of a mission.
const RECORD_FILE: &str = "mission.jsonl";

/// How many bytes of former lines are kept at most, and how many times a line they may be instead.
const FORMER: (u64, u64) = (64 * 1024, 4);

/// How many records may go to the disk at once: enough to keep any disk busy, and no thread for each of a thousand missions.
const WRITERS: usize = 16;

/// What is known of a mission.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MissionRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// The mission.
    pub mission_id: MissionId,
    /// Its session.
    pub session_id: String,
    /// The idempotency key that it came with.
    pub key: String,
    /// The dispatch body.
    pub payload: Value,
    /// Marks its processes.
    pub run_id: String,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// When its first run began.
    pub begun_at: Option<Timestamp>,
    /// When anything changed last.
    pub updated_at: Timestamp,
    /// Where it stands.
    #[serde(with = "wire_state")]
    pub state: MissionState,
    /// The run that is under way or was last.
    pub run: Option<Run>,
    /// How it ends, once that is known.
    pub outcome: Option<Outcome>,
    /// Frozen by an executor that ended in order.
    pub suspended: bool,
    /// An operator holds it.
    pub paused: bool,
    /// How long the system had been up then: unlike the time of day it never jumps.
    #[serde(default)]
    pub begun_uptime_ms: Option<u64>,
    /// The boot in which its run began: after another one nobody can say what became of it.
    #[serde(default)]
    pub boot_id: Option<String>,
    /// Its last event was sent; none while it still has to be.
    pub reported_at: Option<Timestamp>,
    /// Its last events as they were sent, oldest first.
    pub recent_events: Vec<Box<RawValue>>,
}

/// A record could not be used.
#[derive(Debug, thiserror::Error)]
#[error("use {}: {source}", path.display())]
pub struct StoreError {
    /// Which file or directory.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError + use<'_> {
    move |source| StoreError { path: path.to_owned(), source }
}

/// The missions of one executor.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
    claims: PathBuf,
    writers: Arc<Semaphore>,
    questions: QuestionDirectories,
}

impl Store {
    /// Uses `directory`, making it if need be, readable only by its owner.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let usable = |name: &str| {
            let path = directory.join(name);
            make(&path)?;
            path.canonicalize().map_err(at(&path))
        };
        let spare = usable("spare")?;
        Ok(Self {
            directory: usable("missions")?,
            claims: usable("runners")?,
            writers: Arc::new(Semaphore::new(WRITERS)),
            questions: QuestionDirectories::open(&spare).map_err(at(&spare))?,
        })
    }

    /// Returns where runners say what they have begun.
    pub fn claims(&self) -> &Path {
        &self.claims
    }

    /// Returns the directory of a mission.
    pub fn directory_of(&self, mission: &MissionId) -> PathBuf {
        self.directory.join(scoped_name(mission.as_str()))
    }

    /// Returns where the files of one of its runs lie.
    pub fn run_files(&self, record: &MissionRecord, run: &Run) -> RunFiles {
        RunFiles {
            directory: self.directory_of(&record.mission_id),
            name: format!("{}.{}", record.run_id, run.name()),
        }
    }

    /// Removes the files that runs of a mission have left, as they do where no executor listens.
    ///
    /// # Errors
    /// [`StoreError`] for the first that stays.
    pub fn remove_run_files(&self, record: &MissionRecord) -> Result<(), StoreError> {
        let directory = self.directory_of(&record.mission_id);
        for entry in fs::read_dir(&directory).map_err(at(&directory))? {
            let entry = entry.map_err(at(&directory))?;
            if entry.file_name().to_string_lossy().starts_with(&record.run_id) {
                fs::remove_file(entry.path()).map_err(at(&entry.path()))?;
            }
        }
        Ok(())
    }

    /// Returns where a mission's agent asks its questions.
    pub fn questions_of(&self, mission: &MissionId) -> PathBuf {
        self.directory_of(mission).join("hitl")
    }

    /// Makes the directory for a mission's questions, unless it is there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn make_questions(&self, mission: &MissionId) -> Result<(), StoreError> {
        let path = self.questions_of(mission);
        self.questions.make(&path).map_err(at(&path))
    }

    /// Takes the directory for a mission's questions away.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn remove_questions(&self, mission: &MissionId) -> Result<(), StoreError> {
        let path = self.questions_of(mission);
        self.questions.remove(&path).map_err(at(&path))
    }

    /// Writes a record; with `sync` it survives a power cut.
    ///
    /// # Errors
    /// [`StoreError`]; the old record is untouched.
    pub fn write(&self, record: &MissionRecord, sync: bool) -> Result<(), StoreError> {
        let directory = self.directory_of(&record.mission_id);
        let path = directory.join(RECORD_FILE);
        let line = serde_json::to_string(record).map_err(|error| at(&path)(error.into()))?;
        let policy = if sync { FsyncPolicy::Batch } else { FsyncPolicy::Never };
        let former = match fs::metadata(&path) {
            Ok(file) => file.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(&directory)?;
                0
            }
            Err(error) => return Err(at(&path)(error)),
        };
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if former > FORMER.0.max(length.saturating_mul(FORMER.1)) {
            // Synced in any case: lines that were must not give way to one that was not.
            return atomic::write(&path, format!("{line}\n").as_bytes(), FsyncPolicy::Batch)
                .map_err(at(&path));
        }
        let mut file = LineFile::new(&path, policy);
        file.append([line.as_str()]).and_then(|()| file.sync()).map_err(|error| {
            // What was refused must not be found later.
            let taken_back =
                fs::OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(former));
            if let Err(error) = taken_back {
                tracing::warn!(file.path = %path.display(), %error, "a line that was refused stays");
            }
            at(&path)(error)
        })
    }

    /// Begins to write a record so that it survives a power cut. The wait for the disk is not this thread's, so that missions
    /// that end together wait together, though not more than [`WRITERS`] of them.
    pub fn write_durably(
        &self,
        record: &MissionRecord,
    ) -> impl Future<Output = Result<(), StoreError>> + use<> {
        let (store, record) = (self.clone(), record.clone());
        let path = self.directory_of(&record.mission_id);
        let begun = Arc::clone(&self.writers)
            .try_acquire_owned()
            .map(|permit| begin(store.clone(), record.clone(), permit));
        async move {
            let writing = match begun {
                Ok(writing) => writing,
                Err(_busy) => match Arc::clone(&store.writers).acquire_owned().await {
                    Ok(permit) => begin(store, record, permit),
                    Err(closed) => return Err(at(&path)(io::Error::other(closed))),
                },
            };
            writing.await.unwrap_or_else(|panicked| Err(at(&path)(io::Error::other(panicked))))
        }
    }

    /// Reads one record.
    ///
    /// # Errors
    /// [`StoreError`] for one that cannot be read; none when there is none.
    pub fn read(&self, mission: &MissionId) -> Result<Option<MissionRecord>, StoreError> {
        read(&self.directory_of(mission))
    }

    /// Reads every record; those that cannot be read are returned as errors.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn all(&self) -> Result<Vec<Result<MissionRecord, StoreError>>, StoreError> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(at(&self.directory))? {
            let entry = entry.map_err(at(&self.directory))?;
            records.extend(read(&entry.path()).transpose());
        }
        Ok(records)
    }

    /// Removes a mission with its log.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn remove(&self, mission: &MissionId) -> Result<(), StoreError> {
        let directory = self.directory_of(mission);
        fs::remove_dir_all(&directory).map_err(at(&directory))
    }
}

fn begin(
    store: Store,
    record: MissionRecord,
    permit: OwnedSemaphorePermit,
) -> tokio::task::JoinHandle<Result<(), StoreError>> {
    tokio::task::spawn_blocking(move || {
        let written = store.write(&record, true);
        drop(permit);
        written
    })
}

fn make(directory: &Path) -> Result<(), StoreError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at(directory))
}

fn read(directory: &Path) -> Result<Option<MissionRecord>, StoreError> {
    let path = directory.join(RECORD_FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(&path)(error)),
    };
    // What follows the last newline was not written to its end, and neither was a line that is no JSON.
    let whole =
        bytes.iter().rposition(|byte| *byte == b'\n').and_then(|end| bytes.get(..end)).unwrap_or_default();
    let mut lines = whole.rsplit(|byte| *byte == b'\n');
    let Some(line) = lines.find(|line| serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok()) else {
        return match whole {
            [] => Ok(None),
            _ => Err(at(&path)(io::Error::other("no line of it is JSON"))),
        };
    };
    let record: MissionRecord = serde_json::from_slice(line).map_err(|error| at(&path)(error.into()))?;
    if record.format > FORMAT {
        let newer = format!("its format {} is newer than {FORMAT}; use a newer aiwg-rs", record.format);
        return Err(at(&path)(io::Error::other(newer)));
    }
    Ok(Some(record))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::io::Write as _;

    fn record(run_id: &str, payload_bytes: usize) -> MissionRecord {
        serde_json::from_value(json!({
            "format": 1, "mission_id": "m-1", "session_id": "s", "key": "m-1", "run_id": run_id, "state": "running",
            "payload": {"objective": "x".repeat(payload_bytes)}, "accepted_at": "2026-01-01T00:00:00.000Z",
            "begun_at": null, "updated_at": "2026-01-01T00:00:00.000Z", "run": null, "outcome": null,
            "suspended": false, "paused": false, "reported_at": null, "recent_events": [],
        }))
        .unwrap()
    }

    #[test]
    fn a_line_that_was_not_written_to_its_end_takes_nothing_back() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let mission = MissionId::new("m-1").unwrap();
        assert!(store.read(&mission).unwrap().is_none());
        let path = store.directory_of(&mission).join(RECORD_FILE);
        for (run, torn) in
            [("r1", r#"{"format":1,"mission_id":"m-"#), ("r2", "\0\0\0\0"), ("r3", "{\n{\"for")]
        {
            store.write(&record(run, 10), run == "r1").unwrap();
            fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(torn.as_bytes()).unwrap();
            assert_eq!(store.read(&mission).unwrap().unwrap().run_id, run, "{torn}");
        }
        fs::write(&path, "").unwrap();
        assert!(store.read(&mission).unwrap().is_none());
        fs::write(&path, "rubbish\n").unwrap();
        assert!(store.read(&mission).unwrap_err().to_string().contains("no line of it is JSON"));
        fs::write(&path, "{\"format\":9}\n").unwrap();
        assert!(store.all().unwrap().remove(0).is_err());
    }

    #[test]
    fn former_lines_do_not_pile_up() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        for payload in [100, 50_000] {
            let (mut largest, record) = (0, record("r1", payload));
            for _ in 0..1000 {
                store.write(&record, false).unwrap();
                let path = store.directory_of(&record.mission_id).join(RECORD_FILE);
                largest = largest.max(fs::metadata(path).unwrap().len());
            }
            assert!(largest < 64 * 1024 + 6 * 51_000, "{largest}");
        }
    }
}
