//! Pure: events as they travel over an executor's line.
//!
//! A [`Frame`] keeps the text it was read from: the registry passes it on to observers byte for byte, so that fields we do not
//! know reach those who do.

use crate::domain::event::{Artifact, Body, Envelope, ExecutorEvent, MissionEvent};
use crate::domain::id::{ExecutorId, MissionId};
use crate::domain::lifecycle::{Happening, MissionState};
use crate::domain::time::Timestamp;
use crate::protocol::field::{FieldError, Fields};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::sync::Arc;

/// Largest frame, in bytes, that is read or sent.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// The registry's word to an observer that was too slow for its stream.
pub const OBSERVER_GAP: &str = "observer.gap";

/// Close code for a wrong token.
pub const CLOSE_UNAUTHORIZED: u16 = 4001;
/// Close code for a control connection that a newer one replaced.
pub const CLOSE_REPLACED: u16 = 4009;
/// Close code of an orderly end.
pub const CLOSE_NORMAL: u16 = 1000;

/// Why a text is not an envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Longer than [`MAX_FRAME_BYTES`].
    #[error("the frame is {length} bytes long; at most {MAX_FRAME_BYTES} are allowed")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// Not JSON, a field missing, or a field of the wrong form.
    #[error("the envelope is invalid: {0}")]
    Field(#[from] FieldError),
}

/// An event together with the text it travels as.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// The text, untouched.
    pub raw: Arc<str>,
    /// What it says.
    pub envelope: Envelope,
}

impl Frame {
    /// Reads a frame and keeps its text.
    ///
    /// # Errors
    /// [`EnvelopeError`] names the field.
    pub fn parse(text: &str) -> Result<Self, EnvelopeError> {
        Ok(Self { envelope: parse_envelope(text)?, raw: Arc::from(text) })
    }

    /// Makes the frame of an event of our own.
    pub fn encode(envelope: Envelope) -> Self {
        Self { raw: Arc::from(encode_envelope(&envelope)), envelope }
    }
}

/// Reads one event.
///
/// # Errors
/// [`EnvelopeError`] names the field. Optional data of an odd form is no error, it is left out.
pub fn parse_envelope(text: &str) -> Result<Envelope, EnvelopeError> {
    if text.len() > MAX_FRAME_BYTES {
        return Err(EnvelopeError::TooLong { length: text.len() });
    }
    let fields = Fields::parse(text, "")?;
    let name: String = fields.required("event")?;
    let executor_id: ExecutorId = fields.required("executor_id")?;
    let mission_id: Option<MissionId> = fields.optional("mission_id")?;
    let ts: Timestamp = fields.required("ts")?;
    let data = fields.object("data", "data.")?;
    let body = match name.as_str() {
        "executor.registered" => {
            let name = data.lenient("name").unwrap_or_default();
            let capabilities = data.lenient("capabilities").unwrap_or_default();
            Body::Executor(ExecutorEvent::Registered { name, capabilities })
        }
        "executor.deregistered" => {
            let reason = data.lenient("reason").unwrap_or_default();
            Body::Executor(ExecutorEvent::Deregistered { reason })
        }
        "executor.resync" => {
            let owned_mission_ids = data.required("owned_mission_ids")?;
            Body::Executor(ExecutorEvent::Resync { owned_mission_ids })
        }
        _ if name.starts_with("mission.") => {
            if mission_id.is_none() {
                return Err(fields.error("mission_id", "is missing").into());
            }
            Body::Mission(match Happening::from_wire(&name) {
                Some(happening) => mission_event(happening, &data)?,
                None => MissionEvent::Other { name },
            })
        }
        _ => Body::Unknown { name },
    };
    Ok(Envelope { executor_id, mission_id, ts, body })
}

fn mission_event(happening: Happening, data: &Fields<'_>) -> Result<MissionEvent, FieldError> {
    check_state(happening, data)?;
    Ok(match happening {
        Happening::Assigned => MissionEvent::Assigned { estimated_start: data.lenient("estimated_start") },
        Happening::Started => MissionEvent::Started {
            agent_runtime: data.lenient("agent_runtime"),
            pty_session_id: data.lenient("pty_session_id"),
        },
        Happening::Progress => MissionEvent::Progress {
            phase: data.lenient("phase"),
            iteration: data.lenient_integer("iteration"),
            tokens_used: data.lenient_integer("tokens_used"),
            summary: data.lenient("summary"),
            pct_complete: data.lenient::<f64>("pct_complete").map(|percent| percent.clamp(0.0, 100.0)),
        },
        Happening::HitlRequired => MissionEvent::HitlRequired {
            hitl_id: data.required("hitl_id")?,
            prompt: data.required("prompt")?,
            context: data
                .lenient("context")
                .or_else(|| data.raw("context").map(|other| other.get().to_owned())),
            expires_at: data.lenient("expires_at"),
        },
        Happening::HitlResponded => MissionEvent::HitlResponded {
            hitl_id: data.required("hitl_id")?,
            response: match data.optional("response")? {
                Some(response) => response,
                None => data
                    .optional("text")?
                    .ok_or_else(|| data.error("response", "is missing, and so is data.text"))?,
            },
            responded_at: data.lenient("responded_at"),
        },
        Happening::Paused => MissionEvent::Paused { reason: data.lenient("reason") },
        Happening::Resumed => MissionEvent::Resumed {
            resumed_from: data
                .lenient::<Cow<'_, str>>("resumed_from")
                .and_then(|word| MissionState::parse(&word).ok()),
        },
        Happening::Suspended => MissionEvent::Suspended {
            checkpoint_id: data.lenient("checkpoint_id"),
            reason: data.lenient("reason"),
        },
        Happening::Reconnected => MissionEvent::Reconnected { checkpoint_id: data.lenient("checkpoint_id") },
        Happening::Completed => MissionEvent::Completed {
            exit_code: data.lenient_integer("exit_code"),
            tokens_total: data.lenient_integer("tokens_total"),
            summary: data.lenient("summary"),
            artifacts: artifacts(data),
        },
        Happening::Failed => MissionEvent::Failed {
            reason: data.lenient("reason"),
            error: data.lenient("error"),
            exit_code: data.lenient_integer("exit_code"),
            tokens_total: data.lenient_integer("tokens_total"),
        },
        Happening::Aborted => {
            MissionEvent::Aborted { aborted_by: data.lenient("aborted_by"), reason: data.lenient("reason") }
        }
    })
}

/// An absent `state` is forgiven, one that contradicts the event's name is not: then nobody knows what happened.
fn check_state(happening: Happening, data: &Fields<'_>) -> Result<(), FieldError> {
    let Some(expected) = state_of(happening) else { return Ok(()) };
    match data.lenient::<String>("state") {
        Some(word) if MissionState::parse(&word) != Ok(expected) => {
            let problem = format!("{word:?} contradicts {}", happening.as_wire());
            Err(data.error("state", problem))
        }
        Some(_) | None => Ok(()),
    }
}

fn state_of(happening: Happening) -> Option<MissionState> {
    match happening {
        Happening::Assigned => Some(MissionState::Assigned),
        Happening::Started | Happening::Resumed => Some(MissionState::Running),
        Happening::Paused => Some(MissionState::Paused),
        Happening::Suspended => Some(MissionState::Suspended),
        Happening::Completed => Some(MissionState::Done),
        Happening::Failed => Some(MissionState::Failed),
        Happening::Aborted => Some(MissionState::Aborted),
        Happening::Progress | Happening::HitlRequired | Happening::HitlResponded | Happening::Reconnected => {
            None
        }
    }
}

fn artifacts(data: &Fields<'_>) -> Vec<Artifact> {
    let listed: Vec<Value> = data.lenient("artifacts").unwrap_or_default();
    let read = listed.iter().filter_map(|item| {
        let path = item.get("path").and_then(Value::as_str).or(item.as_str())?.to_owned();
        let description = item.get("description").and_then(Value::as_str).map(str::to_owned);
        Some(Artifact { path, description })
    });
    read.collect()
}

/// Writes one event, only with the fields that the contract names.
///
/// One exception: an answer travels as `response` and as `text`, because `agentic-sandbox` looks for nothing but the latter.
pub fn encode_envelope(envelope: &Envelope) -> String {
    let mut data = match &envelope.body {
        Body::Mission(event) => mission_data(event),
        Body::Executor(ExecutorEvent::Registered { name, capabilities }) => {
            json!({"name": name, "capabilities": capabilities})
        }
        Body::Executor(ExecutorEvent::Deregistered { reason }) => json!({"reason": reason}),
        Body::Executor(ExecutorEvent::Resync { owned_mission_ids }) => {
            json!({"owned_mission_ids": owned_mission_ids})
        }
        Body::Unknown { .. } => json!({}),
    };
    if let Value::Object(members) = &mut data {
        members.retain(|_, value| !value.is_null());
    }
    let mut members = Map::new();
    members.insert("event".to_owned(), envelope.name().into());
    members.insert("executor_id".to_owned(), envelope.executor_id.as_str().into());
    if let Some(mission) = &envelope.mission_id {
        members.insert("mission_id".to_owned(), mission.as_str().into());
    }
    members.insert("ts".to_owned(), envelope.ts.to_string().into());
    members.insert("data".to_owned(), data);
    Value::Object(members).to_string()
}

/// Members with the value null are left out by the caller.
fn mission_data(event: &MissionEvent) -> Value {
    match event {
        MissionEvent::Assigned { estimated_start } => {
            json!({"state": "assigned", "estimated_start": estimated_start})
        }
        MissionEvent::Started { agent_runtime, pty_session_id } => {
            json!({"state": "running", "agent_runtime": agent_runtime, "pty_session_id": pty_session_id})
        }
        MissionEvent::Progress { phase, iteration, tokens_used, summary, pct_complete } => json!({
            "phase": phase, "iteration": iteration, "tokens_used": tokens_used, "summary": summary,
            "pct_complete": pct_complete
        }),
        MissionEvent::HitlRequired { hitl_id, prompt, context, expires_at } => {
            json!({"hitl_id": hitl_id, "prompt": prompt, "context": context, "expires_at": expires_at})
        }
        MissionEvent::HitlResponded { hitl_id, response, responded_at } => json!({
            "hitl_id": hitl_id, "response": response, "text": response, "responded_at": responded_at
        }),
        MissionEvent::Paused { reason } => json!({"state": "paused", "reason": reason}),
        // The published schema tells it from `started` by this field alone, so strict servers drop one without it.
        MissionEvent::Resumed { resumed_from } => {
            let from = resumed_from.filter(|state| *state == MissionState::Suspended);
            json!({"state": "running", "resumed_from": from.unwrap_or(MissionState::Paused).as_wire()})
        }
        MissionEvent::Suspended { checkpoint_id, reason } => json!({
            "state": "suspended", "checkpoint_id": checkpoint_id.as_deref().unwrap_or("none"), "reason": reason
        }),
        MissionEvent::Reconnected { checkpoint_id } => {
            json!({"checkpoint_id": checkpoint_id.as_deref().unwrap_or("none")})
        }
        MissionEvent::Completed { exit_code, tokens_total, summary, artifacts } => {
            let list: Vec<Value> = artifacts.iter().map(artifact).collect();
            let artifacts = if list.is_empty() { Value::Null } else { Value::Array(list) };
            json!({
                "state": "done", "exit_code": exit_code, "tokens_total": tokens_total, "summary": summary,
                "artifacts": artifacts
            })
        }
        MissionEvent::Failed { reason, error, exit_code, tokens_total } => json!({
            "state": "failed", "reason": reason.as_deref().unwrap_or("unknown"), "error": error,
            "exit_code": exit_code, "tokens_total": tokens_total
        }),
        MissionEvent::Aborted { aborted_by, reason } => {
            json!({"state": "aborted", "aborted_by": aborted_by, "reason": reason})
        }
        MissionEvent::Other { .. } => json!({}),
    }
}

fn artifact(artifact: &Artifact) -> Value {
    let mut members = Map::new();
    members.insert("path".to_owned(), artifact.path.as_str().into());
    if let Some(description) = &artifact.description {
        members.insert("description".to_owned(), description.as_str().into());
    }
    Value::Object(members)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::HitlId;

    const EXECUTOR: &str = "0b7e0c1e-8a53-4c7e-9d52-6f0e5f3f9a11";

    fn envelope(event: &str, data: &str) -> String {
        format!(
            r#"{{"event":"{event}","executor_id":"{EXECUTOR}","mission_id":"m-1","ts":"2026-01-01T00:00:00.000Z","data":{data},"extra":1}}"#
        )
    }

    #[test]
    fn every_event_of_ours_is_read_back_as_it_was() {
        let hitl = HitlId::new("h-1").unwrap();
        let text = || Some("text".to_owned());
        let events = [
            MissionEvent::Assigned { estimated_start: text() },
            MissionEvent::Started { agent_runtime: text(), pty_session_id: None },
            MissionEvent::Progress {
                phase: text(),
                iteration: Some(3),
                tokens_used: None,
                summary: text(),
                pct_complete: Some(12.5),
            },
            MissionEvent::HitlRequired {
                hitl_id: hitl.clone(),
                prompt: "really?".to_owned(),
                context: text(),
                expires_at: Some(Timestamp::from_millis(1_000)),
            },
            MissionEvent::HitlResponded { hitl_id: hitl, response: "yes".to_owned(), responded_at: None },
            MissionEvent::Paused { reason: text() },
            MissionEvent::Resumed { resumed_from: Some(MissionState::Suspended) },
            MissionEvent::Suspended { checkpoint_id: text(), reason: None },
            MissionEvent::Reconnected { checkpoint_id: text() },
            MissionEvent::Completed {
                exit_code: Some(-1),
                tokens_total: Some(9),
                summary: text(),
                artifacts: vec![Artifact { path: "a".to_owned(), description: None }],
            },
            MissionEvent::Failed { reason: text(), error: text(), exit_code: Some(2), tokens_total: None },
            MissionEvent::Aborted { aborted_by: text(), reason: None },
        ];
        for event in events {
            let sent = Envelope::mission(
                ExecutorId::new(EXECUTOR).unwrap(),
                MissionId::new("m-1").unwrap(),
                Timestamp::from_millis(1_767_225_600_123),
                event,
            );
            let frame = Frame::encode(sent.clone());
            assert_eq!(parse_envelope(&frame.raw).unwrap(), sent, "{}", frame.raw);
        }
    }

    #[test]
    fn the_offending_field_is_named() {
        let cases = [
            ("{", "body"),
            (r#"{"executor_id":"x"}"#, "event"),
            (r#"{"event":"mission.started","executor_id":"x","ts":"2026-01-01T00:00:00Z"}"#, "executor_id"),
        ];
        for (text, field) in cases {
            let Err(EnvelopeError::Field(error)) = parse_envelope(text) else { panic!("{text}") };
            assert_eq!(error.field, field);
        }
        let without_mission = envelope("mission.started", "{}").replace(r#""mission_id":"m-1","#, "");
        let without_question = envelope("mission.hitl_required", r#"{"prompt":"?"}"#);
        let contradicting = envelope("mission.completed", r#"{"state":"failed"}"#);
        let no_data = envelope("mission.progress", "7");
        for (text, field) in [
            (without_mission, "mission_id"),
            (without_question, "data.hitl_id"),
            (contradicting, "data.state"),
            (no_data, "data"),
        ] {
            let Err(EnvelopeError::Field(error)) = parse_envelope(&text) else { panic!("{text}") };
            assert_eq!(error.field, field);
        }
    }

    #[test]
    fn both_names_of_an_answer_are_read_and_written() {
        for data in [r#"{"hitl_id":"h","text":"yes"}"#, r#"{"hitl_id":"h","response":"yes"}"#] {
            let read = parse_envelope(&envelope("mission.hitl_responded", data)).unwrap();
            let Body::Mission(MissionEvent::HitlResponded { response, .. }) = &read.body else { panic!() };
            assert_eq!(response, "yes");
            assert!(encode_envelope(&read).contains(r#""response":"yes","text":"yes""#));
        }
    }

    #[test]
    fn odd_optional_values_do_not_cost_the_event() {
        let text =
            envelope("mission.completed", r#"{"exit_code":"zero","tokens_total":3.0,"artifacts":["a",{}]}"#);
        let Body::Mission(MissionEvent::Completed { exit_code, tokens_total, artifacts, .. }) =
            parse_envelope(&text).unwrap().body
        else {
            panic!()
        };
        assert_eq!((exit_code, tokens_total, artifacts.len()), (None, Some(3), 1));
    }

    #[test]
    fn unknown_events_are_kept_by_name() {
        let mission = parse_envelope(&envelope("mission.teleported", "{}")).unwrap();
        assert_eq!(
            mission.body,
            Body::Mission(MissionEvent::Other { name: "mission.teleported".to_owned() })
        );
        let other = parse_envelope(&envelope("executor.sneezed", "{}")).unwrap();
        assert_eq!(other.body, Body::Unknown { name: "executor.sneezed".to_owned() });
    }
}
