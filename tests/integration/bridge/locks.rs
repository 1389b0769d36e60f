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

#[test]
fn a_folder_that_was_made_again_has_one_bridge_still() {
    let registry = Registry::start(Behaviour { is_idempotent: false, ends_after: Duration::ZERO });
    let folder = Watched::new();
    let patience = Duration::from_secs(20);
    folder.queue("s", 1);
    let mut first = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    eventually("the first to work", patience, || folder.count("s", "done").filter(|done| *done == 1));
    let make_again = || {
        std::fs::remove_dir_all(folder.root()).unwrap();
        std::fs::create_dir_all(folder.root().join("sessions")).unwrap();
    };
    make_again();
    eventually("the first to hold it again", patience, || folder.root().join("inbox").is_dir().then_some(()));
    let mut second = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    assert_eq!(second.wait().code(), Some(4));
    folder.queue("t", 1);
    eventually("the first to work there", patience, || folder.count("t", "done").filter(|done| *done == 1));

    // One that takes the new folder first keeps it, and the other one ends.
    let name = folder.root().with_extension("meanwhile");
    std::fs::create_dir_all(name.join("sessions")).unwrap();
    let mut third = Daemon::bridge(&name, &registry.url, &["--no-ws"]);
    eventually("the third to begin", patience, || name.join("inbox").is_dir().then_some(()));
    std::fs::remove_dir_all(folder.root()).unwrap();
    #[expect(clippy::disallowed_methods, reason = "somebody else's rename")]
    std::fs::rename(&name, folder.root()).unwrap();
    assert_eq!(first.wait().code(), Some(4));
    let said = first.said();
    assert!(said.contains(&format!("{}", third.process_id())), "{said}");
    third.kill();
}
