//! One bridge per folder.

use super::Watched;
use super::registry::{Behaviour, Registry};
use crate::support::daemon::Daemon;
use crate::support::eventually::eventually;
use std::time::Duration;

#[test]
fn a_second_bridge_is_refused_and_told_who_holds_the_folder() {
    let registry = Registry::start(Behaviour { is_idempotent: true, ends_after: Duration::ZERO });
    let folder = Watched::new();
    folder.queue("s", 1);
    let mut first = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    eventually("the first to work", Duration::from_secs(20), || {
        folder.count("s", "done").filter(|done| *done == 1)
    });
    let mut second = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    assert_eq!(second.wait().code(), Some(4));
    let said = second.said();
    assert!(said.contains(&format!("{}", first.process_id())), "{said}");
    assert!(said.contains("hint:"), "{said}");
    first.kill();
    let mut third = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    folder.queue("t", 1);
    eventually("the next to work", Duration::from_secs(20), || {
        folder.count("t", "done").filter(|done| *done == 1)
    });
    assert!(third.terminate().success());
}
