//! Pure: one element of `missions[]`, read where it stands.

use std::borrow::Cow;
use std::fmt;

use super::json::{self, Member, Span};

/// One element of `missions[]`.
#[derive(Clone, Copy)]
pub struct MissionView<'a> {
    text: &'a str,
    index: usize,
    span: Span,
    members: &'a [Member],
}

impl fmt::Debug for MissionView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MissionView").field("index", &self.index).field("id", &self.string("id")).finish()
    }
}

impl<'a> MissionView<'a> {
    pub(crate) fn new(text: &'a str, index: usize, span: Span, members: &'a [Member]) -> Self {
        Self { text, index, span, members }
    }

    /// Returns the place in the array, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Returns the element's text.
    pub fn raw(&self) -> &'a str {
        self.span.of(self.text)
    }

    /// Says whether the element is an object; anything else has no fields.
    pub fn is_object(&self) -> bool {
        self.raw().starts_with('{')
    }

    /// Returns the JSON text of a field.
    pub fn field(&self, key: &str) -> Option<&'a str> {
        json::last_named(self.text, self.members, key).map(|member| member.value.of(self.text))
    }

    /// Says whether a field is there; `null` is as if it were not.
    pub fn has(&self, key: &str) -> bool {
        self.field(key).is_some_and(|raw| raw != "null")
    }

    /// Returns a field that is a string. Surrogates without their partner become U+FFFD.
    pub fn string(&self, key: &str) -> Option<Cow<'a, str>> {
        json::decoded(self.field(key)?)
    }

    /// Says whether this is the mission's id.
    pub fn has_id(&self, id: &str) -> bool {
        self.string("id").is_some_and(|own| own == id)
    }

    /// Returns a field that is `true` or `false`.
    pub fn boolean(&self, key: &str) -> Option<bool> {
        match self.field(key)? {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }

    /// Returns a field that is a whole number, written without a fraction or an exponent, of at most 64 bits.
    pub fn unsigned(&self, key: &str) -> Option<u64> {
        let raw = self.field(key)?;
        if raw.bytes().all(|b| b.is_ascii_digit()) { raw.parse().ok() } else { None }
    }

    /// Returns all fields in order, duplicates included: decoded key and JSON text.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = (Cow<'a, str>, &'a str)> + use<'a> {
        json::decoded_members(self.text, self.members)
    }

    pub(crate) fn span(&self) -> Span {
        self.span
    }

    pub(crate) fn members(&self) -> &'a [Member] {
        self.members
    }

    /// Takes the mission out of its document.
    pub fn to_text(self) -> MissionText {
        let member = |member: &Member| Member {
            key: member.key.within(self.span),
            value: member.value.within(self.span),
        };
        MissionText {
            text: self.raw().to_owned(),
            index: self.index,
            members: self.members.iter().map(member).collect(),
        }
    }
}

/// A mission that was taken out of its document, to be kept without it: nobody has to find its members again.
#[derive(Clone, PartialEq, Eq)]
pub struct MissionText {
    text: String,
    index: usize,
    members: Vec<Member>,
}

impl fmt::Debug for MissionText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MissionText").field(&self.view()).finish()
    }
}

impl MissionText {
    /// Returns the mission, with the place that it had in its document.
    pub fn view(&self) -> MissionView<'_> {
        MissionView::new(&self.text, self.index, Span::whole(&self.text), &self.members)
    }
}

#[cfg(test)]
mod tests {
    use crate::session::document::Document;

    #[test]
    fn a_mission_taken_out_reads_as_it_did_in_its_document() {
        let text = r#"{"missions":[7, {"id" : "m", "é": [1.10], "id": "n"}]}"#;
        let document = Document::parse(text).unwrap();
        for there in document.missions() {
            let taken = there.to_text();
            let here = taken.view();
            assert_eq!((here.raw(), here.index()), (there.raw(), there.index()));
            assert!(here.fields().eq(there.fields()));
            assert_eq!(here.string("id"), there.string("id"));
        }
    }
}
