//! Edge: drop folders, into which people and scripts put missions as files.
//!
//! The order survives a kill at any line: missions are first durably in their session, then the file moves to
//! `accepted/`. Killed in between, the file is still there and its missions are found in the session with all that the
//! file says; then it only moves. When to look, and how long a file that does not parse is given, is the caller's
//! decision.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::document::Document;
use super::drop_file::{self, DropError, DroppedMission, Standing};
use super::edits::Edits;
use super::json;
use super::store::{self, ReadError, SessionStore, UpdateError};
use crate::disk::fsync::FsyncPolicy;
use crate::disk::{atomic, identity};
use crate::domain::file::FileIdentity;
use crate::domain::id::{MissionId, SessionId};
use crate::domain::time::Timestamp;

/// Session of missions that name none.
pub const DEFAULT_SESSION: &str = "inbox";

/// Largest dropped file, in bytes.
pub const MAX_DROP_BYTES: u64 = 16 * 1024 * 1024;

/// Why a dropped file stays where it is.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// What it says is wrong; [`DropFolder::reject`] it, unless it may only be unfinished.
    #[error("take in {}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: DropError,
    },
    /// It is a link, a directory or too large; [`DropFolder::reject`] it.
    #[error("take in {}: it {reason}", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It is gone, or became another file meanwhile: look again.
    #[error("take in {}: it changed meanwhile", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Its session could not be written.
    #[error("take in {}", path.display())]
    Session {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<UpdateError>,
    },
    /// The system refused to read or to move it.
    #[error("read or move {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

impl IntakeError {
    /// Says whether the file itself is wrong for good: waiting and trying again does not help.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Content { source, .. } => !source.is_perhaps_unfinished(),
            Self::Form { .. } => true,
            Self::Changed { .. } | Self::Session { .. } | Self::Io { .. } => false,
        }
    }
}

/// A file in a drop folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Its name.
    pub name: String,
    /// Which content it is.
    pub identity: FileIdentity,
}

/// What taking a file in came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Intake {
    /// Missions that are in their session now and were not before.
    pub added: Vec<(SessionId, MissionId)>,
    /// Missions whose id the session had already; nothing was added.
    pub known: Vec<(SessionId, MissionId)>,
    /// Where the file is now.
    pub moved_to: PathBuf,
    /// It went to `duplicate/`, for it held nothing new.
    pub is_duplicate: bool,
}

/// What taking a file in would do to one session.
#[derive(Debug)]
pub struct Preview {
    /// The session.
    pub session: SessionId,
    /// Its document with the missions in it.
    pub document: Arc<Document>,
    /// The missions that it does not have yet.
    pub added: Vec<MissionId>,
}

/// One drop folder.
#[derive(Debug, Clone)]
pub struct DropFolder {
    path: PathBuf,
    session: Option<SessionId>,
    policy: FsyncPolicy,
}

impl SessionStore {
    /// Opens the drop folder of a session, or without one the shared drop folder; nothing when there is none.
    ///
    /// # Errors
    /// [`ReadError::Refused`] when it is a link that leads out of the watched folder.
    pub fn drop_folder(&self, session: Option<&SessionId>) -> Result<Option<DropFolder>, ReadError> {
        let path = match session {
            Some(session) => self.locate_directory(session).map(|directory| directory.join("inbox")),
            None => Ok(self.shared_inbox_dir()),
        };
        let located = path.and_then(|path| self.followed(path));
        match located {
            Ok(path) if path.is_dir() => {
                Ok(Some(DropFolder { path, session: session.cloned(), policy: self.policy }))
            }
            Ok(_) | Err(ReadError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes a dropped file in: its missions go into their sessions, then the file moves away.
    ///
    /// A session that does not exist is made, with room for `max_missions`.
    ///
    /// # Errors
    /// [`IntakeError`]; the file is still there, and taking it in again adds nothing twice.
    pub fn take_in(
        &self,
        folder: &DropFolder,
        dropped: &Dropped,
        max_missions: u64,
        now: Timestamp,
    ) -> Result<Intake, IntakeError> {
        let (missions, content) = folder.read(dropped)?;
        let (mut added, mut known) = (Vec::new(), Vec::new());
        let mut has_known_content = true;
        for (session, missions) in folder.by_session(dropped, missions)? {
            let path = folder.path.join(&dropped.name);
            let failed = |error| IntakeError::Session { path: path.clone(), source: Box::new(error) };
            self.create_session(&session, session.as_str(), max_missions, now).map_err(failed)?;
            let mut standings = Vec::new();
            let dropped_at = dropped.at();
            let update = self.update_if_whole(&session, &mut |document| {
                standings = missions.iter().map(|mission| mission.standing(document, dropped_at)).collect();
                appended(document, &missions, &standings, now)
            });
            drop(update.map_err(failed)?);
            for (mission, standing) in missions.into_iter().zip(standings) {
                let list = if standing == Standing::New { &mut added } else { &mut known };
                list.push((session.clone(), mission.id));
                has_known_content &= standing != Standing::Taken;
            }
        }
        // Without anything new this is either a file whose first intake was cut short, or one that was dropped again.
        let is_repeated = || !has_known_content || folder.has_accepted(&dropped.name, &content);
        let is_duplicate = added.is_empty() && is_repeated();
        let directory = if is_duplicate { "duplicate" } else { "accepted" };
        let moved_to = folder.move_to(directory, dropped)?;
        Ok(Intake { added, known, moved_to, is_duplicate })
    }
}

impl SessionStore {
    /// Says what [`SessionStore::take_in`] would do, and does nothing.
    ///
    /// # Errors
    /// As there.
    pub fn preview(
        &self,
        folder: &DropFolder,
        dropped: &Dropped,
        max_missions: u64,
        now: Timestamp,
    ) -> Result<Vec<Preview>, IntakeError> {
        let (missions, _content) = folder.read(dropped)?;
        let mut previews = Vec::new();
        for (session, missions) in folder.by_session(dropped, missions)? {
            let path = folder.path.join(&dropped.name);
            let failed = |error| IntakeError::Session { path: path.clone(), source: Box::new(error) };
            let parsed = |text| {
                let invalid = |source| UpdateError::Invalid { path: self.session_file(&session), source };
                Document::parse(text).map(Arc::new).map_err(|source| failed(invalid(source)))
            };
            let before = match self.read(&session) {
                Ok(reading) => reading.document,
                Err(ReadError::Missing { .. }) => {
                    parsed(store::new_session(&session, session.as_str(), max_missions, now).into_bytes())?
                }
                Err(error) => return Err(failed(UpdateError::Read(error))),
            };
            let standings: Vec<Standing> =
                missions.iter().map(|mission| mission.standing(&before, dropped.at())).collect();
            let document = match appended(&before, &missions, &standings, now) {
                Some(text) => parsed(text)?,
                None => before,
            };
            let is_new = |(mission, standing): (DroppedMission, Standing)| {
                (standing == Standing::New).then_some(mission.id)
            };
            let added = missions.into_iter().zip(standings).filter_map(is_new).collect();
            previews.push(Preview { session, document, added });
        }
        Ok(previews)
    }
}

impl Dropped {
    /// When it got its name or its content.
    fn at(&self) -> Timestamp {
        Timestamp::from_millis(millis(self.identity.changed_ns))
    }
}

fn appended(
    document: &Document,
    missions: &[DroppedMission],
    standings: &[Standing],
    now: Timestamp,
) -> Option<Vec<u8>> {
    let mut edits = Edits::new();
    for (mission, _) in missions.iter().zip(standings).filter(|(_, standing)| **standing == Standing::New) {
        mission.append_to(&mut edits, now);
    }
    edits.stamp_session("updatedAt", json::quoted(&now.to_string()));
    document.apply(&edits)
}

impl DropFolder {
    /// Returns where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lists the finished files in it, by name.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> io::Result<Vec<Dropped>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if drop_file::stem(&name).is_none() {
                continue;
            }
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => {}
                Ok(metadata) => found.push(Dropped { name, identity: identity::of_metadata(&metadata) }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        found.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(found)
    }

    fn read(&self, dropped: &Dropped) -> Result<(Vec<DroppedMission>, Vec<u8>), IntakeError> {
        let path = self.path.join(&dropped.name);
        let form = |reason: &str| IntakeError::Form { path: path.clone(), reason: reason.to_owned() };
        let failed = |source| IntakeError::Io { path: path.clone(), source };
        if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink()) {
            return Err(form("is a link"));
        }
        let file = match store::open(&path) {
            Ok(file) => file,
            Err(ReadError::Missing { path }) => return Err(IntakeError::Changed { path }),
            Err(ReadError::Refused { reason, .. }) => return Err(form(reason)),
            Err(ReadError::Io { source, .. }) => return Err(failed(source)),
            Err(ReadError::Torn { .. } | ReadError::TooLarge { .. }) => return Err(form("cannot be read")),
        };
        if identity::of_file(&file).map_err(failed)? != dropped.identity {
            return Err(IntakeError::Changed { path });
        }
        if dropped.identity.size_bytes > MAX_DROP_BYTES {
            return Err(form(&format!("has more than {MAX_DROP_BYTES} bytes")));
        }
        let mut content = Vec::new();
        (&file).take(MAX_DROP_BYTES + 1).read_to_end(&mut content).map_err(failed)?;
        if identity::of_file(&file).map_err(failed)? != dropped.identity {
            return Err(IntakeError::Changed { path });
        }
        let stem = drop_file::stem(&dropped.name).unwrap_or(&dropped.name);
        match drop_file::parse(content.clone(), stem, self.session.as_ref()) {
            Ok(missions) => Ok((missions, content)),
            Err(source) => Err(IntakeError::Content { path, source }),
        }
    }

    /// Says which missions go to which session, in the order of the file.
    fn by_session(
        &self,
        dropped: &Dropped,
        missions: Vec<DroppedMission>,
    ) -> Result<Vec<(SessionId, Vec<DroppedMission>)>, IntakeError> {
        let form = |reason: String| IntakeError::Form { path: self.path.join(&dropped.name), reason };
        let default = match &self.session {
            Some(session) => session.clone(),
            None => SessionId::new(DEFAULT_SESSION).map_err(|error| form(error.to_string()))?,
        };
        let mut groups: Vec<(SessionId, Vec<DroppedMission>)> = Vec::new();
        for mission in missions {
            let session = mission.session.clone().unwrap_or_else(|| default.clone());
            match groups.iter_mut().find(|(known, _)| *known == session) {
                Some((_, group)) => group.push(mission),
                None => groups.push((session, vec![mission])),
            }
        }
        Ok(groups)
    }

    /// Moves a file to `rejected/`, and says beside it what is wrong.
    ///
    /// # Errors
    /// [`IntakeError::Io`] and [`IntakeError::Changed`]; the file is still there.
    pub fn reject(&self, dropped: &Dropped, error: &IntakeError) -> Result<PathBuf, IntakeError> {
        let moved_to = self.move_to("rejected", dropped)?;
        let failed = |source| IntakeError::Io { path: moved_to.clone(), source };
        let what = match error {
            IntakeError::Content { source, .. } => source.to_string(),
            other @ (IntakeError::Form { .. }
            | IntakeError::Changed { .. }
            | IntakeError::Session { .. }
            | IntakeError::Io { .. }) => other.to_string(),
        };
        let mut explanation = moved_to.as_os_str().to_owned();
        explanation.push(".error.txt");
        let text = format!("{} was not taken in.\n{what}\nCorrect it and drop it again.\n", dropped.name);
        File::create(explanation).and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed)?;
        Ok(moved_to)
    }

    /// Removes what has been in `accepted/` for longer than `retention`. Returns how many files.
    ///
    /// # Errors
    /// When the directory cannot be read or a file not be removed.
    pub fn sweep_accepted(&self, retention: Duration, now: Timestamp) -> io::Result<usize> {
        let directory = self.path.join("accepted");
        let entries = match refuse_link(&directory).and_then(|()| fs::read_dir(&directory)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            other => other?,
        };
        let mut removed = 0;
        for entry in entries {
            let entry = entry?;
            let metadata = entry.metadata()?;
            // Moving a file leaves its modification time alone and stamps its change time.
            let moved = Timestamp::from_millis(millis(identity::of_metadata(&metadata).changed_ns));
            if metadata.is_file() && now.since(moved) > retention {
                fs::remove_file(entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn has_accepted(&self, name: &str, content: &[u8]) -> bool {
        fs::read(self.path.join("accepted").join(name)).is_ok_and(|accepted| accepted == content)
    }

    /// Moves a file into a directory of the folder, under a name that is free there.
    fn move_to(&self, directory: &str, dropped: &Dropped) -> Result<PathBuf, IntakeError> {
        let path = self.path.join(&dropped.name);
        let failed = |source: io::Error| {
            if source.kind() == io::ErrorKind::NotFound {
                return IntakeError::Changed { path: path.clone() };
            }
            IntakeError::Io { path: path.clone(), source }
        };
        let directory = self.path.join(directory);
        fs::create_dir_all(&directory).and_then(|()| refuse_link(&directory)).map_err(failed)?;
        let target = rename_to_free(&path, &directory, &dropped.name).map_err(failed)?;
        let moved = fs::symlink_metadata(&target).map(|metadata| identity::of_metadata(&metadata));
        if !moved.map_err(failed)?.is_same_content(&dropped.identity) {
            // Somebody put another file under this name after we had read it: that one is still to be taken in.
            rename_to_free(&target, &self.path, &dropped.name).map_err(failed)?;
            return Err(IntakeError::Changed { path });
        }
        self.policy.sync_directory(&directory).map_err(failed)?;
        self.policy.sync_directory(&self.path).map_err(failed)?;
        Ok(target)
    }
}

/// Makes sure that a directory of the folder is one, and no link to somewhere else.
fn refuse_link(directory: &Path) -> io::Result<()> {
    if fs::symlink_metadata(directory)?.is_symlink() {
        let told = format!("{} is a link; make it a directory", directory.display());
        return Err(io::Error::new(io::ErrorKind::NotADirectory, told));
    }
    Ok(())
}

fn millis(ns: i128) -> i64 {
    i64::try_from(ns / 1_000_000).unwrap_or(i64::MAX)
}

fn rename_to_free(from: &Path, directory: &Path, name: &str) -> io::Result<PathBuf> {
    const TRIES: usize = 10_000;
    let stem = drop_file::stem(name).unwrap_or(name);
    let mut target = directory.join(name);
    for number in 2..TRIES {
        match atomic::rename_new(from, &target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                target = directory.join(format!("{stem}-{number}.json"));
            }
            other => return other.map(|()| target),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
