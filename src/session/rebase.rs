//! Pure: carries what one writer changed over to another writer's version.
//!
//! Three versions meet when somebody rewrites the file while we replace it for the second time: what both started from,
//! what the first made of it, what the second did. Changes are told apart by field, so both survive unless they are of
//! one field; then the later version, the one that is built upon, wins. A mission that one of them dropped stays: an old
//! copy written back looks the same, and losing a mission is the worse mistake.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::document::Document;
use super::edits::{Edits, MissionPatch};
use super::json;
use super::mission_view::MissionView;

/// Returns what has to be laid over `onto` so that it also holds what `changed` did to `ancestor`.
pub fn changes(ancestor: &Document, changed: &Document, onto: &Document) -> Edits {
    let mut edits = Edits::new();
    for (key, raw) in changed.session_fields().filter(|(key, _)| key != "missions") {
        let old = ancestor.session_raw(&key);
        if !is_equal(old.as_ref(), Some(&raw)) && is_equal(onto.session_raw(&key).as_ref(), old.as_ref()) {
            edits.set_session(key.into_owned(), raw);
        }
    }
    for mission in changed.missions() {
        let Some(id) = mission.string("id") else {
            continue;
        };
        let (old, later) = (ancestor.mission(&id), onto.mission(&id));
        let Some(later) = later.filter(|_| old.is_none_or(|old| old.raw() != mission.raw())) else {
            continue;
        };
        let patch = field_changes(old.map(fields), mission, &fields(later));
        if !patch.is_empty() {
            edits.patch_mission(id, patch);
        }
    }
    add_missing(changed, onto, &mut edits);
    edits
}

type Fields<'a> = HashMap<Cow<'a, str>, &'a str>;

/// Collects the fields of a mission; of duplicates the last.
fn fields(mission: MissionView<'_>) -> Fields<'_> {
    mission.fields().collect()
}

fn field_changes(old: Option<Fields<'_>>, mission: MissionView<'_>, later: &Fields<'_>) -> MissionPatch {
    let old = old.unwrap_or_default();
    let now = fields(mission);
    let mut patch = MissionPatch::new();
    for (key, _) in mission.fields() {
        let (old, now, later) = (old.get(&key), now.get(&key), later.get(&key));
        if let Some(raw) = now.filter(|_| !is_equal(old, now) && is_equal(later, old)) {
            patch.set.push((Cow::Owned(key.into_owned()), (*raw).to_owned()));
        }
    }
    for (key, raw) in old {
        if !now.contains_key(&key) && is_equal(later.get(&key), Some(&raw)) {
            patch.remove.push(Cow::Owned(key.into_owned()));
        }
    }
    patch
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
        let there = fields(there);
        let mut patch = MissionPatch::new();
        for (key, raw) in mission.fields().filter(|(key, _)| !there.contains_key(key)) {
            patch.set.push((Cow::Owned(key.into_owned()), raw.to_owned()));
        }
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

fn is_equal(left: Option<&&str>, right: Option<&&str>) -> bool {
    match (left, right) {
        (Some(left), Some(right)) => json::is_same(left, right),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

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

    /// Changes of one writer: mission, key, new value or removal.
    type Script = Vec<(usize, usize, Option<u8>)>;

    fn script() -> impl Strategy<Value = Script> {
        proptest::collection::vec((0..4_usize, 0..4_usize, proptest::option::of(0..3_u8)), 0..12)
    }

    type Model = BTreeMap<(usize, usize), Option<u8>>;

    /// Plays a script on a document and on a model. The fourth mission does not exist at first.
    fn played(start: &Document, script: &Script, model: &mut Model) -> Document {
        let mut edits = Edits::new();
        for (mission, key, value) in script {
            let patch = match value {
                Some(value) => MissionPatch::new().with(format!("k{key}"), value.to_string()),
                None => MissionPatch::new().without(format!("k{key}")),
            };
            edits.append_mission(format!("{{\"id\":\"m{mission}\"}}")).unwrap();
            edits.patch_mission(format!("m{mission}"), patch);
            model.insert((*mission, *key), *value);
        }
        let with_missions = document(&laid(&edits, start));
        document(&laid(&edits, &with_missions))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn of_two_writers_the_later_wins_a_field_and_neither_loses_another(
            start in script(), first in script(), second in script(),
        ) {
            let empty = document(r#"{"missions":[{"id":"m0"},{"id":"m1"},{"id":"m2"}]}"#);
            let mut at_start = Model::new();
            let ancestor = played(&empty, &start, &mut at_start);
            let (mut ours, mut theirs) = (at_start.clone(), at_start.clone());
            let earlier = played(&ancestor, &first, &mut ours);
            let later = played(&ancestor, &second, &mut theirs);
            let merged = document(&laid(&changes(&ancestor, &earlier, &later), &later));
            for mission in 0..4 {
                let field = |document: &Document, key: usize| {
                    let mission = document.mission(&format!("m{mission}"))?;
                    mission.field(&format!("k{key}"))?.parse::<u8>().ok()
                };
                for key in 0..4 {
                    let value = |model: &Model| model.get(&(mission, key)).copied().flatten();
                    let (old, ours, theirs) = (value(&at_start), value(&ours), value(&theirs));
                    let wanted = if theirs == old { ours } else { theirs };
                    prop_assert_eq!(field(&merged, key), wanted, "m{} k{}", mission, key);
                }
            }
            prop_assert!(merged.apply(&changes(&ancestor, &earlier, &merged)).is_none());
        }
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
