//! Command: many at once on one session, among them a program that knows no lock.

use super::{Desk, finish};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

const PROCESSES: usize = 8;
const MISSIONS: usize = 100;

/// Dispatches [`MISSIONS`] missions from [`PROCESSES`] processes at a time and returns their ids.
fn dispatched(desk: &Desk) -> Vec<String> {
    let numbers: Vec<usize> = (0..MISSIONS).collect();
    let mut ids = Vec::new();
    for round in numbers.chunks(PROCESSES) {
        let start = |n: &usize| desk.start(&["dispatch", &format!("mission {n}")]);
        let children: Vec<_> = round.iter().map(start).collect();
        ids.extend(children.into_iter().map(|child| finish(child).answer()));
    }
    ids
}

fn ids_in(session: &Value) -> Vec<String> {
    let missions = session["missions"].as_array().unwrap();
    missions.iter().map(|m| m["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn of_a_hundred_missions_from_eight_processes_none_is_lost() {
    let desk = Desk::new();
    let ids = dispatched(&desk);
    let found = ids_in(&desk.session("default"));
    assert_eq!(found.len(), MISSIONS);
    let unique: HashSet<&String> = found.iter().collect();
    assert!(ids.iter().all(|id| unique.contains(id)));
}

#[test]
fn a_program_that_rewrites_the_file_in_place_meanwhile_loses_nothing_and_takes_nothing() {
    let desk = Desk::new();
    desk.mc(&["start", "--id", "default"]).answer();
    let path = desk.session_file("default");
    let (ids, rewrites) = std::thread::scope(|scope| {
        let (end, ended) = mpsc::channel::<()>();
        // What the Node program does every few milliseconds: read, change, write in place, with no lock.
        let foreign = scope.spawn(move || {
            let mut rewrites = 0_u64;
            while ended.recv_timeout(Duration::from_millis(3)) == Err(RecvTimeoutError::Timeout) {
                if let Ok(mut session) = serde_json::from_slice::<Value>(&std::fs::read(&path).unwrap()) {
                    rewrites += 1;
                    session["foreign"] = json!(rewrites);
                    std::fs::write(&path, serde_json::to_vec_pretty(&session).unwrap()).unwrap();
                }
            }
            rewrites
        });
        let ids = dispatched(&desk);
        drop(end);
        (ids, foreign.join().unwrap())
    });
    assert!(rewrites > 0);
    let session = desk.session("default");
    let found: HashSet<String> = ids_in(&session).into_iter().collect();
    let lost: Vec<&String> = ids.iter().filter(|id| !found.contains(*id)).collect();
    assert!(lost.is_empty(), "lost after {rewrites} rewrites: {lost:?}");
    assert_eq!(session["foreign"], json!(rewrites));
}
