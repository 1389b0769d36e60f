//! Pure: what a provider is, and what passes between it and the orchestrator.
//!
//! A lease is plain data: everything needed to give it back is in its allocation, so that another process, or this one
//! after a crash, can do it.

use crate::domain::nearest::nearest;
use crate::domain::time::Timestamp;
use crate::executor::process_identity::ProcessIdentity;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A JSON object.
pub type Object = Map<String, Value>;

/// What a provider answers when it cannot; its message is for people.
pub type ProviderError = Box<dyn std::error::Error + Send + Sync>;

/// One wish: a kind of resource, and the options of that kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Names the provider.
    pub kind: String,
    /// Read by the provider.
    #[serde(default)]
    pub options: Object,
}

impl Request {
    /// Asks for a kind with its default options.
    pub fn of(kind: impl Into<String>) -> Self {
        Self { kind: kind.into(), options: Object::new() }
    }
}

/// A request that nobody here understands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No provider of that kind.
    #[error("there is no provider of kind {kind:?}; there are {known}{}", did_you_mean(meant.as_ref()))]
    UnknownKind {
        /// The kind.
        kind: String,
        /// What there is.
        known: String,
        /// What is nearly called so.
        meant: Option<String>,
    },
    /// The provider knows no such option.
    #[error("{kind} has no option {key:?}; it has {known}{}", did_you_mean(meant.as_ref()))]
    UnknownOption {
        /// The kind.
        kind: String,
        /// The option.
        key: String,
        /// What it has.
        known: String,
        /// What is nearly called so.
        meant: Option<String>,
    },
}

fn did_you_mean(meant: Option<&String>) -> String {
    meant.map_or_else(String::new, |meant| format!("; did you mean {meant}?"))
}

impl RequestError {
    /// Refuses a kind that is none of `known`.
    pub fn unknown_kind(kind: &str, known: &[&str]) -> Self {
        let meant = nearest(kind, known.iter().copied()).map(str::to_owned);
        Self::UnknownKind { kind: kind.to_owned(), known: known.join(", "), meant }
    }

    /// Refuses an option that is none of `known`.
    pub fn unknown_option(kind: &str, key: &str, known: &[&str]) -> Self {
        let meant = nearest(key, known.iter().copied()).map(str::to_owned);
        Self::UnknownOption { kind: kind.to_owned(), key: key.to_owned(), known: known.join(", "), meant }
    }
}

/// For whom a lease is made.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Names the lease; a second live one of the same name in the same place is refused.
    pub session_id: String,
    /// The directory that the work is about.
    pub workspace_root: PathBuf,
    /// The lease is dead when this process is. `None`: it lives until somebody releases it.
    pub owner: Option<ProcessIdentity>,
    /// Files that will be put into the working directory, relative to it: they are no work.
    pub own_files: Vec<PathBuf>,
    /// When it is made.
    pub now: Timestamp,
}

/// One resource, handed out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// Names the provider.
    pub kind: String,
    /// The hard constraints: what was handed out.
    pub allocation: Object,
    /// Environment variables for the work.
    pub env: BTreeMap<String, String>,
    /// Sentences for an agent's prompt.
    pub prompt_sections: Vec<String>,
    /// Facts for whoever reports about the work.
    pub metadata: Object,
    /// Where the work should start.
    pub preferred_working_directory: Option<PathBuf>,
}

/// Who keeps a lease alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// This process, or one that shares it.
    Process(ProcessIdentity),
    /// Its name alone: it lives until somebody releases it.
    Name,
}

impl From<Option<ProcessIdentity>> for Holder {
    fn from(owner: Option<ProcessIdentity>) -> Self {
        owner.map_or(Self::Name, Self::Process)
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process(owner) => write!(f, "held by process {}", owner.pid),
            Self::Name => f.write_str("held until they are released"),
        }
    }
}

/// What becomes of work that a release would take along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Disposal {
    /// It is kept somewhere safe first; if that fails, the resource stays.
    #[default]
    Save,
    /// It goes.
    Discard,
    /// Nothing that can hold work is removed at all.
    KeepEverything,
}

/// How a lease is given back.
#[derive(Debug, Clone)]
pub struct Return {
    /// As in [`Tenant`].
    pub session_id: String,
    /// What becomes of work.
    pub disposal: Disposal,
    /// Files of our own: they are no work.
    pub own_files: Vec<PathBuf>,
    /// When.
    pub now: Timestamp,
}

/// Work that outlived its resource, or a resource that outlived its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "as")]
pub enum Kept {
    /// On a branch.
    Branch {
        /// Its short name.
        name: String,
        /// What it points to.
        commit: String,
    },
    /// Where it was.
    InPlace {
        /// The directory.
        path: PathBuf,
        /// Why it was not removed.
        why: String,
    },
}

/// One of several children that share their parent's resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child {
    index: u32,
    count: u32,
}

/// Numbers that name no child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no child {index} of {count}: the count must be at least 1 and the index below it")]
pub struct ChildError {
    /// The index given.
    pub index: i64,
    /// The count given.
    pub count: i64,
}

impl Child {
    /// Checks `count ≥ 1` and `0 ≤ index < count`.
    ///
    /// # Errors
    /// [`ChildError`] with both numbers.
    pub fn new(index: i64, count: i64) -> Result<Self, ChildError> {
        match (u32::try_from(index), u32::try_from(count)) {
            (Ok(small_index), Ok(small_count)) if small_index < small_count => {
                Ok(Self { index: small_index, count: small_count })
            }
            (Ok(_) | Err(_), Ok(_) | Err(_)) => Err(ChildError { index, count }),
        }
    }

    /// Which one, from 0.
    pub fn index(self) -> u32 {
        self.index
    }

    /// Of how many.
    pub fn count(self) -> u32 {
        self.count
    }
}

/// Hands out one kind of resource.
///
/// Futures are not cancelled half-way by the orchestrator: it awaits them to their end, so a provider may clean up
/// after itself in the same future.
pub trait Provider: std::fmt::Debug + Send + Sync {
    /// Names the kind.
    fn kind(&self) -> &str;

    /// Names the options that a request may have. What they may be is said by [`Provider::acquire`].
    fn options(&self) -> &'static [&'static str];

    /// Makes a lease. When it fails, nothing is left behind.
    fn acquire<'a>(
        &'a self,
        tenant: &'a Tenant,
        options: &'a Object,
    ) -> BoxFuture<'a, Result<Lease, ProviderError>>;

    /// Gives a lease back. Doing it twice is fine.
    fn release<'a>(
        &'a self,
        lease: &'a Lease,
        order: &'a Return,
    ) -> BoxFuture<'a, Result<Vec<Kept>, ProviderError>>;

    /// Says who holds a lease; `None` when it was given back or its owners are gone.
    fn holder<'a>(
        &'a self,
        lease: &'a Lease,
        session_id: &'a str,
    ) -> BoxFuture<'a, Result<Option<Holder>, ProviderError>>;

    /// Makes another process an owner too: the lease is dead only when all its owners are.
    fn share<'a>(
        &'a self,
        lease: &'a Lease,
        session_id: &'a str,
        owner: &'a ProcessIdentity,
    ) -> BoxFuture<'a, Result<(), ProviderError>>;

    /// Derives the options of a child's request from the parent's allocation.
    ///
    /// # Errors
    /// The allocation cannot be shared so often, or is none of this kind.
    fn child_options(
        &self,
        parent_session_id: &str,
        allocation: &Object,
        child: Child,
    ) -> Result<Object, ProviderError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_is_refused_with_what_there_is_and_what_was_probably_meant() {
        let error = RequestError::unknown_option("port-range", "count", &["blockSize", "blockCount"]);
        assert_eq!(
            error.to_string(),
            "port-range has no option \"count\"; it has blockSize, blockCount; did you mean blockCount?"
        );
        let error = RequestError::unknown_kind("git-worktre", &["git-worktree", "port-range"]);
        assert!(error.to_string().ends_with("; did you mean git-worktree?"), "{error}");
        let error = RequestError::unknown_kind("cgroup", &["git-worktree", "port-range"]);
        assert!(error.to_string().ends_with("; there are git-worktree, port-range"), "{error}");
    }

    #[test]
    fn a_child_is_one_of_its_siblings() {
        assert!(Child::new(0, 1).is_ok());
        assert!(Child::new(2, 3).is_ok());
        for (index, count) in [(0, 0), (1, 1), (-1, 2), (3, 3), (0, -1)] {
            let error = Child::new(index, count).unwrap_err();
            assert!(error.to_string().contains(&format!("child {index} of {count}")), "{error}");
        }
    }
}
