//! Pure: what a dropped file says, and what becomes of it in a session.
//!
//! People and scripts write these files, so every refusal names the line, the column and the field. What is taken in
//! keeps its text: keys that we do not know, and the spelling of numbers, go into the session as they are.

use std::collections::HashSet;

use super::document::{Document, DocumentError, decoded_text};
use super::edits::{Edits, MissionPatch};
use super::json::{self, Fault, Member, Scanner, Span, last_named};
use super::{patch, splice};
use crate::domain::id::{MissionId, SessionId};
use crate::domain::mission::Priority;
use crate::domain::time::Timestamp;

/// Why a dropped file is not taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DropError {
    /// The text is no JSON: perhaps it is still being written.
    #[error("{0}")]
    Syntax(DocumentError),
    /// The text is JSON, but no mission.
    #[error("line {}, column {}, field {field:?}: {}", at.line, at.column, at.message)]
    Field {
        /// The field; for an element of an array like `[2].objective`.
        field: String,
        /// The place, and what is wrong.
        at: DocumentError,
    },
}

impl DropError {
    /// Says whether the file may only be unfinished.
    pub fn is_perhaps_unfinished(&self) -> bool {
        matches!(self, Self::Syntax(_))
    }
}

/// One mission of a dropped file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppedMission {
    /// Its id: its own, or made of the file's stem.
    pub id: MissionId,
    /// The session that it names.
    pub session: Option<SessionId>,
    raw: String,
}

/// How a dropped mission stands to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The session has no mission of that id.
    New,
    /// The session has it with all that the file says: it came from this file, or from one like it.
    Known,
    /// The session has another mission of that id.
    Taken,
}

impl DroppedMission {
    /// Compares it with a session. `dropped` is when its file was put into the drop folder: a mission that is older cannot
    /// have come from it.
    pub fn standing(&self, session: &Document, dropped: Timestamp) -> Standing {
        let Some(there) = session.mission(self.id.as_str()) else {
            return Standing::New;
        };
        let Ok((_, members)) = splice::object_members(&self.raw) else {
            return Standing::Taken;
        };
        let is_there = |member: &Member| {
            let key = json::decoded(member.key.of(&self.raw)).unwrap_or_default();
            there.field(&key).is_some_and(|value| json::is_same(value, member.value.of(&self.raw)))
        };
        let is_said = |member: &&Member| {
            let moving = ["status", "createdAt", "loop", "lastAction"];
            !moving.iter().any(|key| json::spells(member.key.of(&self.raw), key))
        };
        let says_when = last_named(&self.raw, &members, "createdAt").is_some();
        let created = there.string("createdAt").and_then(|text| Timestamp::parse(&text).ok());
        let is_older = !says_when && created.is_some_and(|created| created < dropped);
        let is_from_here = !is_older && members.iter().filter(is_said).all(is_there);
        if is_from_here { Standing::Known } else { Standing::Taken }
    }

    /// Adds it to edits, queued.
    pub fn append_to(&self, edits: &mut Edits, now: Timestamp) {
        let mut patch = MissionPatch::new().with_str("status", "queued");
        let has_stamp = splice::object_members(&self.raw)
            .is_ok_and(|(_, members)| last_named(&self.raw, &members, "createdAt").is_some());
        if !has_stamp {
            patch = patch.with_str("createdAt", &now.to_string());
        }
        edits.append_object(splice::patched_object(&self.raw, &patch));
    }
}

/// Reads a dropped file: one mission or an array of them. In the drop folder `of` a session it may name no other one.
///
/// # Errors
/// [`DropError`] for the first thing that is wrong; a file is taken in whole or not at all.
pub fn parse(bytes: Vec<u8>, stem: &str, of: Option<&SessionId>) -> Result<Vec<DroppedMission>, DropError> {
    let text = decoded_text(bytes).map_err(DropError::Syntax)?;
    let value = Scanner::whole(&text).map_err(|fault| syntax(&text, fault))?;
    let file = DropText { text: &text, of };
    match value.of(&text).as_bytes().first() {
        Some(b'{') => Ok(vec![file.mission(value, stem, "")?]),
        Some(b'[') => file.missions(value, stem),
        Some(_) | None => {
            Err(file.refusal(value.start(), "", "a drop is a mission in braces, or an array of them"))
        }
    }
}

fn syntax(text: &str, fault: Fault) -> DropError {
    DropError::Syntax(DocumentError::from_fault(text, fault))
}

/// What a known field has to be.
enum Kind {
    Text,
    Word(&'static [&'static str]),
    Boolean,
    Number,
    Texts,
    Object,
}

const PRIORITIES: [&str; 4] =
    [Priority::Critical.as_str(), Priority::High.as_str(), Priority::Normal.as_str(), Priority::Low.as_str()];

/// Fields that are read by us or by Mission Control. Null stands for absence.
const KNOWN: [(&str, Kind); 11] = [
    ("completion", Kind::Text),
    ("priority", Kind::Word(&PRIORITIES)),
    ("mode", Kind::Word(&["direct", "pty-orchestrator"])),
    ("targetAgent", Kind::Text),
    ("targetAgentId", Kind::Text),
    ("targetExecutorId", Kind::Text),
    ("createdAt", Kind::Text),
    ("longRunning", Kind::Boolean),
    ("maxIterations", Kind::Number),
    ("requiredCapabilities", Kind::Texts),
    ("metadata", Kind::Object),
];

struct DropText<'a> {
    text: &'a str,
    /// Whose drop folder it lies in.
    of: Option<&'a SessionId>,
}

impl DropText<'_> {
    fn refusal(&self, offset: usize, field: impl Into<String>, message: impl Into<String>) -> DropError {
        let at = DocumentError::locate(self.text.as_bytes(), offset, message);
        DropError::Field { field: field.into(), at }
    }

    fn missions(&self, array: Span, stem: &str) -> Result<Vec<DroppedMission>, DropError> {
        let mut elements = Vec::new();
        let mut scanner = Scanner::new(self.text).map_err(|fault| syntax(self.text, fault))?;
        scanner.white_space();
        scanner
            .array(|scanner| {
                elements.push(scanner.value()?);
                Ok(())
            })
            .map_err(|fault| syntax(self.text, fault))?;
        if elements.is_empty() {
            return Err(self.refusal(array.start(), "", "the array holds no mission"));
        }
        let mut ids = HashSet::new();
        let mut missions = Vec::with_capacity(elements.len());
        for (place, element) in elements.into_iter().enumerate() {
            let prefix = format!("[{place}]");
            if !element.of(self.text).starts_with('{') {
                return Err(self.refusal(element.start(), prefix, "a mission is an object in braces"));
            }
            let mission = self.mission(element, &format!("{stem}-{}", place + 1), &format!("{prefix}."))?;
            if !ids.insert(mission.id.clone()) {
                let message = format!("the id {} is in this file twice", mission.id);
                return Err(self.refusal(element.start(), format!("{prefix}.id"), message));
            }
            missions.push(mission);
        }
        Ok(missions)
    }

    fn mission(&self, object: Span, default_id: &str, prefix: &str) -> Result<DroppedMission, DropError> {
        let raw = object.of(self.text);
        let (_, members) = splice::object_members(raw).map_err(|fault| syntax(raw, fault))?;
        let field = |key: &str| {
            let member = last_named(raw, &members, key)?;
            Some((member.value.of(raw), object.start() + member.value.start()))
        };
        let refuse = |offset: usize, key: &str, message: String| {
            Err(self.refusal(offset, format!("{prefix}{key}"), message))
        };
        match field("objective").map(|(value, offset)| (json::decoded(value), offset)) {
            None => return refuse(object.start(), "objective", "is missing".to_owned()),
            Some((None, offset)) => return refuse(offset, "objective", "is not a string".to_owned()),
            Some((Some(text), offset)) if text.trim().is_empty() => {
                return refuse(offset, "objective", "is empty".to_owned());
            }
            Some((Some(_), _)) => {}
        }
        for (key, kind) in &KNOWN {
            if let Some((value, offset)) = field(key)
                && let Some(message) = kind.complaint(value)
            {
                return refuse(offset, key, message);
            }
        }
        let mut patch = MissionPatch::new().without("session");
        for mark in patch::MARKS {
            patch = patch.without(mark);
        }
        let id = match field("id").filter(|(value, _)| *value != "null") {
            Some((value, offset)) => match json::decoded(value).map(MissionId::new) {
                Some(Ok(id)) => id,
                Some(Err(error)) => return refuse(offset, "id", error.to_string()),
                None => return refuse(offset, "id", "is not a string".to_owned()),
            },
            None => match MissionId::new(default_id) {
                Ok(id) => id,
                Err(error) => {
                    return refuse(
                        object.start(),
                        "id",
                        format!("is missing, and the file's name is none: {error}"),
                    );
                }
            },
        };
        patch = patch.with_str("id", id.as_str());
        let session = match field("session").filter(|(value, _)| *value != "null") {
            Some((value, offset)) => match json::decoded(value).map(SessionId::new) {
                Some(Ok(session)) if self.of.is_some_and(|own| *own != session) => {
                    let own = self.of.map_or("", SessionId::as_str);
                    let message =
                        format!("names session {session}, but the file lies in the drop folder of {own}");
                    return refuse(offset, "session", message);
                }
                Some(Ok(session)) => Some(session),
                Some(Err(error)) => return refuse(offset, "session", error.to_string()),
                None => return refuse(offset, "session", "is not a string".to_owned()),
            },
            None => None,
        };
        Ok(DroppedMission { id, session, raw: splice::patched_object(raw, &patch) })
    }
}

impl Kind {
    /// Says what is wrong with a value, if anything is.
    fn complaint(&self, value: &str) -> Option<String> {
        if value == "null" {
            return None;
        }
        let is_text = |value: &str| value.starts_with('"');
        let wanted = match self {
            Self::Text if !is_text(value) => "a string",
            Self::Boolean if value != "true" && value != "false" => "true or false",
            Self::Number if !value.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => "a number",
            Self::Object if !value.starts_with('{') => "an object",
            Self::Texts if !is_array_of_strings(value) => "an array of strings",
            Self::Word(words) => match json::decoded(value) {
                Some(word) if words.contains(&word.as_ref()) => return None,
                Some(word) => return Some(format!("{word:?} is not one of {}", words.join(", "))),
                None => "a string",
            },
            Self::Text | Self::Boolean | Self::Number | Self::Object | Self::Texts => return None,
        };
        Some(format!("is not {wanted}"))
    }
}

fn is_array_of_strings(value: &str) -> bool {
    let Ok(mut scanner) = Scanner::new(value) else {
        return false;
    };
    let mut only_strings = value.starts_with('[');
    if only_strings {
        let walked = scanner.array(|scanner| {
            only_strings &= scanner.peek() == Some(b'"');
            scanner.value().map(drop)
        });
        only_strings &= walked.is_ok();
    }
    only_strings
}

/// Returns the stem of a finished drop's file name; nothing for the names that are left alone: what does not end in
/// `.json`, as the unfinished files of editors and copying programs do not, and what starts with a dot.
pub fn stem(name: &str) -> Option<&str> {
    name.strip_suffix(".json").filter(|stem| !stem.is_empty() && !stem.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<DroppedMission>, String> {
        parse(text.as_bytes().to_vec(), "file", None).map_err(|error| error.to_string())
    }

    fn appended(mission: &DroppedMission) -> String {
        let mut edits = Edits::new();
        mission.append_to(&mut edits, Timestamp::EPOCH);
        let bytes = Document::parse("{\"missions\":[]}").unwrap().apply(&edits).unwrap();
        Document::parse(bytes).unwrap().mission_at(0).unwrap().raw().to_owned()
    }

    #[test]
    fn a_mission_gets_an_id_a_status_and_a_stamp_and_keeps_the_rest() {
        let missions =
            parsed(r#"{"objective": "do", "x": 1.10, "session": "s1", "executorId": "old"}"#).unwrap();
        assert_eq!(missions[0].session.as_ref().unwrap().as_str(), "s1");
        assert_eq!(
            appended(&missions[0]),
            r#"{"objective":"do","x":1.10,"id":"file","status":"queued","createdAt":"1970-01-01T00:00:00.000Z"}"#
        );
        let missions =
            parsed(r#"[{"objective":"a"},{"objective":"b","id":"own","status":"done","createdAt":"t"}]"#);
        let missions = missions.unwrap();
        assert_eq!(missions[0].id.as_str(), "file-1");
        assert_eq!(
            appended(&missions[1]),
            r#"{"objective":"b","id":"own","status":"queued","createdAt":"t"}"#
        );
    }

    #[test]
    fn refusals_name_line_column_and_field() {
        let cases = [
            ("{\n  \"objective\": 3}", "line 2, column 16, field \"objective\": is not a string"),
            ("{\"id\": \"a\"}", "line 1, column 1, field \"objective\": is missing"),
            ("{\"objective\": \" \"}", "line 1, column 15, field \"objective\": is empty"),
            (
                "[{\"objective\": \"a\"},\n 3]",
                "line 2, column 2, field \"[1]\": a mission is an object in braces",
            ),
            ("[]", "line 1, column 1, field \"\": the array holds no mission"),
            ("3", "line 1, column 1, field \"\": a drop is a mission in braces, or an array of them"),
            ("{\"objective\": ", "line 1, column 15: the text ends where a value should be"),
            (
                "{\"objective\": \"a\", \"priority\": \"urgent\"}",
                "line 1, column 32, field \"priority\": \"urgent\" is not one of critical, high, normal, low",
            ),
            (
                "[{\"objective\": \"a\", \"requiredCapabilities\": [1]}]",
                "line 1, column 45, field \"[0].requiredCapabilities\": is not an array of strings",
            ),
            (
                "[{\"objective\":\"a\",\"id\":\"x\"},{\"objective\":\"a\",\"id\":\"x\"}]",
                "line 1, column 29, field \"[1].id\": the id x is in this file twice",
            ),
            (
                "{\"objective\": \"a\", \"session\": \"../x\"}",
                "line 1, column 31, field \"session\": session id \"../x\" is not allowed: use 1 to 128 of A-Z a-z 0-9 . _ - and neither . nor ..",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(parsed(text).unwrap_err(), message, "{text}");
        }
    }

    #[test]
    fn a_mission_is_known_by_what_its_file_says() {
        let mission = &parsed(r#"{"objective": "do", "metadata": {"a": 1}}"#).unwrap()[0];
        let standing = |mission_text: &str| {
            let document = Document::parse(format!("{{\"missions\":[{mission_text}]}}")).unwrap();
            mission.standing(&document, Timestamp::EPOCH)
        };
        assert_eq!(standing(r#"{"id":"other"}"#), Standing::New);
        let same =
            r#"{"id":"file","objective":"do","metadata":{ "a":1 },"status":"running","executorId":"e"}"#;
        assert_eq!(standing(same), Standing::Known);
        assert_eq!(standing(r#"{"id":"file","objective":"do"}"#), Standing::Taken);
        let created = same.replacen('{', r#"{"createdAt":"2026-01-01T00:00:00Z","#, 1);
        let document = Document::parse(format!("{{\"missions\":[{created}]}}")).unwrap();
        let at = Timestamp::parse("2026-01-01T00:00:00Z").unwrap();
        let later = at.plus(std::time::Duration::from_millis(1));
        assert_eq!(mission.standing(&document, at), Standing::Known);
        assert_eq!(
            mission.standing(&document, later),
            Standing::Taken,
            "the mission was there before its file"
        );
    }

    #[test]
    fn a_drop_in_a_sessions_folder_names_no_other_session() {
        let own = SessionId::new("s").unwrap();
        let read = |text: &str| {
            parse(text.as_bytes().to_vec(), "file", Some(&own)).map_err(|error| error.to_string())
        };
        assert!(read(r#"{"objective": "a", "session": "s"}"#).is_ok());
        let message = "line 1, column 31, field \"session\": names session t, but the file lies in the drop folder of s";
        assert_eq!(read(r#"{"objective": "a", "session": "t"}"#).unwrap_err(), message);
    }

    #[test]
    fn unfinished_names_are_no_drops() {
        for name in [".a.json", ".json", "a.json.tmp", "a.json.part", "a.json~", "a.txt", "accepted"] {
            assert_eq!(stem(name), None, "{name}");
        }
        assert_eq!(stem("a.b.json"), Some("a.b"));
    }
}
