//! Writers of both kinds at full speed, and writers that are killed.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use aiwg_rs::disk::fsync::FsyncPolicy;
use aiwg_rs::disk::wait;
use aiwg_rs::domain::id::SessionId;
use aiwg_rs::session::document::Document;
use aiwg_rs::session::edits::{Edits, MissionPatch};
use aiwg_rs::session::store::{SessionStore, UpdateError, WriteMode};

use crate::support::folder::Folder;
use crate::support::role::{Process, report};

const MISSIONS: usize = 8;

/// A stream of numbers without order; the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Reads, changes and rewrites the session in place, in pieces, knowing no lock, until a file `stop` appears. Reports
/// every field `foreign<n>` that it has written.
pub(crate) fn write_like_a_foreigner(folder: &Path) {
    let path = folder.join("sessions/s1/session.json");
    let mut dice = Dice(u64::from(std::process::id()));
    let mut written = 0;
    while !folder.join("stop").exists() {
        wait::rest(millis(dice.below(4)));
        let text = fs::read_to_string(&path).unwrap();
        let mut value: serde_json::Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let missions = value["missions"].as_array_mut().unwrap();
        missions[written % MISSIONS][format!("foreign{written}")] = written.into();
        let text = serde_json::to_string_pretty(&value).unwrap();
        let is_truncating = dice.below(3) > 0;
        let mut file = OpenOptions::new().write(true).truncate(is_truncating).open(&path).unwrap();
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let length = usize::try_from(1 + dice.below(2000)).unwrap().min(rest.len());
            file.write_all(&rest[..length]).unwrap();
            rest = &rest[length..];
            if dice.below(4) == 0 {
                wait::rest(Duration::from_micros(dice.below(1500)));
            }
        }
        file.set_len(u64::try_from(text.len()).unwrap()).unwrap();
        drop(file);
        report(written);
        written += 1;
    }
}

/// Appends the missions `new<n>` one by one, and reports each when it is in the file.
pub(crate) fn update_for_ever(folder: &Path) {
    let store = SessionStore::new(folder, FsyncPolicy::Never);
    let session = SessionId::new("s1").unwrap();
    store.recover(&session).unwrap();
    let mut next = store.read(&session).map_or(0, |reading| reading.document.missions().len());
    loop {
        let mut edits = Edits::new();
        edits.append_mission(format!("{{\"id\":\"new{next}\",\"status\":\"queued\"}}")).unwrap();
        edits.patch_mission(
            format!("m{}", next % MISSIONS),
            MissionPatch::new().with(format!("ours{next}"), "1"),
        );
        match store.update(&session, &mut |document| document.apply(&edits)) {
            Ok(_updated) => report(next),
            // The foreign writer may need longer than our patience on a busy machine; nothing was written then.
            Err(UpdateError::Torn { .. }) => continue,
            Err(error) => panic!("{error}"),
        }
        next += 1;
    }
}

fn updates_beside_a_foreign_writer(mode: WriteMode, rounds: usize) {
    let folder = Folder::with_missions(MISSIONS);
    let foreign = Process::start("foreign writer", folder.root());
    let results = std::thread::scope(|scope| {
        let updaters: Vec<_> = (0..2)
            .map(|updater| {
                let folder = &folder;
                scope.spawn(move || {
                    let store = folder.store(mode);
                    let mut edits = Edits::new();
                    let mut foreign_bases = 0;
                    for round in 0..rounds {
                        let patch =
                            MissionPatch::new().with(format!("ours{updater}x{round}"), round.to_string());
                        edits.patch_mission(format!("m{}", round % MISSIONS), patch);
                        let updated = store.update(&folder.session, &mut |document| document.apply(&edits));
                        foreign_bases += updated.unwrap().foreign_bases;
                    }
                    (edits, foreign_bases)
                })
            })
            .collect();
        updaters.into_iter().map(|updater| updater.join().unwrap()).collect::<Vec<_>>()
    });
    fs::write(folder.root().join("stop"), "").unwrap();
    let foreign_writes = foreign.finish().unwrap() + 1;
    // A foreign writer may have put an old copy over our last fields: then, as the bridge does, once more.
    for (edits, _) in &results {
        folder.store(mode).update(&folder.session, &mut |document| document.apply(edits)).map(drop).unwrap();
    }
    let bases: usize = results.iter().map(|(_, bases)| bases).sum();
    println!(
        "{mode:?}: {rounds} updates of two writers, {foreign_writes} foreign writes, {bases} of them turned up late"
    );
    let text = folder.text();
    let document = Document::parse(text.as_str()).unwrap();
    let missing = |prefix: &str, count: usize| -> Vec<usize> {
        let is_missing = |n: &usize| {
            let mission = document.mission(&format!("m{}", n % MISSIONS)).unwrap();
            mission.field(&format!("{prefix}{n}")) != Some(n.to_string().as_str())
        };
        (0..count).filter(is_missing).collect()
    };
    assert_eq!(missing("ours0x", rounds), [0; 0]);
    assert_eq!(missing("ours1x", rounds), [0; 0]);
    if mode == WriteMode::Exchange {
        assert_eq!(missing("foreign", foreign_writes), [0; 0]);
        assert!(bases > 0, "the writers never met");
    } else {
        let lost = missing("foreign", foreign_writes).len();
        assert!(lost * 20 <= foreign_writes, "{lost} of {foreign_writes} foreign writes are lost");
    }
    assert_eq!(folder.neighbours(), [""; 0]);
}

#[test]
fn no_field_of_either_side_is_lost_beside_a_foreign_writer() {
    updates_beside_a_foreign_writer(WriteMode::Exchange, 150);
}

#[test]
fn the_plain_way_keeps_our_fields_beside_a_foreign_writer() {
    updates_beside_a_foreign_writer(WriteMode::Plain, 25);
}

fn kill_updaters(folder: &Folder, kills: usize) -> Vec<usize> {
    let mut dice = Dice(7);
    let mut acknowledged = Vec::new();
    for _kill in 0..kills {
        let mut updater = Process::start("updater", folder.root());
        acknowledged.extend(updater.next_report());
        let until = Instant::now() + Duration::from_micros(dice.below(12_000));
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        acknowledged.extend(updater.kill());
    }
    acknowledged
}

#[test]
fn updaters_killed_at_random_lose_nothing_that_they_reported() {
    let folder = Folder::with_missions(MISSIONS);
    let acknowledged = kill_updaters(&folder, 40);
    Document::parse(folder.text()).unwrap();
    folder.store(WriteMode::Exchange).recover(&folder.session).unwrap();
    let document = Document::parse(folder.text()).unwrap();
    let missions: Vec<String> =
        document.missions().map(|mission| mission.string("id").unwrap().into_owned()).collect();
    for number in &acknowledged {
        assert!(document.mission(&format!("new{number}")).is_some(), "new{number} is lost");
        let patched = document.mission(&format!("m{}", number % MISSIONS)).unwrap();
        assert!(patched.field(&format!("ours{number}")).is_some(), "ours{number} is lost");
    }
    let unique: std::collections::HashSet<&String> = missions.iter().collect();
    assert_eq!(unique.len(), missions.len());
    assert_eq!(folder.neighbours(), [""; 0]);
    println!("{} updates reported before 40 kills", acknowledged.len());
}

#[test]
fn a_foreign_writer_loses_nothing_to_updaters_that_are_killed() {
    let folder = Folder::with_missions(MISSIONS);
    let foreign = Process::start("foreign writer", folder.root());
    let acknowledged = kill_updaters(&folder, 40);
    fs::write(folder.root().join("stop"), "").unwrap();
    let foreign_writes = foreign.finish().unwrap() + 1;
    let recovered = folder.store(WriteMode::Exchange).recover(&folder.session).unwrap();
    println!(
        "{} updates, {foreign_writes} foreign writes, 40 kills, last recovery {recovered:?}",
        acknowledged.len()
    );
    let document = Document::parse(folder.text()).unwrap();
    for number in 0..foreign_writes {
        let mission = document.mission(&format!("m{}", number % MISSIONS)).unwrap();
        assert!(mission.field(&format!("foreign{number}")).is_some(), "foreign{number} is lost");
    }
    assert_eq!(folder.neighbours(), [""; 0]);
}
