//! Pure: what of ours stands in a mission of the file, and how new it is.
//!
//! Our fields are the only marks that we leave in a file that everybody writes. Whether another program's copy is older
//! than our last write, which run of a mission the file shows, and what of a ledger has reached it, can be read from them.

use crate::domain::id::MissionId;
use crate::domain::lifecycle::MissionState;
use crate::protocol::field::Fields;
use crate::session::document::Document;
use crate::session::edits::MissionPatch;
use crate::session::json::quoted;
use crate::session::ledger::{Held, Ledger, Phase};
use crate::session::mission_view::MissionView;
use crate::session::patch::{MARKS, OUR_KEYS};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Keys that belong to one run; `loop` and `lastAction` are shared with other programs and stay.
fn is_run_key(key: &str) -> bool {
    OUR_KEYS.contains(&key) && !matches!(key, "attempts" | "loop" | "lastAction")
}

/// Keys whose value says how new a copy is: they change with every move of the state.
const MOMENTS: [&str; 12] = [
    "dispatchAttempts",
    "dispatchedAt",
    "startedAt",
    "pausedAt",
    "resumedAt",
    "suspendedAt",
    "hitlAt",
    "hitlRespondedAt",
    "completedAt",
    "failedAt",
    "abortedAt",
    "attempts",
];

/// Says whether two JSON texts mean the same; other programs print numbers, escapes and indentation their own way.
fn same_json(a: &str, b: &str) -> bool {
    a == b
        || match (serde_json::from_str::<serde_json::Value>(a), serde_json::from_str::<serde_json::Value>(b))
        {
            (Ok(a), Ok(b)) => a == b,
            _ => false,
        }
}

/// Says whether the file shows a state of affairs from before our last write.
pub(super) fn is_old_copy(view: &MissionView<'_>, held: &Held) -> bool {
    held.fields.iter().filter(|field| !field.dirty && MOMENTS.contains(&field.key)).any(|field| {
        // An answer's fields are nulled only where a file had them.
        let optional = field.raw == "null";
        view.field(field.key).map_or(!optional, |raw| !same_json(raw, &field.raw))
    })
}

pub(super) fn has_marks(view: &MissionView<'_>) -> bool {
    MARKS.iter().any(|key| view.field(key).is_some_and(|raw| raw != "null"))
}

/// What stands in `attempts`; a value that is no array, which is not ours, stands for itself.
fn past_attempts<'a>(view: &MissionView<'a>) -> Vec<&'a RawValue> {
    let Some(raw) = view.field("attempts").filter(|raw| *raw != "null") else { return Vec::new() };
    serde_json::from_str(raw).unwrap_or_else(|_no_array| serde_json::from_str(raw).into_iter().collect())
}

/// Says whether an element of `attempts` is a run that a bridge moved there; other programs may have put theirs in.
fn is_run(attempt: &RawValue) -> bool {
    Fields::parse(attempt.get(), "").is_ok_and(|fields| {
        fields.raw("status").is_some() || OUR_KEYS.iter().any(|key| fields.raw(key).is_some())
    })
}

pub(super) fn run_in_file(view: &MissionView<'_>) -> u32 {
    let runs = past_attempts(view).into_iter().filter(|attempt| is_run(attempt)).count();
    u32::try_from(runs).unwrap_or(u32::MAX).saturating_add(1)
}

/// The `attempts` array with the run that just ended appended.
pub(super) fn history(view: &MissionView<'_>, ended: Option<MissionState>) -> String {
    let mut entry: Vec<String> =
        ended.map(|state| format!("\"status\": {}", quoted(state.as_file()))).into_iter().collect();
    for (key, raw) in view.fields() {
        if OUR_KEYS.contains(&&*key) && key != "attempts" {
            entry.push(format!("{}: {raw}", quoted(&key)));
        }
    }
    let mut attempts: Vec<String> = past_attempts(view).iter().map(|raw| raw.get().to_owned()).collect();
    attempts.push(format!("{{{}}}", entry.join(", ")));
    format!("[{}]", attempts.join(", "))
}

/// Compares a ledger that was read back from the journal with the file, once: what of ours had reached it before the
/// bridge that wrote the journal ended? Only the rest is still to be written, and only a file that had it all can have
/// been edited by somebody since.
pub fn rebase(document: &Document, ledger: &mut Ledger) {
    let missions: Vec<MissionId> = ledger.iter().map(|(mission, _)| mission.clone()).collect();
    for mission in missions {
        let (Some(view), Some(mut held)) =
            (document.mission(mission.as_str()), ledger.get_quietly(mission.as_str()))
        else {
            continue;
        };
        if held.phase == Phase::Waiting && held.fields.is_empty() {
            continue;
        }
        let mut reached = run_in_file(&view) >= held.run;
        for field in &mut held.fields {
            let optional = field.raw == "null";
            let same = view.field(field.key).map_or(optional, |raw| same_json(raw, &field.raw));
            reached &= same || !MOMENTS.contains(&field.key);
            field.dirty = !same;
        }
        if reached && held.phase == Phase::Ended {
            // What an ended mission says since then is somebody else's word.
            for field in &mut held.fields {
                field.dirty &= view.field(field.key).is_none();
            }
        }
        held.shown = match held.phase {
            Phase::Accepted | Phase::Ended if reached && !held.fields.is_empty() => Some(held.state),
            Phase::Accepted | Phase::Ended => None,
            Phase::Waiting | Phase::Claimed => held.shown,
        };
    }
}

/// The human's answer to the open question, when the file holds one.
pub(super) fn answer(view: &MissionView<'_>, held: &Held) -> Option<String> {
    let raw = view.field("hitlResponse").filter(|raw| *raw != "null")?;
    let same_question = match (view.field("hitlId"), held.field("hitlId")) {
        (Some(theirs), Some(ours)) => same_json(theirs, ours),
        _ => false,
    };
    if !same_question {
        return None;
    }
    Some(view.string("hitlResponse").map_or_else(|| raw.to_owned(), Cow::into_owned))
}

pub(super) fn status(patch: MissionPatch, held: &Held, said: Option<MissionState>) -> MissionPatch {
    if said == Some(held.state) { patch } else { patch.with_str("status", held.state.as_file()) }
}

/// Our fields that the file lacks: those that are new, those that vanished, and with `all` those that differ.
pub(super) fn fields(view: &MissionView<'_>, held: &Held, all: bool) -> MissionPatch {
    let mut patch = MissionPatch::new();
    let same_question = match (view.field("hitlId"), held.field("hitlId")) {
        (Some(theirs), Some(ours)) => same_json(theirs, ours),
        _ => false,
    };
    for field in &held.fields {
        let theirs = view.field(field.key);
        let wanted = match theirs {
            // Null over an answer: only when it answers an earlier question. Null over nothing: not needed.
            theirs if field.raw == "null" && matches!(field.key, "hitlResponse" | "hitlRespondedAt") => {
                theirs.is_some_and(|raw| raw != "null") && !same_question
            }
            None => true,
            Some(theirs) => (field.dirty || all) && !same_json(theirs, &field.raw),
        };
        if wanted {
            patch = patch.with(field.key, field.raw.clone());
        }
    }
    if held.phase == Phase::Waiting && held.run > 1 {
        for (key, _) in view.fields() {
            if let Some(ours) = OUR_KEYS.into_iter().find(|ours| *ours == key && is_run_key(ours)) {
                patch = patch.without(ours);
            }
        }
    }
    patch
}
