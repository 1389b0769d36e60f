//! Edge: the sessions of one watched folder: where they lie, which there are, what is in them.
//!
//! Everything here blocks; call it from a blocking thread. How a session is written without losing what others write
//! is in [`super::exchange`] and [`super::plain`], what a killed writer left behind in [`super::recovery`].

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::document::{Document, DocumentError};
use super::json;
use crate::disk::atomic::{self, Capabilities, Staged};
use crate::disk::fsync::FsyncPolicy;
use crate::disk::lock::{FileLock, LockError};
use crate::disk::{identity, wait};
use crate::domain::file::FileIdentity;
use crate::domain::id::{IdError, SessionId};
use crate::domain::session::SessionState;
use crate::domain::time::Timestamp;

/// Largest `session.json` that is read or written, in bytes: about 200,000 missions.
pub const MAX_SESSION_BYTES: u64 = 64 * 1024 * 1024;

/// Name of a session's file in its directory.
pub const SESSION_FILE: &str = "session.json";

/// Longest wait for another process of ours to finish its write.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// A torn file is read again after this, doubling up to [`LONGEST_REREAD`].
pub(super) const FIRST_REREAD: Duration = Duration::from_millis(2);

/// Longest time between two readings of a torn file.
pub(super) const LONGEST_REREAD: Duration = Duration::from_millis(50);

/// Longest wait for a torn file, or for another writer to close the file.
pub(super) const WRITER_PATIENCE: Duration = Duration::from_secs(2);

/// How a session is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WriteMode {
    /// The new file changes places with the old one, and the old one is looked at afterwards.
    Exchange,
    /// The new file is renamed over the old one, between two looks.
    Plain,
}

/// Why a session was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no such file.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The text is no session; most often somebody is in the middle of writing it.
    #[error("{} does not parse", path.display())]
    Torn {
        /// The file.
        path: PathBuf,
        /// Which content it was.
        identity: FileIdentity,
        /// Where it breaks off, and how.
        #[source]
        source: Box<DocumentError>,
    },
    /// The file is larger than [`MAX_SESSION_BYTES`].
    #[error("{} has {size_bytes} bytes; at most {MAX_SESSION_BYTES} are read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size_bytes: u64,
    },
    /// The path leads out of the watched folder, or to something that is no file.
    #[error("{} {reason}", path.display())]
    Refused {
        /// The path.
        path: PathBuf,
        /// Why it is not used.
        reason: &'static str,
    },
    /// The system refused.
    #[error("read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

impl ReadError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
            return Self::Missing { path };
        }
        Self::Io { path, source }
    }
}

/// Why a session was not updated. Its file holds what it held before.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The text stayed unparsable for two seconds; it was not written to.
    #[error("{} does not parse", path.display())]
    Torn {
        /// The file.
        path: PathBuf,
        /// Which content it was.
        identity: FileIdentity,
        /// Where it breaks off, and how.
        #[source]
        source: Box<DocumentError>,
    },
    /// The file was not read for another reason.
    #[error(transparent)]
    Read(ReadError),
    /// Another process of ours holds the session.
    #[error(transparent)]
    Lock(LockError),
    /// What was to be written is no session; it was not written.
    #[error("write something to {} that is no session", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with the new text.
        #[source]
        source: DocumentError,
    },
    /// What was to be written is larger than [`MAX_SESSION_BYTES`].
    #[error("write {size_bytes} bytes to {}; at most {MAX_SESSION_BYTES} are", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Size of the new text.
        size_bytes: u64,
    },
    /// Other writers came in between each time.
    #[error("write {}: other programs rewrote it {rounds} times meanwhile", path.display())]
    Contended {
        /// The file.
        path: PathBuf,
        /// How often it was tried.
        rounds: usize,
    },
    /// A process has it open for writing: what it will write there must not be lost.
    #[error("write {}: some process keeps it open for writing", path.display())]
    HeldOpen {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

impl From<ReadError> for UpdateError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Torn { path, identity, source } => Self::Torn { path, identity, source },
            other @ (ReadError::Missing { .. }
            | ReadError::TooLarge { .. }
            | ReadError::Refused { .. }
            | ReadError::Io { .. }) => Self::Read(other),
        }
    }
}

impl UpdateError {
    /// Returns what to do about it, where there is something to do.
    pub fn hint(&self) -> Option<&'static str> {
        let source = match self {
            Self::Torn { .. } => {
                return Some("correct the file by hand; it is left as it is until it parses");
            }
            Self::HeldOpen { .. } => return Some("close it there; `fuser -v` names the process"),
            Self::Contended { .. } => return Some("stop the program that rewrites the file without a pause"),
            Self::Lock(LockError::Held { .. }) => return Some("wait for that process, or end it"),
            Self::TooLarge { .. } => return Some("move ended missions to another session"),
            Self::Write { source, .. }
            | Self::Read(ReadError::Io { source, .. })
            | Self::Lock(LockError::Io { source, .. }) => source,
            Self::Read(_) | Self::Invalid { .. } => return None,
        };
        let kind = source.kind();
        if matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            Some("free some space; nothing was changed")
        } else if kind == io::ErrorKind::ReadOnlyFilesystem {
            Some("remount it writable; a bridge can look without writing, with --dry-run")
        } else if kind == io::ErrorKind::PermissionDenied {
            Some("give this user write access to the directory and its files")
        } else {
            None
        }
    }
}

/// A session as it was read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The content.
    pub document: Arc<Document>,
    /// Which content it is.
    pub identity: FileIdentity,
}

/// What an update came to.
#[derive(Debug, Clone)]
#[must_use = "others may have written too: the document in it is the one that counts now"]
pub struct Updated {
    /// What is in the file now.
    pub document: Arc<Document>,
    /// Which content that is. When somebody wrote right after us it is not the file's, so that a look finds a change.
    pub identity: FileIdentity,
    /// Something was written.
    pub wrote: bool,
    /// How many bytes, over all rounds.
    pub bytes_written: u64,
    /// How many versions of other writers turned up while we wrote, and were built upon.
    pub foreign_bases: usize,
    /// Versions of other writers that never parsed, and where they were put.
    pub torn: Vec<PathBuf>,
}

/// Something among the sessions that is not used, and why.
#[derive(Debug)]
pub struct Ignored {
    /// The path.
    pub path: PathBuf,
    /// Why it is not used.
    pub reason: IgnoredReason,
}

/// Why something among the sessions is not used.
#[derive(Debug, thiserror::Error)]
pub enum IgnoredReason {
    /// The directory's name is no session id.
    #[error("the name is no session id")]
    Name(#[source] IdError),
    /// The name is not UTF-8.
    #[error("the name is not UTF-8")]
    Encoding,
    /// It is a link that leads nowhere, or out of the watched folder.
    #[error(transparent)]
    Refused(ReadError),
}

/// The sessions of a watched folder.
#[derive(Debug, Default)]
pub struct Listing {
    /// Sessions that have a file, and which content it holds; in no order.
    pub sessions: Vec<(SessionId, FileIdentity)>,
    /// What else looks like a session. The same on every call: whoever warns remembers what was warned of.
    pub ignored: Vec<Ignored>,
}

/// The sessions below one watched folder. Cheap to share; every method may be called from many threads at once.
#[derive(Debug)]
pub struct SessionStore {
    root: PathBuf,
    pub(super) policy: FsyncPolicy,
    mode: OnceLock<WriteMode>,
}

impl SessionStore {
    /// Names the watched folder. Touches nothing: the folder may come later.
    pub fn new(watch_dir: impl Into<PathBuf>, policy: FsyncPolicy) -> Self {
        Self { root: watch_dir.into(), policy, mode: OnceLock::new() }
    }

    /// Sets how sessions are replaced, instead of trying what the file system can do.
    #[must_use]
    pub fn with_mode(self, mode: WriteMode) -> Self {
        Self { mode: OnceLock::from(mode), ..self }
    }

    /// Returns the watched folder.
    pub fn watch_dir(&self) -> &Path {
        &self.root
    }

    /// Returns the directory of all sessions.
    pub fn sessions_dir(&self) -> PathBuf {
        self.root.join("sessions")
    }

    /// Returns a session's directory.
    pub fn session_dir(&self, session: &SessionId) -> PathBuf {
        self.sessions_dir().join(session.as_str())
    }

    /// Returns a session's file.
    pub fn session_file(&self, session: &SessionId) -> PathBuf {
        self.session_dir(session).join(SESSION_FILE)
    }

    /// Returns a session's log.
    pub fn log_file(&self, session: &SessionId) -> PathBuf {
        self.session_dir(session).join("log.jsonl")
    }

    /// Returns a session's drop folder.
    pub fn inbox_dir(&self, session: &SessionId) -> PathBuf {
        self.session_dir(session).join("inbox")
    }

    /// Returns the drop folder for missions that name their session themselves.
    pub fn shared_inbox_dir(&self) -> PathBuf {
        self.root.join("inbox")
    }

    /// Returns how sessions are replaced; the first call tries what the file system can do.
    ///
    /// # Errors
    /// When no file can be made in the watched folder.
    pub fn write_mode(&self) -> io::Result<WriteMode> {
        if let Some(&mode) = self.mode.get() {
            return Ok(mode);
        }
        let mode = match atomic::probe(&self.root)? {
            Capabilities { exchange: true, leases: true } => WriteMode::Exchange,
            Capabilities { .. } => WriteMode::Plain,
        };
        Ok(*self.mode.get_or_init(|| mode))
    }

    /// Lists the sessions. A folder that does not exist has none.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Listing, ReadError> {
        let directory = self.sessions_dir();
        let mut listing = Listing::default();
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(listing),
            other => other.map_err(|error| ReadError::io(&directory, error))?,
        };
        for entry in entries {
            let entry = entry.map_err(|error| ReadError::io(&directory, error))?;
            let path = entry.path();
            match self.listed(&entry) {
                Ok(Some(session)) => listing.sessions.push(session),
                Ok(None) => {}
                Err(reason) => listing.ignored.push(Ignored { path, reason }),
            }
        }
        Ok(listing)
    }

    fn listed(&self, entry: &fs::DirEntry) -> Result<Option<(SessionId, FileIdentity)>, IgnoredReason> {
        let kind = entry.file_type();
        if kind.is_ok_and(|kind| !kind.is_dir() && !kind.is_symlink()) {
            return Ok(None);
        }
        let name = entry.file_name();
        let name = name.to_str().ok_or(IgnoredReason::Encoding)?;
        let session = SessionId::new(name).map_err(IgnoredReason::Name)?;
        match self.identity(&session) {
            Ok(Some(identity)) => Ok(Some((session, identity))),
            Ok(None) => Ok(None),
            Err(error) => Err(IgnoredReason::Refused(error)),
        }
    }

    /// Returns which content a session's file holds; nothing when there is no file.
    ///
    /// # Errors
    /// [`ReadError::Refused`] and [`ReadError::Io`].
    pub fn identity(&self, session: &SessionId) -> Result<Option<FileIdentity>, ReadError> {
        let look = || {
            let path = self.locate_new(session)?;
            let there = fs::symlink_metadata(&path).map_err(|error| ReadError::io(&path, error))?;
            if !there.is_symlink() {
                return Ok(Some(identity::of_metadata(&there)));
            }
            let path = self.inside(&path)?;
            identity::of_path(&path).map_err(|error| ReadError::io(&path, error))
        };
        match look() {
            Err(ReadError::Missing { .. }) => Ok(None),
            other => other,
        }
    }

    /// Reads a session once.
    ///
    /// # Errors
    /// [`ReadError::Torn`] also while somebody is writing: read again a little later.
    pub fn read(&self, session: &SessionId) -> Result<Reading, ReadError> {
        let loaded = load(&self.locate(session)?)?;
        Ok(Reading { document: loaded.document, identity: loaded.identity })
    }

    /// Changes a session without losing what other programs write into it meanwhile.
    ///
    /// `apply` gets what is in the file and returns the new text, or nothing when nothing is to change. Whenever a
    /// version of another writer turns up after all, it is called again with that one: it has to give the same changes
    /// for whatever it gets, as [`Document::apply`] does.
    ///
    /// # Guarantees
    /// Readers see whole versions only. What other programs wrote is in the result, except where `apply` lays
    /// something over it. On disk on return, unless the policy is `Never`.
    ///
    /// # Errors
    /// [`UpdateError`]; the file is then as others left it.
    pub fn update(
        &self,
        session: &SessionId,
        apply: &mut dyn FnMut(&Document) -> Option<Vec<u8>>,
    ) -> Result<Updated, UpdateError> {
        self.update_from(session, None, apply)
    }

    /// Changes a session as [`SessionStore::update`] does, and does not parse it again while it is still `known`: for
    /// whoever keeps what the last reading or update returned.
    ///
    /// # Errors
    /// [`UpdateError`]; the file is then as others left it.
    pub fn update_from(
        &self,
        session: &SessionId,
        known: Option<&Reading>,
        apply: &mut dyn FnMut(&Document) -> Option<Vec<u8>>,
    ) -> Result<Updated, UpdateError> {
        let path = self.locate(session)?;
        let _lock = lock(&path)?;
        let first = match known {
            Some(known) => match load_known(&path, known)? {
                Some(loaded) => loaded,
                None => load_settled(&path)?,
            },
            None => load_settled(&path)?,
        };
        self.write_over(&path, first, apply)
    }

    /// Changes a session as [`SessionStore::update`] does, but waits for nobody: one that does not parse at this moment is an
    /// error at once.
    ///
    /// # Errors
    /// [`UpdateError`]; the file is then as others left it.
    pub fn update_if_whole(
        &self,
        session: &SessionId,
        apply: &mut dyn FnMut(&Document) -> Option<Vec<u8>>,
    ) -> Result<Updated, UpdateError> {
        let path = self.locate(session)?;
        let _lock = lock(&path)?;
        self.write_over(&path, load(&path)?, apply)
    }

    pub(super) fn write_over(
        &self,
        path: &Path,
        first: Loaded,
        apply: &mut dyn FnMut(&Document) -> Option<Vec<u8>>,
    ) -> Result<Updated, UpdateError> {
        let mode =
            self.write_mode().map_err(|source| UpdateError::Write { path: path.to_owned(), source })?;
        match mode {
            WriteMode::Exchange => super::exchange::update(path, self.policy, first, apply),
            WriteMode::Plain => super::plain::update(path, self.policy, first, apply),
        }
    }

    /// Reads a session. While the file is torn it is read again, until `deadline`. Blocks the thread.
    ///
    /// # Errors
    /// As [`SessionStore::read`].
    pub fn read_settled(&self, session: &SessionId, deadline: Instant) -> Result<Reading, ReadError> {
        const PAUSE: Duration = Duration::from_millis(50);
        loop {
            match self.read(session) {
                Err(ReadError::Torn { .. }) if Instant::now() < deadline => wait::rest(PAUSE),
                other => return other,
            }
        }
    }

    /// Makes a session, durably and with its directory. Returns whether there was none; an existing one is left alone.
    ///
    /// # Errors
    /// [`UpdateError::Write`] and [`UpdateError::Read`].
    pub fn create_session(
        &self,
        session: &SessionId,
        name: &str,
        max_missions: u64,
        now: Timestamp,
    ) -> Result<bool, UpdateError> {
        let directory = self.session_dir(session);
        let path = self.session_file(session);
        let failed = |source| UpdateError::Write { path: path.clone(), source };
        fs::create_dir_all(&directory).map_err(failed)?;
        let path = self.locate_new(session)?;
        if identity::of_path(&path).map_err(failed)?.is_some() {
            return Ok(false);
        }
        let text = new_session(session, name, max_missions, now);
        let tag = super::exchange::unfinished_tag().map_err(failed)?;
        let staged = Staged::beside(&path, &tag, text.as_bytes(), None, self.policy).map_err(failed)?;
        match staged.create(&path, self.policy) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => return Err(failed(error)),
        }
        self.policy.sync_directory(&self.sessions_dir()).map_err(failed)?;
        Ok(true)
    }

    /// Returns where a session's file really lies: links are followed inside the watched folder, refused out of it.
    pub(super) fn locate(&self, session: &SessionId) -> Result<PathBuf, ReadError> {
        self.followed(self.locate_new(session)?)
    }

    fn locate_new(&self, session: &SessionId) -> Result<PathBuf, ReadError> {
        Ok(self.locate_directory(session)?.join(SESSION_FILE))
    }

    pub(super) fn locate_directory(&self, session: &SessionId) -> Result<PathBuf, ReadError> {
        self.followed(self.session_dir(session))
    }

    /// Follows a link inside the watched folder, and refuses one that leads out of it.
    pub(super) fn followed(&self, path: PathBuf) -> Result<PathBuf, ReadError> {
        let there = fs::symlink_metadata(&path).map_err(|error| ReadError::io(&path, error))?;
        if there.is_symlink() { self.inside(&path) } else { Ok(path) }
    }

    fn inside(&self, link: &Path) -> Result<PathBuf, ReadError> {
        let root = fs::canonicalize(&self.root).map_err(|error| ReadError::io(&self.root, error))?;
        let target = fs::canonicalize(link).map_err(|error| ReadError::io(link, error))?;
        let refused = |reason| Err(ReadError::Refused { path: link.to_owned(), reason });
        if !target.starts_with(&root) {
            return refused("is a link that leads out of the watched folder");
        }
        // Under two names its missions would be sent twice.
        let of = |path: &Path, sessions: &Path| {
            path.strip_prefix(sessions).ok()?.components().next().map(|name| name.as_os_str().to_owned())
        };
        if let Some(own) = of(link, &self.sessions_dir()) {
            if of(&target, &root.join("sessions")).is_some_and(|session| session != own) {
                return refused("is a link to another session, which counts under its own name only");
            }
            if self.is_claimed_before(&own, &target) {
                return refused("leads where the link of another session leads, which counts instead");
            }
        }
        Ok(target)
    }

    /// Says whether a session with a smaller name than `own` is a link to `target` as well.
    fn is_claimed_before(&self, own: &OsStr, target: &Path) -> bool {
        let leads_there = |link: &Path| {
            fs::symlink_metadata(link).is_ok_and(|there| there.is_symlink())
                && fs::canonicalize(link).is_ok_and(|there| {
                    there == target
                        || there.join(SESSION_FILE) == target
                        || there == target.join(SESSION_FILE)
                })
        };
        fs::read_dir(self.sessions_dir()).into_iter().flatten().flatten().any(|entry| {
            let name = entry.file_name();
            let is_before =
                name.as_os_str() < own && name.to_str().is_some_and(|id| SessionId::new(id).is_ok());
            is_before && (leads_there(&entry.path()) || leads_there(&entry.path().join(SESSION_FILE)))
        })
    }
}

/// Takes the lock that our own processes take before they write a session.
pub(super) fn lock(path: &Path) -> Result<FileLock, UpdateError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    FileLock::acquire(Path::new(&name), LOCK_PATIENCE).map_err(UpdateError::Lock)
}

/// A version of a session, and the file that it was read from.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) document: Arc<Document>,
    pub(super) identity: FileIdentity,
    pub(super) file: File,
}

/// Reads and parses a file once.
pub(super) fn load(path: &Path) -> Result<Loaded, ReadError> {
    let file = open(path)?;
    let (bytes, identity) = read_open(path, &file)?;
    match Document::parse(bytes) {
        Ok(document) => Ok(Loaded { document: Arc::new(document), identity, file }),
        Err(source) => Err(ReadError::Torn { path: path.to_owned(), identity, source: Box::new(source) }),
    }
}

/// Opens a file and takes its content as known, if its identity says so.
fn load_known(path: &Path, known: &Reading) -> Result<Option<Loaded>, ReadError> {
    let file = open(path)?;
    let identity = identity::of_file(&file).map_err(|error| ReadError::io(path, error))?;
    let document = Arc::clone(&known.document);
    Ok((identity == known.identity).then_some(Loaded { document, identity, file }))
}

/// Reads and parses a file, again and again while it is torn.
pub(super) fn load_settled(path: &Path) -> Result<Loaded, ReadError> {
    let mut last = None;
    let settled = wait::until(FIRST_REREAD, LONGEST_REREAD, WRITER_PATIENCE, || match load(path) {
        Err(error @ ReadError::Torn { .. }) => {
            last = Some(error);
            None
        }
        other => Some(other),
    });
    match (settled, last) {
        (Some(result), _) => result,
        (None, Some(error)) => Err(error),
        (None, None) => load(path),
    }
}

/// Opens a file for reading; never follows a link, never waits for the other end of a pipe.
pub(super) fn open(path: &Path) -> Result<File, ReadError> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => {
            ReadError::Refused { path: path.to_owned(), reason: "became a link while it was read" }
        }
        _ => ReadError::io(path, error),
    })?;
    let metadata = file.metadata().map_err(|error| ReadError::io(path, error))?;
    if metadata.is_file() {
        return Ok(file);
    }
    Err(ReadError::Refused { path: path.to_owned(), reason: "is no file" })
}

/// Reads an open file from its start. Read again when it changed meanwhile, so that the bytes are of one moment.
pub(super) fn read_open(path: &Path, file: &File) -> Result<(Vec<u8>, FileIdentity), ReadError> {
    use std::io::Seek;
    const TRIES: usize = 3;
    let failed = |error| ReadError::io(path, error);
    let mut before = identity::of_file(file).map_err(failed)?;
    let mut tries = 1;
    loop {
        if before.size_bytes > MAX_SESSION_BYTES {
            return Err(ReadError::TooLarge { path: path.to_owned(), size_bytes: before.size_bytes });
        }
        let mut reader = file;
        reader.rewind().map_err(failed)?;
        let mut bytes = Vec::with_capacity(usize::try_from(before.size_bytes).unwrap_or(0) + 1);
        reader.take(MAX_SESSION_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        let after = identity::of_file(file).map_err(failed)?;
        let is_whole = u64::try_from(bytes.len()).is_ok_and(|length| length == after.size_bytes);
        if (before.is_same_content(&after) && is_whole) || tries == TRIES {
            return Ok((bytes, after));
        }
        before = after;
        tries += 1;
    }
}

/// The text of a session without missions.
pub(super) fn new_session(session: &SessionId, name: &str, max_missions: u64, now: Timestamp) -> String {
    let stamp = json::quoted(&now.to_string());
    format!(
        "{{\n  \"id\": {},\n  \"name\": {},\n  \"state\": \"{}\",\n  \"maxMissions\": {max_missions},\n  \
         \"createdAt\": {stamp},\n  \"updatedAt\": {stamp},\n  \"missions\": []\n}}\n",
        json::quoted(session.as_str()),
        json::quoted(name),
        SessionState::Active.as_file(),
    )
}
