//! Pure: changes to a session, in the language of its fields.
//!
//! They know no version of the text: [`super::splice`] lays the same changes over whichever version turns out to be there.

use std::borrow::Cow;
use std::collections::HashMap;

use super::document::DocumentError;
use super::json::{self, Scanner};
use super::mission_view::MissionView;

/// Fields of one mission to set and to remove; a key in both is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MissionPatch {
    /// Keys and the JSON text of their new values. A text that is not JSON is written as a JSON string of itself.
    pub set: Vec<(Cow<'static, str>, String)>,
    /// Keys that go away, with all their duplicates.
    pub remove: Vec<Cow<'static, str>>,
}

impl MissionPatch {
    /// Makes a patch that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a field to a JSON text.
    #[must_use]
    pub fn with(mut self, key: impl Into<Cow<'static, str>>, raw: impl Into<String>) -> Self {
        self.put(key.into(), raw.into());
        self
    }

    /// Sets a field to a string.
    #[must_use]
    pub fn with_str(self, key: impl Into<Cow<'static, str>>, value: &str) -> Self {
        self.with(key, json::quoted(value))
    }

    /// Sets a field to a string, or to null.
    #[must_use]
    pub fn with_opt_str(self, key: impl Into<Cow<'static, str>>, value: Option<&str>) -> Self {
        self.with(key, value.map_or_else(|| "null".to_owned(), json::quoted))
    }

    /// Removes a field.
    #[must_use]
    pub fn without(mut self, key: impl Into<Cow<'static, str>>) -> Self {
        self.drop_key(key.into());
        self
    }

    /// Says whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }

    /// Lays a later patch over this one.
    pub fn merge(&mut self, later: Self) {
        for key in later.remove {
            self.drop_key(key);
        }
        for (key, raw) in later.set {
            self.put(key, raw);
        }
    }

    fn put(&mut self, key: Cow<'static, str>, raw: String) {
        self.remove.retain(|removed| *removed != key);
        match self.set.iter_mut().find(|(name, _)| *name == key) {
            Some((_, value)) => *value = raw,
            None => self.set.push((key, raw)),
        }
    }

    fn drop_key(&mut self, key: Cow<'static, str>) {
        self.set.retain(|(name, _)| *name != key);
        if !self.remove.contains(&key) {
            self.remove.push(key);
        }
    }
}

/// Changes to a session, to be laid over one version of it or over several, one after the other.
#[derive(Debug, Clone, Default)]
pub struct Edits {
    pub(crate) session: Vec<(Cow<'static, str>, String)>,
    pub(crate) stamps: Vec<(Cow<'static, str>, String)>,
    pub(crate) patches: Vec<(String, MissionPatch)>,
    patch_of: HashMap<String, usize>,
    pub(crate) appended: Vec<String>,
}

impl Edits {
    /// Makes edits that change nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a member of the session to a JSON text; `missions` is left alone.
    pub fn set_session(&mut self, key: impl Into<Cow<'static, str>>, raw: impl Into<String>) -> &mut Self {
        replace_or_push(&mut self.session, key.into(), raw.into());
        self
    }

    /// Sets a member of the session, but only when something else changes: the way to write `updatedAt`.
    pub fn stamp_session(&mut self, key: impl Into<Cow<'static, str>>, raw: impl Into<String>) -> &mut Self {
        replace_or_push(&mut self.stamps, key.into(), raw.into());
        self
    }

    /// Patches the first mission with this id; a second patch for it is laid over the first.
    pub fn patch_mission(&mut self, id: impl Into<String>, patch: MissionPatch) -> &mut Self {
        let id = id.into();
        if let Some((_, earlier)) = self.patch_of.get(&id).and_then(|&place| self.patches.get_mut(place)) {
            earlier.merge(patch);
        } else {
            self.patch_of.insert(id.clone(), self.patches.len());
            self.patches.push((id, patch));
        }
        self
    }

    /// Appends a mission, given as the text of a JSON object. Where its id is already in the array nothing is added,
    /// so the same edits may be laid over a version that has it.
    ///
    /// # Errors
    /// [`DocumentError`] when the text is not one JSON object; nothing is added then.
    pub fn append_mission(&mut self, raw: impl Into<String>) -> Result<&mut Self, DocumentError> {
        let raw = raw.into();
        let span = Scanner::whole(&raw).map_err(|fault| DocumentError::from_fault(&raw, fault))?;
        let object = span.of(&raw);
        if !object.starts_with('{') {
            let message = "a mission is an object in braces";
            return Err(DocumentError::locate(raw.as_bytes(), span.start(), message));
        }
        self.appended.push(object.to_owned());
        Ok(self)
    }

    /// Appends a mission of another document, as [`Edits::append_mission`] does; an element that is no object is not.
    pub fn append_view(&mut self, mission: &MissionView<'_>) -> &mut Self {
        if mission.is_object() {
            self.appended.push(mission.raw().to_owned());
        }
        self
    }

    /// Appends a mission, given as the text of one object.
    pub(crate) fn append_object(&mut self, object: String) {
        self.appended.push(object);
    }

    /// Says whether there is nothing to do; stamps alone are nothing.
    pub fn is_empty(&self) -> bool {
        self.session.is_empty() && self.patches.is_empty() && self.appended.is_empty()
    }
}

fn replace_or_push(list: &mut Vec<(Cow<'static, str>, String)>, key: Cow<'static, str>, raw: String) {
    match list.iter_mut().find(|(name, _)| *name == key) {
        Some((_, value)) => *value = raw,
        None => list.push((key, raw)),
    }
}
