//! Pure: a mission as it lies in the file → the body of its dispatch.
//!
//! The values travel as the text they have in the file: a number of thirty digits in the metadata arrives with all of
//! them.

use crate::domain::id::{ExecutorId, MissionId};
use crate::protocol::executor_v1::{DEFAULT_COMPLETION, DispatchBody, PayloadForm};
use crate::protocol::field::{FieldError, Fields};
use crate::session::mission_view::MissionView;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// How bodies are made.
#[derive(Debug, Clone)]
pub struct Payload {
    /// The form.
    pub form: PayloadForm,
    /// Stands in for a missing `completion` in the v1 form, because strict servers refuse a payload without one.
    pub default_completion: String,
    /// Says which agent of the executor is meant, where the mission does. The Node registry refuses every dispatch that does.
    pub names_agent: bool,
}

impl Default for Payload {
    fn default() -> Self {
        Self { form: PayloadForm::V1, default_completion: DEFAULT_COMPLETION.to_owned(), names_agent: true }
    }
}

impl Payload {
    /// Returns how bodies are made for a server that knows no agents.
    #[must_use]
    pub fn without_agent(&self) -> Self {
        Self { form: PayloadForm::V1, names_agent: false, ..self.clone() }
    }

    /// Returns the body for `mission` of the session whose id on the wire is `wire_session`.
    ///
    /// # Errors
    /// [`FieldError`] names the field of the file that cannot be sent.
    pub fn body(
        &self,
        wire_session: &str,
        id: &MissionId,
        mission: &MissionView<'_>,
    ) -> Result<String, FieldError> {
        let text = |key: &str| mission.string(key).filter(|text| !text.trim().is_empty());
        let executor = text("targetExecutorId")
            .map(|id| ExecutorId::new(&*id))
            .transpose()
            .map_err(|error| FieldError::new("targetExecutorId", error.to_string()))?;
        let agent = text("targetAgentId").or_else(|| text("targetAgent")).filter(|_| self.names_agent);
        let capabilities: Vec<String> = match mission.field("requiredCapabilities") {
            None | Some("null") => Vec::new(),
            Some(raw) => serde_json::from_str(raw).map_err(|_shape| {
                FieldError::new("requiredCapabilities", "is not an array of strings; write [\"hitl\", …]")
            })?,
        };
        let completion = text("completion");
        let otherwise = match self.form {
            PayloadForm::V1 => Some(self.default_completion.as_str()),
            PayloadForm::Legacy => None,
        };
        let body = DispatchBody {
            mission_id: id,
            objective: &mission.string("objective").unwrap_or_default(),
            completion: completion.as_deref().or(otherwise),
            long_running: mission.boolean("longRunning").unwrap_or(false),
            executor_id: executor.as_ref(),
            capabilities: capabilities.iter().map(String::as_str).collect(),
            agent_id: agent.as_deref(),
            a2a_instance_id: None,
            metadata: Metadata::of(wire_session, mission)?,
        };
        Ok(body.encode(self.form))
    }
}

/// `{mc_session_id, mode, priority}`, overlaid with the mission's own `metadata`.
struct Metadata<'a> {
    ours: [(&'static str, Cow<'a, str>); 3],
    theirs: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Metadata<'a> {
    fn of(wire_session: &'a str, mission: &MissionView<'a>) -> Result<Self, FieldError> {
        let theirs = match mission.field("metadata") {
            None | Some("null") => Vec::new(),
            Some(raw) => Fields::parse(raw, "metadata.")
                .map_err(|error| FieldError::new("metadata", error.to_string()))?
                .into_unique(),
        };
        let said =
            |key: &str, otherwise: &'static str| mission.string(key).unwrap_or(Cow::Borrowed(otherwise));
        let ours = [
            ("mc_session_id", Cow::Borrowed(wire_session)),
            ("mode", said("mode", "direct")),
            ("priority", said("priority", "normal")),
        ];
        Ok(Self { ours, theirs })
    }
}

impl Serialize for Metadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, ours) in &self.ours {
            match self.theirs.iter().find(|(name, _)| name == key) {
                Some((_, raw)) => map.serialize_entry(key, raw)?,
                None => map.serialize_entry(key, ours)?,
            }
        }
        for (key, raw) in &self.theirs {
            if self.ours.iter().all(|(name, _)| name != key) {
                map.serialize_entry(key, raw)?;
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::document::Document;
    use serde_json::{Value, json};

    fn body(form: PayloadForm, mission: &str) -> Value {
        let text = format!("{{\"missions\":[{mission}]}}");
        let document = Document::parse(text.into_bytes()).unwrap();
        let payload = Payload { form, ..Payload::default() };
        serde_json::from_str(
            &payload.body("s 1", &MissionId::new("m-1").unwrap(), &document.mission_at(0).unwrap()).unwrap(),
        )
        .unwrap()
    }

    #[test]
    fn the_v1_form_leaves_out_what_is_not_set() {
        let sent = body(PayloadForm::V1, r#"{"id":"m-1","objective":"do it"}"#);
        let expected = json!({
            "mission_id": "m-1", "objective": "do it", "completion": DEFAULT_COMPLETION, "long_running": false,
            "executor_filter": {"executor_id": null, "capabilities": []},
            "metadata": {"mc_session_id": "s 1", "mode": "direct", "priority": "normal"},
        });
        assert_eq!(sent, expected);
    }

    #[test]
    fn the_legacy_form_sends_nulls() {
        let sent = body(PayloadForm::Legacy, r#"{"id":"m-1","objective":"do it"}"#);
        assert_eq!(sent["completion"], Value::Null);
        assert_eq!(
            sent["executor_filter"],
            json!({"executor_id": null, "capabilities": [], "agent_id": null})
        );
    }

    #[test]
    fn every_field_of_the_mission_has_its_place() {
        let sent = body(
            PayloadForm::V1,
            r#"{"id":"m-1","objective":"do \"it\"","completion":"done","longRunning":true,"targetExecutorId":"0b7e0c1e-8a53-4c7e-9d52-6f0e5f3f9a11",
                "requiredCapabilities":["hitl"],"targetAgent":"a","priority":"high","mode":"pty-orchestrator",
                "metadata":{"mode":"mine","n":1,"n":2}}"#,
        );
        let expected = json!({
            "mission_id": "m-1", "objective": "do \"it\"", "completion": "done", "long_running": true,
            "executor_filter": {"executor_id": "0b7e0c1e-8a53-4c7e-9d52-6f0e5f3f9a11", "capabilities": ["hitl"], "agent_id": "a"},
            "metadata": {"mc_session_id": "s 1", "mode": "mine", "priority": "high", "n": 2},
        });
        assert_eq!(sent, expected);
    }

    #[test]
    fn a_server_that_knows_no_agents_is_told_of_none() {
        let document =
            Document::parse(br#"{"missions":[{"objective":"o","targetAgent":"a"}]}"#.to_vec()).unwrap();
        let view = document.mission_at(0).unwrap();
        for form in [PayloadForm::V1, PayloadForm::Legacy] {
            let payload = Payload { form, ..Payload::default() };
            let id = MissionId::new("m").unwrap();
            assert!(payload.body("s", &id, &view).unwrap().contains("\"agent_id\":\"a\""));
            assert!(!payload.without_agent().body("s", &id, &view).unwrap().contains("agent_id"));
        }
    }

    #[test]
    fn what_cannot_be_sent_is_named() {
        for (mission, field) in [
            (r#"{"targetExecutorId":"nobody"}"#, "targetExecutorId"),
            (r#"{"requiredCapabilities":"hitl"}"#, "requiredCapabilities"),
            (r#"{"metadata":[1]}"#, "metadata"),
        ] {
            let document = Document::parse(format!("{{\"missions\":[{mission}]}}").into_bytes()).unwrap();
            let id = MissionId::new("m").unwrap();
            let refused = Payload::default().body("s", &id, &document.mission_at(0).unwrap()).unwrap_err();
            assert_eq!(refused.field, field);
        }
    }

    #[test]
    fn numbers_keep_their_spelling() {
        let text = r#"{"missions":[{"id":"m","objective":"o","metadata":{"big":12345678901234567890123,"x":1.10}}]}"#;
        let document = Document::parse(text.as_bytes().to_vec()).unwrap();
        let sent = Payload::default()
            .body("s", &MissionId::new("m").unwrap(), &document.mission_at(0).unwrap())
            .unwrap();
        assert!(sent.contains("\"big\":12345678901234567890123,\"x\":1.10"), "{sent}");
    }
}
