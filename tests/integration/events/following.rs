//! Streams that stand, and registries that refuse them.

use super::foreign::{Foreign, Listener, Observers, executor_id, progress};
use aiwg_rs::domain::secret::Token;

fn url(foreign: &Foreign) -> String {
    format!("http://{}", foreign.address)
}

#[tokio::test]
async fn events_of_a_followed_mission_come_in_order_after_what_the_registry_already_knew() {
    let foreign = Foreign::start(Observers::Welcome).await;
    foreign.record("a", 1, "running", &[progress(1, "a", 0)]);
    let mut listener = Listener::start(url(&foreign), |_| {});
    listener.follow("a", Some(1)).await;
    listener.until("the record", |l| l.records.get("a") == Some(&("running".to_owned(), 1))).await;
    let expected: Vec<String> = (1..=200).map(|n| progress(1, "a", n)).collect();
    for frame in &expected {
        foreign.send(1, frame);
    }
    listener.until("every event", |l| l.frames.len() == expected.len()).await;
    assert_eq!(listener.frames, expected);
    assert_eq!(listener.lines.get(&'1'), Some(&true));
    listener.end().await;
    assert_eq!(foreign.closes(), [1000]);
}

#[tokio::test]
async fn a_mission_whose_executor_is_not_known_is_found_through_the_registry() {
    let foreign = Foreign::start(Observers::Welcome).await;
    let mut listener = Listener::start(url(&foreign), |_| {});
    listener.follow("late", None).await;
    listener.until("an answer", |l| l.not_found == ["late"]).await;
    foreign.record("late", 3, "running", &[]);
    listener.until("its executor's line", |l| l.lines.get(&'3') == Some(&true)).await;
    listener.end().await;
}

#[tokio::test]
async fn observers_that_are_refused_ask_instead() {
    for refusal in
        [Observers::Close4001, Observers::Status(403), Observers::Status(404), Observers::Status(426)]
    {
        let foreign = Foreign::start(refusal).await;
        foreign.record("a", 1, "assigned", &[]);
        let mut listener = Listener::start(url(&foreign), |_| {});
        listener.follow("a", Some(1)).await;
        listener.until("the record", |l| l.records.contains_key("a")).await;
        listener.until("the refusal", |l| l.lines.get(&'1') == Some(&false)).await;
        foreign.record("a", 1, "done", &[progress(1, "a", 1)]);
        listener.until("its end", |l| l.records["a"] == ("done".to_owned(), 1)).await;
        assert_eq!(foreign.dials().len(), 1);
        listener.end().await;
    }
}

#[tokio::test]
async fn without_streams_nothing_is_dialled() {
    let foreign = Foreign::start(Observers::Welcome).await;
    foreign.record("a", 1, "running", &[]);
    let mut listener = Listener::start(url(&foreign), |config| config.no_ws = true);
    listener.follow("a", Some(1)).await;
    listener.until("the record", |l| l.records.contains_key("a")).await;
    assert!(foreign.dials().is_empty());
    listener.end().await;
}

#[tokio::test]
async fn a_token_is_never_sent_without_the_role_of_an_observer() {
    let foreign = Foreign::start(Observers::Welcome).await;
    let mut listener = Listener::start(url(&foreign), |config| {
        config.subscribe = vec![executor_id(1), executor_id(2)];
        config.tokens.insert(executor_id(1), Token::new("own"));
        config.operator = Some(Token::new("operator"));
    });
    listener.until("both lines", |l| l.lines.len() == 2).await;
    let mut dials = foreign.dials();
    dials.sort();
    let expected = [(1, "Bearer own"), (2, "Bearer operator")].map(|(number, bearer)| {
        (format!("/ws/executors/{}?role=observer", executor_id(number)), Some(bearer.to_owned()))
    });
    assert_eq!(dials, expected);
    listener.end().await;
}

#[tokio::test]
async fn missions_that_end_soon_on_a_line_that_stands_cost_no_question() {
    let foreign = Foreign::start(Observers::Welcome).await;
    let mut listener = Listener::start(url(&foreign), |config| config.subscribe = vec![executor_id(1)]);
    listener.until("the line", |l| l.lines.get(&'1') == Some(&true)).await;
    foreign.observed().await;
    for number in 0..100 {
        listener.follow(&format!("m{number}"), Some(1)).await;
        listener.unfollow(&format!("m{number}")).await;
    }
    foreign.record("last", 1, "running", &[]);
    listener.follow("last", Some(1)).await;
    listener.until("a question about one that does not", |l| l.records.contains_key("last")).await;
    assert_eq!((0..100).map(|number| foreign.asked(&format!("m{number}"))).sum::<usize>(), 0);
    listener.end().await;
}

#[tokio::test]
async fn a_registry_that_lets_observers_in_later_is_listened_to_again() {
    let foreign = Foreign::start(Observers::Status(503)).await;
    let mut listener = Listener::start(url(&foreign), |config| config.subscribe = vec![executor_id(1)]);
    listener.until("the loss", |l| l.lines.get(&'1') == Some(&false)).await;
    foreign.set(Observers::Welcome);
    listener.until("the line", |l| l.lines.get(&'1') == Some(&true)).await;
    listener.end().await;
}
