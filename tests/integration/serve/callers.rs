//! Callers that ask again until they are answered.

use super::peer::{order, spawn};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;

/// A caller that has waited for this long says for what.
const LATE: Duration = Duration::from_secs(15);

/// Callers that dispatch missions, each until it was answered 202.
pub(crate) struct Callers {
    next: Arc<AtomicUsize>,
    limit: Arc<AtomicUsize>,
    answered: Arc<Mutex<HashMap<String, String>>>,
    calling: Vec<JoinHandle<()>>,
}

impl Drop for Callers {
    fn drop(&mut self) {
        for caller in &self.calling {
            caller.abort();
        }
    }
}

impl Callers {
    /// Starts `count` callers of the registry at each of `bases`, who share `missions` missions.
    pub(crate) fn start(bases: &[String], count: usize, missions: usize) -> Self {
        let (next, limit) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(missions)));
        let answered = Arc::default();
        let calling = bases.iter().cycle().take(count).map(|base| {
            let caller = Caller {
                url: format!("{base}/api/v1/sessions/s/dispatch"),
                next: Arc::clone(&next),
                limit: Arc::clone(&limit),
                answered: Arc::clone(&answered),
            };
            spawn(caller.run())
        });
        let calling = calling.collect();
        Self { next, limit, answered, calling }
    }

    /// Missions that were answered 202, each with the executor in the answer.
    pub(crate) fn answered(&self) -> HashMap<String, String> {
        self.answered.lock().unwrap().clone()
    }

    pub(crate) fn answered_count(&self) -> usize {
        self.answered.lock().unwrap().len()
    }

    /// Begins no further mission, and waits for those that were begun.
    pub(crate) async fn finish(mut self) -> HashMap<String, String> {
        self.limit.store(self.next.load(Ordering::SeqCst), Ordering::SeqCst);
        for caller in std::mem::take(&mut self.calling) {
            super::peer::soon(caller).await.unwrap();
        }
        self.answered()
    }
}

struct Caller {
    url: String,
    next: Arc<AtomicUsize>,
    limit: Arc<AtomicUsize>,
    answered: Arc<Mutex<HashMap<String, String>>>,
}

impl Caller {
    async fn run(self) {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
        loop {
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            if number >= self.limit.load(Ordering::SeqCst) {
                return;
            }
            let mission = format!("m-{number:05}");
            let executor = self.ask(&http, &mission).await;
            self.answered.lock().unwrap().insert(mission, executor);
        }
    }

    /// Asks until there is a 202, and returns who has the mission.
    async fn ask(&self, http: &reqwest::Client, mission: &str) -> String {
        let begun = std::time::Instant::now();
        let mut is_said = false;
        loop {
            let sent = http.post(&self.url).json(&order(mission)).send().await;
            let is_late = begun.elapsed() > LATE && !std::mem::replace(&mut is_said, begun.elapsed() > LATE);
            if is_late {
                println!("{mission} waits for {:?}: {sent:?}", begun.elapsed());
            }
            if let Ok(answer) = sent {
                let status = answer.status().as_u16();
                let body: Option<serde_json::Value> = answer.json().await.ok();
                if is_late {
                    let record = http
                        .get(self.url.replace("sessions/s/dispatch", &format!("missions/{mission}")))
                        .send()
                        .await;
                    let record = match record {
                        Ok(record) => record.text().await.unwrap_or_default(),
                        Err(error) => error.to_string(),
                    };
                    println!("{mission}: {body:?}; {record}");
                }
                assert!([202, 409, 502, 503].contains(&status), "{mission}: {status} {body:?}");
                if let Some(body) = body.filter(|_| status == 202) {
                    return body["executor_id"].as_str().unwrap().to_owned();
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
