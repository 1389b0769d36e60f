//! Edge: replaces a session where the file system can neither exchange nor lease.
//!
//! The file is compared once more right before the rename, and looked at again after a moment: the old one through the
//! handle that it was read by, for a writer who had it open, and the new one, for a writer who wrote an old copy over
//! it. Missions that vanished that way are put back. Between the last look and the rename a write can still be lost;
//! that is why this is not the way where another one is possible.

use std::path::Path;
use std::sync::Arc;

use super::document::Document;
use super::exchange::{self, Displaced, Patience, QUIET};
use super::rebase;
use super::store::{
    self, FIRST_REREAD, LONGEST_REREAD, Loaded, ReadError, UpdateError, Updated, WRITER_PATIENCE,
};
use crate::disk::atomic::Staged;
use crate::disk::fsync::FsyncPolicy;
use crate::disk::{identity, wait};

pub(super) fn update(
    path: &Path,
    policy: FsyncPolicy,
    first: Loaded,
    apply: &mut dyn FnMut(&Document) -> Option<Vec<u8>>,
) -> Result<Updated, UpdateError> {
    let failed = |source| UpdateError::Write { path: path.to_owned(), source };
    let mut updated = Updated::unchanged(Arc::clone(&first.document), first.identity);
    let mut there = first;
    let mut base = Arc::clone(&there.document);
    let mut patience = Patience::new();
    while patience.has_another_round() {
        let is_merged = base.bytes() != there.document.bytes();
        let Some(next) = exchange::new_version(path, &base, apply, is_merged)? else {
            updated.document = there.document;
            updated.identity = there.identity;
            return Ok(updated);
        };
        let like = there.file.metadata().map_err(failed)?;
        let tag = exchange::unfinished_tag().map_err(failed)?;
        let staged = Staged::beside(path, &tag, next.bytes(), Some(&like), policy).map_err(failed)?;
        if identity::of_path(path).map_err(failed)? != Some(there.identity) {
            staged.discard().map_err(failed)?;
            let now = store::load_settled(path)?;
            updated.foreign_bases += 1;
            base = exchange::combined(path, &there.document, &base, &now.document)?;
            there = now;
            continue;
        }
        staged.replace(path, policy).map_err(failed)?;
        wait::rest(QUIET);
        let displaced = settled(path, &there)?;
        let now = store::load_settled(path)?;
        updated.took(&next, now.identity);
        updated.document = Arc::clone(&now.document);
        base = Arc::clone(&now.document);
        if now.document.bytes() != next.bytes() {
            updated.foreign_bases += 1;
            base = exchange::laid(path, &base, &rebase::missing_missions(&next, &base))?;
        }
        match displaced {
            Displaced::Expected => {}
            Displaced::Foreign(theirs) => {
                updated.foreign_bases += 1;
                base = exchange::combined(path, &there.document, &theirs, &base)?;
            }
            Displaced::Torn(bytes) => {
                let tag = exchange::unfinished_tag().map_err(failed)?;
                let copy = Staged::beside(path, &tag, &bytes, Some(&like), policy).map_err(failed)?;
                updated.torn.push(exchange::put_aside(path, copy.path()).map_err(failed)?);
            }
        }
        if base.bytes() == next.bytes() {
            return Ok(updated);
        }
        there = now;
    }
    Err(patience.exhausted(path))
}

/// Looks through the old handle for what somebody wrote after we had read.
fn settled(path: &Path, old: &Loaded) -> Result<Displaced, ReadError> {
    let mut torn = Vec::new();
    let found = wait::until(FIRST_REREAD, LONGEST_REREAD, WRITER_PATIENCE, || {
        match store::read_open(path, &old.file) {
            Ok((bytes, _)) => match exchange::judged(bytes, old.document.bytes()) {
                Displaced::Torn(bytes) => {
                    torn = bytes;
                    None
                }
                other @ (Displaced::Expected | Displaced::Foreign(_)) => Some(Ok(other)),
            },
            Err(error) => Some(Err(error)),
        }
    });
    found.unwrap_or(Ok(Displaced::Torn(torn)))
}
