//! The registry is away, and what happened meanwhile arrives.

use super::{host, text};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn missions_go_on_without_a_registry_and_their_ends_arrive_when_it_is_back() {
    let mut host = host(&[]).await;
    host.dispatch("ends", "while ! test -f go; do sleep 0.05; done; echo over; exit 3", json!({})).await;
    host.dispatch("goes-on", "while ! test -f end; do sleep 0.05; done; echo late", json!({})).await;
    host.reaches("ends", "running").await;
    host.reaches("goes-on", "running").await;
    for round in 0..2 {
        host.registry.stop().await;
        if round == 0 {
            host.repository.write("go", "");
            host.done_with("ends").await;
        }
        // Long enough that the executor tries in vain.
        tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
        host.registry.start_again().await;
        host.until("the executor is back", async || {
            let list = host.get("/api/v1/executors").await;
            (list.pointer("/executors/0/connected") == Some(&Value::Bool(true))).then_some(())
        })
        .await;
    }
    let last = host.end_of("ends").await;
    assert_eq!(text(&last, "/data/reason"), "exit_nonzero", "{last}");
    assert_eq!(last.pointer("/data/exit_code"), Some(&json!(3)));
    host.repository.write("end", "");
    let last = host.end_of("goes-on").await;
    assert_eq!(text(&last, "/event"), "mission.completed", "{last}\n{}", host.said());
}
