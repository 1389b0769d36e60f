//! Leases together: order, rollback, release, children, what the agent is told.

use super::{order, path_of, requests, worktrees};
use crate::support::repository::Repository;
use aiwg_rs::executor::process_identity::ProcessIdentity;
use aiwg_rs::executor::process_table;
use aiwg_rs::executor::provision::orchestrator::{Orchestrator, Order};
use aiwg_rs::executor::provision::provider::{
    Child, Disposal, Holder, Kept, Lease, Object, Provider, ProviderError, Return, Tenant,
};
use futures_util::future::BoxFuture;
use serde_json::json;
use std::sync::{Arc, Mutex};

/// A provider that writes down what happens to it, and fails on demand.
#[derive(Debug)]
struct Scripted {
    kind: &'static str,
    acquire_fails: bool,
    release_fails: bool,
    log: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    fn note(&self, what: &str) {
        self.log.lock().unwrap().push(format!("{what} {}", self.kind));
    }
}

impl Provider for Scripted {
    fn kind(&self) -> &str {
        self.kind
    }

    fn options(&self) -> &'static [&'static str] {
        &["size"]
    }

    fn acquire<'a>(
        &'a self,
        _tenant: &'a Tenant,
        _options: &'a Object,
    ) -> BoxFuture<'a, Result<Lease, ProviderError>> {
        Box::pin(async move {
            self.note("acquire");
            if self.acquire_fails {
                return Err("no more of this".into());
            }
            Ok(Lease {
                kind: self.kind.to_owned(),
                allocation: Object::new(),
                env: [("LAST".to_owned(), self.kind.to_owned())].into(),
                prompt_sections: Vec::new(),
                metadata: Object::new(),
                preferred_working_directory: None,
            })
        })
    }

    fn release<'a>(
        &'a self,
        _lease: &'a Lease,
        _order: &'a Return,
    ) -> BoxFuture<'a, Result<Vec<Kept>, ProviderError>> {
        Box::pin(async move {
            self.note("release");
            if self.release_fails { Err("stuck".into()) } else { Ok(Vec::new()) }
        })
    }

    fn holder<'a>(
        &'a self,
        _lease: &'a Lease,
        _session_id: &'a str,
    ) -> BoxFuture<'a, Result<Option<Holder>, ProviderError>> {
        Box::pin(async { Ok(None) })
    }

    fn share<'a>(
        &'a self,
        _lease: &'a Lease,
        _session_id: &'a str,
        _owner: &'a ProcessIdentity,
    ) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(async { Ok(()) })
    }

    fn child_options(
        &self,
        _parent: &str,
        _allocation: &Object,
        _child: Child,
    ) -> Result<Object, ProviderError> {
        Ok(Object::new())
    }
}

fn scripted(failing_acquire: &str, failing_release: &[&str]) -> (Orchestrator, Arc<Mutex<Vec<String>>>) {
    let log = Arc::new(Mutex::new(Vec::new()));
    let mut orchestrator = Orchestrator::new();
    for kind in ["a", "b", "c"] {
        let provider = Scripted {
            kind,
            acquire_fails: kind == failing_acquire,
            release_fails: failing_release.contains(&kind),
            log: Arc::clone(&log),
        };
        orchestrator.register(Arc::new(provider)).unwrap();
    }
    (orchestrator, log)
}

fn wish(root: &std::path::Path, kinds: &[&str]) -> Order {
    Order { session_id: "s".into(), workspace_root: root.to_owned(), resources: requests(kinds), owner: None }
}

#[tokio::test]
async fn a_second_provider_of_a_kind_is_refused_by_name() {
    let (mut orchestrator, log) = scripted("", &[]);
    let again = Scripted { kind: "b", acquire_fails: false, release_fails: false, log };
    let error = orchestrator.register(Arc::new(again)).unwrap_err();
    assert_eq!(error.to_string(), "there is a provider of kind \"b\" already");
}

#[tokio::test]
async fn a_failure_rolls_back_in_reverse_and_its_error_comes_first() {
    let root = tempfile::tempdir().unwrap();
    let (orchestrator, log) = scripted("c", &["b"]);
    let error = orchestrator.provision(&wish(root.path(), &["a", "b", "c"])).await.unwrap_err();
    assert_eq!(error.to_string(), "Resource provisioning failed: c: no more of this");
    assert_eq!(*log.lock().unwrap(), ["acquire a", "acquire b", "acquire c", "release b", "release a"]);
    let (orchestrator, log) = scripted("", &[]);
    let error = orchestrator.provision(&wish(root.path(), &["a", "zzz", "b"])).await.unwrap_err();
    assert!(error.to_string().contains("\"zzz\"; there are a, b, c"), "{error}");
    assert_eq!(*log.lock().unwrap(), ["acquire a", "release a"]);
}

#[tokio::test]
async fn release_is_once_in_reverse_and_reports_all_failures() {
    let root = tempfile::tempdir().unwrap();
    let (orchestrator, log) = scripted("", &["a", "c"]);
    let environment = orchestrator.provision(&wish(root.path(), &["a", "b", "c"])).await.unwrap();
    assert_eq!(environment.snapshot().soft_constraints.env.get("LAST").unwrap(), "c");
    log.lock().unwrap().clear();
    let error = orchestrator.release(&environment, Disposal::Save).await.unwrap_err();
    assert_eq!(error.to_string(), "c: stuck | a: stuck");
    assert_eq!(*log.lock().unwrap(), ["release c", "release b", "release a"]);
    log.lock().unwrap().clear();
    orchestrator.release(&environment, Disposal::Save).await.unwrap_err();
    assert_eq!(*log.lock().unwrap(), ["release c", "release a"], "what went is not released again");
    let (orchestrator, log) = scripted("", &[]);
    let environment = orchestrator.provision(&wish(root.path(), &["a"])).await.unwrap();
    let both = tokio::join!(
        orchestrator.release(&environment, Disposal::Save),
        orchestrator.release(&environment, Disposal::Save)
    );
    assert!(both.0.is_ok() && both.1.is_ok());
    assert_eq!(*log.lock().unwrap(), ["acquire a", "release a"]);
}

#[tokio::test]
async fn worktree_and_ports_make_one_environment_that_another_process_can_release() {
    let repository = Repository::new();
    let order = order(&repository, "s", json!([{"kind": "port-range"}, {"kind": "git-worktree"}]));
    let orchestrator = Orchestrator::with_built_in();
    let environment = orchestrator.provision(&order).await.unwrap();
    let env = environment.inject(".agent-context/resources.json").unwrap();
    let discovery = std::fs::read_to_string(env.get("AGENT_DISCOVERY_FILE").unwrap()).unwrap();
    assert!(discovery.ends_with("}\n") && discovery.contains("\n  \"sessionId\": \"s\""), "{discovery}");
    let read: serde_json::Value = serde_json::from_str(&discovery).unwrap();
    assert_eq!(read, serde_json::to_value(environment.snapshot()).unwrap());
    assert_eq!(read.pointer("/hardConstraints/0/kind").unwrap(), "port-range");
    assert!(env.contains_key("AGENT_PORT_PRIMARY") && env.contains_key("AGENT_WORKTREE_PATH"));
    assert_eq!(super::status(repository.root()), "", "nothing of ours shows in the status");

    let found = Orchestrator::find_environment(repository.root(), "s").unwrap().unwrap();
    assert_eq!(found.record(), environment.record());
    orchestrator.release(&found, Disposal::Save).await.unwrap();
    orchestrator.release(&environment, Disposal::Save).await.unwrap();
    assert!(Orchestrator::find_environment(repository.root(), "s").unwrap().is_none());
    assert_eq!(worktrees(&repository), 0);
    let locks = repository.root().join(".ai_ops/locks/ports");
    let left = locks
        .read_dir()
        .unwrap()
        .filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|x| x == "lock"));
    assert_eq!(left.count(), 0);
}

#[tokio::test]
async fn of_two_environments_of_one_name_one_is_made_and_its_record_is_that_of_its_leases() {
    for round in 0..8 {
        let repository = Repository::new();
        let order = order(&repository, "s", json!([{"kind": "port-range"}]));
        let orchestrator = Orchestrator::with_built_in();
        let both = tokio::join!(orchestrator.provision(&order), orchestrator.provision(&order));
        let (Ok(made), Err(refused)) = (if both.0.is_ok() { both } else { (both.1, both.0) }) else {
            panic!("both were made in round {round}");
        };
        assert!(refused.to_string().contains("session \"s\""), "{refused}");
        let found = Orchestrator::find_environment(repository.root(), "s").unwrap().unwrap();
        assert_eq!(found.record(), made.record());
        orchestrator.release(&found, Disposal::Save).await.unwrap();
        let left = repository.root().join(".ai_ops/locks/ports").read_dir().unwrap();
        let is_lock = |e: &std::fs::DirEntry| e.path().extension().is_some_and(|x| x == "lock");
        assert_eq!(left.filter(|e| is_lock(e.as_ref().unwrap())).count(), 0);
    }
}

#[tokio::test]
async fn an_old_environment_that_is_released_again_leaves_the_record_of_a_new_one() {
    let repository = Repository::new();
    let orchestrator = Orchestrator::with_built_in();
    let old = super::worktree(&repository, "s").await;
    orchestrator.release(&old, Disposal::Save).await.unwrap();
    let new = super::worktree(&repository, "s").await;
    orchestrator.release(&old, Disposal::Save).await.unwrap();
    let found = Orchestrator::find_environment(repository.root(), "s").unwrap().unwrap();
    assert_eq!(found.record(), new.record());
}

#[tokio::test]
async fn the_discovery_file_stays_inside_the_working_directory() {
    let repository = Repository::new();
    let environment = super::worktree(&repository, "s").await;
    for bad in ["../x.json", "/tmp/x.json", "a/../../x", ""] {
        assert!(environment.inject(bad).is_err(), "{bad}");
    }
    let outside = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), path_of(&environment).join("link")).unwrap();
    assert!(environment.inject("link/x.json").is_err());
    assert!(environment.inject("link/deeper/x.json").is_err());
    assert_eq!(outside.path().read_dir().unwrap().count(), 0);
    assert!(environment.inject("elsewhere/x.json").is_ok());
}

#[tokio::test]
async fn children_share_their_parents_resources_and_keep_its_worktree_alive() {
    let repository = Repository::new();
    let orchestrator = Orchestrator::with_built_in();
    let parent_order = order(
        &repository,
        "parent",
        json!([{"kind": "git-worktree"}, {"kind": "port-range", "options": {"blockSize": 10}}]),
    );
    let parent = orchestrator.provision(&parent_order).await.unwrap();
    let owner = Some(process_table::own());
    let mut children = Vec::new();
    for index in 0..3 {
        let child = Child::new(index, 3).unwrap();
        let session = format!("child {index}");
        children.push(
            orchestrator.provision_child(&parent.snapshot(), &session, child, owner.clone()).await.unwrap(),
        );
    }
    let top = path_of(&parent);
    for child in &children {
        let path = path_of(child);
        assert!(path.starts_with(top.join(".ai_ops/child-worktrees")), "{}", path.display());
        assert!(path.join("README").exists());
    }
    assert_eq!(super::status(&top), "");
    let sizes: Vec<_> = children
        .iter()
        .map(|child| child.snapshot().soft_constraints.metadata.get("port_range_end").cloned().unwrap())
        .collect();
    assert_eq!(sizes.iter().collect::<std::collections::HashSet<_>>().len(), 3);

    crate::support::repository::write(&path_of(&children[0]), "child.txt", "work of a child");
    let released = orchestrator.release(&parent, Disposal::Save).await.unwrap();
    assert!(
        matches!(&released.kept[..], [Kept::InPlace { why, .. }] if why.contains("child session")),
        "{released:?}"
    );
    assert!(path_of(&children[0]).exists());
    for child in &children {
        orchestrator.release(child, Disposal::Save).await.unwrap();
    }
    let branch = repository.git(["branch", "--list", "--format=%(refname:short)", "aiwg/child-0-*"]);
    assert_eq!(repository.show(&branch, "child.txt"), "work of a child");
}
