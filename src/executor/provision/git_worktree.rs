//! Service: the provider `git-worktree`: a working tree of its own, on no branch, that loses no work when it goes.
//!
//! Every change of a repository's worktrees takes its turn in the [repository queue](super::repository_queue). A lease is
//! written before the worktree is made and forgotten after it is gone; see [`super::worktree_lease`].

use crate::domain::time::Timestamp;
use crate::executor::process_identity::ProcessIdentity;
use crate::executor::provision::git::{GitError, Repository, RepositoryError, find_repository, git};
use crate::executor::provision::git_save::{self, Work};
use crate::executor::provision::options::{self, OptionError};
use crate::executor::provision::path_rules::{inside, normalized, scoped_name};
use crate::executor::provision::provider::{
    Child, Disposal, Holder, Kept, Lease, Object, Provider, ProviderError, Return, Tenant,
};
use crate::executor::provision::repository_queue::{self, QueueError, patiently};
use crate::executor::provision::worktree_include::{self, IncludeError};
use crate::executor::provision::worktree_lease::{self, LeaseFileError, WorktreeLease};
use futures_util::future::BoxFuture;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The kind's name.
pub const KIND: &str = "git-worktree";

/// Where worktrees lie by default, below the repository root.
pub const DEFAULT_ROOT: &str = ".ai_ops/worktrees";

/// Where the worktrees of children lie, below their parent's.
pub const CHILD_ROOT: &str = ".ai_ops/child-worktrees";

const OPTIONS: [&str; 3] = ["rootDirectory", "baseRef", "targetPath"];

/// What can go wrong with a worktree.
#[derive(Debug, thiserror::Error)]
pub enum WorktreeError {
    /// An option or an allocation has the wrong form.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// No usable repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// Git failed.
    #[error(transparent)]
    Git(#[from] GitError),
    /// The turn did not come.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// A lease file could not be used.
    #[error(transparent)]
    LeaseFile(#[from] LeaseFileError),
    /// A file that was asked for could not be copied.
    #[error(transparent)]
    Include(#[from] IncludeError),
    /// Somebody works in it.
    #[error("the worktree {} belongs to session {session_id:?}, {holder}", path.display())]
    InUse {
        /// The worktree.
        path: PathBuf,
        /// Whose it is.
        session_id: String,
        /// Who holds it.
        holder: String,
    },
    /// Something is in the way that is not ours to remove.
    #[error("{} is in the way: {why}", path.display())]
    InTheWay {
        /// What.
        path: PathBuf,
        /// Why it stays.
        why: String,
    },
    /// The wanted directory is not in that version.
    #[error("{} does not exist at {base_ref}", path.display())]
    NoTarget {
        /// The directory.
        path: PathBuf,
        /// The version.
        base_ref: String,
    },
    /// A file or directory refused.
    #[error("use {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> WorktreeError + use<'_> {
    move |source| WorktreeError::Io { path: path.to_owned(), source }
}

/// The provider; it keeps nothing in memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct GitWorktree;

impl Provider for GitWorktree {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn options(&self) -> &'static [&'static str] {
        &OPTIONS
    }

    fn acquire<'a>(
        &'a self,
        tenant: &'a Tenant,
        options: &'a Object,
    ) -> BoxFuture<'a, Result<Lease, ProviderError>> {
        Box::pin(async move { Ok(acquire(tenant, options).await?) })
    }

    fn release<'a>(
        &'a self,
        lease: &'a Lease,
        order: &'a Return,
    ) -> BoxFuture<'a, Result<Vec<Kept>, ProviderError>> {
        Box::pin(async move {
            let place = Place::of_allocation(&lease.allocation)?;
            let allocated_at = options::required_string(&lease.allocation, "allocatedAt")?;
            match worktree_lease::read(&place.root, &place.name)? {
                Some(found) if found.allocated_at.to_string() == allocated_at => {
                    Ok(give_back(&place, order).await?)
                }
                // Given back before, and perhaps made again by somebody else since.
                Some(_) | None => Ok(Vec::new()),
            }
        })
    }

    fn holder<'a>(
        &'a self,
        lease: &'a Lease,
        _session_id: &'a str,
    ) -> BoxFuture<'a, Result<Option<Holder>, ProviderError>> {
        Box::pin(async move {
            let place = Place::of_allocation(&lease.allocation)?;
            let allocated_at = options::required_string(&lease.allocation, "allocatedAt")?;
            let found = worktree_lease::read(&place.root, &place.name)?
                .filter(|found| found.allocated_at.to_string() == allocated_at && !place.is_given_up(found));
            Ok(found.map(|found| found.owner.into()))
        })
    }

    fn share<'a>(
        &'a self,
        lease: &'a Lease,
        _session_id: &'a str,
        owner: &'a ProcessIdentity,
    ) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(async move {
            let place = Place::of_allocation(&lease.allocation)?;
            if let Some(mut found) = worktree_lease::read(&place.root, &place.name)? {
                found.sharers.push(owner.clone());
                found.write(&place.root, &place.name)?;
            }
            Ok(())
        })
    }

    fn child_options(
        &self,
        parent_session_id: &str,
        allocation: &Object,
        _child: Child,
    ) -> Result<Object, ProviderError> {
        let worktree = Path::new(options::required_string(allocation, "worktreePath")?);
        let mut child = Object::new();
        let root = worktree.join(CHILD_ROOT).join(scoped_name(parent_session_id));
        child.insert("rootDirectory".to_owned(), json!(root));
        child.insert("baseRef".to_owned(), json!(options::string(allocation, "baseRef")?.unwrap_or("HEAD")));
        if let Some(target) = options::string(allocation, "targetPath")? {
            child.insert("targetPath".to_owned(), json!(target));
        }
        Ok(child)
    }
}

/// Which worktree is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// A working tree of the repository, other than this one.
    pub repo_root: PathBuf,
    /// The directory of worktrees.
    pub root: PathBuf,
    /// Its name there.
    pub name: String,
}

impl Place {
    /// Returns where the worktree is.
    pub fn path(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    /// Says whether nobody works here any more: it was given back but stayed, all owners are gone, or, where none was
    /// named, the directory is.
    ///
    /// A worktree that is being made has a lease and no directory yet: whoever removes what was given up has the turn.
    pub fn is_given_up(&self, lease: &WorktreeLease) -> bool {
        let is_missing = || {
            let found = self.path().symlink_metadata();
            found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        lease.kept.is_some() || lease.is_dead() || (lease.owner.is_none() && is_missing())
    }

    fn of_allocation(allocation: &Object) -> Result<Self, OptionError> {
        let path = Path::new(options::required_string(allocation, "worktreePath")?);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self {
            repo_root: PathBuf::from(options::required_string(allocation, "repoRoot")?),
            root: PathBuf::from(options::required_string(allocation, "worktreeRoot")?),
            name,
        })
    }
}

async fn acquire(tenant: &Tenant, options: &Object) -> Result<Lease, WorktreeError> {
    let root_option = options::string(options, "rootDirectory")?.unwrap_or(DEFAULT_ROOT);
    let base_ref = options::string(options, "baseRef")?.unwrap_or("HEAD").to_owned();
    if base_ref.starts_with('-') {
        return Err(OptionError::new("baseRef", "must be a commit", &base_ref).into());
    }
    let target =
        options::string(options, "targetPath")?.map(|text| inside("targetPath", text)).transpose()?;
    let repository = find_repository(&tenant.workspace_root).await?;
    let place = Place {
        root: normalized(&repository.top_level.join(root_option)),
        name: scoped_name(&tenant.session_id),
        repo_root: repository.top_level.clone(),
    };
    let path = place.path();
    let turn = repository_queue::turn(&repository.common_directory).await?;
    make_room(&place, tenant).await?;
    exclude(&repository, &place.root)?;
    let lease = WorktreeLease {
        session_id: tenant.session_id.clone(),
        allocated_at: tenant.now,
        repo_root: place.repo_root.clone(),
        base_ref: base_ref.clone(),
        owner: tenant.owner.clone(),
        sharers: Vec::new(),
        kept: None,
        own_files: tenant
            .own_files
            .iter()
            .map(|file| target.as_deref().map_or_else(|| file.clone(), |target| target.join(file)))
            .collect(),
    };
    lease.write(&place.root, &place.name)?;
    let made = make(&repository, &place, &base_ref, target.as_deref()).await;
    let made = match made {
        Ok(()) => fill(&repository, &place, &base_ref, target.as_deref()).await,
        Err(error) => Err(error),
    };
    let working_directory = match made {
        Ok(working_directory) => working_directory,
        Err(error) => {
            if let Err(leftover) = remove_tree(&repository.common_directory, &place).await {
                tracing::warn!(error = %leftover, file.path = %path.display(), "failed to remove a half-made worktree");
            } else {
                worktree_lease::remove(&place.root, &place.name)?;
            }
            return Err(error);
        }
    };
    drop(turn);
    let mut allocation = json!({
        "repoRoot": place.repo_root, "worktreeRoot": place.root, "worktreePath": path, "baseRef": base_ref,
        "allocatedAt": tenant.now,
    });
    let head = git_save::private_directory(&path).and_then(|own| fs::read_to_string(own.join("HEAD")).ok());
    if let (Some(head), Some(hard)) = (head, allocation.as_object_mut()) {
        hard.insert("baseCommit".to_owned(), json!(head.trim()));
    }
    let mut metadata = json!({ "git_worktree_path": path, "git_worktree_base_ref": base_ref });
    if let (Some(target), Some(hard), Some(soft)) =
        (&target, allocation.as_object_mut(), metadata.as_object_mut())
    {
        hard.insert("targetPath".to_owned(), json!(target));
        soft.insert("git_worktree_target_path".to_owned(), json!(target));
    }
    Ok(Lease {
        kind: KIND.to_owned(),
        allocation: allocation.as_object().cloned().unwrap_or_default(),
        env: BTreeMap::from([
            ("AGENT_REPO_ROOT".to_owned(), place.repo_root.display().to_string()),
            ("AGENT_WORKTREE_PATH".to_owned(), path.display().to_string()),
            ("AGENT_WORKTREE_BASE_REF".to_owned(), base_ref.clone()),
        ]),
        prompt_sections: vec![format!(
            "Work only inside the git worktree {} (made from {base_ref}); do not touch the repository at {}.",
            working_directory.display(),
            place.repo_root.display()
        )],
        metadata: metadata.as_object().cloned().unwrap_or_default(),
        preferred_working_directory: Some(working_directory),
    })
}

/// Makes sure that the place is free: a dead owner's worktree is given back first, its work saved.
async fn make_room(place: &Place, tenant: &Tenant) -> Result<(), WorktreeError> {
    let path = place.path();
    match worktree_lease::read(&place.root, &place.name)? {
        None if path.symlink_metadata().is_ok() => Err(WorktreeError::InTheWay {
            path,
            why: "it is no worktree of ours; move it away, or choose another rootDirectory".to_owned(),
        }),
        None => Ok(()),
        Some(old) if !place.is_given_up(&old) => {
            let holder = old
                .owner
                .map_or_else(|| "which has not released it".to_owned(), |o| format!("process {}", o.pid));
            Err(WorktreeError::InUse { path, session_id: old.session_id, holder })
        }
        Some(old) => {
            tracing::info!(session.id = %old.session_id, file.path = %path.display(), "reclaiming a worktree whose owner is gone");
            let order = Return {
                session_id: old.session_id,
                disposal: Disposal::Save,
                own_files: old.own_files,
                now: tenant.now,
            };
            match clear(place, &order).await?.into_iter().find(|kept| matches!(kept, Kept::InPlace { .. })) {
                Some(Kept::InPlace { path, why }) => Err(WorktreeError::InTheWay { path, why }),
                Some(Kept::Branch { .. }) | None => Ok(()),
            }
        }
    }
}

/// Hides the root from the status of the repository and all its worktrees.
fn exclude(repository: &Repository, root: &Path) -> Result<(), WorktreeError> {
    let Ok(relative) = root.strip_prefix(&repository.top_level) else {
        return Ok(());
    };
    let relative = if relative.starts_with(CHILD_ROOT) { Path::new(CHILD_ROOT) } else { relative };
    let line = format!("/{}/", relative.display());
    let file = repository.common_directory.join("info/exclude");
    let text = fs::read_to_string(&file).unwrap_or_default();
    if text.lines().any(|existing| existing == line) {
        return Ok(());
    }
    let directory = repository.common_directory.join("info");
    fs::create_dir_all(&directory).map_err(at(&directory))?;
    let mut opened = fs::OpenOptions::new().append(true).create(true).open(&file).map_err(at(&file))?;
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    opened.write_all(format!("{newline}{line}\n").as_bytes()).map_err(at(&file))
}

async fn make(
    repository: &Repository,
    place: &Place,
    base_ref: &str,
    target: Option<&Path>,
) -> Result<(), WorktreeError> {
    let path = place.path();
    let add = |force: bool| {
        let mut command = git(&repository.top_level, ["worktree", "add", "--quiet", "--detach"]);
        if target.is_some() {
            command = command.arg("--no-checkout");
        }
        if force {
            command = command.arg("--force");
        }
        command.arg("--").arg(&path).arg(base_ref).run()
    };
    match patiently(|| add(false)).await {
        // Somebody removed the directory by hand; git still remembers it.
        Err(GitError::Failed { message, .. }) if message.contains("already registered") => {
            patiently(|| add(true)).await?;
        }
        other => other?,
    }
    if let Some(target) = target {
        let sparse = || git(&path, ["sparse-checkout", "set", "--cone", "--"]).arg(target).run();
        patiently(sparse).await?;
        patiently(|| git(&path, ["checkout", "--quiet"]).run()).await?;
    }
    Ok(())
}

async fn fill(
    repository: &Repository,
    place: &Place,
    base_ref: &str,
    target: Option<&Path>,
) -> Result<PathBuf, WorktreeError> {
    let path = place.path();
    let working_directory = target.map_or_else(|| path.clone(), |target| path.join(target));
    if !working_directory.is_dir() {
        return Err(WorktreeError::NoTarget { path: working_directory, base_ref: base_ref.to_owned() });
    }
    let copied = worktree_include::copy(&repository.top_level, &path, &place.root).await?;
    if !copied.is_empty() {
        tracing::debug!(count = copied.len(), file.path = %path.display(), "copied ignored files into the worktree");
    }
    Ok(working_directory)
}

/// Gives a worktree back in its turn.
///
/// # Errors
/// Git or a file refused; the lease stays then.
async fn give_back(place: &Place, order: &Return) -> Result<Vec<Kept>, WorktreeError> {
    if !place.repo_root.is_dir() {
        worktree_lease::remove(&place.root, &place.name)?;
        return Ok(Vec::new());
    }
    let repository = find_repository(&place.repo_root).await?;
    let _turn = repository_queue::turn(&repository.common_directory).await?;
    clear(place, order).await
}

/// Gives a worktree that was given up back in its turn, its work saved; `None` when somebody took it meanwhile.
///
/// # Errors
/// Git or a file refused; the lease stays then.
pub async fn clean_up(place: &Place, now: Timestamp) -> Result<Option<Vec<Kept>>, WorktreeError> {
    let repository = find_repository(&place.repo_root).await?;
    let _turn = repository_queue::turn(&repository.common_directory).await?;
    let lease = worktree_lease::read(&place.root, &place.name)?;
    let Some(lease) = lease.filter(|lease| place.is_given_up(lease)) else {
        return Ok(None);
    };
    let order =
        Return { session_id: lease.session_id, disposal: Disposal::Save, own_files: lease.own_files, now };
    clear(place, &order).await.map(Some)
}

/// Saves what must be saved, removes the worktree, and forgets the lease. Its caller has the turn.
async fn clear(place: &Place, order: &Return) -> Result<Vec<Kept>, WorktreeError> {
    let path = place.path();
    let repository = find_repository(&place.repo_root).await?;
    if order.disposal == Disposal::KeepEverything {
        return stay(place, order, "nothing is removed, by order (--keep-everything)".to_owned());
    }
    let mut kept = Vec::new();
    if path.is_dir() {
        if let Some(child) = children_at_work(&path, order).await? {
            return stay(place, order, child);
        }
        if order.disposal == Disposal::Save {
            let saved = match save(place, order).await {
                Ok(saved) => saved,
                Err(why) => return stay(place, order, why),
            };
            kept.extend(saved);
        }
    }
    if let Err(error) = remove_tree(&repository.common_directory, place).await {
        kept.extend(stay(place, order, error.to_string())?);
        return Ok(kept);
    }
    worktree_lease::remove(&place.root, &place.name)?;
    Ok(kept)
}

/// Keeps the worktree's work on branches, or says why it cannot.
async fn save(place: &Place, order: &Return) -> Result<Vec<Kept>, String> {
    let path = place.path();
    let cannot = |error: GitError| format!("whether its work is saved is unknown: {error}");
    let own_files = own_files(place, order);
    let work = git_save::inspect(&path, &own_files).await.map_err(cannot)?;
    if !work.obstacles.is_empty() {
        return Err(work.obstacles.join("; "));
    }
    if work.is_none() {
        return Ok(Vec::new());
    }
    let message = format!("Work of session {}, kept when its worktree was released", order.session_id);
    let saved = patiently(|| git_save::save(&path, &place.name, &message, &work, &own_files))
        .await
        .map_err(cannot)?;
    for branch in &saved {
        tracing::info!(session.id = %order.session_id, branch = branch.branch, "kept the work of a worktree");
    }
    Ok(saved.into_iter().map(|s| Kept::Branch { name: s.branch, commit: s.commit }).collect())
}

/// Returns the files of our own that lie in the worktree, relative to it.
fn own_files(place: &Place, order: &Return) -> Vec<PathBuf> {
    let path = place.path();
    order
        .own_files
        .iter()
        .filter_map(|file| normalized(&path.join(file)).strip_prefix(&path).map(Path::to_owned).ok())
        .collect()
}

/// Leaves the worktree where it is, marked as given back.
fn stay(place: &Place, order: &Return, why: String) -> Result<Vec<Kept>, WorktreeError> {
    let path = place.path();
    if let Some(mut lease) = worktree_lease::read(&place.root, &place.name)? {
        lease.kept = Some(why.clone());
        lease.own_files = own_files(place, order);
        lease.write(&place.root, &place.name)?;
    }
    tracing::warn!(session.id = %order.session_id, file.path = %path.display(), reason = why, "the worktree stays");
    Ok(vec![Kept::InPlace { path, why }])
}

/// Gives back dead children's worktrees inside this one; says so when one cannot go.
async fn children_at_work(path: &Path, order: &Return) -> Result<Option<String>, WorktreeError> {
    let roots = path.join(CHILD_ROOT);
    let Ok(entries) = fs::read_dir(&roots) else {
        return Ok(None);
    };
    for entry in entries {
        let root = entry.map_err(at(&roots))?.path();
        for name in worktree_lease::names(&root)? {
            let Some(lease) = worktree_lease::read(&root, &name)? else { continue };
            let child = Place { repo_root: path.to_owned(), root: root.clone(), name };
            if !child.is_given_up(&lease) {
                return Ok(Some(format!("the child session {:?} works inside it", lease.session_id)));
            }
            let order = Return { session_id: lease.session_id, own_files: lease.own_files, ..order.clone() };
            let kept = Box::pin(clear(&child, &order)).await?;
            if kept.iter().any(|kept| matches!(kept, Kept::InPlace { .. })) {
                return Ok(Some(format!("the worktree of the child session {:?} stays", order.session_id)));
            }
        }
    }
    Ok(None)
}

/// Removes the directory and git's record of it.
async fn remove_tree(common_directory: &Path, place: &Place) -> Result<(), WorktreeError> {
    let path = place.path();
    let at_home = common_directory;
    if path.symlink_metadata().is_ok() {
        let remove = || git(at_home, ["worktree", "remove", "--force", "--"]).arg(&path).run();
        if let Err(refused) = patiently(remove).await {
            let said = refused.to_string();
            if said.contains("is locked") || said.contains("cannot remove a locked") {
                return Err(refused.into());
            }
            // Read-only directories, files written meanwhile, or a `.git` file that is gone. The path is ours: its
            // lease says so.
            tracing::debug!(error = %refused, file.path = %path.display(), "git would not remove the worktree; removing its files");
            let doomed = path.clone();
            tokio::task::spawn_blocking(move || remove_files(&doomed))
                .await
                .map_err(QueueError::from)?
                .map_err(at(&path))?;
        }
    }
    patiently(|| git(at_home, ["worktree", "prune"]).run()).await?;
    Ok(())
}

fn remove_files(path: &Path) -> io::Result<()> {
    let first = match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other,
    };
    if first.is_ok() {
        return Ok(());
    }
    make_writable(path)?;
    fs::remove_dir_all(path)
}

fn make_writable(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_writable(&entry.path())?;
        }
    }
    Ok(())
}

/// Looks for work in a worktree, for a report.
///
/// # Errors
/// Git cannot tell.
pub async fn work_in(place: &Place, lease: &WorktreeLease) -> Result<Work, WorktreeError> {
    Ok(git_save::inspect(&place.path(), &lease.own_files).await?)
}
