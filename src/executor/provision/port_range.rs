//! Edge: the provider `port-range`: a block of TCP ports that no other lease has.
//!
//! Which block a session gets is decided by its id, so that the same session usually meets its ports again; the
//! directory of lock files decides who was first.

use crate::domain::time::Timestamp;
use crate::executor::listeners;
use crate::executor::process_identity::ProcessIdentity;
use crate::executor::provision::options;
use crate::executor::provision::path_rules::normalized;
use crate::executor::provision::port_block::{self, Block, Layout};
use crate::executor::provision::port_lock::{self, PortLock};
use crate::executor::provision::provider::{
    Child, Holder, Kept, Lease, Object, Provider, ProviderError, Return, Tenant,
};
use futures_util::future::BoxFuture;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The kind's name.
pub const KIND: &str = "port-range";

/// Where lock files lie by default, below the workspace root.
pub const DEFAULT_LOCK_DIRECTORY: &str = ".ai_ops/locks/ports";

/// The last one is for children: an only child's lock lies beside its parent's, under another name.
const OPTIONS: [&str; 6] =
    ["basePort", "blockSize", "blockCount", "primaryPortOffset", "lockDirectory", "lockName"];

/// How many taken blocks are asked after their owners before one is taken whose primary port must be waited for.
const OWNERS_ASKED_AFTER: usize = 16;

/// No block is free.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "none of the {block_count} port blocks from {base_port} on is free; release some, or see `aiwg-rs provision list` ({})",
    directory.display()
)]
pub struct NoFreeBlock {
    /// First port of all.
    pub base_port: i64,
    /// How many blocks were looked at.
    pub block_count: i64,
    /// Where their locks lie.
    pub directory: PathBuf,
}

/// The provider; it keeps nothing in memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct PortRange;

impl Provider for PortRange {
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
        let (tenant, options) = (tenant.clone(), options.clone());
        Box::pin(blocking(move || acquire(&tenant, &options)))
    }

    fn release<'a>(
        &'a self,
        lease: &'a Lease,
        order: &'a Return,
    ) -> BoxFuture<'a, Result<Vec<Kept>, ProviderError>> {
        let (allocation, session) = (lease.allocation.clone(), order.session_id.clone());
        Box::pin(blocking(move || {
            let (path, lock) = lock_of(&session, &allocation)?;
            port_lock::remove(&path, &lock)?;
            Ok(Vec::new())
        }))
    }

    fn holder<'a>(
        &'a self,
        lease: &'a Lease,
        session_id: &'a str,
    ) -> BoxFuture<'a, Result<Option<Holder>, ProviderError>> {
        let (allocation, session) = (lease.allocation.clone(), session_id.to_owned());
        Box::pin(blocking(move || {
            let (path, lock) = lock_of(&session, &allocation)?;
            Ok(port_lock::held(&path, &lock).map(|lock| lock.owner.into()))
        }))
    }

    fn share<'a>(
        &'a self,
        lease: &'a Lease,
        session_id: &'a str,
        owner: &'a ProcessIdentity,
    ) -> BoxFuture<'a, Result<(), ProviderError>> {
        let (allocation, owner) = (lease.allocation.clone(), owner.clone());
        let session = session_id.to_owned();
        Box::pin(blocking(move || {
            let (path, lock) = lock_of(&session, &allocation)?;
            Ok(port_lock::share(&path, &lock, &owner)?)
        }))
    }

    fn child_options(
        &self,
        _parent_session_id: &str,
        allocation: &Object,
        child: Child,
    ) -> Result<Object, ProviderError> {
        let number = |key| options::required_integer(allocation, key).and_then(|n| port(key, n));
        let (start, end, primary) = (number("startPort")?, number("endPort")?, number("primaryPort")?);
        let lock_path = Path::new(options::required_string(allocation, "lockPath")?);
        let part = port_block::share(start, end, primary, child)?;
        let mut lock_name = part.lock_name();
        if (part.start, part.end) == (start, end) {
            // An only child has its parent's range; the parent's file has the plain name.
            let parent = lock_path.file_stem().unwrap_or_default().to_string_lossy();
            lock_name = format!("{parent}.child.lock");
        }
        let directory = lock_path.parent().unwrap_or(Path::new("."));
        let options = json!({
            "basePort": part.start, "blockSize": part.end - part.start + 1, "blockCount": 1,
            "primaryPortOffset": part.primary - part.start, "lockDirectory": directory, "lockName": lock_name,
        });
        Ok(options.as_object().cloned().unwrap_or_default())
    }
}

fn port(key: &'static str, number: i64) -> Result<u16, options::OptionError> {
    u16::try_from(number)
        .map_err(|_too_large| options::OptionError::new(key, "must be a port", &number.to_string()))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ProviderError> + Send + 'static,
) -> Result<T, ProviderError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panicked) => Err(Box::new(panicked)),
    }
}

/// Rebuilds what the lock file of an allocation says; its owners do not matter for finding it again.
fn lock_of(session: &str, allocation: &Object) -> Result<(PathBuf, PortLock), ProviderError> {
    let number = |key| options::required_integer(allocation, key).and_then(|n| port(key, n));
    let allocated_at = Timestamp::parse(options::required_string(allocation, "allocatedAt")?)?;
    let lock = PortLock {
        session_id: session.to_owned(),
        allocated_at,
        start_port: number("startPort")?,
        end_port: number("endPort")?,
        owner: None,
        sharers: Vec::new(),
    };
    Ok((PathBuf::from(options::required_string(allocation, "lockPath")?), lock))
}

fn acquire(tenant: &Tenant, options: &Object) -> Result<Lease, ProviderError> {
    let layout = Layout::from_options(options)?;
    let directory = options::string(options, "lockDirectory")?.unwrap_or(DEFAULT_LOCK_DIRECTORY);
    let directory = normalized(&tenant.workspace_root.join(directory));
    port_lock::make_quiet_directory(&directory)
        .map_err(|source| port_lock::PortLockError::Io { path: directory.clone(), source })?;
    let name = options::string(options, "lockName")?;
    if name.is_some_and(|name| name.contains(['/', '\0']) || name.strip_suffix(".lock").is_none()) {
        return Err(Box::new(options::OptionError::new(
            "lockName",
            "must be a file name",
            name.unwrap_or(""),
        )));
    }
    let (base, _size, count) = layout.numbers();
    // Blocks of another layout in the same directory may overlap ours; a child's always overlaps its parent's.
    let crosses = |block: &Block, foreign: &[(u16, u16)]| {
        name.is_none() && foreign.iter().any(|&(start, end)| block.overlaps(start, end))
    };
    let Locks { taken, foreign } = locks(&directory, &layout)?;
    let path_of = |block: &Block| directory.join(name.map_or_else(|| block.lock_name(), str::to_owned));
    let lock_for = |block: &Block| PortLock {
        session_id: tenant.session_id.clone(),
        allocated_at: tenant.now,
        start_port: block.start,
        end_port: block.end,
        owner: tenant.owner.clone(),
        sharers: Vec::new(),
    };
    let has_lock = |block: &Block| name.is_none() && taken.contains(&(block.start, block.end));
    let listening = listeners::all();
    let is_quiet = |block: &Block| match &listening {
        Some(ports) => ports.range(block.start..=block.end).next().is_none(),
        None => (block.start..=block.end).all(listeners::is_free),
    };
    let is_usable = |block: &Block| !crosses(block, &foreign) && is_quiet(block);
    let is_dead = |block: &Block| port_lock::read(&path_of(block)).is_some_and(|found| found.is_dead());
    let mut ring = layout.ring(&tenant.session_id).peekable();
    // The preferred block is worth asking after its owner; the others only when no free one is left.
    if let Some(block) = ring.peek()
        && has_lock(block)
        && is_dead(block)
        && is_usable(block)
        && take_over(&path_of(block), &lock_for(block))?
    {
        return Ok(lease(&layout, block, &path_of(block), tenant.now));
    }
    let take_free = |block: &Block| -> Result<Option<Lease>, ProviderError> {
        let (path, lock) = (path_of(block), lock_for(block));
        if !port_lock::create(&path, &lock)? {
            return Ok(None);
        }
        // Somebody with another layout may have looked at the directory when we did.
        if crosses(block, &locks(&directory, &layout)?.foreign) {
            port_lock::remove(&path, &lock)?;
            return Ok(None);
        }
        Ok(Some(lease(&layout, block, &path, tenant.now)))
    };
    let usable: Vec<Block> = ring.filter(|block| !has_lock(block) && is_usable(block)).collect();
    // A connection that was closed a moment ago keeps its port for a minute, and nobody can listen there.
    for block in usable.iter().filter(|block| listeners::is_free(block.primary)) {
        if let Some(lease) = take_free(block)? {
            return Ok(lease);
        }
    }
    let take_dead = |block: &Block| -> Result<Option<Lease>, ProviderError> {
        let taken = is_usable(block) && is_dead(block) && take_over(&path_of(block), &lock_for(block))?;
        Ok(taken.then(|| lease(&layout, block, &path_of(block), tenant.now)))
    };
    // Asking after owners costs a file each: after some before settling for less, after all of them before giving up.
    let near = layout.ring(&tenant.session_id).filter(has_lock).take(OWNERS_ASKED_AFTER);
    for block in near.filter(|block| listeners::is_free(block.primary)) {
        if let Some(lease) = take_dead(&block)? {
            return Ok(lease);
        }
    }
    // A minute without the primary port is better than no block.
    for block in &usable {
        if let Some(lease) = take_free(block)? {
            return Ok(lease);
        }
    }
    for block in layout.ring(&tenant.session_id) {
        if let Some(lease) = take_dead(&block)? {
            return Ok(lease);
        }
    }
    Err(Box::new(NoFreeBlock { base_port: base, block_count: count, directory }))
}

/// Port ranges that have a lock file, dead owners included.
struct Locks {
    /// Blocks of the layout that was asked for.
    taken: BTreeSet<(u16, u16)>,
    /// All others.
    foreign: Vec<(u16, u16)>,
}

fn locks(directory: &Path, layout: &Layout) -> Result<Locks, ProviderError> {
    let (ours, foreign): (Vec<_>, Vec<_>) =
        port_lock::ranges(directory)?.into_iter().partition(|&(start, end)| layout.has(start, end));
    Ok(Locks { taken: ours.into_iter().collect(), foreign })
}

fn take_over(path: &Path, lock: &PortLock) -> Result<bool, ProviderError> {
    let Some(dead) = port_lock::reclaim(path, lock)? else {
        return Ok(false);
    };
    tracing::info!(
        session.id = %dead.session_id,
        process.pid = dead.owner.as_ref().map(|owner| owner.pid),
        file.path = %path.display(),
        "took over a port block whose owner is gone"
    );
    Ok(true)
}

fn lease(layout: &Layout, block: &Block, path: &Path, allocated_at: Timestamp) -> Lease {
    let (base, size, count) = layout.numbers();
    let Block { index, start, end, primary } = *block;
    let allocation = json!({
        "basePort": base, "blockSize": size, "blockCount": count, "blockIndex": index,
        "startPort": start, "endPort": end, "primaryPort": primary, "lockPath": path,
        "allocatedAt": allocated_at,
    });
    let metadata = json!({
        "port_range_start": start, "port_range_end": end, "port_primary": primary, "port_block_index": index,
    });
    Lease {
        kind: KIND.to_owned(),
        allocation: allocation.as_object().cloned().unwrap_or_default(),
        env: BTreeMap::from([
            ("AGENT_PORT_RANGE_START".to_owned(), start.to_string()),
            ("AGENT_PORT_RANGE_END".to_owned(), end.to_string()),
            ("AGENT_PORT_PRIMARY".to_owned(), primary.to_string()),
        ]),
        prompt_sections: vec![format!(
            "Listen only on TCP ports {start} to {end} of this host; prefer {primary}. No other session uses them."
        )],
        metadata: metadata.as_object().cloned().unwrap_or_default(),
        preferred_working_directory: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::process_table;
    use serde_json::Value;

    fn tenant(root: &Path, session: &str) -> Tenant {
        Tenant {
            session_id: session.into(),
            workspace_root: root.to_owned(),
            owner: Some(process_table::own()),
            own_files: Vec::new(),
            now: Timestamp::from_millis(5),
        }
    }

    fn object(value: &Value) -> Object {
        value.as_object().unwrap().clone()
    }

    fn order(session: &str) -> Return {
        Return {
            session_id: session.into(),
            disposal: crate::executor::provision::provider::Disposal::Save,
            own_files: Vec::new(),
            now: Timestamp::EPOCH,
        }
    }

    #[tokio::test]
    async fn blocks_are_handed_out_until_none_is_left_and_come_back() {
        let root = tempfile::tempdir().unwrap();
        let options =
            object(&json!({"blockCount": 3, "blockSize": 4, "basePort": 61_000, "primaryPortOffset": 1}));
        let mut leases = Vec::new();
        for index in 0..3 {
            let session = format!("s{index}");
            leases.push((
                session.clone(),
                PortRange.acquire(&tenant(root.path(), &session), &options).await.unwrap(),
            ));
        }
        let mut starts: Vec<i64> =
            leases.iter().map(|(_, l)| l.allocation.get("startPort").unwrap().as_i64().unwrap()).collect();
        starts.sort_unstable();
        assert_eq!(starts, [61_000, 61_004, 61_008]);
        let error = PortRange.acquire(&tenant(root.path(), "late"), &options).await.unwrap_err();
        assert!(error.to_string().contains("none of the 3 port blocks"), "{error}");
        let (session, first) = leases.remove(0);
        let primary: u16 = first.env.get("AGENT_PORT_PRIMARY").unwrap().parse().unwrap();
        assert_eq!(u64::from(primary), first.allocation.get("startPort").unwrap().as_u64().unwrap() + 1);
        PortRange.release(&first, &order("somebody-else")).await.unwrap();
        assert!(
            PortRange.acquire(&tenant(root.path(), "late"), &options).await.is_err(),
            "not theirs to release"
        );
        for _ in 0..2 {
            PortRange.release(&first, &order(&session)).await.unwrap();
        }
        assert!(PortRange.acquire(&tenant(root.path(), "late"), &options).await.is_ok());
    }

    #[tokio::test]
    async fn a_block_with_a_listener_or_across_another_layout_is_skipped() {
        let root = tempfile::tempdir().unwrap();
        let (listener, port) = (40_000..60_000)
            .step_by(7)
            .find_map(|p| std::net::TcpListener::bind(("127.0.0.1", p)).ok().map(|l| (l, p)))
            .unwrap();
        let options = object(&json!({"blockCount": 1, "blockSize": 4, "basePort": port - 2}));
        assert!(PortRange.acquire(&tenant(root.path(), "s"), &options).await.is_err());
        drop(listener);
        let lease = PortRange.acquire(&tenant(root.path(), "s"), &options).await.unwrap();
        let shifted = object(&json!({"blockCount": 1, "blockSize": 4, "basePort": port + 1}));
        assert!(PortRange.acquire(&tenant(root.path(), "t"), &shifted).await.is_err(), "ports {port}");
        PortRange.release(&lease, &order("s")).await.unwrap();
        assert!(PortRange.acquire(&tenant(root.path(), "t"), &shifted).await.is_ok());
    }

    #[tokio::test]
    async fn a_port_that_only_a_connection_uses_is_better_than_none() {
        let root = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let port = connection.local_addr().unwrap().port();
        assert!(!listeners::is_free(port), "nobody can listen there now");
        let options = object(&json!({"blockCount": 1, "blockSize": 1, "basePort": port}));
        assert!(PortRange.acquire(&tenant(root.path(), "s"), &options).await.is_ok());
        let taken = listener.local_addr().unwrap().port();
        let options = object(&json!({"blockCount": 1, "blockSize": 1, "basePort": taken}));
        assert!(
            PortRange.acquire(&tenant(root.path(), "t"), &options).await.is_err(),
            "here somebody listens"
        );
    }

    #[tokio::test]
    async fn a_dead_owners_block_is_taken_over() {
        let root = tempfile::tempdir().unwrap();
        let options = object(&json!({"blockCount": 1, "basePort": 61_100}));
        let mut dead = tenant(root.path(), "dead");
        dead.owner = Some(ProcessIdentity { boot_id: "before".into(), ..process_table::own() });
        let first = PortRange.acquire(&dead, &options).await.unwrap();
        let second = PortRange.acquire(&tenant(root.path(), "alive"), &options).await.unwrap();
        assert_eq!(first.allocation.get("lockPath"), second.allocation.get("lockPath"));
        PortRange.release(&first, &order("dead")).await.unwrap();
        assert!(
            PortRange.acquire(&tenant(root.path(), "third"), &options).await.is_err(),
            "still the second's"
        );
    }

    #[tokio::test]
    async fn children_get_their_parts_beside_the_parents_lock() {
        let root = tempfile::tempdir().unwrap();
        let options = object(&json!({"blockCount": 1, "blockSize": 5, "basePort": 61_200}));
        let parent = PortRange.acquire(&tenant(root.path(), "parent"), &options).await.unwrap();
        let mut ranges = Vec::new();
        for index in 0..2 {
            let child = Child::new(index, 2).unwrap();
            let options = PortRange.child_options("parent", &parent.allocation, child).unwrap();
            let lease =
                PortRange.acquire(&tenant(root.path(), &format!("c{index}")), &options).await.unwrap();
            ranges.push((
                lease.env.get("AGENT_PORT_RANGE_START").cloned(),
                lease.env.get("AGENT_PORT_RANGE_END").cloned(),
            ));
            let directory = |l: &Lease| {
                Path::new(l.allocation.get("lockPath").unwrap().as_str().unwrap())
                    .parent()
                    .unwrap()
                    .to_owned()
            };
            assert_eq!(directory(&lease), directory(&parent));
        }
        let text = |a: &str, b: &str| (Some(a.to_owned()), Some(b.to_owned()));
        assert_eq!(ranges, [text("61200", "61201"), text("61202", "61204")]);
        let only = PortRange.child_options("parent", &parent.allocation, Child::new(0, 1).unwrap()).unwrap();
        assert!(PortRange.acquire(&tenant(root.path(), "only"), &only).await.is_ok());
        assert!(PortRange.acquire(&tenant(root.path(), "only2"), &only).await.is_err());
        let many =
            PortRange.child_options("parent", &parent.allocation, Child::new(0, 6).unwrap()).unwrap_err();
        assert!(many.to_string().contains("61200-61204"), "{many}");
    }
}
