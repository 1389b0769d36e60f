//! Wires of every kind that refuse, cut, stall, crawl and say things twice: in the end everyone has seen everything, once.
//!
//! `AIWG_RS_TEST_FAULTS` is the number of faults.

use super::callers::Callers;
use super::fleet::{EVENTS, Fleet};
use super::kills::everything_once;
use super::peer::{Serve, id, soon};
use super::reader::Reader;
use crate::support::chaos_proxy::{ChaosProxy, Trouble};
use crate::support::dice::Dice;
use aiwg_rs::registry::Config;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

const EXECUTORS: usize = 4;

fn faults() -> usize {
    std::env::var("AIWG_RS_TEST_FAULTS").ok().and_then(|text| text.parse().ok()).unwrap_or(60)
}

fn trouble(dice: &mut Dice) -> Trouble {
    let size = |dice: &mut Dice, most| usize::try_from(1 + dice.below(most)).unwrap();
    match dice.below(6) {
        0 => Trouble::Refuse,
        1 => Trouble::CutAfter(size(dice, 4000)),
        2 => Trouble::Stall,
        3 => Trouble::Slow(size(dice, 2000)),
        4 => Trouble::Duplicate,
        _ => Trouble::None,
    }
}

fn address(url: &str) -> SocketAddr {
    url.strip_prefix("http://").unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_wires_that_break_in_every_way_everything_is_seen_once() {
    let config = Config {
        forward_timeout: Duration::from_millis(500),
        // Nobody stays away that long here, so no mission ends because of the wires.
        executor_grace: Duration::from_secs(600),
        dial_after: Duration::from_secs(600),
        ..Config::default()
    };
    let serve = Serve::with(config).await;
    let mut fleet = Fleet::start(EXECUTORS).await;
    let rest = address(&fleet.rest);
    let registry = address(&serve.base);
    let mut lines = Vec::new();
    let mut forwards = Vec::new();
    for number in 0..EXECUTORS {
        lines.push(ChaosProxy::before(registry).await);
        forwards.push(ChaosProxy::before(rest).await);
        fleet.enlist(&serve, number, &forwards[number].url(), &lines[number].url()).await;
        serve.executor_connected(&id(u32::try_from(number).unwrap()), true).await;
    }
    // The first reader reads the stream, the others observe one executor each.
    let mut readers = Vec::new();
    for number in 0..=EXECUTORS {
        let proxy = ChaosProxy::before(registry).await;
        readers.push(match number.checked_sub(1) {
            None => Reader::of_stream(&proxy.url()),
            Some(number) => Reader::of_socket(&proxy.url(), &id(u32::try_from(number).unwrap())),
        });
        lines.push(proxy);
    }
    let mut doors = Vec::new();
    for _ in 0..2 {
        let proxy = ChaosProxy::before(registry).await;
        doors.push(proxy.url());
        lines.push(proxy);
    }

    let callers = Callers::start(&doors, 6, usize::MAX);
    let mut dice = Dice::new(7);
    for _ in 0..faults() {
        let any = usize::try_from(dice.below(u64::try_from(lines.len() + forwards.len()).unwrap())).unwrap();
        let trouble = trouble(&mut dice);
        match lines.get(any) {
            Some(line) => line.set(trouble),
            // A request that is held back and delivered after everyone has given it up cannot be told from a new one.
            None if trouble == Trouble::Stall => forwards[any - lines.len()].cut(),
            None => forwards[any - lines.len()].set(trouble),
        }
        tokio::time::sleep(Duration::from_millis(10 + dice.below(60))).await;
    }
    for proxy in lines.iter().chain(&forwards) {
        proxy.set(Trouble::None);
        proxy.cut();
    }
    let answered = callers.finish().await;
    assert!(answered.len() > 20, "only {} missions got through", answered.len());
    for (mission, executor) in &answered {
        assert_eq!(serve.mission_in(mission, "done").await["executor_id"], **executor, "{mission}");
    }
    let begun = fleet.begun();
    for (mission, by) in &begun {
        let by: HashSet<&usize> = by.iter().collect();
        assert_eq!(by.len(), 1, "{mission} was begun by several executors");
    }
    assert_eq!(begun.len(), answered.len());
    let log = soon(everything_once(&serve, &readers)).await;
    assert_eq!(log.len(), answered.len() * EVENTS);
    serve.stop().await;
}
