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

    /// Returns a field that is a string. Surrogates without their partner become U+FFFD.
    pub fn string(&self, key: &str) -> Option<Cow<'a, str>> {
        json::decoded(self.field(key)?)
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
}
