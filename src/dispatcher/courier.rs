//! Service: one request from its mission to its outcome.

use super::client::{Address, Client};
use super::machine::Outcome;
use super::payload::Payload;
use crate::protocol::executor_v1::ExecutorList;
use crate::session::messages::{Dispatch, MissionKey};
use crate::session::mission_view::MissionView;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One request that is to be sent.
#[derive(Debug)]
pub struct Errand {
    /// Which mission.
    pub key: MissionKey,
    /// What to send.
    pub dispatch: Dispatch,
    /// Where to.
    pub address: Address,
}

/// Sends requests to one registry. Clones share what was learnt about it.
#[derive(Debug, Clone)]
pub struct Courier {
    client: Arc<Client>,
    usual: Arc<Payload>,
    /// For a registry that knows no agents.
    without_agent: Arc<Payload>,
    /// The registry refused a dispatch for naming an agent.
    knows_no_agents: Arc<AtomicBool>,
}

impl Courier {
    /// Makes a courier to the registry of `client`, with bodies as `payload` makes them.
    pub fn new(client: Arc<Client>, payload: Payload) -> Self {
        let without_agent = Arc::new(payload.without_agent());
        Self { client, usual: Arc::new(payload), without_agent, knows_no_agents: Arc::default() }
    }

    /// Sends one request, and once more where the registry does not want to be told which agent is meant.
    ///
    /// # Cancel safety
    /// Dropping it leaves open whether the registry has the mission.
    pub async fn deliver(&self, errand: Errand) -> (MissionKey, Outcome) {
        let Errand { key, dispatch, address } = errand;
        let knows_none = self.knows_no_agents.load(Ordering::Relaxed);
        let payload = if knows_none { &self.without_agent } else { &self.usual };
        let mut outcome = self.attempt(payload, &key, &dispatch, address).await;
        if let Outcome::Refused { status: 400, message, .. } = &outcome
            && message.contains("agent_id")
            && payload.names_agent
        {
            if !self.knows_no_agents.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    session.id = %key.session, mission.id = %key.mission, error = message,
                    "the registry refuses to be told which agent is meant; from now on missions are sent without"
                );
            }
            let address = self.client.dispatch_address(&dispatch.wire_session);
            outcome = self.attempt(&self.without_agent, &key, &dispatch, address).await;
        }
        if let Outcome::Refused { status: 503, busy: false, remark, message, .. } = &mut outcome
            && let Ok(list) = self.client.executors().await
        {
            *remark = explain(&list, &dispatch.mission.view(), message);
        }
        (key, outcome)
    }

    async fn attempt(
        &self,
        payload: &Payload,
        key: &MissionKey,
        dispatch: &Dispatch,
        to: Address,
    ) -> Outcome {
        match payload.body(&dispatch.wire_session, &key.mission, &dispatch.mission.view()) {
            Ok(body) => self.client.dispatch(to, dispatch, body).await,
            // What every server would answer, without troubling one.
            Err(error) => {
                let message = error.to_string();
                Outcome::Refused { status: 400, retry_after: None, busy: false, message, remark: None }
            }
        }
    }
}

/// Counts who could have taken the mission, as far as `said` does not, for the sentence that people read.
fn explain(list: &ExecutorList, mission: &MissionView<'_>, said: &str) -> Option<String> {
    let asked = mission.field("requiredCapabilities").map(serde_json::from_str::<Vec<String>>);
    let asked = asked.and_then(Result::ok).unwrap_or_default();
    let registered = list.executors.len();
    let connected = list.executors.iter().filter(|e| e.connected).count();
    let mut counts = Vec::new();
    if !said.contains("registered") {
        counts.push(format!("{registered} registered, {connected} connected"));
    }
    for capability in asked {
        let having = list.executors.iter().filter(|e| e.capabilities.contains(&capability)).count();
        counts.push(format!("{having} with {capability}"));
    }
    (!counts.is_empty()).then(|| counts.join(", "))
}
