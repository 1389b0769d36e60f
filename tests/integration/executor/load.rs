//! Many at once.

use super::{host, text};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_missions_at_once_all_end_well() {
    let host = host(&["--max-concurrency", "16", "--max-waiting", "100"]).await;
    for number in 0..100 {
        let (status, answer) = host.dispatch(&format!("m-{number}"), "echo done", json!({})).await;
        assert_eq!(status, 202, "{answer}");
    }
    for number in 0..100 {
        let last = host.end_of(&format!("m-{number}")).await;
        assert_eq!(text(&last, "/event"), "mission.completed", "{last}");
    }
}
