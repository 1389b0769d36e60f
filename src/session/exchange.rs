//! Edge: replaces a session by exchange, and builds upon whatever turns out to have been there.
//!
//! Other programs read the file, change it and write it back in place, and know of no lock. A rename would silently
//! throw away what they wrote since we read. So right before the exchange a lease makes sure that nobody has the file
//! open for writing and keeps them waiting in `open` for that moment; under it the bytes are compared with what we had
//! read, and if somebody came to wait while we exchanged, we exchange back and let them write first. A file that somebody
//! keeps open is left to them: whatever they wrote in the end would be in a file that is no session's any more.
//!
//! What little can slip through even then, and all of it where leases are refused, shows up afterwards: the displaced
//! file lies under our temporary name, and we wait until nobody writes to it. If it is not what we read, our changes are
//! laid over it and it goes round once more. Just doing that, without the lease before, loses writes: between two
//! rounds the file lacks what was displaced, and a program that reads it then writes it back without.
//!
//! The name of a temporary file tells [`super::recovery`] what a killed writer was about: the fingerprint of what the
//! exchange should displace, and of what it puts there.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::document::Document;
use super::edits::Edits;
use super::rebase;
use super::store::{self, Loaded, MAX_SESSION_BYTES, UpdateError, Updated, WRITER_PATIENCE};
use crate::disk::atomic::{self, Staged, TEMPORARY_SUFFIX, UNFINISHED_SUFFIX};
use crate::disk::fsync::FsyncPolicy;
use crate::disk::lease::{self, ReadLease, Taken, Writers};
use crate::disk::{identity, wait};
use crate::domain::file::FileIdentity;
use crate::domain::time::Timestamp;

/// After this long somebody rewrites the file without a pause, and we step back.
const CONTENTION_PATIENCE: Duration = Duration::from_secs(10);

/// Most rounds in that time.
const MAX_ROUNDS: usize = 500;

/// Time between the first two looks at a file that somebody is writing.
const FIRST_PAUSE: Duration = Duration::from_micros(200);

/// Longest time between two looks at a file that somebody is writing.
const LONGEST_PAUSE: Duration = Duration::from_millis(2);

/// Without leases: a file that has not changed for this long is taken to be written.
pub(super) const QUIET: Duration = Duration::from_millis(20);

/// What an exchange displaced.
pub(super) enum Displaced {
    /// What we had read: nobody came in between.
    Expected,
    /// Another writer's version.
    Foreign(Document),
    /// Another writer's version that does not parse, however long we wait.
    Torn(Vec<u8>),
}

pub(super) fn update(
    path: &Path,
    policy: FsyncPolicy,
    first: Loaded,
    apply: &mut dyn FnMut(&Document) -> Option<Vec<u8>>,
) -> Result<Updated, UpdateError> {
    let failed = |source| UpdateError::Write { path: path.to_owned(), source };
    let like = first.file.metadata().map_err(failed)?;
    let mut updated = Updated::unchanged(Arc::clone(&first.document), first.identity);
    let mut there = first.document;
    let mut base = Arc::clone(&there);
    let mut foreign: Option<Foreign> = None;
    let mut patience = Patience::new();
    while patience.has_another_round() {
        let attempt = match new_version(path, &base, apply, base.bytes() != there.bytes()) {
            Ok(Some(next)) => swap(path, policy, &like, &there, &next).map(|swapped| (next, swapped)),
            Ok(None) => return Ok(updated),
            Err(error) => Err(error),
        };
        let (next, (staged, identity)) = match attempt {
            Ok((next, Some(swapped))) => (next, swapped),
            Ok((_, None)) => {
                let now = store::load_settled(path)?;
                updated.foreign_bases += 1;
                base = combined(path, &there, &base, &now.document)?;
                updated.document = Arc::clone(&now.document);
                updated.identity = now.identity;
                there = now.document;
                continue;
            }
            // What is there is held open: it stays, and recovery is to take what was there before.
            Err(error @ UpdateError::HeldOpen { .. }) => {
                return Err(foreign
                    .map_or(Ok(()), |foreign| leave(&foreign, path))
                    .map_or_else(failed, |()| error));
            }
            Err(error) => return Err(step_back(path, policy, foreign, &there, error)),
        };
        updated.took(&next, identity);
        if let Some(older) = foreign.take() {
            policy.sync_directory(path.parent().unwrap_or(path)).map_err(failed)?;
            older.staged.discard().map_err(failed)?;
        }
        let (mut displaced, seen) = settled(staged.path(), there.bytes()).map_err(UpdateError::from)?;
        policy.sync_directory(path.parent().unwrap_or(path)).map_err(failed)?;
        // Syncing takes a while: somebody who had found the old file's name before the exchange shows up by now.
        if !is_still(staged.path(), &seen).map_err(UpdateError::from)? {
            (displaced, _) = settled(staged.path(), there.bytes()).map_err(UpdateError::from)?;
            if is_held_open(staged.path()).map_err(UpdateError::from)? {
                let error = UpdateError::HeldOpen { path: path.to_owned() };
                let late = Foreign { staged, is_all: base.bytes() == there.bytes() };
                return Err(step_back(path, policy, Some(late), &next, error));
            }
        }
        match displaced {
            Displaced::Expected => {
                staged.discard().map_err(failed)?;
                return Ok(updated);
            }
            Displaced::Torn(_) => {
                updated.torn.push(put_aside(path, staged.path()).map_err(failed)?);
                return Ok(updated);
            }
            Displaced::Foreign(theirs) => {
                updated.foreign_bases += 1;
                let theirs = Arc::new(theirs);
                base = combined(path, &there, &base, &theirs)?;
                foreign = Some(Foreign { staged, is_all: base.bytes() == theirs.bytes() });
                there = next;
            }
        }
    }
    Err(step_back(path, policy, foreign, &there, patience.exhausted(path)))
}

/// Another writer's version that an exchange displaced.
struct Foreign {
    staged: Staged,
    /// It holds all that has to be kept; else the next version was to hold more than it.
    is_all: bool,
}

/// Puts the next version in place of what is there; nothing when something else is there by now. Returns the file that
/// holds what was displaced, and the identity of what is in place.
fn swap(
    path: &Path,
    policy: FsyncPolicy,
    like: &Metadata,
    there: &Document,
    next: &Document,
) -> Result<Option<(Staged, FileIdentity)>, UpdateError> {
    let failed = |source| UpdateError::Write { path: path.to_owned(), source };
    let tag = tag(there.bytes(), next.bytes()).map_err(failed)?;
    let staged = Staged::beside(path, &tag, next.bytes(), Some(like), policy).map_err(failed)?;
    match swap_staged(path, &staged, there.bytes()) {
        Ok(Some(identity)) => Ok(Some((staged, identity))),
        Ok(None) => staged.discard().map(|()| None).map_err(failed),
        Err(error) => {
            staged.discard().map_err(failed)?;
            Err(error)
        }
    }
}

fn swap_staged(path: &Path, staged: &Staged, there: &[u8]) -> Result<Option<FileIdentity>, UpdateError> {
    let failed = |source| UpdateError::Write { path: path.to_owned(), source };
    let file = store::open(path)?;
    let look = || match ReadLease::take(&file) {
        Ok(Taken::Refused(Writers::Some)) => None,
        other => Some(other),
    };
    let taken = wait::until(FIRST_PAUSE, LONGEST_PAUSE, WRITER_PATIENCE, look).transpose().map_err(failed)?;
    let lease = match taken {
        Some(Taken::Lease(lease)) => lease,
        Some(Taken::Refused(_)) => return exchanged(path, staged).map(Some).map_err(failed),
        // Whatever it writes in the end would be written to a file that is no session's.
        None => return Err(UpdateError::HeldOpen { path: path.to_owned() }),
    };
    if store::read_open(path, &file)?.0 != there || lease.is_wanted().map_err(failed)? {
        return Ok(None);
    }
    let identity = exchanged(path, staged).map_err(failed)?;
    if lease.is_wanted().map_err(failed)? {
        staged.exchange_with(path).map_err(failed)?;
        return Ok(None);
    }
    Ok(Some(identity))
}

/// How long to go on while others write.
pub(super) struct Patience {
    deadline: Instant,
    rounds: usize,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self { deadline: Instant::now() + CONTENTION_PATIENCE, rounds: 0 }
    }

    pub(super) fn has_another_round(&mut self) -> bool {
        self.rounds += 1;
        self.rounds <= MAX_ROUNDS && Instant::now() < self.deadline
    }

    pub(super) fn exhausted(&self, path: &Path) -> UpdateError {
        UpdateError::Contended { path: path.to_owned(), rounds: self.rounds - 1 }
    }
}

impl Updated {
    pub(super) fn unchanged(document: Arc<Document>, identity: FileIdentity) -> Self {
        Self { document, identity, wrote: false, bytes_written: 0, foreign_bases: 0, torn: Vec::new() }
    }

    pub(super) fn took(&mut self, document: &Arc<Document>, identity: FileIdentity) {
        self.wrote = true;
        self.bytes_written += u64::try_from(document.bytes().len()).unwrap_or(0);
        self.document = Arc::clone(document);
        self.identity = identity;
    }
}

/// Asks for the next version. A version of somebody else is written even when nothing is laid over it: by now it is
/// not what the file holds.
pub(super) fn new_version(
    path: &Path,
    base: &Arc<Document>,
    apply: &mut dyn FnMut(&Document) -> Option<Vec<u8>>,
    is_foreign: bool,
) -> Result<Option<Arc<Document>>, UpdateError> {
    let bytes = match apply(base) {
        Some(bytes) if is_foreign || bytes != base.bytes() => bytes,
        Some(_) | None if is_foreign => return Ok(Some(Arc::clone(base))),
        Some(_) | None => return Ok(None),
    };
    let size_bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if size_bytes > MAX_SESSION_BYTES {
        return Err(UpdateError::TooLarge { path: path.to_owned(), size_bytes });
    }
    let document =
        Document::parse(bytes).map_err(|source| UpdateError::Invalid { path: path.to_owned(), source })?;
    Ok(Some(Arc::new(document)))
}

/// Exchanges, and returns the identity of what is in place now as far as we know it: when somebody writes to it in
/// the same instant it is the identity from before that.
fn exchanged(path: &Path, staged: &Staged) -> std::io::Result<FileIdentity> {
    let ours = identity::of_path(staged.path())?.ok_or(std::io::ErrorKind::NotFound)?;
    staged.exchange_with(path)?;
    match identity::of_path(path) {
        Ok(Some(now)) if now.is_same_content(&ours) => Ok(now),
        Ok(_) | Err(_) => Ok(ours),
    }
}

/// Puts what two other writers made of the file into one version; the later one is built upon.
pub(super) fn combined(
    path: &Path,
    ancestor: &Document,
    earlier: &Document,
    later: &Arc<Document>,
) -> Result<Arc<Document>, UpdateError> {
    laid(path, later, &rebase::changes(ancestor, earlier, later))
}

/// Lays edits of ours over a version.
pub(super) fn laid(path: &Path, onto: &Arc<Document>, edits: &Edits) -> Result<Arc<Document>, UpdateError> {
    match onto.apply(edits) {
        Some(bytes) => Document::parse(bytes)
            .map(Arc::new)
            .map_err(|source| UpdateError::Invalid { path: path.to_owned(), source }),
        None => Ok(Arc::clone(onto)),
    }
}

/// Says whether a displaced file is still what was seen, and nobody is about to change that.
fn is_still(path: &Path, seen: &FileIdentity) -> Result<bool, store::ReadError> {
    let file = store::open(path)?;
    let failed = |error| store::ReadError::io(path, error);
    let is_written = lease::writers(&file).map_err(failed)? == Writers::Some;
    Ok(!is_written && identity::of_file(&file).map_err(failed)? == *seen)
}

/// Says whether somebody has a file open for writing, as far as anybody can tell.
fn is_held_open(path: &Path) -> Result<bool, store::ReadError> {
    let writers = lease::writers(&store::open(path)?).map_err(|error| store::ReadError::io(path, error))?;
    Ok(writers == Writers::Some)
}

/// Looks at a displaced file once nobody writes to it any more, or our patience is over. Returns what it is, and which
/// content that was.
pub(super) fn settled(path: &Path, expected: &[u8]) -> Result<(Displaced, FileIdentity), store::ReadError> {
    let file = store::open(path)?;
    let look = || -> Result<Option<(Displaced, FileIdentity)>, store::ReadError> {
        let writers = lease::writers(&file).map_err(|error| store::ReadError::io(path, error))?;
        let (bytes, before) = store::read_open(path, &file)?;
        match writers {
            Writers::Some => return Ok(None),
            Writers::None => {}
            Writers::Unknown => {
                wait::rest(QUIET);
                let after = identity::of_file(&file).map_err(|error| store::ReadError::io(path, error))?;
                if after != before {
                    return Ok(None);
                }
            }
        }
        Ok(match judged(bytes, expected) {
            Displaced::Torn(_) => None,
            other @ (Displaced::Expected | Displaced::Foreign(_)) => Some((other, before)),
        })
    };
    let found = wait::until(FIRST_PAUSE, LONGEST_PAUSE, WRITER_PATIENCE, || look().transpose());
    found.unwrap_or_else(|| {
        let (bytes, identity) = store::read_open(path, &file)?;
        Ok((judged(bytes, expected), identity))
    })
}

/// Says what some bytes are, in the light of what was expected.
pub(super) fn judged(bytes: Vec<u8>, expected: &[u8]) -> Displaced {
    if bytes == expected {
        return Displaced::Expected;
    }
    match Document::parse(bytes.as_slice()) {
        Ok(document) => Displaced::Foreign(document),
        Err(_torn) => Displaced::Torn(bytes),
    }
}

/// Gives the file back to the writer whose version we displaced last, and returns the error that made us.
fn step_back(
    path: &Path,
    policy: FsyncPolicy,
    foreign: Option<Foreign>,
    ours: &Document,
    error: UpdateError,
) -> UpdateError {
    let Some(foreign) = foreign else {
        return error;
    };
    let give_back = || -> std::io::Result<()> {
        foreign.staged.exchange_with(path)?;
        policy.sync_directory(path.parent().unwrap_or(path))?;
        if foreign.is_all && fs::read(foreign.staged.path())? == ours.bytes() {
            return foreign.staged.discard();
        }
        leave(&foreign, path)
    };
    match give_back() {
        Ok(()) => error,
        Err(source) => UpdateError::Write { path: path.to_owned(), source },
    }
}

/// Leaves a version of which nobody knows what it started from: recovery is to take what only it holds.
fn leave(foreign: &Foreign, path: &Path) -> std::io::Result<()> {
    let name = format!(".{}.{:016x}-{:016x}-{}.tmp", store::SESSION_FILE, 0, 0, atomic::random_tag()?);
    atomic::rename(foreign.staged.path(), &path.with_file_name(name))
}

/// Moves a version that does not parse to a name that people notice.
pub(super) fn put_aside(session: &Path, torn: &Path) -> std::io::Result<PathBuf> {
    let millis = fs::metadata(torn).ok().map_or(0, |metadata| {
        i64::try_from(identity::of_metadata(&metadata).modified_ns / 1_000_000).unwrap_or(0)
    });
    let stamp = Timestamp::from_millis(millis).to_string().replace(':', "");
    let directory = session.parent().unwrap_or(session);
    let mut target = directory.join(format!(".{}.torn-{stamp}", store::SESSION_FILE));
    let mut number = 1;
    loop {
        match atomic::rename_new(torn, &target) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && number < 1000 => {
                number += 1;
                target = directory.join(format!(".{}.torn-{stamp}-{number}", store::SESSION_FILE));
            }
            other => return other.map(|()| target),
        }
    }
}

/// Makes the middle of a temporary file's name: what is expected to be displaced, what is put there, something unique.
fn tag(expected: &[u8], ours: &[u8]) -> std::io::Result<String> {
    Ok(format!("{:016x}-{:016x}-{}", fingerprint(expected), fingerprint(ours), atomic::random_tag()?))
}

/// Makes the middle of the name of a file that never takes part in an exchange.
pub(super) fn unfinished_tag() -> std::io::Result<String> {
    let unfinished = UNFINISHED_SUFFIX.trim_end_matches(TEMPORARY_SUFFIX);
    Ok(format!("{}{unfinished}", atomic::random_tag()?))
}

/// Tells contents apart, in four lanes of eight bytes a step. Not against malice: whoever may write here may write the session itself.
pub(super) fn fingerprint(bytes: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let step = |hash: u64, word: u64| {
        let mixed = (hash ^ word).wrapping_mul(MULTIPLIER);
        mixed ^ (mixed >> 29)
    };
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut lanes = [1, 2, 3, 4];
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = step(*lane, u64::from_le_bytes(*word));
        }
    }
    let hash = lanes.into_iter().fold(u64::try_from(bytes.len()).unwrap_or(0), step);
    rest.iter().fold(hash, |hash, &byte| step(hash, u64::from(byte)))
}
