//! A folder whose disk is full, and a journal that has grown too long.

use super::Watched;
use super::registry::{Behaviour, Registry};
use crate::support::daemon::Daemon;
use crate::support::eventually::eventually;
use crate::support::mount::{Mount, fill};
use std::fs;
use std::io::Write as _;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(40);

fn done(folder: &Watched, count: usize) {
    eventually(&format!("{count} to be done"), PATIENCE, || {
        (folder.count("s", "done")? == count).then_some(())
    });
}

#[test]
fn while_the_disk_is_full_nothing_is_sent_or_lost_and_what_happened_is_written_when_there_is_room() {
    let registry = Registry::start(Behaviour { is_idempotent: false, ends_after: Duration::from_secs(2) });
    let folder = Watched::new();
    let Some(_mount) = Mount::tmpfs(folder.root(), "1m") else { return };
    folder.queue("s", 2);
    let mut bridge = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    eventually("both to be running", PATIENCE, || (folder.count("s", "queued")? == 0).then_some(()));
    // Another session waits for its start; then the disk is full when the two end and the third is to be sent.
    let held = r#"{"id":"t","state":"paused","missions":[{"id":"t-0","objective":"x","status":"queued"}]}"#;
    folder.put_text("t", held);
    let ballast = folder.root().join("ballast");
    fill(&ballast);
    let mut file = fs::OpenOptions::new().write(true).open(folder.file("t")).unwrap();
    file.write_all(held.replace("paused", "active").as_bytes()).unwrap();
    drop(file);
    eventually("the trouble to be named", PATIENCE, || {
        let said = bridge.said();
        (said.contains("log.jsonl cannot be written") && said.contains("session.json cannot be written"))
            .then_some(())
    });
    assert_eq!((registry.dispatches(), folder.count("s", "done")), (2, Some(0)), "{}", bridge.said());
    fs::remove_file(&ballast).unwrap();
    done(&folder, 2);
    eventually("the third to be done", PATIENCE, || (folder.count("t", "done")? == 1).then_some(()));
    assert_eq!(registry.dispatches(), 3);
    assert!(registry.runs().values().all(|runs| *runs == 1));
    assert!(bridge.terminate().success());
}

#[test]
fn a_journal_that_is_too_long_is_begun_anew_with_what_still_matters() {
    let registry = Registry::start(Behaviour { is_idempotent: false, ends_after: Duration::from_secs(1) });
    let folder = Watched::new();
    folder.queue("s", 3);
    let journal = folder.file("s").with_file_name("log.jsonl");
    let mut file = std::io::BufWriter::new(fs::File::create(&journal).unwrap());
    let line = format!("{{\"event\":\"of.another.program\",\"text\":\"{}\"}}\n", "x".repeat(60_000));
    for _ in 0..1_200 {
        file.write_all(line.as_bytes()).unwrap();
    }
    drop(file);
    let mut bridge = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    let is_small = || fs::metadata(&journal).is_ok_and(|metadata| metadata.len() < 1_000_000);
    eventually("the journal to be begun anew", PATIENCE, || is_small().then_some(()));
    bridge.kill();
    let old: Vec<_> = fs::read_dir(journal.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("log.2"))
        .collect();
    assert_eq!(old.len(), 1, "{old:?}");
    let _bridge = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    done(&folder, 3);
    assert_eq!(registry.dispatches(), 3, "nothing was sent again");
}
