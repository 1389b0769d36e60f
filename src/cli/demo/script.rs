//! Command: what the demonstration puts into the folder, and what it expects to find there in the end.

use crate::domain::lifecycle::MissionState;
use crate::domain::time::Timestamp;
use serde_json::{Value, json};

/// The session that everything happens in.
pub const SESSION: &str = "demo";

/// The answer that the demonstration gives in place of a human.
pub const ANSWER: &str = "aurora";

/// One mission of the demonstration.
#[derive(Debug)]
pub struct Part {
    /// The mission's id.
    pub id: &'static str,
    /// What `sh` runs.
    pub objective: &'static str,
    /// How it is meant to end.
    pub outcome: MissionState,
}

/// Stands in `session.json` from the start.
pub const QUEUED: [Part; 2] = [
    Part {
        id: "count",
        objective: "for n in 1 2 3; do echo \"step $n of 3\"; sleep 0.6; done; echo counted",
        outcome: MissionState::Done,
    },
    Part {
        id: "read-plan",
        objective: "echo looking for the plan; sleep 0.4; cat plan.txt",
        outcome: MissionState::Failed,
    },
];

/// Is dropped as a file while the others run.
pub const DROPPED: Part = Part {
    id: "name-release",
    objective: "echo 'ask: What shall the release be called?'; read -r name; echo \"it is called $name\"",
    outcome: MissionState::Done,
};

/// Every mission of the demonstration.
pub fn parts() -> impl Iterator<Item = &'static Part> {
    const { &QUEUED }.iter().chain([const { &DROPPED }])
}

/// Writes the session as any other program would.
pub fn session(now: Timestamp) -> Value {
    let missions: Vec<Value> = QUEUED.iter().map(|part| mission(part, now)).collect();
    json!({
        "id": SESSION, "name": "Demonstration", "state": "active", "maxMissions": 10,
        "createdAt": now, "updatedAt": now, "missions": missions,
    })
}

fn mission(part: &Part, now: Timestamp) -> Value {
    json!({
        "id": part.id, "objective": part.objective, "status": "queued", "priority": "normal", "mode": "direct",
        "createdAt": now,
    })
}

/// Writes the file for the drop folder; its name becomes the mission's id.
pub fn dropped() -> Value {
    json!({"session": SESSION, "objective": DROPPED.objective})
}
