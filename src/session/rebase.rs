//! Pure: carries what one writer changed over to another writer's version.
//!
//! Three versions meet when somebody rewrites the file while we replace it for the second time: what both started from,
//! what the first made of it, what the second did. Changes are told apart by field, so both survive unless they are of
//! one field; then the later version, the one that is built upon, wins. A mission that one of them dropped stays: an old
//! copy written back looks the same, and losing a mission is the worse mistake.

use std::collections::HashSet;

use super::document::{Document, Edits, MissionPatch, MissionView};
use super::json;

/// Returns what has to be laid over `onto` so that it also holds what `changed` did to `ancestor`.
pub fn changes(ancestor: &Document, changed: &Document, onto: &Document) -> Edits {
    let mut edits = Edits::new();
    for (key, raw) in changed.session_fields().filter(|(key, _)| key != "missions") {
        let old = ancestor.session_raw(&key);
        if !is_equal(old, Some(raw)) && is_equal(onto.session_raw(&key), old) {
            edits.set_session(key.into_owned(), raw);
        }
    }
    for mission in changed.missions() {
        let Some(id) = mission.string("id") else {
            continue;
        };
        let Some(later) = onto.mission(&id) else {
            continue;
        };
        let mut patch = MissionPatch::new();
        let old = ancestor.mission(&id);
        let old_field = |key: &str| old.and_then(|old| old.field(key));
        for (key, raw) in mission.fields() {
            if !is_equal(old_field(&key), Some(raw)) && is_equal(later.field(&key), old_field(&key)) {
                patch = patch.with(key.into_owned(), raw);
            }
        }
        for (key, raw) in old.into_iter().flat_map(|old| old.fields()) {
            if mission.field(&key).is_none() && is_equal(later.field(&key), Some(raw)) {
                patch = patch.without(key.into_owned());
            }
        }
        if !patch.is_empty() {
            edits.patch_mission(id, patch);
        }
    }
    add_missing(changed, onto, &mut edits);
    edits
}

/// Returns what has to be laid over `onto` so that it also holds the missions, and the fields of missions, that only
/// `other` has. Where both have a field, that of `onto` stays.
pub fn union(other: &Document, onto: &Document) -> Edits {
    let mut edits = Edits::new();
    for mission in other.missions() {
        let Some(id) = mission.string("id") else {
            continue;
        };
        let Some(there) = onto.mission(&id) else {
            continue;
        };
        let fields = mission.fields().filter(|(key, _)| there.field(key).is_none());
        let patch = fields.fold(MissionPatch::new(), |patch, (key, raw)| patch.with(key.into_owned(), raw));
        if !patch.is_empty() {
            edits.patch_mission(id, patch);
        }
    }
    add_missing(other, onto, &mut edits);
    edits
}

/// Returns what has to be laid over `onto` so that it also holds the missions that only `other` has.
pub fn missing_missions(other: &Document, onto: &Document) -> Edits {
    let mut edits = Edits::new();
    add_missing(other, onto, &mut edits);
    edits
}

fn add_missing(from: &Document, onto: &Document, edits: &mut Edits) {
    let mut nameless: Option<HashSet<&str>> = None;
    for mission in from.missions().filter(MissionView::is_object) {
        let is_there = match mission.string("id") {
            Some(id) => onto.mission(&id).is_some(),
            None => nameless
                .get_or_insert_with(|| onto.missions().map(|mission| mission.raw()).collect())
                .contains(mission.raw()),
        };
        if !is_there {
            edits.append_view(&mission);
        }
    }
}

fn is_equal(left: Option<&str>, right: Option<&str>) -> bool {
    match (left, right) {
        (Some(left), Some(right)) => json::is_same(left, right),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        Document::parse(text).unwrap()
    }

    fn laid(edits: &Edits, onto: &Document) -> String {
        onto.apply(edits).map_or_else(|| onto.text().to_owned(), |bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn both_writers_changes_survive() {
        let ancestor = document(r#"{"n":1,"z":1,"missions":[{"id":"a","x":1,"gone":1,"both":1}]}"#);
        let first =
            document(r#"{"n":2,"z":1,"missions":[{"id":"a","x":2,"both":2,"new":1},{"id":"b"},{"odd":1}]}"#);
        let second =
            document(r#"{"n":1,"z":3,"missions":[{"id":"a","x":1,"gone":1,"both":3,"y":1},{"id":"c"}]}"#);
        let edits = changes(&ancestor, &first, &second);
        assert_eq!(
            laid(&edits, &second),
            r#"{"n":2,"z":3,"missions":[{"id":"a","x":2,"both":3,"y":1,"new":1},{"id":"c"},{"id":"b"},{"odd":1}]}"#
        );
        assert!(changes(&ancestor, &ancestor, &second).is_empty());
    }

    #[test]
    fn a_union_adds_and_never_changes() {
        let other = document(r#"{"n":1,"missions":[{"id":"a","x":1,"y":1},{"id":"b"},3]}"#);
        let onto = document(r#"{"missions":[{"id":"a","x":2}]}"#);
        assert_eq!(laid(&union(&other, &onto), &onto), r#"{"missions":[{"id":"a","x":2,"y":1},{"id":"b"}]}"#);
        assert_eq!(
            laid(&missing_missions(&other, &onto), &onto),
            r#"{"missions":[{"id":"a","x":2},{"id":"b"}]}"#
        );
    }
}
