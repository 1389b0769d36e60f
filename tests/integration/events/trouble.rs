//! Wires that break, registries that stumble, frames that nobody can read, and more events than the folder takes.

use super::foreign::{Foreign, Listener, Observers, executor_id, progress};
use crate::support::chaos_proxy::{ChaosProxy, Trouble};
use aiwg_rs::events::machine::POLL;

#[tokio::test]
async fn what_happens_while_the_line_is_cut_is_asked_for_when_it_is_back() {
    let foreign = Foreign::start(Observers::Welcome).await;
    let proxy = ChaosProxy::before(foreign.address).await;
    let missions: Vec<String> = (0..40).map(|n| format!("m{n}")).collect();
    for mission in &missions {
        foreign.record(mission, 1, "running", &[]);
    }
    let mut listener = Listener::start(proxy.url(), |_| {});
    for mission in &missions {
        listener.follow(mission, Some(1)).await;
    }
    listener.until("every record", |l| l.records.len() == missions.len()).await;

    for (round, trouble) in [Trouble::Refuse, Trouble::CutAfter(140)].into_iter().enumerate() {
        proxy.set(trouble);
        proxy.cut();
        listener.until("the loss", |l| l.lines.get(&'1') == Some(&false)).await;
        let events: Vec<String> = (0..=round).map(|n| progress(1, "m", n)).collect();
        for mission in &missions {
            foreign.record(mission, 1, "paused", &events);
        }
        proxy.set(Trouble::None);
        listener
            .until("what was missed", |l| l.records.values().all(|r| *r == ("paused".to_owned(), round + 1)))
            .await;
        listener.until("the line", |l| l.lines.get(&'1') == Some(&true)).await;
    }
    listener.end().await;
}

#[tokio::test]
async fn what_the_registry_could_not_tell_because_we_were_slow_is_asked_for() {
    let foreign = Foreign::start(Observers::Welcome).await;
    foreign.record("a", 1, "running", &[]);
    let mut listener = Listener::start(format!("http://{}", foreign.address), |_| {});
    listener.follow("a", Some(1)).await;
    listener.until("the record", |l| l.records.contains_key("a")).await;
    // It is asked about until the line has settled, and then not again for minutes.
    let mut before = 0;
    while foreign.asked("a") != before {
        before = foreign.asked("a");
        tokio::time::sleep(POLL * 2).await;
    }
    foreign.record("a", 1, "done", &[progress(1, "a", 1)]);
    let gap = r#""event":"observer.gap","ts":"2026-01-01T00:00:00.000Z","data":{"missed":1,"after":7}"#;
    foreign.send(1, format!(r#"{{"executor_id":"{}",{gap}}}"#, executor_id(1)));
    listener.until("its end", |l| l.records["a"] == ("done".to_owned(), 1)).await;
    assert!(listener.frames.is_empty(), "the gap itself is no event");
    listener.end().await;
}

#[tokio::test]
async fn a_frame_that_is_cut_in_the_middle_is_never_half_told() {
    let foreign = Foreign::start(Observers::Welcome).await;
    let proxy = ChaosProxy::before(foreign.address).await;
    let mut listener = Listener::start(proxy.url(), |config| config.subscribe = vec![executor_id(1)]);
    for round in 0..2 {
        foreign.observed().await;
        let whole = progress(1, "a", round);
        foreign.send(1, &whole);
        listener.until("the whole frame", |l| l.frames.last() == Some(&whole)).await;
        let lines = listener.line_reports;
        proxy.set(Trouble::CutAfter(40));
        foreign.send(1, progress(1, "a", 1000));
        listener.until("the loss", |l| l.line_reports > lines).await;
        proxy.set(Trouble::None);
        listener.until("the line", |l| l.lines.get(&'1') == Some(&true)).await;
    }
    let expected: Vec<String> = (0..2).map(|n| progress(1, "a", n)).collect();
    assert_eq!(listener.frames, expected);
    listener.end().await;
}

#[tokio::test]
async fn garbage_is_dropped_and_the_line_stays() {
    let foreign = Foreign::start(Observers::Welcome).await;
    let mut listener = Listener::start(format!("http://{}", foreign.address), |config| {
        config.subscribe = vec![executor_id(1)];
    });
    listener.until("the line", |l| l.lines.get(&'1') == Some(&true)).await;
    foreign.observed().await;
    let stranger = progress(2, "a", 1);
    for garbage in ["", "{", "null", "[]", r#"{"event":"mission.started"}"#, "\u{0}", &stranger] {
        foreign.send(1, garbage);
    }
    let (unknown, duplicate) =
        (progress(1, "a", 1).replace("mission.progress", "mission.danced"), progress(1, "a", 2));
    for frame in [&unknown, &duplicate, &duplicate] {
        foreign.send(1, frame);
    }
    listener.until("what can be read", |l| l.frames.len() == 3).await;
    assert_eq!(
        listener.frames,
        [unknown, duplicate.clone(), duplicate],
        "whoever keeps the record knows duplicates"
    );
    assert_eq!(foreign.dials().len(), 1);
    listener.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_is_slowed_down_and_nothing_of_it_is_lost() {
    const BURST: usize = 100_000;
    let foreign = Foreign::start(Observers::Welcome).await;
    let mut listener = Listener::start(format!("http://{}", foreign.address), |config| {
        config.subscribe = vec![executor_id(1)];
    });
    listener.until("the line", |l| l.lines.get(&'1') == Some(&true)).await;
    foreign.observed().await;
    for number in 0..BURST {
        foreign.send(1, progress(1, "a", number));
    }
    // Nobody takes reports meanwhile, and commands are taken all the same.
    for number in 0..1000 {
        listener.follow(&format!("m{number}"), Some(1)).await;
    }
    listener.until("all of them", |l| l.frames.len() == BURST).await;
    assert!(listener.frames.iter().enumerate().all(|(number, frame)| *frame == progress(1, "a", number)));
    listener.end().await;
}

#[tokio::test]
async fn a_slow_wire_and_one_that_says_everything_twice_lose_nothing() {
    let foreign = Foreign::start(Observers::Welcome).await;
    let proxy = ChaosProxy::before(foreign.address).await;
    for (trouble, mission) in [(Trouble::Slow(50), "slow"), (Trouble::Duplicate, "twice")] {
        proxy.set(trouble);
        foreign.record(mission, 1, "running", &[progress(1, mission, 1)]);
        let mut listener = Listener::start(proxy.url(), |_| {});
        listener.follow(mission, Some(1)).await;
        listener.until("the line", |l| l.lines.get(&'1') == Some(&true)).await;
        listener.until("the record", |l| l.records.contains_key(mission)).await;
        foreign.send(1, progress(1, mission, 2));
        listener.until("the event", |l| l.frames == [progress(1, mission, 2)]).await;
        listener.end().await;
    }
}

#[tokio::test]
async fn a_wire_that_stalls_keeps_nobody_from_ending() {
    let foreign = Foreign::start(Observers::Welcome).await;
    let proxy = ChaosProxy::before(foreign.address).await;
    let mut listener = Listener::start(proxy.url(), |config| config.subscribe = vec![executor_id(1)]);
    listener.until("the line", |l| l.lines.get(&'1') == Some(&true)).await;
    proxy.set(Trouble::Stall);
    listener.follow("a", Some(2)).await;
    listener.end().await;
}

#[tokio::test]
async fn a_registry_that_is_not_there_yet_is_waited_for() {
    let foreign = Foreign::start(Observers::Welcome).await;
    let proxy = ChaosProxy::before(foreign.address).await;
    proxy.set(Trouble::Refuse);
    foreign.record("a", 1, "running", &[]);
    let mut listener = Listener::start(proxy.url(), |_| {});
    listener.follow("a", Some(1)).await;
    listener.until("the loss", |l| l.lines.get(&'1') == Some(&false)).await;
    proxy.set(Trouble::None);
    listener.until("the record", |l| l.records.contains_key("a")).await;
    listener.until("the line", |l| l.lines.get(&'1') == Some(&true)).await;
    listener.end().await;
}
