//! Questions to a human, and their answers.

use super::{Host, host, host_with, text};
use serde_json::{Value, json};

async fn question(host: &Host, mission: &str) -> Value {
    host.reaches(mission, "hitl-required").await;
    let events = host.events(mission).await;
    events.iter().rev().find(|event| text(event, "/event") == "mission.hitl_required").unwrap().clone()
}

async fn answer(host: &Host, mission: &str, question: &Value, response: &str) -> u16 {
    let body = json!({"hitl_id": text(question, "/data/hitl_id"), "response": response});
    host.post(&format!("/api/v1/missions/{mission}/hitl_response"), &body).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_in_the_terminal_is_asked_and_the_answer_is_typed() {
    let host = host(&[]).await;
    let objective = "echo working; printf 'Overwrite the file? [y/N] '; read a; echo \"got $a\"; \
                     printf 'Are you sure? [y/N] '; read b; test \"$a$b\" = yesno";
    host.dispatch("m-1", objective, json!({})).await;
    let first = question(&host, "m-1").await;
    assert_eq!(text(&first, "/data/prompt"), "Overwrite the file? [y/N]");
    assert_eq!(text(&first, "/data/context"), "working");
    assert_eq!(answer(&host, "m-1", &first, "yes").await, 202);
    let second = host
        .until("the second question", async || {
            let asked = host.events("m-1").await;
            asked
                .iter()
                .find(|e| {
                    text(e, "/event") == "mission.hitl_required" && text(e, "/data/prompt").starts_with("Are")
                })
                .cloned()
        })
        .await;
    assert_eq!(answer(&host, "m-1", &first, "again").await, 409, "an answered question is closed");
    assert_eq!(answer(&host, "m-1", &second, "no").await, 202);
    let last = host.end_of("m-1").await;
    assert_eq!(text(&last, "/event"), "mission.completed", "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_may_ask_outright_by_file() {
    let host = host(&[]).await;
    let objective = "echo 'Which colour?' > \"$AIWG_HITL_DIR/colour.question\"; \
                     while ! test -f \"$AIWG_HITL_DIR/colour.answer\"; do sleep 0.05; done; \
                     test \"$(cat \"$AIWG_HITL_DIR/colour.answer\")\" = blue";
    host.dispatch("m-1", objective, json!({})).await;
    let asked = question(&host, "m-1").await;
    assert_eq!((text(&asked, "/data/hitl_id"), text(&asked, "/data/prompt")), ("colour", "Which colour?"));
    assert_eq!(answer(&host, "m-1", &asked, "blue").await, 202);
    let last = host.end_of("m-1").await;
    assert_eq!(text(&last, "/event"), "mission.completed", "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_nobody_answers_ends_the_mission() {
    let host = host_with(&[], "answer_within = \"300ms\"").await;
    let last = host.run("m-1", "printf 'Password: '; read secret", json!({})).await;
    assert_eq!(text(&last, "/data/reason"), "hitl_timeout", "{last}");
    // The registry knows when the question expires and does not wait for the executor to say so.
    host.done_with("m-1").await;
    host.assert_clean("m-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_questions_in_a_terminal_and_ten_in_files_are_all_answered_in_turn() {
    let host = host(&[]).await;
    let objective = "for n in 1 2 3 4 5 6 7 8 9 10; do printf 'Take step %s? [y/N] ' $n; read a; test \"$a\" = yes-$n || exit 1; done";
    host.dispatch("terminal", objective, json!({})).await;
    let objective = "for n in 1 2 3 4 5 6 7 8 9 10; do echo \"File $n?\" > \"$AIWG_HITL_DIR/q$n.question\"; done; \
                     for n in 1 2 3 4 5 6 7 8 9 10; do \
                     while ! test -f \"$AIWG_HITL_DIR/q$n.answer\"; do sleep 0.05; done; \
                     test \"$(cat \"$AIWG_HITL_DIR/q$n.answer\")\" = \"File $n? indeed\" || exit 1; done";
    host.dispatch("files", objective, json!({})).await;
    for number in 1..=10 {
        let prompt = format!("Take step {number}? [y/N]");
        let asked = host
            .until(&prompt, async || {
                let events = host.events("terminal").await;
                let last = events.iter().rev().find(|e| text(e, "/event") == "mission.hitl_required")?;
                (text(last, "/data/prompt") == prompt).then(|| last.clone())
            })
            .await;
        assert_eq!(answer(&host, "terminal", &asked, &format!("yes-{number}")).await, 202);
    }
    let mut answered = std::collections::BTreeSet::new();
    while answered.len() < 10 {
        let asked = host
            .until("the next file", async || {
                let events = host.events("files").await;
                let last = events.iter().rev().find(|e| text(e, "/event") == "mission.hitl_required")?;
                (!answered.contains(text(last, "/data/hitl_id"))).then(|| last.clone())
            })
            .await;
        let response = format!("{} indeed", text(&asked, "/data/prompt"));
        assert_eq!(answer(&host, "files", &asked, &response).await, 202);
        answered.insert(text(&asked, "/data/hitl_id").to_owned());
    }
    for mission in ["terminal", "files"] {
        let last = host.end_of(mission).await;
        assert_eq!(text(&last, "/event"), "mission.completed", "{last}");
    }
}
