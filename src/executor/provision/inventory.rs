//! Service: what is leased, and what can go.
//!
//! Nothing is removed without proof: an owner that is known and gone, and work that is saved or absent. Worktrees and
//! locks of other programs have no owner that could be asked, so they are shown and left alone.

use crate::domain::time::Timestamp;
use crate::executor::process_identity::ProcessIdentity;
use crate::executor::provision::environment_record::{self, Record};
use crate::executor::provision::git::find_repository;
use crate::executor::provision::git_worktree::{self, DEFAULT_ROOT, Place, WorktreeError};
use crate::executor::provision::port_lock::{self, PortLockError};
use crate::executor::provision::port_range::DEFAULT_LOCK_DIRECTORY;
use crate::executor::provision::provider::Kept;
use crate::executor::provision::worktree_lease::{self, LeaseFileError};
use crate::runtime::clock;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Whether anybody still needs a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// An owner lives, or the lease ends only by a release.
    InUse,
    /// All owners are gone, or a worktree's directory is, without an owner that could miss it.
    Abandoned,
    /// It was given back but stayed.
    Kept,
    /// Another program's: no lease of ours.
    Foreign,
}

/// One worktree.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorktreeEntry {
    /// Where it is.
    pub path: PathBuf,
    /// Whose it is; empty for a foreign one.
    pub session_id: String,
    /// Whether anybody needs it.
    pub state: State,
    /// Who holds it.
    pub owner: Option<ProcessIdentity>,
    /// Seconds since it was made; none for a foreign one.
    pub age_seconds: Option<u64>,
    /// Size of its files in bytes, without the repository's objects.
    pub size_bytes: u64,
    /// Whether something in it exists nowhere else; none when git cannot tell.
    pub unsaved_work: Option<bool>,
    /// What, or why that is unknown, or why it stayed.
    pub detail: String,
}

/// One port block.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortEntry {
    /// The lock file.
    pub path: PathBuf,
    /// First port.
    pub start_port: u16,
    /// Last port.
    pub end_port: u16,
    /// Whose it is; empty for a file that cannot be read.
    pub session_id: String,
    /// Whether anybody needs it.
    pub state: State,
    /// Seconds since it was taken.
    pub age_seconds: Option<u64>,
}

/// Everything that is leased for one workspace.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    /// Worktrees.
    pub worktrees: Vec<WorktreeEntry>,
    /// Port blocks.
    pub ports: Vec<PortEntry>,
    /// Sessions whose environments are written down.
    pub environments: Vec<String>,
}

/// What cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// Worktrees.
    #[error(transparent)]
    Worktree(#[from] WorktreeError),
    /// Leases.
    #[error(transparent)]
    Lease(#[from] LeaseFileError),
    /// Locks.
    #[error(transparent)]
    Port(#[from] PortLockError),
    /// The runtime is ending.
    #[error("cleaning up was interrupted: {0}")]
    Interrupted(String),
}

/// Where to look.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The directory that the work is about.
    pub workspace_root: PathBuf,
    /// The root of worktrees, below the repository's top; the provider's default when none.
    pub worktree_root: Option<PathBuf>,
    /// The directory of locks, below the workspace root; the provider's default when none.
    pub lock_directory: Option<PathBuf>,
}

impl Scope {
    /// Looks where the providers put things by default.
    pub fn of(workspace_root: impl Into<PathBuf>) -> Self {
        Self { workspace_root: workspace_root.into(), worktree_root: None, lock_directory: None }
    }

    fn locks(&self) -> PathBuf {
        self.workspace_root.join(self.lock_directory.as_deref().unwrap_or(Path::new(DEFAULT_LOCK_DIRECTORY)))
    }

    /// Returns every worktree and lease below the root; nothing outside a repository.
    async fn places(&self) -> Result<Vec<Place>, InventoryError> {
        let Ok(repository) = find_repository(&self.workspace_root).await else {
            return Ok(Vec::new());
        };
        let root =
            repository.top_level.join(self.worktree_root.as_deref().unwrap_or(Path::new(DEFAULT_ROOT)));
        let mut names: BTreeSet<String> = worktree_lease::names(&root)?.into_iter().collect();
        for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_dir() && name != worktree_lease::DIRECTORY {
                names.insert(name);
            }
        }
        let place = |name| Place { repo_root: repository.top_level.clone(), root: root.clone(), name };
        Ok(names.into_iter().map(place).collect())
    }
}

/// Lists what is leased.
///
/// # Errors
/// [`InventoryError`] when a directory or a lease cannot be read.
pub async fn list(scope: &Scope) -> Result<Inventory, InventoryError> {
    let now = clock::wall();
    let mut inventory = Inventory::default();
    for place in scope.places().await? {
        inventory.worktrees.push(describe(&place, now).await?);
    }
    for (path, start_port, end_port) in port_lock::list(&scope.locks())? {
        let lock = port_lock::read(&path);
        inventory.ports.push(PortEntry {
            path,
            start_port,
            end_port,
            state: match &lock {
                Some(lock) if lock.is_dead() => State::Abandoned,
                Some(_) => State::InUse,
                None => State::Foreign,
            },
            age_seconds: lock.as_ref().map(|lock| now.since(lock.allocated_at).as_secs()),
            session_id: lock.map(|lock| lock.session_id).unwrap_or_default(),
        });
    }
    inventory.environments = records(&scope.workspace_root).into_iter().map(|(_, r)| r.session_id).collect();
    Ok(inventory)
}

async fn describe(place: &Place, now: Timestamp) -> Result<WorktreeEntry, InventoryError> {
    let path = place.path();
    let lease = worktree_lease::read(&place.root, &place.name)?;
    let state = match &lease {
        None => State::Foreign,
        Some(lease) if lease.kept.is_some() => State::Kept,
        Some(lease) if place.is_given_up(lease) => State::Abandoned,
        Some(_) => State::InUse,
    };
    let (mut unsaved_work, mut detail) = (Some(false), String::new());
    if path.is_dir() {
        let own_files = lease.as_ref().map(|lease| lease.own_files.clone()).unwrap_or_default();
        match super::git_save::inspect(&path, &own_files).await {
            Ok(work) => {
                unsaved_work = Some(!work.is_none());
                if !work.is_none() {
                    detail = format!(
                        "{} changed files, {} commits on no branch",
                        work.changed.len(),
                        work.loose_commits.len()
                    );
                }
                if !work.obstacles.is_empty() {
                    detail = work.obstacles.join("; ");
                }
            }
            Err(error) => {
                unsaved_work = None;
                detail = error.to_string();
            }
        }
    } else {
        "the directory is gone".clone_into(&mut detail);
    }
    if let Some(why) = lease.as_ref().and_then(|lease| lease.kept.clone()) {
        detail = why;
    }
    let sized = path.clone();
    let size_bytes = tokio::task::spawn_blocking(move || size_of(&sized)).await.unwrap_or(0);
    Ok(WorktreeEntry {
        path,
        state,
        age_seconds: lease.as_ref().map(|lease| now.since(lease.allocated_at).as_secs()),
        owner: lease.as_ref().and_then(|lease| lease.owner.clone()),
        session_id: lease.map(|lease| lease.session_id).unwrap_or_default(),
        size_bytes,
        unsaved_work,
        detail,
    })
}

fn size_of(directory: &Path) -> u64 {
    let mut total = 0;
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => open.push(entry.path()),
                Ok(metadata) => total += metadata.len(),
                Err(_vanished) => {}
            }
        }
    }
    total
}

fn records(workspace_root: &Path) -> Vec<(PathBuf, Record)> {
    let entries =
        fs::read_dir(workspace_root.join(environment_record::DIRECTORY)).into_iter().flatten().flatten();
    let mut records: Vec<(PathBuf, Record)> = entries
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "json"))
        .filter_map(|entry| Some((entry.path(), environment_record::readable(&entry.path())?)))
        .collect();
    records.sort_by(|(a, _), (b, _)| a.cmp(b));
    records
}

/// What a clean-up did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cleaned {
    /// Nothing was really done.
    pub dry_run: bool,
    /// Worktrees that went.
    pub worktrees: Vec<PathBuf>,
    /// Port locks that went.
    pub ports: Vec<PathBuf>,
    /// Records of environments that went.
    pub environments: Vec<String>,
    /// Work that was saved, and worktrees that had to stay.
    pub kept: Vec<Kept>,
}

/// Removes what is abandoned or kept and provably saved or worthless; its work is saved on branches first.
///
/// # Errors
/// [`InventoryError`] when something cannot be looked at.
pub async fn clean(scope: &Scope, keep_everything: bool, dry_run: bool) -> Result<Cleaned, InventoryError> {
    let mut cleaned = Cleaned { dry_run, ..Cleaned::default() };
    let now = clock::wall();
    for place in scope.places().await? {
        let Some(lease) = worktree_lease::read(&place.root, &place.name)? else { continue };
        if keep_everything || !place.is_given_up(&lease) {
            continue;
        }
        if dry_run {
            cleaned.worktrees.push(place.path());
            continue;
        }
        let Some(kept) = git_worktree::clean_up(&place, now).await? else { continue };
        if !kept.iter().any(|kept| matches!(kept, Kept::InPlace { .. })) {
            cleaned.worktrees.push(place.path());
        }
        cleaned.kept.extend(kept);
    }
    for (path, _, _) in port_lock::list(&scope.locks())? {
        let dead = port_lock::read(&path).is_some_and(|lock| lock.is_dead());
        if dead && (dry_run || port_lock::remove_dead(&path)?) {
            cleaned.ports.push(path);
        }
    }
    if keep_everything {
        return Ok(cleaned);
    }
    let root = scope.workspace_root.clone();
    let cleaning = tokio::task::spawn_blocking(move || {
        clean_records(&root, &mut cleaned);
        cleaned
    });
    cleaning.await.map_err(|error| InventoryError::Interrupted(error.to_string()))
}

/// Forgets environments of which nothing is left.
fn clean_records(workspace_root: &Path, cleaned: &mut Cleaned) {
    for (path, record) in records(workspace_root) {
        let paths = record.leases.iter().flat_map(|lease| {
            ["worktreePath", "lockPath"].into_iter().filter_map(|key| lease.allocation.get(key)?.as_str())
        });
        let something_left = paths.map(Path::new).any(|path| {
            path.exists() && !cleaned.worktrees.iter().chain(&cleaned.ports).any(|gone| gone == path)
        });
        if !something_left
            && !record.leases.is_empty()
            && (cleaned.dry_run || environment_record::remove(&path, &record).is_ok())
        {
            cleaned.environments.push(record.session_id);
        }
    }
}
