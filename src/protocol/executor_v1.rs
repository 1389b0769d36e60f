//! Pure: the bodies of the executor contract `executor.aiwg.io/v1`, version 1.0.0, for both ends.
//!
//! Reading is by hand, field by field, so that a refusal names the field; writing is derived. The events on the line are in
//! [`crate::protocol::envelope`], the paths in [`crate::protocol::route`].

use crate::domain::capability::Capability;
use crate::domain::id::{ExecutorId, HitlId, MissionId};
use crate::domain::lifecycle::MissionState;
use crate::domain::time::Timestamp;
use crate::protocol::field::{FieldError, Fields};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// The version that we speak.
pub const SPEC_VERSION: &str = "1.0.0";

/// What is sent as `completion` when a mission has none: strict servers and executors refuse null.
pub const DEFAULT_COMPLETION: &str = "the agent process exits with status 0";

/// How another version relates to ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecVersion {
    /// The same.
    Same,
    /// Another minor or patch version: go on, with a warning.
    Compatible,
    /// Another major version, or no version at all: refuse.
    Unsupported,
}

/// Compares a peer's version with ours.
pub fn spec_version(text: &str) -> SpecVersion {
    let mut parts = text.split('.').map(|part| part.parse::<u32>().ok());
    let numbers = (parts.next().flatten(), parts.next().flatten(), parts.next().flatten(), parts.next());
    match numbers {
        (Some(1), Some(0), Some(0), None) => SpecVersion::Same,
        (Some(1), Some(_), Some(_), None) => SpecVersion::Compatible,
        _ => SpecVersion::Unsupported,
    }
}

/// Where an executor is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransportEndpoints {
    /// Base URL of its REST surface.
    pub rest: String,
    /// Base URL of its WebSocket.
    pub ws: String,
    /// Base URL of its gRPC surface; never used by us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
}

/// `POST /api/v1/executors/register`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RegisterRequest {
    /// Chosen and kept by the executor.
    pub executor_id: ExecutorId,
    /// For people, 1 to 128 characters.
    pub name: String,
    /// Of the executor's program, 1 to 64 characters.
    pub version: String,
    /// Of the contract.
    pub spec_version: String,
    /// Where it is reached.
    pub transport_endpoints: TransportEndpoints,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// Its instance in an A2A network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub a2a_instance_id: Option<String>,
}

impl RegisterRequest {
    /// Reads and checks a registration. The version is only read: whether it is supported is the registry's decision.
    ///
    /// # Errors
    /// [`FieldError`] names the first field that breaks a rule.
    pub fn parse(body: &[u8]) -> Result<Self, FieldError> {
        let fields = Fields::parse_bytes(body)?;
        let endpoints = fields.object("transport_endpoints", "transport_endpoints.")?;
        let request = Self {
            executor_id: fields.required("executor_id")?,
            name: bounded(&fields, "name", 128)?,
            version: bounded(&fields, "version", 64)?,
            spec_version: fields.required("spec_version")?,
            transport_endpoints: TransportEndpoints {
                rest: uri(&endpoints, "rest", &["http", "https"])?,
                ws: uri(&endpoints, "ws", &["ws", "wss", "http", "https"])?,
                grpc: endpoints.optional("grpc")?,
            },
            capabilities: capabilities(&fields)?,
            a2a_instance_id: fields.optional("a2a_instance_id")?,
        };
        Ok(request)
    }
}

fn bounded(fields: &Fields<'_>, name: &str, limit: usize) -> Result<String, FieldError> {
    let text: String = fields.required(name)?;
    match text.chars().count() {
        length if (1..=limit).contains(&length) => Ok(text),
        length => Err(fields.error(name, format!("has {length} characters; use 1 to {limit}"))),
    }
}

fn uri(fields: &Fields<'_>, name: &str, schemes: &[&str]) -> Result<String, FieldError> {
    let text: String = fields.required(name)?;
    let well_formed = text.split_once("://").is_some_and(|(scheme, rest)| {
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        schemes.iter().any(|allowed| scheme.eq_ignore_ascii_case(allowed))
            && !host.is_empty()
            && text.len() <= 2048
            && text.bytes().all(|byte| byte.is_ascii_graphic())
    });
    if well_formed { Ok(text) } else { Err(fields.error(name, format!("is no {} URI", schemes.join("/")))) }
}

fn capabilities(fields: &Fields<'_>) -> Result<Vec<String>, FieldError> {
    let mut unique: Vec<String> = Vec::new();
    for text in fields.required::<Vec<String>>("capabilities")? {
        let _well_formed =
            Capability::announced(&text).map_err(|error| fields.error("capabilities", error.to_string()))?;
        if !unique.contains(&text) {
            unique.push(text);
        }
    }
    if unique.len() > 256 {
        return Err(fields.error("capabilities", "holds more than 256 entries"));
    }
    Ok(unique)
}

/// The answer to a registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterResponse {
    /// Repeated.
    pub executor_id: ExecutorId,
    /// The executor's bearer token. Never log it.
    pub token: String,
    /// When.
    pub registered_at: Timestamp,
}

/// One executor as the registry sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutorStatus {
    /// Chosen and kept by the executor.
    pub executor_id: ExecutorId,
    /// For people.
    #[serde(default)]
    pub name: String,
    /// Of the executor's program.
    #[serde(default)]
    pub version: String,
    /// Of the contract.
    #[serde(default)]
    pub spec_version: String,
    /// Where it is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport_endpoints: Option<TransportEndpoints>,
    /// What it can do.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Its instance in an A2A network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub a2a_instance_id: Option<String>,
    /// Whether its control connection is open.
    #[serde(default)]
    pub connected: bool,
    /// How many missions it holds.
    #[serde(default)]
    pub active_mission_count: u64,
    /// When it registered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_at: Option<Timestamp>,
    /// When it was heard last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_event_ts: Option<Timestamp>,
    /// Since when its control connection is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disconnected_at: Option<Timestamp>,
    /// It takes no new missions; left out when false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
}

/// `GET /api/v1/executors`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutorList {
    /// In the order of registration.
    pub executors: Vec<ExecutorStatus>,
}

/// Who may run a mission.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecutorFilter {
    /// Only this one.
    pub executor_id: Option<ExecutorId>,
    /// Only those that have all of these.
    pub capabilities: Vec<Capability>,
    /// Understood by `agentic-sandbox`; passed through.
    pub agent_id: Option<String>,
}

/// `POST /api/v1/sessions/{id}/dispatch`, in its strict and its legacy form.
#[derive(Debug, Clone)]
pub struct DispatchRequest {
    /// The mission.
    pub mission_id: MissionId,
    /// What is to be done; not empty.
    pub objective: String,
    /// When it is done; `None` in the legacy form.
    pub completion: Option<String>,
    /// Asks for an executor that survives restarts.
    pub long_running: bool,
    /// Who may run it.
    pub executor_filter: ExecutorFilter,
    /// Its instance in an A2A network.
    pub a2a_instance_id: Option<String>,
    /// Passed through untouched.
    pub metadata: Option<Box<RawValue>>,
    /// Fields that we do not know: kept, never sent on.
    pub other: Vec<(String, Box<RawValue>)>,
}

/// In which form a dispatch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PayloadForm {
    /// What the contract asks for.
    #[default]
    V1,
    /// What the Node bridge sends: `completion` and `agent_id` always there, null where there is none.
    Legacy,
}

impl DispatchRequest {
    /// Reads and checks a dispatch in either form.
    ///
    /// # Errors
    /// [`FieldError`] names the first field that breaks a rule.
    pub fn parse(body: &[u8]) -> Result<Self, FieldError> {
        const KNOWN: [&str; 7] = [
            "mission_id",
            "objective",
            "completion",
            "long_running",
            "executor_filter",
            "a2a_instance_id",
            "metadata",
        ];
        let fields = Fields::parse_bytes(body)?;
        let filter = fields.object("executor_filter", "executor_filter.")?;
        let wanted: Vec<String> = filter.optional("capabilities")?.unwrap_or_default();
        let request = Self {
            mission_id: fields.required("mission_id")?,
            objective: fields.required("objective")?,
            completion: fields.optional("completion")?,
            long_running: fields.optional("long_running")?.unwrap_or(false),
            executor_filter: ExecutorFilter {
                executor_id: filter.optional("executor_id")?,
                capabilities: wanted.into_iter().map(Capability::opaque).collect(),
                agent_id: filter.optional("agent_id")?,
            },
            a2a_instance_id: fields.optional("a2a_instance_id")?,
            metadata: fields.raw("metadata").map(ToOwned::to_owned),
            other: fields.others(&KNOWN),
        };
        if request.objective.trim().is_empty() {
            return Err(fields.error("objective", "is empty"));
        }
        if request.completion.as_deref().is_some_and(str::is_empty) {
            return Err(fields.error("completion", "is empty; leave it out or say when the mission is done"));
        }
        if request.metadata.as_ref().is_some_and(|raw| !raw.get().starts_with('{')) {
            return Err(fields.error("metadata", "is no object"));
        }
        Ok(request)
    }

    /// Writes the body, as [`DispatchBody::encode`] does.
    pub fn encode(&self, form: PayloadForm) -> String {
        let filter = &self.executor_filter;
        DispatchBody {
            mission_id: &self.mission_id,
            objective: &self.objective,
            completion: self.completion.as_deref(),
            long_running: self.long_running,
            executor_id: filter.executor_id.as_ref(),
            capabilities: filter.capabilities.iter().map(Capability::as_str).collect(),
            agent_id: filter.agent_id.as_deref(),
            a2a_instance_id: self.a2a_instance_id.as_deref(),
            metadata: self.metadata.as_deref().or(serde_json::from_str("{}").ok()),
        }
        .encode(form)
    }
}

/// What a dispatch is written from, wherever its parts lie.
#[derive(Debug, Clone)]
pub struct DispatchBody<'a, M> {
    /// The mission.
    pub mission_id: &'a MissionId,
    /// What is to be done; not empty.
    pub objective: &'a str,
    /// When it is done.
    pub completion: Option<&'a str>,
    /// Asks for an executor that survives restarts.
    pub long_running: bool,
    /// Only this executor.
    pub executor_id: Option<&'a ExecutorId>,
    /// Only executors that have all of these.
    pub capabilities: Vec<&'a str>,
    /// Which agent of the executor.
    pub agent_id: Option<&'a str>,
    /// Its instance in an A2A network.
    pub a2a_instance_id: Option<&'a str>,
    /// Passed through untouched; becomes an object.
    pub metadata: M,
}

impl<M: Serialize> DispatchBody<'_, M> {
    /// Writes the body. In the strict form an absent `completion` becomes [`DEFAULT_COMPLETION`].
    pub fn encode(&self, form: PayloadForm) -> String {
        /// What the keys and a handful of short values take.
        const FRAME: usize = 512;
        let wire = DispatchWire {
            mission_id: self.mission_id,
            objective: self.objective,
            completion: match form {
                PayloadForm::V1 => Some(self.completion.unwrap_or(DEFAULT_COMPLETION)),
                PayloadForm::Legacy => self.completion,
            },
            long_running: self.long_running,
            executor_filter: FilterWire {
                executor_id: self.executor_id,
                capabilities: &self.capabilities,
                agent_id: match form {
                    PayloadForm::V1 => self.agent_id.map(Value::from),
                    PayloadForm::Legacy => Some(Value::from(self.agent_id)),
                },
            },
            a2a_instance_id: self.a2a_instance_id,
            metadata: &self.metadata,
        };
        let mut body = Vec::with_capacity(FRAME + self.objective.len());
        // Strings, flags and valid raw JSON always serialise, and to UTF-8.
        let written =
            serde_json::to_writer(&mut body, &wire).ok().and_then(|()| String::from_utf8(body).ok());
        written.unwrap_or_else(|| "{}".to_owned())
    }
}

#[derive(Serialize)]
struct DispatchWire<'a, M> {
    mission_id: &'a MissionId,
    objective: &'a str,
    completion: Option<&'a str>,
    long_running: bool,
    executor_filter: FilterWire<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    a2a_instance_id: Option<&'a str>,
    metadata: &'a M,
}

#[derive(Serialize)]
struct FilterWire<'a> {
    executor_id: Option<&'a ExecutorId>,
    capabilities: &'a [&'a str],
    /// A null is written, `None` is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_id: Option<Value>,
}

/// The 202 of a dispatch, as we write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DispatchResponse {
    /// Repeated.
    pub mission_id: MissionId,
    /// Who runs it.
    pub executor_id: ExecutorId,
    /// Always `assigned`.
    pub status: String,
    /// When the executor expects to begin, as it wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_start: Option<String>,
    /// Which route took it: `v1`.
    pub dispatch_path: String,
    /// This is the first answer again.
    pub idempotent_replayed: bool,
}

/// What can be read from any server's 2xx to a dispatch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DispatchAnswer {
    /// Who runs it, when the answer says so.
    pub executor_id: Option<ExecutorId>,
    /// When the executor expects to begin, as it wrote it.
    pub estimated_start: Option<String>,
    /// This is an earlier answer again.
    pub idempotent_replayed: bool,
}

impl DispatchAnswer {
    /// Reads a 2xx body; anything unreadable leaves the fields empty, for a 2xx is an acceptance whatever it says.
    pub fn read(body: &[u8]) -> Self {
        Fields::parse_bytes(body).map_or_else(
            |_unreadable| Self::default(),
            |fields| Self {
                executor_id: fields.lenient("executor_id"),
                estimated_start: fields.lenient("estimated_start"),
                idempotent_replayed: fields.lenient("idempotent_replayed").unwrap_or(false),
            },
        )
    }
}

/// What a mission waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// One word: `executor_start`, `human`, `operator`, `executor_connection`, `checkpoint`, `executor_answer`.
    #[serde(rename = "for")]
    pub what: String,
    /// Since when.
    pub since: Timestamp,
    /// The sentence for people.
    pub detail: String,
}

/// `GET /api/v1/missions/{id}`. What is optional and has another form is left out: the state is what counts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MissionStatus {
    /// The mission.
    pub mission_id: MissionId,
    /// Who runs it.
    #[serde(default, deserialize_with = "if_usable", skip_serializing_if = "Option::is_none")]
    pub executor_id: Option<ExecutorId>,
    /// Where it stands.
    #[serde(with = "wire_state")]
    pub state: MissionState,
    /// When it was dispatched first.
    #[serde(default, deserialize_with = "if_usable", skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// When anything about it changed last.
    #[serde(default, deserialize_with = "if_usable", skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, deserialize_with = "if_usable", skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// Its last events, oldest first, at most [`MAX_RECENT_EVENTS`]; read them with [`crate::protocol::envelope::Frame::parse`].
    #[serde(default)]
    pub recent_events: Vec<Box<RawValue>>,
    /// The terminal it runs in.
    #[serde(default, deserialize_with = "if_usable", skip_serializing_if = "Option::is_none")]
    pub pty_session_ref: Option<String>,
    /// Of the agent's process.
    #[serde(default, deserialize_with = "if_usable", skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// Why it failed.
    #[serde(default, deserialize_with = "if_usable", skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it waits for; only while it does.
    #[serde(default, deserialize_with = "if_usable", skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// True where it failed because no executor took it: it may be dispatched again as if it were unknown.
    #[serde(default, deserialize_with = "if_usable", skip_serializing_if = "Option::is_none")]
    pub never_began: Option<bool>,
}

fn if_usable<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).ok())
}

/// How many events a mission's status carries at most.
pub const MAX_RECENT_EVENTS: usize = 50;

/// `POST /api/v1/missions/{id}/hitl_response`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HitlResponse {
    /// Which question.
    pub hitl_id: HitlId,
    /// The answer.
    pub response: String,
}

impl HitlResponse {
    /// Reads an answer, from `response` or from `text`.
    ///
    /// # Errors
    /// [`FieldError`] names the field.
    pub fn parse(body: &[u8]) -> Result<Self, FieldError> {
        let fields = Fields::parse_bytes(body)?;
        let response = fields.optional("response")?.or(fields.optional("text")?);
        Ok(Self {
            hitl_id: fields.required("hitl_id")?,
            response: response.ok_or_else(|| fields.error("response", "is missing"))?,
        })
    }
}

/// The 202 of an operator's order or answer. The state is the one at that moment: the executor has yet to confirm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandResponse {
    /// The mission.
    pub mission_id: MissionId,
    /// Where it stands, in the wire's spelling.
    #[serde(with = "wire_state")]
    pub status: MissionState,
}

/// Codec of a mission state in the wire's spelling; reads the file's as well.
pub mod wire_state {
    use crate::domain::lifecycle::MissionState;
    use serde::{Deserialize as _, Deserializer, Serializer};

    /// Writes the wire's spelling.
    pub fn serialize<S: Serializer>(state: &MissionState, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(state.as_wire())
    }

    /// Reads either spelling.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<MissionState, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
        MissionState::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::envelope::Frame;

    macro_rules! fixture {
        ($name:literal) => {
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/executor-v1/", $name)).as_slice()
        };
    }

    #[test]
    fn the_state_of_a_mission_is_read_whatever_the_optional_fields_look_like() {
        let odd = r#"{"mission_id":"m","state":"running","executor_id":"not a uuid","created_at":5,"updated_at":null,
            "completed_at":"2026-01-01T00:00:00.000Z","exit_code":"0","error":{"a":1},"waiting":{"for":"human"},"recent_events":[{"n":1.10}]}"#;
        let read: MissionStatus = serde_json::from_str(odd).unwrap();
        assert_eq!((read.state, &read.executor_id, &read.waiting), (MissionState::Running, &None, &None));
        assert!(read.completed_at.is_some() && read.created_at.is_none() && read.exit_code.is_none());
        assert_eq!(read.recent_events[0].get(), r#"{"n":1.10}"#);
        assert!(
            serde_json::from_str::<MissionStatus>(r#"{"mission_id":"m","state":"lost in space"}"#).is_err()
        );
    }

    #[test]
    fn the_registration_on_file_is_read_and_written_unchanged() {
        let read = RegisterRequest::parse(fixture!("register.json")).unwrap();
        assert_eq!(read.capabilities.len(), 5);
        let file: Value = serde_json::from_slice(fixture!("register.json")).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), file);
    }

    #[test]
    fn a_bad_registration_names_its_field() {
        let good: Value = serde_json::from_slice(fixture!("register.json")).unwrap();
        let cases = [
            ("/executor_id", serde_json::json!("me"), "executor_id"),
            ("/name", serde_json::json!(""), "name"),
            ("/name", serde_json::json!("x".repeat(129)), "name"),
            ("/version", serde_json::json!(1), "version"),
            ("/spec_version", serde_json::json!(null), "spec_version"),
            ("/transport_endpoints/rest", serde_json::json!("ftp://h"), "transport_endpoints.rest"),
            ("/transport_endpoints/ws", serde_json::json!("ws://"), "transport_endpoints.ws"),
            ("/capabilities", serde_json::json!("hitl"), "capabilities"),
            ("/capabilities/0", serde_json::json!("nonsense"), "capabilities"),
        ];
        for (pointer, value, field) in cases {
            let mut body = good.clone();
            *body.pointer_mut(pointer).unwrap() = value;
            let error = RegisterRequest::parse(body.to_string().as_bytes()).unwrap_err();
            assert_eq!(error.field, field, "{error}");
        }
    }

    #[test]
    fn a_strict_dispatch_is_written_as_it_was_read() {
        let read = DispatchRequest::parse(fixture!("dispatch-v1.json")).unwrap();
        let file: Value = serde_json::from_slice(fixture!("dispatch-v1.json")).unwrap();
        let written: Value = serde_json::from_str(&read.encode(PayloadForm::V1)).unwrap();
        assert_eq!(written, file);
    }

    #[test]
    fn the_node_bridges_dispatch_is_accepted_and_sent_on_in_the_strict_form() {
        let read = DispatchRequest::parse(fixture!("dispatch-legacy.json")).unwrap();
        assert_eq!(read.completion, None);
        let legacy: Value = serde_json::from_str(&read.encode(PayloadForm::Legacy)).unwrap();
        let mut file: Value = serde_json::from_slice(fixture!("dispatch-legacy.json")).unwrap();
        file.as_object_mut().unwrap().remove("x_unknown");
        assert_eq!(legacy, file);
        let strict: Value = serde_json::from_str(&read.encode(PayloadForm::V1)).unwrap();
        assert_eq!(strict["completion"], DEFAULT_COMPLETION);
        assert_eq!(strict["executor_filter"], serde_json::json!({"executor_id": null, "capabilities": []}));
        assert_eq!(read.other[0].0, "x_unknown");
    }

    #[test]
    fn metadata_keeps_the_spelling_of_its_numbers() {
        let body =
            br#"{"mission_id":"m","objective":"o","metadata":{"n":12345678901234567890123, "x":1.10}}"#;
        let written = DispatchRequest::parse(body).unwrap().encode(PayloadForm::V1);
        assert!(written.contains(r#"{"n":12345678901234567890123, "x":1.10}"#), "{written}");
    }

    #[test]
    fn a_bad_dispatch_names_its_field() {
        let cases: [(&[u8], &str); 7] = [
            (b"nope", "body"),
            (br#"{"objective":"o"}"#, "mission_id"),
            (br#"{"mission_id":"m","objective":" "}"#, "objective"),
            (br#"{"mission_id":"m","objective":"o","completion":""}"#, "completion"),
            (br#"{"mission_id":"m","objective":"o","long_running":"yes"}"#, "long_running"),
            (
                br#"{"mission_id":"m","objective":"o","executor_filter":{"executor_id":7}}"#,
                "executor_filter.executor_id",
            ),
            (br#"{"mission_id":"m","objective":"o","metadata":[]}"#, "metadata"),
        ];
        for (body, field) in cases {
            assert_eq!(DispatchRequest::parse(body).unwrap_err().field, field);
        }
    }

    #[test]
    fn a_status_is_read_with_its_events() {
        let status: MissionStatus = serde_json::from_slice(fixture!("mission-status.json")).unwrap();
        assert_eq!(status.state, MissionState::HitlRequired);
        let events: Vec<Frame> =
            status.recent_events.iter().map(|raw| Frame::parse(raw.get()).unwrap()).collect();
        assert_eq!(events.len(), 3);
        let again = serde_json::to_string(&status).unwrap();
        assert!(again.contains(r#""state":"hitl-required""#));
    }

    #[test]
    fn every_frame_on_file_is_understood() {
        let text = std::str::from_utf8(fixture!("events.jsonl")).unwrap();
        for line in text.lines() {
            let frame = Frame::parse(line).unwrap();
            assert_eq!(&*frame.raw, line);
        }
        assert_eq!(text.lines().count(), 18);
    }

    #[test]
    fn versions_of_another_major_are_unsupported() {
        assert_eq!(spec_version("1.0.0"), SpecVersion::Same);
        assert_eq!(spec_version("1.4.2"), SpecVersion::Compatible);
        for bad in ["2.0.0", "0.9.0", "1.0", "one", "", "1.0.0.0"] {
            assert_eq!(spec_version(bad), SpecVersion::Unsupported, "{bad}");
        }
    }

    #[test]
    fn any_answer_to_a_dispatch_is_an_answer() {
        assert_eq!(DispatchAnswer::read(b"ok"), DispatchAnswer::default());
        let answer = DispatchAnswer::read(br#"{"executor_id":"unknown","estimated_start":"soon"}"#);
        assert_eq!((answer.executor_id, answer.estimated_start.as_deref()), (None, Some("soon")));
    }
}
