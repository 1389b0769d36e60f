//! Edge: one look at everything, by `stat` alone.
//!
//! A sweep is what makes a missed notification harmless, and all there is where notifications cannot work. It reads no
//! file: two `stat` calls per session, and a listing of those drop folders that changed since they were last empty.

use crate::domain::file::FileIdentity;
use crate::domain::id::SessionId;
use crate::domain::time::Timestamp;
use crate::watcher::found::{Entry, FileLook, Found, Inbox, Odd};
use crate::watcher::names::{INBOX, SESSION_FILE, SESSIONS, is_drop_file};
use crate::watcher::{InboxPlace, Subject};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// A drop folder whose time stamp is younger than this is listed again: stamps can be as coarse as two seconds.
const STAMP_SETTLES_MS: i64 = 3_000;

/// How many odd paths are remembered, so that each is told about once.
const MOST_ODD: usize = 10_000;

/// The folder of sessions cannot be listed.
#[derive(Debug, thiserror::Error)]
#[error("list {}", path.display())]
pub struct SweepError {
    /// The directory.
    pub path: PathBuf,
    /// What the operating system said.
    #[source]
    pub source: std::io::Error,
}

/// Sweeps one watch dir, remembering only what makes the next sweep cheaper.
#[derive(Debug)]
pub struct Sweeper {
    root: PathBuf,
    sessions: HashSet<SessionId>,
    empty_inboxes: HashMap<InboxPlace, (u64, i128, i128)>,
    told: HashSet<PathBuf>,
}

impl Sweeper {
    /// Makes a sweeper for `root`, the watch dir.
    pub fn new(root: PathBuf) -> Self {
        Self { root, sessions: HashSet::new(), empty_inboxes: HashMap::new(), told: HashSet::new() }
    }

    /// Looks at every session and drop folder. A watch dir that does not exist holds none.
    ///
    /// # Errors
    /// [`SweepError`] when `sessions/` exists and cannot be listed.
    pub fn pass(&mut self, wall: Timestamp) -> Result<Found, SweepError> {
        let mut found = Found { inbox: self.inbox(None, INBOX, InboxPlace::Root, wall), ..Found::default() };
        let path = self.root.join(SESSIONS);
        let failed = |errno: rustix::io::Errno| SweepError { path: path.clone(), source: errno.into() };
        let directory = match open_directory(rustix::fs::CWD, &path) {
            Ok(directory) => directory,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {
                self.sessions.clear();
                self.empty_inboxes.clear();
                return Ok(found);
            }
            Err(errno) => return Err(failed(errno)),
        };
        found.sessions.reserve(self.sessions.len());
        let mut listing = rustix::fs::Dir::read_from(&directory).map_err(failed)?;
        let mut inside = String::with_capacity(160);
        while let Some(entry) = listing.read() {
            let entry = entry.map_err(failed)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let link = match entry.file_type() {
                FileType::Directory => false,
                FileType::Symlink => true,
                FileType::Unknown => {
                    match rustix::fs::statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_dir() => false,
                        Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_symlink() => true,
                        _ => continue,
                    }
                }
                FileType::RegularFile
                | FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice => continue,
            };
            let known = name.to_str().and_then(|text| self.sessions.get(text)).cloned();
            let named = known.or_else(|| name.to_str().and_then(|text| SessionId::new(text).ok()));
            let Some(session) = named else {
                self.tell(&mut found.odd, Odd::Name(path.join(name)));
                continue;
            };
            if link && !leads_inside(&self.root, &path.join(name)) {
                self.tell(&mut found.odd, Odd::Outside(path.join(name)));
                continue;
            }
            inside.clear();
            // Writing to a String cannot fail.
            write!(inside, "{session}/{SESSION_FILE}").unwrap_or_default();
            let (file, odd) = look(&self.root, directory.as_fd(), &inside, &path);
            if let Some(odd) = odd {
                self.tell(&mut found.odd, odd);
            }
            inside.truncate(session.as_str().len() + 1);
            inside.push_str(INBOX);
            let place = InboxPlace::Session(session.clone());
            let inbox = self.inbox(Some(directory.as_fd()), &inside, place, wall);
            found.sessions.push(Entry { session, file, inbox });
        }
        self.remember(&found);
        Ok(found)
    }

    fn remember(&mut self, found: &Found) {
        if self.sessions.len() == found.sessions.len()
            && found.sessions.iter().all(|entry| self.sessions.contains(&entry.session))
        {
            return;
        }
        self.sessions.clear();
        self.sessions.extend(found.sessions.iter().map(|entry| entry.session.clone()));
        let sessions = &self.sessions;
        self.empty_inboxes.retain(|place, _| match place {
            InboxPlace::Root => true,
            InboxPlace::Session(session) => sessions.contains(session),
        });
    }

    fn inbox(
        &mut self,
        base: Option<BorrowedFd<'_>>,
        path: &str,
        place: InboxPlace,
        wall: Timestamp,
    ) -> Inbox {
        let stat = match base {
            Some(base) => rustix::fs::statat(base, path, AtFlags::empty()),
            None => rustix::fs::stat(self.root.join(path)),
        };
        let Ok(stat) = stat else { return Inbox::Absent };
        if !FileType::from_raw_mode(stat.st_mode).is_dir() {
            return Inbox::Absent;
        }
        let identity = identity(&stat);
        let stamp = (identity.inode, identity.modified_ns, identity.changed_ns);
        if self.empty_inboxes.get(&place) == Some(&stamp) {
            return Inbox::Empty;
        }
        let opened = match base {
            Some(base) => open_directory(base, Path::new(path)),
            None => open_directory(rustix::fs::CWD, &self.root.join(path)),
        };
        let Ok(directory) = opened else { return Inbox::Empty };
        if holds_drop_files(&directory) {
            self.empty_inboxes.remove(&place);
            return Inbox::Waiting;
        }
        let age_ms = i128::from(wall.as_millis()) - identity.changed_ns / 1_000_000;
        if age_ms > i128::from(STAMP_SETTLES_MS) {
            self.empty_inboxes.insert(place, stamp);
        }
        Inbox::Empty
    }

    fn tell(&mut self, odd: &mut Vec<Odd>, news: Odd) {
        let (Odd::Name(path) | Odd::Outside(path) | Odd::NotAFile(path) | Odd::Closed(path)) = &news;
        if self.told.len() < MOST_ODD && self.told.insert(path.clone()) {
            odd.push(news);
        }
    }
}

/// Looks at the `session.json` of one session, as a sweep would. Also says what is odd about it.
pub fn look_at(root: &Path, session: &SessionId) -> (FileLook, Option<Odd>) {
    let sessions = root.join(SESSIONS);
    let directory = sessions.join(session.as_str());
    match rustix::fs::lstat(&directory) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_symlink() => {
            if !leads_inside(root, &directory) {
                return (FileLook::Absent, Some(Odd::Outside(directory)));
            }
        }
        Ok(_) | Err(_) => {}
    }
    match open_directory(rustix::fs::CWD, &sessions) {
        Ok(base) => look(root, base.as_fd(), &format!("{session}/{SESSION_FILE}"), &sessions),
        Err(errno) => refused(errno, session.as_str(), &sessions),
    }
}

/// Says whether the drop folder of `place` exists.
pub fn has_inbox(root: &Path, place: &InboxPlace) -> bool {
    crate::watcher::source::directory_of(root, &Subject::Inbox(place.clone())).is_dir()
}

/// Device and inode of the watch dir, of `sessions/` and of the root inbox, each none while it is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Roots {
    /// The watch dir.
    pub root: Option<(u64, u64)>,
    /// `sessions/`.
    pub sessions: Option<(u64, u64)>,
    /// `inbox/`.
    pub inbox: Option<(u64, u64)>,
}

/// Looks which directories the watch dir consists of right now.
pub fn roots(root: &Path) -> Roots {
    let one = |path: &Path| {
        let stat = rustix::fs::stat(path).ok()?;
        FileType::from_raw_mode(stat.st_mode).is_dir().then_some((stat.st_dev, stat.st_ino))
    };
    Roots { root: one(root), sessions: one(&root.join(SESSIONS)), inbox: one(&root.join(INBOX)) }
}

/// `path` is seen from `base`, which is `shown` to people.
fn look(root: &Path, base: BorrowedFd<'_>, path: &str, shown: &Path) -> (FileLook, Option<Odd>) {
    let link = match rustix::fs::statat(base, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_symlink() => true,
        Ok(stat) => return judge(&stat, path, shown),
        Err(errno) => return refused(errno, path, shown),
    };
    if link && !leads_inside(root, &shown.join(path)) {
        return (FileLook::Absent, Some(Odd::Outside(shown.join(path))));
    }
    match rustix::fs::statat(base, path, AtFlags::empty()) {
        Ok(stat) => judge(&stat, path, shown),
        Err(errno) => refused(errno, path, shown),
    }
}

fn judge(stat: &Stat, path: &str, shown: &Path) -> (FileLook, Option<Odd>) {
    if FileType::from_raw_mode(stat.st_mode).is_file() {
        (FileLook::Present(identity(stat)), None)
    } else {
        (FileLook::Absent, Some(Odd::NotAFile(shown.join(path))))
    }
}

fn refused(errno: rustix::io::Errno, path: &str, shown: &Path) -> (FileLook, Option<Odd>) {
    match errno {
        rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP => {
            (FileLook::Absent, None)
        }
        _ => (FileLook::Unknown, Some(Odd::Closed(shown.join(path)))),
    }
}

fn identity(stat: &Stat) -> FileIdentity {
    let nanoseconds = |seconds: i128, rest: i128| seconds * 1_000_000_000 + rest;
    FileIdentity {
        device: stat.st_dev,
        inode: stat.st_ino,
        size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
        modified_ns: nanoseconds(i128::from(stat.st_mtime), i128::from(stat.st_mtime_nsec)),
        changed_ns: nanoseconds(i128::from(stat.st_ctime), i128::from(stat.st_ctime_nsec)),
    }
}

fn open_directory(base: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(base, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn holds_drop_files(directory: &OwnedFd) -> bool {
    let Ok(mut listing) = rustix::fs::Dir::read_from(directory) else { return false };
    while let Some(Ok(entry)) = listing.read() {
        if is_drop_file(OsStr::from_bytes(entry.file_name().to_bytes())) {
            return true;
        }
    }
    false
}

fn leads_inside(root: &Path, path: &Path) -> bool {
    match (std::fs::canonicalize(root), std::fs::canonicalize(path)) {
        (Ok(root), Ok(target)) => target.starts_with(&root),
        // A dangling link leads nowhere yet.
        (_, Err(error)) if error.kind() == std::io::ErrorKind::NotFound => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    const LATER: Timestamp = Timestamp::from_millis(i64::MAX / 2);

    fn workspace(sessions: usize) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for index in 0..sessions {
            let directory = folder.path().join(format!("sessions/s{index}"));
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("session.json"), "{}").unwrap();
        }
        folder
    }

    fn names(found: &Found) -> Vec<&str> {
        let mut names: Vec<_> = found.sessions.iter().map(|e| e.session.as_str()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn every_session_is_found_with_the_identity_that_std_reads() {
        let folder = workspace(3);
        let found = Sweeper::new(folder.path().to_owned()).pass(LATER).unwrap();
        assert_eq!(names(&found), ["s0", "s1", "s2"]);
        for entry in &found.sessions {
            let path = folder.path().join("sessions").join(entry.session.as_str()).join("session.json");
            let meta = fs::metadata(path).unwrap();
            let nanos = |s: i64, n: i64| i128::from(s) * 1_000_000_000 + i128::from(n);
            let expected = FileIdentity {
                device: meta.dev(),
                inode: meta.ino(),
                size_bytes: meta.len(),
                modified_ns: nanos(meta.mtime(), meta.mtime_nsec()),
                changed_ns: nanos(meta.ctime(), meta.ctime_nsec()),
            };
            assert_eq!(entry.file, FileLook::Present(expected));
            assert_eq!(look_at(folder.path(), &entry.session), (FileLook::Present(expected), None));
        }
    }

    #[test]
    fn a_missing_watch_dir_holds_no_sessions() {
        let folder = tempfile::tempdir().unwrap();
        let found = Sweeper::new(folder.path().join("later")).pass(LATER).unwrap();
        assert_eq!(found, Found::default());
        assert_eq!(roots(&folder.path().join("later")), Roots::default());
    }

    #[test]
    fn bad_names_and_links_that_lead_outside_are_told_once_and_left_alone() {
        let folder = workspace(1);
        let outside = workspace(1);
        let sessions = folder.path().join("sessions");
        fs::create_dir(sessions.join("my session")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("sessions/s0"), sessions.join("link")).unwrap();
        std::os::unix::fs::symlink("s0", sessions.join("alias")).unwrap();
        fs::create_dir(sessions.join("file-link")).unwrap();
        let target = outside.path().join("sessions/s0/session.json");
        std::os::unix::fs::symlink(target, sessions.join("file-link/session.json")).unwrap();
        fs::create_dir_all(sessions.join("odd/session.json")).unwrap();

        let mut sweeper = Sweeper::new(folder.path().to_owned());
        let found = sweeper.pass(LATER).unwrap();
        let present: Vec<_> = found
            .sessions
            .iter()
            .filter(|e| matches!(e.file, FileLook::Present(_)))
            .map(|e| e.session.as_str())
            .collect();
        assert_eq!(present.len(), 2, "{present:?}");
        assert!(present.contains(&"s0") && present.contains(&"alias"));
        assert_eq!(found.odd.len(), 4, "{:?}", found.odd);
        assert!(found.odd.contains(&Odd::Name(sessions.join("my session"))));
        assert!(found.odd.contains(&Odd::Outside(sessions.join("link"))));
        assert!(found.odd.contains(&Odd::Outside(sessions.join("file-link/session.json"))));
        assert!(found.odd.contains(&Odd::NotAFile(sessions.join("odd/session.json"))));
        assert_eq!(sweeper.pass(LATER).unwrap().odd, []);
        let link = SessionId::new("link").unwrap();
        assert_eq!(look_at(folder.path(), &link).0, FileLook::Absent);
    }

    #[test]
    fn drop_folders_are_waiting_only_while_they_hold_a_file_that_counts() {
        let folder = workspace(1);
        let inbox = folder.path().join("sessions/s0/inbox");
        fs::create_dir_all(inbox.join("accepted")).unwrap();
        fs::create_dir(folder.path().join("inbox")).unwrap();
        fs::write(inbox.join("a.json.tmp"), "{}").unwrap();
        let mut sweeper = Sweeper::new(folder.path().to_owned());
        let found = sweeper.pass(LATER).unwrap();
        assert_eq!((found.sessions[0].inbox, found.inbox), (Inbox::Empty, Inbox::Empty));
        rustix::fs::rename(inbox.join("a.json.tmp"), inbox.join("a.json")).unwrap();
        fs::write(folder.path().join("inbox/b.json"), "{}").unwrap();
        let found = sweeper.pass(LATER).unwrap();
        assert_eq!((found.sessions[0].inbox, found.inbox), (Inbox::Waiting, Inbox::Waiting));
        fs::remove_file(inbox.join("a.json")).unwrap();
        assert_eq!(sweeper.pass(LATER).unwrap().sessions[0].inbox, Inbox::Empty);
    }
}
