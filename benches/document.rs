//! How long it takes to read a `session.json` and to lay patches over it, beside `serde_json` as the plain way.
//!
//! `cargo bench --bench document` prints one line per size, in microseconds: the best of many rounds.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a program for people who measure")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use aiwg_rs::session::document::Document;
use aiwg_rs::session::edits::{Edits, MissionPatch};

fn session(missions: usize) -> String {
    let mission = |n: usize| {
        format!(
            r#"
    {{
      "id": "mission-{n:06}",
      "objective": "Bring the tests of module {n} back to green, then say what was wrong",
      "completion": "cargo test passes",
      "status": "queued",
      "loop": 0,
      "maxIterations": 10,
      "priority": "normal",
      "mode": "direct",
      "createdAt": "2026-01-31T12:00:00.000Z"
    }}"#
        )
    };
    let list = (0..missions).map(mission).collect::<Vec<_>>().join(",");
    format!(
        "{{\n  \"id\": \"s1\",\n  \"name\": \"bench\",\n  \"state\": \"active\",\n  \"missions\": [{list}\n  ],\n  \
         \"updatedAt\": \"2026-01-31T12:00:00.000Z\"\n}}\n"
    )
}

fn best<T>(rounds: usize, mut work: impl FnMut() -> T) -> f64 {
    let mut shortest = Duration::MAX;
    for _round in 0..rounds {
        let start = Instant::now();
        black_box(work());
        shortest = shortest.min(start.elapsed());
    }
    shortest.as_secs_f64() * 1e6
}

fn main() {
    println!(
        "{:>9} {:>9} {:>11} {:>9} {:>14} {:>13} {:>12}",
        "bytes", "missions", "parse", "MB/s", "100 patches", "first by id", "serde Value"
    );
    for (missions, rounds) in [(2, 2000), (45, 500), (10_000, 20)] {
        let text = session(missions);
        let bytes = text.as_bytes();
        let parse = best(rounds, || Document::parse(bytes).unwrap());
        let mut edits = Edits::new();
        for n in (0..missions).step_by(missions.div_ceil(100)) {
            let patch = MissionPatch::new()
                .with_str("status", "assigned")
                .with_str("executorId", "0b7e0c1e-8a53-4c7e-9d52-6f0e5f3f9a11")
                .with("dispatchAttempts", "1");
            edits.patch_mission(format!("mission-{n:06}"), patch);
        }
        edits.stamp_session("updatedAt", "\"2026-01-31T12:00:01.000Z\"");
        let fresh = || Document::parse(bytes).unwrap();
        let mut documents: Vec<Document> = (0..rounds).map(|_| fresh()).collect();
        let cold =
            best(rounds, || documents.pop().map(|document| document.mission("mission-000001").is_some()));
        let document = fresh();
        let apply = best(rounds, || document.apply(&edits).unwrap());
        let value = best(rounds, || serde_json::from_slice::<serde_json::Value>(bytes).unwrap());
        let rate = f64::from(u32::try_from(bytes.len()).unwrap()) / parse;
        println!(
            "{:>9} {missions:>9} {parse:>8.1} µs {rate:>9.0} {apply:>11.1} µs {cold:>10.1} µs {value:>9.1} µs",
            bytes.len()
        );
    }
}
