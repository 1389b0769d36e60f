//! Service: combines the leases of all asked resources into one environment, and gives all of it back in reverse.
//!
//! An environment is written down below the workspace root, so that another process can release it: a restarted
//! executor, or `aiwg-rs provision release`.

use crate::disk::atomic;
use crate::disk::fsync::FsyncPolicy;
use crate::domain::error::with_causes;
use crate::executor::process_identity::ProcessIdentity;
use crate::executor::provision::environment_record::{self, Record};
use crate::executor::provision::git_worktree::GitWorktree;
use crate::executor::provision::path_rules::inside;
use crate::executor::provision::plan::{self, Snapshot};
use crate::executor::provision::port_lock::make_quiet_directory;
use crate::executor::provision::port_range::PortRange;
use crate::executor::provision::provider::{
    Child, Disposal, Holder, Kept, Lease, Provider, ProviderError, Request, RequestError, Return, Tenant,
};
use crate::runtime::clock;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Mutex;

/// Where the snapshot is put for the agent, below the working directory.
pub const DEFAULT_DISCOVERY_FILE: &str = ".agent-context/resources.json";

/// The variable that points to it.
pub const DISCOVERY_VARIABLE: &str = "AGENT_DISCOVERY_FILE";

/// Provisioning failed; nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// Nobody here understands it.
    #[error("Resource provisioning failed: {0}")]
    Request(#[from] RequestError),
    /// A provider could not.
    #[error("Resource provisioning failed: {kind}: {message}")]
    Provider {
        /// Which.
        kind: String,
        /// What it said.
        message: String,
    },
    /// The session has leases that nobody has given back.
    #[error("Resource provisioning failed: session {session_id:?} has leased {kinds} already, {holder}")]
    Leased {
        /// The session.
        session_id: String,
        /// What it has.
        kinds: String,
        /// Who keeps them alive.
        holder: Holder,
    },
    /// Another one leased for the same session at the same time.
    #[error("Resource provisioning failed: somebody else was faster to lease for session {session_id:?}")]
    Overtaken {
        /// The session.
        session_id: String,
    },
    /// The environment could not be written down.
    #[error("Resource provisioning failed: write {}: {source}", path.display())]
    Record {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Some leases could not be given back; they can be released again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", failures.iter().map(|(kind, message)| format!("{kind}: {message}")).collect::<Vec<_>>().join(" | "))]
pub struct ReleaseError {
    /// Kind and message, in the order of the attempts.
    pub failures: Vec<(String, String)>,
    /// What was kept of those that could.
    pub kept: Vec<Kept>,
}

/// The snapshot could not be put where the agent finds it.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// The path leads out of the working directory.
    #[error("the discovery file {path:?} must stay inside the working directory: {why}")]
    Outside {
        /// The path.
        path: String,
        /// How it leads out.
        why: String,
    },
    /// A file or directory refused.
    #[error("write the discovery file {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A second provider of one kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is a provider of kind {kind:?} already")]
pub struct DuplicateKind {
    /// The kind.
    pub kind: String,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Order {
    /// Names the environment.
    pub session_id: String,
    /// The directory that the work is about.
    pub workspace_root: PathBuf,
    /// In this order.
    pub resources: Vec<Request>,
    /// Whose end makes the leases dead; `None`: only a release ends them.
    pub owner: Option<ProcessIdentity>,
}

/// A provisioned environment. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Environment {
    record: Arc<Record>,
    held: Arc<Mutex<Vec<Lease>>>,
}

impl Environment {
    fn of(record: Record) -> Self {
        let held = Arc::new(Mutex::new(record.leases.clone()));
        Self { record: Arc::new(record), held }
    }

    /// Makes an environment without any leases, which is not written down.
    pub fn empty(order: &Order) -> Self {
        Self::of(Record {
            session_id: order.session_id.clone(),
            workspace_root: order.workspace_root.clone(),
            leases: Vec::new(),
            own_files: Vec::new(),
        })
    }

    /// Returns what was written down.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Describes it: a deep copy.
    pub fn snapshot(&self) -> Snapshot {
        plan::snapshot(&self.record.session_id, &self.record.workspace_root, &self.record.leases)
    }

    /// Writes the snapshot below the working directory and returns the environment variables of all leases, with
    /// [`DISCOVERY_VARIABLE`] pointing to it.
    ///
    /// # Errors
    /// [`InjectError`]; a link on the way that leads out is one.
    pub fn inject(&self, discovery_file: &str) -> Result<BTreeMap<String, String>, InjectError> {
        let snapshot = self.snapshot();
        let outside = |why: String| InjectError::Outside { path: discovery_file.to_owned(), why };
        let relative =
            inside("discovery file", discovery_file).map_err(|error| outside(error.to_string()))?;
        let path = snapshot.working_directory.join(&relative);
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| InjectError::Io { path, source }
        };
        let directory = path.parent().unwrap_or(&snapshot.working_directory).to_owned();
        let root = snapshot.working_directory.canonicalize().map_err(at(&snapshot.working_directory))?;
        let existing = directory.ancestors().find(|ancestor| ancestor.symlink_metadata().is_ok());
        let real = existing.unwrap_or(&directory).canonicalize().map_err(at(&directory))?;
        if !real.starts_with(&root) {
            return Err(outside(format!("{} is {}", directory.display(), real.display())));
        }
        if directory == snapshot.working_directory || directory.is_dir() {
            fs::create_dir_all(&directory).map_err(at(&directory))?;
        } else {
            make_quiet_directory(&directory).map_err(at(&directory))?;
        }
        let mut text = serde_json::to_vec_pretty(&snapshot).map_err(|e| at(&path)(e.into()))?;
        text.push(b'\n');
        atomic::write(&path, &text, FsyncPolicy::Never).map_err(at(&path))?;
        let mut env = snapshot.soft_constraints.env;
        env.insert(DISCOVERY_VARIABLE.to_owned(), path.display().to_string());
        Ok(env)
    }
}

/// What was left of released resources.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Released {
    /// Work and worktrees that are still there.
    pub kept: Vec<Kept>,
}

impl Released {
    /// Returns the first branch that holds saved work.
    pub fn branch(&self) -> Option<&str> {
        self.kept.iter().find_map(|kept| match kept {
            Kept::Branch { name, .. } => Some(name.as_str()),
            Kept::InPlace { .. } => None,
        })
    }
}

/// The providers, and the order of things.
#[derive(Debug, Default)]
pub struct Orchestrator {
    providers: Vec<Arc<dyn Provider>>,
    keep_everything: bool,
}

impl Orchestrator {
    /// Makes one without providers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes one with `git-worktree` and `port-range`.
    pub fn with_built_in() -> Self {
        Self { providers: vec![Arc::new(GitWorktree), Arc::new(PortRange)], keep_everything: false }
    }

    /// Turns all removal of what can hold work off.
    #[must_use]
    pub fn keep_everything(mut self, keep: bool) -> Self {
        self.keep_everything = keep;
        self
    }

    /// Adds a provider.
    ///
    /// # Errors
    /// [`DuplicateKind`] when there is one of its kind.
    pub fn register(&mut self, provider: Arc<dyn Provider>) -> Result<(), DuplicateKind> {
        if self.find(provider.kind()).is_some() {
            return Err(DuplicateKind { kind: provider.kind().to_owned() });
        }
        self.providers.push(provider);
        Ok(())
    }

    fn find(&self, kind: &str) -> Option<&Arc<dyn Provider>> {
        self.providers.iter().find(|provider| provider.kind() == kind)
    }

    fn require(&self, kind: &str) -> Result<&Arc<dyn Provider>, RequestError> {
        self.find(kind).ok_or_else(|| {
            let known: Vec<&str> = self.providers.iter().map(|provider| provider.kind()).collect();
            RequestError::unknown_kind(kind, &known)
        })
    }

    /// Returns the provider that has every option of a request.
    fn serving(&self, request: &Request) -> Result<&Arc<dyn Provider>, RequestError> {
        let provider = self.require(&request.kind)?;
        match request.options.keys().find(|key| !provider.options().contains(&key.as_str())) {
            Some(key) => Err(RequestError::unknown_option(&request.kind, key, provider.options())),
            None => Ok(provider),
        }
    }

    /// Says whether requests are of kinds that there are, with options that those have; not whether they can be met.
    ///
    /// # Errors
    /// [`RequestError`] for the first that nobody understands.
    pub fn check(&self, requests: &[Request]) -> Result<(), RequestError> {
        requests.iter().try_for_each(|request| self.serving(request).map(|_provider| ()))
    }

    /// Leases everything that is asked for, in order; on a failure what was leased is given back in reverse.
    ///
    /// # Errors
    /// The first failure. [`ProvisionError::Leased`] when the session has an environment already, which stays as it is.
    ///
    /// # Cancel safety
    /// Not safe: a dropped future leaves leases of this process behind, which are reclaimed when it ends.
    pub async fn provision(&self, order: &Order) -> Result<Environment, ProvisionError> {
        let before = environment_record::read(&order.workspace_root, &order.session_id).ok().flatten();
        if let Some(record) = &before {
            self.refuse_while_held(record).await?;
        }
        let tenant = Tenant {
            session_id: order.session_id.clone(),
            workspace_root: order.workspace_root.clone(),
            owner: order.owner.clone(),
            own_files: vec![DEFAULT_DISCOVERY_FILE.into(), ".agent-context/.gitignore".into()],
            now: clock::wall(),
        };
        let mut leases = Vec::new();
        let mut failure = None;
        for request in &order.resources {
            let outcome = match self.serving(request) {
                Ok(provider) => {
                    provider.acquire(&tenant, &request.options).await.map_err(failed(&request.kind))
                }
                Err(unknown) => Err(unknown.into()),
            };
            match outcome {
                Ok(lease) => leases.push(lease),
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let record = Record {
            session_id: order.session_id.clone(),
            workspace_root: order.workspace_root.clone(),
            leases,
            own_files: tenant.own_files,
        };
        let environment = Environment::of(record);
        let failure = match failure {
            None => write_down(&environment, before).await.err(),
            some => some,
        };
        match failure {
            None => Ok(environment),
            Some(first) => {
                let roll_back = Self { providers: self.providers.clone(), keep_everything: false };
                if let Err(error) = roll_back.release(&environment, Disposal::Save).await {
                    tracing::warn!(session.id = %order.session_id, %error, "failed to give back what was leased before the failure");
                }
                Err(first)
            }
        }
    }

    /// Refuses a session that still has leases. A lease of an unknown kind may be one.
    async fn refuse_while_held(&self, record: &Record) -> Result<(), ProvisionError> {
        let (mut kinds, mut held_by) = (Vec::new(), None);
        for lease in &record.leases {
            let provider = self.require(&lease.kind)?;
            let holder = provider.holder(lease, &record.session_id).await.map_err(failed(&lease.kind))?;
            if let Some(holder) = holder {
                kinds.push(lease.kind.as_str());
                held_by.get_or_insert(holder);
            }
        }
        match held_by {
            Some(holder) => {
                let session_id = record.session_id.clone();
                Err(ProvisionError::Leased { session_id, kinds: kinds.join(", "), holder })
            }
            None => Ok(()),
        }
    }

    /// Leases a child's share of its parent's resources.
    ///
    /// # Errors
    /// As [`Orchestrator::provision`], or the parent's resources cannot be shared so often.
    pub async fn provision_child(
        &self,
        parent: &Snapshot,
        child_session_id: &str,
        child: Child,
        owner: Option<ProcessIdentity>,
    ) -> Result<Environment, ProvisionError> {
        let mut resources = Vec::new();
        for constraint in &parent.hard_constraints {
            let provider = self.require(&constraint.kind)?;
            let options = provider
                .child_options(&parent.session_id, &constraint.allocation, child)
                .map_err(failed(&constraint.kind))?;
            resources.push(Request { kind: constraint.kind.clone(), options });
        }
        self.provision(&Order {
            session_id: child_session_id.to_owned(),
            workspace_root: parent.working_directory.clone(),
            resources,
            owner,
        })
        .await
    }

    /// Makes a process an owner of every lease: while it lives, they do.
    ///
    /// # Errors
    /// All failures together.
    pub async fn share(
        &self,
        environment: &Environment,
        owner: &ProcessIdentity,
    ) -> Result<(), ReleaseError> {
        let mut failures = Vec::new();
        for lease in environment.held.lock().await.iter() {
            let shared = match self.require(&lease.kind) {
                Ok(provider) => provider
                    .share(lease, &environment.record.session_id, owner)
                    .await
                    .map_err(|error| with_causes(error.as_ref())),
                Err(error) => Err(error.to_string()),
            };
            failures.extend(shared.err().map(|message| (lease.kind.clone(), message)));
        }
        if failures.is_empty() { Ok(()) } else { Err(ReleaseError { failures, kept: Vec::new() }) }
    }

    /// Gives everything back in reverse, and goes on after a failure. What was given back once is not given back again.
    ///
    /// # Errors
    /// All failures together; those leases are tried again by the next call.
    pub async fn release(
        &self,
        environment: &Environment,
        disposal: Disposal,
    ) -> Result<Released, ReleaseError> {
        let order = Return {
            session_id: environment.record.session_id.clone(),
            disposal: if self.keep_everything { Disposal::KeepEverything } else { disposal },
            own_files: own_files(&environment.record),
            now: clock::wall(),
        };
        let mut held = environment.held.lock().await;
        if held.is_empty() {
            forget(environment).await;
            return Ok(Released::default());
        }
        let (mut kept, mut failures, mut stubborn) = (Vec::new(), Vec::new(), Vec::new());
        for lease in held.drain(..).rev() {
            let released = match self.require(&lease.kind) {
                Ok(provider) => {
                    provider.release(&lease, &order).await.map_err(|error| with_causes(error.as_ref()))
                }
                Err(error) => Err(error.to_string()),
            };
            match released {
                Ok(left) => kept.extend(left),
                Err(message) => {
                    failures.push((lease.kind.clone(), message));
                    stubborn.push(lease);
                }
            }
        }
        stubborn.reverse();
        *held = stubborn;
        if failures.is_empty() {
            forget(environment).await;
            Ok(Released { kept })
        } else {
            Err(ReleaseError { failures, kept })
        }
    }

    /// Finds an environment that this or another process provisioned; `None` when it was released.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn find_environment(workspace_root: &Path, session_id: &str) -> io::Result<Option<Environment>> {
        Ok(environment_record::read(workspace_root, session_id)?.map(Environment::of))
    }
}

/// Returns where our own files lie.
fn own_files(record: &Record) -> Vec<PathBuf> {
    let working =
        plan::merge(&record.leases).working_directory.unwrap_or_else(|| record.workspace_root.clone());
    record.own_files.iter().map(|file| working.join(file)).collect()
}

fn failed(kind: &str) -> impl FnOnce(ProviderError) -> ProvisionError + use<'_> {
    move |error| ProvisionError::Provider { kind: kind.to_owned(), message: with_causes(error.as_ref()) }
}

/// Writes an environment down where `before` was found; somebody may have been faster meanwhile.
async fn write_down(environment: &Environment, before: Option<Record>) -> Result<(), ProvisionError> {
    let record = Arc::clone(&environment.record);
    let written = tokio::task::spawn_blocking(move || record.write(before.as_ref())).await;
    let record = &environment.record;
    match written.map_err(io::Error::other).flatten() {
        Ok(true) => Ok(()),
        Ok(false) => Err(ProvisionError::Overtaken { session_id: record.session_id.clone() }),
        Err(source) => Err(ProvisionError::Record { path: record.path(), source }),
    }
}

/// Forgets what is written down of an environment; one of the same name that was made since stays.
async fn forget(environment: &Environment) {
    let record = Arc::clone(&environment.record);
    let forgotten =
        tokio::task::spawn_blocking(move || environment_record::remove(&record.path(), &record)).await;
    if let Err(error) = forgotten.map_err(io::Error::other).flatten() {
        let session = &environment.record.session_id;
        tracing::warn!(session.id = session, %error, "the record of a released environment stays");
    }
}
