//! Edge: the journal as a file: read back, appended to, rotated.

use crate::disk::append::{LineFile, tail};
use crate::disk::atomic;
use crate::disk::fsync::FsyncPolicy;
use crate::disk::identity;
use crate::domain::time::Timestamp;
use crate::session::journal::{self, Line};
use crate::session::ledger::Ledger;
use std::io;
use std::path::{Path, PathBuf};

/// The journal is rotated above this size, in bytes, unless half of it would be carried over. 64 MiB is read back in well under
/// a second.
pub const ROTATE_ABOVE_BYTES: u64 = 64 * 1024 * 1024;

/// As much of a journal is read back, in bytes. A million missions carry over half of that, so what lies before is other programs'.
const READ_BACK_BYTES: u64 = 1024 * 1024 * 1024;

/// Adds up every whole line of the journal; a missing file adds up to nothing.
///
/// # Errors
/// What the file system says.
pub fn read(path: &Path) -> io::Result<Ledger> {
    let mut ledger = Ledger::default();
    tail(path, READ_BACK_BYTES, |line| journal::fold(&mut ledger, line))?;
    Ok(ledger)
}

/// A session's journal, for those who write to it.
#[derive(Debug)]
pub struct Journal {
    file: LineFile,
}

impl Journal {
    /// Names a journal; the file is opened by the first append.
    pub fn new(path: impl Into<PathBuf>, policy: FsyncPolicy) -> Self {
        Self { file: LineFile::new(path, policy) }
    }

    /// Appends whole lines, given with their newlines, with one write. Those that are to be `durable` are on disk on return, unless the policy is
    /// `Never`.
    ///
    /// # Errors
    /// What the file system says; a torn line is healed by the next append.
    pub fn append(&mut self, lines: &[u8], durable: bool) -> io::Result<()> {
        self.file.append_whole(lines)?;
        if durable { self.file.sync() } else { Ok(()) }
    }
}

/// Gives a journal of more than `above` bytes the name `log.<time>.jsonl` and begins a new one with what still matters. Returns
/// above which size it is worth trying again, when that has changed.
///
/// The old file first gets its second name and is then replaced by the new one in one step: there is no instant at which
/// a crash would leave the session without its journal.
///
/// # Errors
/// What the file system says; the journal is then as it was.
pub fn rotate(
    path: &Path,
    ledger: &Ledger,
    at: Timestamp,
    policy: FsyncPolicy,
    above: u64,
) -> io::Result<Option<u64>> {
    let size_bytes = identity::of_path(path)?.map_or(0, |identity| identity.size_bytes);
    if size_bytes <= above {
        return Ok(None);
    }
    let mut lines = Vec::new();
    Line::carried(at, ledger).for_each(|line| line.write(&mut lines));
    let worthwhile = u64::try_from(lines.len()).unwrap_or(u64::MAX).saturating_mul(2).max(ROTATE_ABOVE_BYTES);
    if size_bytes > worthwhile {
        let name = format!("log.{}.jsonl", at.to_string().replace(':', ""));
        std::fs::hard_link(path, path.with_file_name(name))?;
        atomic::write(path, &lines, policy)?;
    }
    Ok(Some(worthwhile))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::MissionEvent;
    use crate::domain::id::{ExecutorId, MissionId};
    use crate::domain::lifecycle::MissionState;
    use crate::session::ledger::{Applied, Phase};

    const EXECUTOR: &str = "0b7e0c1e-8a53-4c7e-9d52-6f0e5f3f9a11";

    fn id(text: &str) -> MissionId {
        MissionId::new(text).unwrap()
    }

    #[test]
    fn a_journal_without_an_outcome_leaves_the_mission_claimed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        assert!(read(&path).unwrap().is_empty());
        let ts = Timestamp::from_millis(1_000);
        let mut lines = Vec::new();
        for mission in ["m-1", "m-2", "m-3"] {
            Line::Dispatching { ts, mission_id: id(mission), key: mission.to_owned(), run: 1, attempt: 1 }
                .write(&mut lines);
        }
        let executor_id = Some(ExecutorId::new(EXECUTOR).unwrap());
        Line::Assigned { ts, mission_id: id("m-2"), executor_id, estimated_start: None }.write(&mut lines);
        Line::Unsent { ts, mission_id: id("m-3") }.write(&mut lines);
        let mut journal = Journal::new(&path, FsyncPolicy::Batch);
        journal.append(&lines, true).unwrap();
        let torn = b"{\"event\":\"somebody.else\",\"ts\":1}\nnot json\n{\"event\":\"bridge.assi";
        journal.append(torn, false).unwrap();
        let ledger = read(&path).unwrap();
        assert_eq!(ledger.get("m-1").unwrap().phase, Phase::Claimed);
        assert_eq!(ledger.get("m-2").unwrap().state, MissionState::Assigned);
        assert_eq!(ledger.get("m-2").unwrap().field("executorId"), Some(format!("\"{EXECUTOR}\"").as_str()));
        let unsent = ledger.get("m-3").unwrap();
        assert_eq!((unsent.phase, unsent.attempts), (Phase::Waiting, 0));
    }

    #[test]
    fn a_rotated_journal_carries_everything_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let ts = Timestamp::from_millis(1_000);
        let mut lines = Vec::new();
        for mission in ["m-1", "m-2"] {
            Line::Dispatching { ts, mission_id: id(mission), key: mission.to_owned(), run: 3, attempt: 2 }
                .write(&mut lines);
        }
        Line::Assigned { ts, mission_id: id("m-2"), executor_id: None, estimated_start: None }
            .write(&mut lines);
        let raw = format!(
            r#"{{"event":"mission.started","executor_id":"{EXECUTOR}","mission_id":"m-2","ts":"{ts}","data":{{"state":"running"}}}}"#
        );
        Line::event(ts, id("m-2"), Applied::Moved, &raw).unwrap().write(&mut lines);
        Journal::new(&path, FsyncPolicy::Never).append(&lines, false).unwrap();
        let before = read(&path).unwrap();
        let rotate = |above| rotate(&path, &before, ts, FsyncPolicy::Never, above).unwrap();
        let files = || std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!((rotate(ROTATE_ABOVE_BYTES), files()), (None, 1), "too small to rotate");
        assert_eq!((rotate(0), files()), (Some(ROTATE_ABOVE_BYTES), 1), "still");
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .set_len(ROTATE_ABOVE_BYTES + 1)
            .unwrap();
        assert_eq!((rotate(ROTATE_ABOVE_BYTES), files()), (Some(ROTATE_ABOVE_BYTES), 2));
        let mut after = read(&path).unwrap();
        for mission in ["m-1", "m-2"] {
            let (old, new) = (before.get(mission).unwrap(), after.get(mission).unwrap());
            assert_eq!(
                (old.run, old.attempts, old.phase, old.state),
                (new.run, new.attempts, new.phase, new.state)
            );
            assert_eq!(old.field("executorId"), new.field("executorId"));
        }
        let started = MissionEvent::Started { agent_runtime: None, pty_session_id: None };
        let again = after.get_mut(&id("m-2")).unwrap().happened(&started, None, ts, journal::digest(&raw));
        assert_eq!(again, Applied::Duplicate);
    }

    /// However much there is to carry, all of it is read back, and it is not carried again with every write.
    #[test]
    fn forty_thousand_missions_that_have_heard_much_are_carried_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let ts = Timestamp::from_millis(1_000);
        let mut ledger = Ledger::default();
        for n in 0..40_000_u32 {
            let mut held = ledger.hold(id(&format!("mission-with-a-name-{n}")));
            held.claim(ts);
            held.assigned(Some(EXECUTOR), None, ts);
            held.seen = (0..60).map(|event| u64::MAX - u64::from(n) * 60 - event).collect();
        }
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(ROTATE_ABOVE_BYTES + 1).unwrap();
        let rotate = |above| rotate(&path, &ledger, ts, FsyncPolicy::Never, above).unwrap();
        let worthwhile = rotate(ROTATE_ABOVE_BYTES).unwrap();
        assert!(worthwhile > ROTATE_ABOVE_BYTES, "it would be as long again at once");
        assert_eq!(rotate(worthwhile), None);
        file.set_len(worthwhile + 1).unwrap();
        assert_eq!(rotate(worthwhile), Some(worthwhile));
        let size_bytes = std::fs::metadata(&path).unwrap().len();
        assert_eq!(size_bytes, worthwhile / 2);
        let after = read(&path).unwrap();
        assert_eq!(after.len(), 40_000);
        let last = after.get("mission-with-a-name-39999").unwrap();
        assert_eq!(
            (last.state, last.seen.len()),
            (MissionState::Assigned, 50),
            "as many as a registry tells again"
        );
    }
}
