//! Pure: a lossless `session.json`.
//!
//! Other programs own this file as much as we do, so it is never printed from a model of it. The text stays as it was
//! read; members are byte ranges of it; a change replaces only the bytes of the values that change. Unknown keys, the
//! order of keys, white space, the spelling of numbers and duplicate keys survive because nobody touches them.
//!
//! Of duplicate keys the last one counts, as in `JSON.parse`. Of two missions with one id the first one counts.

use std::borrow::Cow;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::OnceLock;

use super::edits::Edits;
use super::json::{self, Fault, Member, Scanner, Span};
use super::mission_view::MissionView;
use super::splice;
use crate::domain::id::{MAX_ID_BYTES, SessionId};
use crate::domain::session::SessionState;

/// Why a text is not a session, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct DocumentError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Byte offset, from 0.
    pub offset: usize,
    /// What is wrong there.
    pub message: String,
}

impl DocumentError {
    /// Turns a byte offset into a line and a column of `bytes`.
    pub(crate) fn locate(bytes: &[u8], offset: usize, message: impl Into<String>) -> Self {
        let before = &bytes[..offset.min(bytes.len())];
        let line_start = before.iter().rposition(|&b| b == b'\n').map_or(0, |newline| newline + 1);
        let line = before.split(|&b| b == b'\n').count();
        let column = 1 + before[line_start..].iter().filter(|&&b| b & 0xc0 != 0x80).count();
        Self { line, column, offset, message: message.into() }
    }

    pub(crate) fn from_fault(text: &str, fault: Fault) -> Self {
        Self::locate(text.as_bytes(), fault.offset, fault.message)
    }
}

/// Checks the encoding: UTF-8, no byte-order mark, not empty.
pub(crate) fn decoded_text(bytes: Vec<u8>) -> Result<String, DocumentError> {
    if bytes.starts_with(b"\xef\xbb\xbf") {
        let message = "the file starts with a byte-order mark; save it as UTF-8 without one";
        return Err(DocumentError::locate(&bytes, 0, message));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        DocumentError::locate(error.as_bytes(), offset, "the text is not UTF-8")
    })?;
    if text.bytes().all(|b| matches!(b, b' ' | b'\n' | b'\r' | b'\t')) {
        return Err(DocumentError::locate(text.as_bytes(), text.len(), "the file is empty"));
    }
    Ok(text)
}

/// One element of `missions[]`, and which of the members are its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Element {
    pub(crate) span: Span,
    first: u32,
    count: u32,
}

/// A `session.json` as it was read.
pub struct Document {
    text: String,
    span: Span,
    members: Vec<Member>,
    array: Option<Span>,
    missions: Vec<Element>,
    mission_members: Vec<Member>,
    by_id: OnceLock<IdIndex>,
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document")
            .field("size_bytes", &self.text.len())
            .field("missions", &self.missions.len())
            .finish_non_exhaustive()
    }
}

impl Document {
    /// Checks a text and finds its members.
    ///
    /// # Errors
    /// [`DocumentError`] with the place, when the text is not JSON, not an object, or its `missions` no array.
    pub fn parse(bytes: impl Into<Vec<u8>>) -> Result<Self, DocumentError> {
        let text = decoded_text(bytes.into())?;
        let mut document = Self {
            text: String::new(),
            span: Span::EMPTY,
            members: Vec::new(),
            array: None,
            missions: Vec::new(),
            mission_members: Vec::new(),
            by_id: OnceLock::new(),
        };
        match document.index(&text) {
            Ok(()) => {
                document.text = text;
                Ok(document)
            }
            Err(fault) => Err(DocumentError::from_fault(&text, fault)),
        }
    }

    fn index(&mut self, text: &str) -> Result<(), Fault> {
        let Self { span, members, array, missions, mission_members, .. } = self;
        let mut scanner = Scanner::new(text)?;
        scanner.white_space();
        if scanner.peek() != Some(b'{') {
            Scanner::whole(text)?;
            return scanner.fault("a session is an object in braces");
        }
        let mut misplaced = None;
        *span = scanner.object(|scanner, key| {
            let value = if json::spells(key.of(text), "missions") {
                missions.clear();
                mission_members.clear();
                (*array, misplaced) = (None, None);
                if scanner.peek() == Some(b'[') {
                    let found = scanner.array(|scanner| {
                        missions.push(Element::scan(scanner, mission_members)?);
                        Ok(())
                    })?;
                    *array = Some(found);
                    found
                } else {
                    misplaced = Some(scanner.offset());
                    scanner.value()?
                }
            } else {
                scanner.value()?
            };
            members.push(Member { key, value });
            Ok(())
        })?;
        scanner.finish()?;
        match misplaced {
            Some(offset) => Err(Fault { offset, message: Cow::Borrowed("\"missions\" is not an array") }),
            None => Ok(()),
        }
    }

    /// Returns the text as bytes.
    pub fn bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// Returns the text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the JSON text of a member of the session.
    pub fn session_raw(&self, key: &str) -> Option<&str> {
        json::last_named(&self.text, &self.members, key).map(|member| member.value.of(&self.text))
    }

    /// Returns a member of the session that is a string.
    pub fn session_str(&self, key: &str) -> Option<Cow<'_, str>> {
        json::decoded(self.session_raw(key)?)
    }

    /// Returns whether queued missions may be sent. An absent state dispatches; one that is no word is none that we know.
    pub fn state(&self) -> SessionState {
        match self.session_raw("state") {
            None | Some("null") => SessionState::from_file(None),
            Some(raw) => {
                json::decoded(raw).map_or(SessionState::Unknown, |word| SessionState::from_file(Some(&word)))
            }
        }
    }

    /// Returns what the session says of its state, for people.
    pub fn state_word(&self) -> Cow<'_, str> {
        match self.session_raw("state") {
            None | Some("null") => Cow::Borrowed(SessionState::Active.as_file()),
            Some(raw) => json::decoded(raw).unwrap_or(Cow::Borrowed(raw)),
        }
    }

    /// Returns the session's id on the wire: its own, where it can stand in an address, else its directory's name.
    pub fn wire_session<'a>(&'a self, directory: &'a SessionId) -> Cow<'a, str> {
        let own = self.session_str("id").filter(|id| {
            !matches!(&**id, "" | "." | "..") && id.len() <= MAX_ID_BYTES && !id.chars().any(char::is_control)
        });
        own.unwrap_or(Cow::Borrowed(directory.as_str()))
    }

    /// Returns all members of the session in order, duplicates and `missions` included: decoded key and JSON text.
    pub fn session_fields(&self) -> impl ExactSizeIterator<Item = (Cow<'_, str>, &str)> {
        json::decoded_members(&self.text, &self.members)
    }

    /// Returns every element of `missions[]` in order, also those that are no objects.
    pub fn missions(&self) -> impl ExactSizeIterator<Item = MissionView<'_>> {
        self.missions.iter().enumerate().map(|(index, &element)| self.view(index, element))
    }

    /// Returns the mission at a place in the array.
    pub fn mission_at(&self, index: usize) -> Option<MissionView<'_>> {
        self.missions.get(index).map(|&element| self.view(index, element))
    }

    /// Returns the first mission with this id.
    ///
    /// The first call builds an index over all ids; later ones cost a look-up.
    pub fn mission(&self, id: &str) -> Option<MissionView<'_>> {
        let index = self.by_id.get_or_init(|| IdIndex::of(self.missions()));
        index.places(id).filter_map(|place| self.mission_at(place)).find(|mission| mission.has_id(id))
    }

    /// Lays edits over the text; nothing when they change nothing.
    ///
    /// Bytes outside the changed values stay as they are, and the result always parses. A patch for a mission that is
    /// not here is left out: whoever holds it decides what a vanished mission means.
    pub fn apply(&self, edits: &Edits) -> Option<Vec<u8>> {
        splice::apply(self, edits)
    }

    fn view(&self, index: usize, element: Element) -> MissionView<'_> {
        MissionView::new(&self.text, index, element.span, self.members_of(element))
    }

    fn members_of(&self, element: Element) -> &[Member] {
        let first = json::wide(element.first);
        &self.mission_members[first..first + json::wide(element.count)]
    }

    pub(crate) fn session_object(&self) -> (Span, &[Member]) {
        (self.span, &self.members)
    }

    pub(crate) fn missions_array(&self) -> Option<Span> {
        self.array
    }

    pub(crate) fn elements(&self) -> &[Element] {
        &self.missions
    }
}

/// Finds missions by id: prints of ids and places, sorted. Made for every version of a file, so it holds no copy of an id.
struct IdIndex {
    hasher: RandomState,
    places: Vec<(u64, u32)>,
}

impl IdIndex {
    fn of<'a>(missions: impl ExactSizeIterator<Item = MissionView<'a>>) -> Self {
        let hasher = RandomState::new();
        let mut places = Vec::with_capacity(missions.len());
        for mission in missions {
            if let Some(id) = mission.string("id") {
                places.push((hasher.hash_one(&*id), json::narrow(mission.index())));
            }
        }
        places.sort_unstable();
        Self { hasher, places }
    }

    /// Returns where missions with this id may stand, in the order of the array.
    fn places(&self, id: &str) -> impl Iterator<Item = usize> {
        let print = self.hasher.hash_one(id);
        let first = self.places.partition_point(|(other, _)| *other < print);
        let same = self.places[first..].iter().take_while(move |(other, _)| *other == print);
        same.map(|(_, place)| json::wide(*place))
    }
}

impl Element {
    fn scan(scanner: &mut Scanner<'_>, members: &mut Vec<Member>) -> Result<Self, Fault> {
        let first = members.len();
        let span = if scanner.peek() == Some(b'{') {
            scanner.object(|scanner, key| {
                let value = scanner.value()?;
                members.push(Member { key, value });
                Ok(())
            })?
        } else {
            scanner.value()?
        };
        Ok(Self { span, first: json::narrow(first), count: json::narrow(members.len() - first) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::edits::MissionPatch;
    use proptest::prelude::*;

    const PRETTY: &str = r#"{
  "id": "s1",
  "odd": 1.10,
  "missions": [
    {
      "id": "m1",
      "objective": "one",
      "big": 12345678901234567890123,
      "status": "queued"
    },
    "not a mission",
    {
      "id": "m2",
      "status": "queued",
      "status": "running",
      "x": {"deep":  [1E2]}
    }
  ],
  "updatedAt": "then"
}
"#;

    fn applied(document: &Document, edits: &Edits) -> String {
        String::from_utf8(document.apply(edits).unwrap()).unwrap()
    }

    fn patched(text: &str, id: &str, patch: MissionPatch) -> String {
        let mut edits = Edits::new();
        edits.patch_mission(id, patch);
        applied(&Document::parse(text).unwrap(), &edits)
    }

    #[test]
    fn fields_are_read_and_the_last_duplicate_counts() {
        let document = Document::parse(PRETTY).unwrap();
        assert_eq!(document.session_str("id").unwrap(), "s1");
        assert_eq!(document.session_raw("odd"), Some("1.10"));
        assert_eq!(document.missions().len(), 3);
        let mission = document.mission("m2").unwrap();
        assert_eq!((mission.index(), mission.string("status").unwrap().as_ref()), (2, "running"));
        assert_eq!(mission.fields().filter(|(key, _)| key == "status").count(), 2);
        assert!(!document.mission_at(1).unwrap().is_object());
        assert_eq!(document.mission("m1").unwrap().unsigned("big"), None);
        assert!(document.mission("m3").is_none());
    }

    #[test]
    fn what_a_session_says_of_itself_is_used_where_it_can_be() {
        let directory = SessionId::new("d").unwrap();
        for (text, state, word, wire) in [
            ("{}", SessionState::Active, "active", "d"),
            (r#"{"state":null,"id":"a b"}"#, SessionState::Active, "active", "a b"),
            (r#"{"state":"paused","id":".."}"#, SessionState::Paused, "paused", "d"),
            (r#"{"state":5,"id":""}"#, SessionState::Unknown, "5", "d"),
            (r#"{"state":"on","id":7}"#, SessionState::Unknown, "on", "d"),
        ] {
            let document = Document::parse(text).unwrap();
            assert_eq!((document.state(), &*document.state_word()), (state, word), "{text}");
            assert_eq!(document.wire_session(&directory), wire, "{text}");
        }
    }

    #[test]
    fn a_patch_replaces_in_place_and_adds_behind_the_last_member() {
        let patch = MissionPatch::new().with_str("status", "assigned").with("attempts", r#"[{"n":1}]"#);
        let expected = PRETTY.replace("\"status\": \"running\"", "\"status\": \"assigned\"").replace(
            "[1E2]}",
            "[1E2]},\n      \"attempts\": [\n        {\n          \"n\": 1\n        }\n      ]",
        );
        assert_eq!(patched(PRETTY, "m2", patch), expected);
    }

    #[test]
    fn removed_members_take_one_comma_and_all_duplicates() {
        let m2 = |text: &str| Document::parse(text).unwrap().mission("m2").unwrap().raw().to_owned();
        let without = |key: &'static str| m2(&patched(PRETTY, "m2", MissionPatch::new().without(key)));
        assert_eq!(without("status"), "{\n      \"id\": \"m2\",\n      \"x\": {\"deep\":  [1E2]}\n    }");
        assert!(without("x").ends_with("\"running\"\n    }"));
        let minified = r#"{"missions":[{"id":"a","b":1,"c":2}]}"#;
        let patch = MissionPatch::new().without("b").without("c").with("d", "3");
        assert_eq!(patched(minified, "a", patch), r#"{"missions":[{"id":"a","d":3}]}"#);
        let patch = MissionPatch::new().without("id").without("b").without("c").with("d", r#"{"e":[]}"#);
        assert_eq!(patched(minified, "a", patch), r#"{"missions":[{"d":{"e":[]}}]}"#);
        let patch = MissionPatch::new().without("id").without("b").without("c");
        assert_eq!(patched(minified, "a", patch), r#"{"missions":[{}]}"#);
        let patch = MissionPatch::new().without("id").without("b");
        assert_eq!(patched(minified, "a", patch), r#"{"missions":[{"c":2}]}"#);
    }

    #[test]
    fn new_members_look_like_their_neighbours() {
        let python = r#"{"missions": [{"id": "a", "b": 1}], "z": 0}"#;
        let mut edits = Edits::new();
        edits.patch_mission("a", MissionPatch::new().with("c", "2")).set_session("y", "[1, 2]");
        edits.append_mission(r#" {"id" : "b"} "#).unwrap();
        let expected = r#"{"missions": [{"id": "a", "b": 1, "c": 2},{"id":"b"}], "z": 0, "y": [1,2]}"#;
        assert_eq!(applied(&Document::parse(python).unwrap(), &edits), expected);
        let windows = "{\r\n\t\"missions\": []\r\n}";
        let mut edits = Edits::new();
        edits.append_mission(r#"{"id":"b"}"#).unwrap();
        assert_eq!(
            applied(&Document::parse(windows).unwrap(), &edits),
            "{\r\n\t\"missions\": [\r\n\t\t{\r\n\t\t\t\"id\": \"b\"\r\n\t\t}\r\n\t]\r\n}"
        );
    }

    #[test]
    fn an_empty_session_gets_a_list_with_two_spaces() {
        let mut edits = Edits::new();
        edits.append_mission(r#"{"id":"b","n":1.0}"#).unwrap();
        for (text, tail) in [("{}", "}"), (" { } \n", "} \n")] {
            let expected =
                "{\n  \"missions\": [\n    {\n      \"id\": \"b\",\n      \"n\": 1.0\n    }\n  ]\n";
            let found = applied(&Document::parse(text).unwrap(), &edits);
            assert_eq!(found.trim_start(), format!("{expected}{tail}"));
        }
    }

    #[test]
    fn the_same_value_is_no_change() {
        let document = Document::parse(PRETTY).unwrap();
        let mut edits = Edits::new();
        edits.stamp_session("updatedAt", "\"now\"").set_session("odd", " 1.10 ");
        let same = MissionPatch::new().with("status", r#""runn\u0069ng""#).with("x", r#"{"deep":[1E2]}"#);
        edits
            .patch_mission("m2", same.without("nothing"))
            .patch_mission("m9", MissionPatch::new().with("a", "1"));
        edits.append_mission(r#"{"id":"m1"}"#).unwrap();
        assert_eq!(document.apply(&edits), None);
        edits.patch_mission("m2", MissionPatch::new().with("x", r#"{"deep":[100.0]}"#));
        assert!(applied(&document, &edits).contains("\"updatedAt\": \"now\""));
    }

    #[test]
    fn text_that_is_no_json_is_written_as_a_string() {
        let found = patched(PRETTY, "m1", MissionPatch::new().with("status", "oops\n"));
        assert!(found.contains(r#""status": "oops\n""#));
        assert!(Edits::new().append_mission("[]").is_err());
        assert!(Edits::new().append_mission("{} {}").is_err());
    }

    #[test]
    fn errors_say_where_and_what() {
        let place = |text: &[u8]| {
            let error = Document::parse(text).unwrap_err();
            (error.line, error.column, error.message)
        };
        assert_eq!(place(b" \n "), (2, 2, "the file is empty".into()));
        assert_eq!(place("{\n  \"ä\": x}".as_bytes()), (2, 8, "found 'x' where a value should be".into()));
        assert_eq!(place(b"{\"a\": \"b").2, "the text ends inside a string");
        assert_eq!(place(b"[1]").2, "a session is an object in braces");
        assert_eq!(place(b"{} x").2, "found 'x' where the end of the text should be");
        assert_eq!(place(b"{\"missions\": {}}"), (1, 14, "\"missions\" is not an array".into()));
        assert_eq!(place(b"{\"a\": \"\xc3").2, "the text is not UTF-8");
        assert!(place(b"\xef\xbb\xbf{}").2.contains("byte-order mark"));
        assert!(Document::parse("{\"missions\": 1, \"m\\u0069ssions\": []}").is_ok());
    }

    fn white_space() -> impl Strategy<Value = &'static str> {
        prop_oneof![4 => Just(""), 2 => Just(" "), 1 => Just("\n\t "), 1 => Just("\r\n")]
    }

    fn scalar() -> impl Strategy<Value = String> {
        prop_oneof![
            "-?(0|[1-9][0-9]{0,29})(\\.[0-9]{1,4})?([eE][+-]?[0-9]{1,3})?",
            "[a-zäé\\PC]{0,6}".prop_map(|text| json::quoted(&text)),
            r#""(\\[bfnrt"/]|\\ud[89a-f][0-9a-f]{2}|\\u00e4|[ -!#-\[\]-~]){0,6}""#,
            Just("true".to_owned()),
            Just("null".to_owned()),
        ]
    }

    fn key() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("\"status\"".to_owned()),
            Just("\"st\\u0061tus\"".to_owned()),
            Just("\"b\"".to_owned()),
            Just("\"\"".to_owned()),
            "[a-zé]{1,4}".prop_map(|text| json::quoted(&text)),
        ]
    }

    fn object(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
        let member = (white_space(), key(), white_space(), white_space(), value, white_space());
        proptest::collection::vec(member, 0..5).prop_map(|members| {
            let members: Vec<String> =
                members.into_iter().map(|(a, k, b, c, v, d)| format!("{a}{k}{b}:{c}{v}{d}")).collect();
            format!("{{{}}}", members.join(","))
        })
    }

    fn value() -> impl Strategy<Value = String> {
        scalar().prop_recursive(4, 24, 4, |inner| {
            let list = proptest::collection::vec((white_space(), inner.clone(), white_space()), 0..4);
            let list = list.prop_map(|items| {
                let items: Vec<String> = items.into_iter().map(|(a, v, b)| format!("{a}{v}{b}")).collect();
                format!("[{}]", items.join(","))
            });
            prop_oneof![list, object(inner)]
        })
    }

    fn mission() -> impl Strategy<Value = String> {
        let id =
            prop_oneof![Just(""), Just("\"id\":\"m1\""), Just("\"id\" : \"\\u006d1\""), Just("\"id\": 7")];
        let object = (id, object(value())).prop_map(|(id, object)| match (id, object.trim() == "{}") {
            ("", _) => object,
            (id, true) => format!("{{{id}}}"),
            (id, false) => format!("{{{id},{}", &object[1..]),
        });
        prop_oneof![6 => object, 1 => value()]
    }

    fn session() -> impl Strategy<Value = String> {
        let missions = proptest::collection::vec((white_space(), mission(), white_space()), 0..4);
        (object(value()), missions, white_space(), any::<bool>()).prop_map(|(object, missions, gap, with)| {
            let missions: Vec<String> = missions.into_iter().map(|(a, m, b)| format!("{a}{m}{b}")).collect();
            let list = format!("\"missions\"{gap}:{gap}[{}]", missions.join(","));
            match (with, object.trim() == "{}") {
                (false, _) => object,
                (true, true) => format!("{{{gap}{list}{gap}}}"),
                (true, false) => format!("{gap}{{{list},{}", &object[1..]),
            }
        })
    }

    fn patch() -> impl Strategy<Value = MissionPatch> {
        let keys = || prop_oneof![Just("status"), Just("b"), Just("new"), Just("é")];
        let set = proptest::collection::vec((keys(), value()), 0..3);
        (set, proptest::collection::vec(keys(), 0..2)).prop_map(|(set, remove)| {
            let patch = remove.into_iter().fold(MissionPatch::new(), MissionPatch::without);
            set.into_iter().fold(patch, |patch, (key, raw)| patch.with(key, raw))
        })
    }

    /// What the fields of an object become; written without regard to text.
    fn expected_fields(mission: MissionView<'_>, patch: &MissionPatch) -> Vec<(String, String)> {
        let mut fields: Vec<(String, String)> =
            mission.fields().map(|(key, raw)| (key.into_owned(), raw.to_owned())).collect();
        fields.retain(|(key, _)| !patch.remove.iter().any(|gone| gone == key));
        for (key, raw) in &patch.set {
            match fields.iter_mut().rev().find(|(name, _)| name == key) {
                Some((_, old)) if json::is_same(old, raw) => {}
                Some((_, old)) => old.clone_from(raw),
                None => fields.push((key.to_string(), raw.clone())),
            }
        }
        fields
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn a_patched_document_differs_only_where_it_was_patched(
            text in session(), patch in patch(), setting in proptest::option::of(value()), new in object(value()),
            append in any::<bool>(),
        ) {
            let before = Document::parse(text.as_str()).unwrap();
            let mut edits = Edits::new();
            edits.patch_mission("m1", patch.clone());
            if let Some(raw) = &setting {
                edits.set_session("b", raw.as_str());
            }
            if append {
                edits.append_mission(new.as_str()).unwrap();
            }
            let bytes = before.apply(&edits).unwrap_or_else(|| text.clone().into_bytes());
            let after = Document::parse(bytes).unwrap();
            prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(after.bytes()).is_ok());
            prop_assert!(after.apply(&edits).is_none() || append, "a second time changes nothing");

            let target = before.mission("m1").map(|mission| mission.index());
            prop_assert!(after.missions().len() <= before.missions().len() + 1);
            for old in before.missions() {
                let now = after.mission_at(old.index()).unwrap();
                if Some(old.index()) == target {
                    let wanted = expected_fields(old, &patch);
                    prop_assert_eq!(now.fields().len(), wanted.len());
                    for ((key, raw), (wanted_key, wanted_raw)) in now.fields().zip(&wanted) {
                        prop_assert_eq!(key.as_ref(), wanted_key.as_str());
                        let untouched = old.fields().any(|(_, value)| value == raw);
                        prop_assert!(untouched || json::is_same(raw, wanted_raw), "{} is not {}", raw, wanted_raw);
                    }
                } else {
                    prop_assert_eq!(now.raw(), old.raw());
                }
            }
            if let Some(raw) = &setting {
                prop_assert!(json::is_same(after.session_raw("b").unwrap(), raw));
            } else if !append {
                let first = target.map_or(text.len(), |index| before.mission_at(index).unwrap().span().start());
                let last = target.map_or(text.len(), |index| before.mission_at(index).unwrap().span().end());
                prop_assert!(after.text().starts_with(&text[..first]));
                prop_assert!(after.text().ends_with(&text[last..]));
            }
            let (_, members) = before.session_object();
            for (place, member) in members.iter().enumerate() {
                let (_, now) = after.session_object();
                prop_assert_eq!(now[place].key.of(after.text()), member.key.of(&text));
                if !json::spells(member.key.of(&text), "missions") && !json::spells(member.key.of(&text), "b") {
                    prop_assert_eq!(now[place].value.of(after.text()), member.value.of(&text));
                }
            }
        }

        #[test]
        fn a_torn_document_never_parses(text in session(), share in 0.0..1.0_f64) {
            let end = text.trim_end().len();
            let cut = (0..end).rev().find(|&at| {
                text.is_char_boundary(at) && f64::from(json::narrow(at)) <= share * f64::from(json::narrow(end))
            });
            prop_assert!(Document::parse(&text.as_bytes()[..cut.unwrap_or(0)]).is_err());
        }
    }
}
