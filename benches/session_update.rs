//! How long one durable change of a `session.json` takes when its last version is known, as the bridge does it: lock,
//! patch, exchange, look at what was displaced. Beside it the bare loop that anyone needs: write, fsync, rename, fsync of the directory.
//!
//! `cargo bench --bench session_update` prints one line per size, in microseconds: the median of many rounds.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a program for people who measure")]

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use aiwg_rs::disk::atomic;
use aiwg_rs::disk::fsync::FsyncPolicy;
use aiwg_rs::domain::id::SessionId;
use aiwg_rs::session::edits::{Edits, MissionPatch};
use aiwg_rs::session::store::{Reading, SessionStore, WriteMode};

fn session(missions: usize) -> String {
    let mission = |n: usize| {
        format!(
            "    {{\n      \"id\": \"mission-{n:06}\",\n      \"objective\": \"Bring the tests of module {n} back to \
             green, then say what was wrong\",\n      \"completion\": \"cargo test passes\",\n      \"status\": \
             \"queued\",\n      \"loop\": 0,\n      \"maxIterations\": 10,\n      \"priority\": \"normal\",\n      \
             \"mode\": \"direct\",\n      \"createdAt\": \"2026-01-31T12:00:00.000Z\"\n    }}"
        )
    };
    let list = (0..missions).map(mission).collect::<Vec<_>>().join(",\n");
    format!("{{\n  \"id\": \"s1\",\n  \"state\": \"active\",\n  \"missions\": [\n{list}\n  ]\n}}\n")
}

fn median(rounds: usize, mut work: impl FnMut(usize)) -> f64 {
    let mut times: Vec<Duration> = (0..rounds)
        .map(|round| {
            let start = Instant::now();
            work(round);
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[rounds / 2].as_secs_f64() * 1e6
}

fn bare_replace(directory: &Path, bytes: &[u8]) {
    let temporary = directory.join("bare.tmp");
    let mut file = File::create(&temporary).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
    atomic::rename(&temporary, &directory.join("bare")).unwrap();
    File::open(directory).unwrap().sync_all().unwrap();
}

fn main() {
    println!(
        "{:>9} {:>9} {:>13} {:>13} {:>13} {:>14}",
        "bytes", "missions", "exchange", "no fsync", "bare replace", "bare, no fsync"
    );
    for (missions, rounds) in [(2, 400), (45, 400), (10_000, 30)] {
        let directory = tempfile::tempdir().unwrap();
        let id = SessionId::new("s1").unwrap();
        let store = |policy| SessionStore::new(directory.path(), policy).with_mode(WriteMode::Exchange);
        let file = store(FsyncPolicy::Never).session_file(&id);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let text = session(missions);
        fs::write(&file, &text).unwrap();
        let mut known = store(FsyncPolicy::Never).read(&id).unwrap();
        let mut update = |store: &SessionStore, round: usize| {
            let mut edits = Edits::new();
            let patch = MissionPatch::new().with_str("status", "running").with("loop", round.to_string());
            edits.patch_mission(format!("mission-{:06}", round % missions), patch);
            let updated =
                store.update_from(&id, Some(&known), &mut |document| document.apply(&edits)).unwrap();
            known = Reading { document: updated.document, identity: updated.identity };
        };
        let durable = store(FsyncPolicy::Batch);
        let exchange = median(rounds, |round| update(&durable, round + 1));
        let lax = store(FsyncPolicy::Never);
        let unsynced = median(rounds, |round| update(&lax, round + 1000));
        let bare = median(rounds, |_| bare_replace(directory.path(), text.as_bytes()));
        let temporary = directory.path().join("plain.tmp");
        let bare_unsynced = median(rounds, |_| {
            fs::write(&temporary, &text).unwrap();
            atomic::rename(&temporary, &directory.path().join("plain")).unwrap();
        });
        println!(
            "{:>9} {missions:>9} {exchange:>10.0} µs {unsynced:>10.0} µs {bare:>10.0} µs {bare_unsynced:>11.0} µs",
            text.len()
        );
    }
}
