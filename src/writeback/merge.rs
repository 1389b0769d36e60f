//! Pure: their bytes and our ledger → what to write, and what their bytes ask of us.
//!
//! The file is the base; of ours only our own fields are laid on top. A status that another program wrote is either an
//! *old copy* (it read the file, we wrote, it wrote what it had read), and then ours is put back, or it is *steering*
//! (somebody wants the mission aborted, paused, resumed, answered or run again).
//!
//! | the ledger says | the file says | then |
//! |---|---|---|
//! | nothing | queued | offered |
//! | nothing | queued, with marks of an earlier dispatch | a new run |
//! | nothing | assigned … suspended, with marks | adopted and followed |
//! | waiting | queued | offered |
//! | waiting | ended | withdrawn |
//! | live | the same | – |
//! | live | aborted | abort is asked for |
//! | live | paused, not an old copy | pause is asked for |
//! | paused | running, not an old copy | resume is asked for |
//! | live | done, failed | left as a human wrote it; followed in the journal |
//! | live | anything else | put back |
//! | ended | the same, or another end | – |
//! | ended | queued with our fields | a new run; our old fields move to `attempts[]` |
//! | ended | queued without our fields, or live | put back |

use super::traces::{answer, fields, has_marks, history, is_old_copy, run_in_file, status};
use crate::domain::id::MissionId;
use crate::domain::lifecycle::MissionState;
use crate::domain::mission::Priority;
use crate::domain::time::Timestamp;
use crate::session::document::Document;
use crate::session::edits::Edits;
use crate::session::json::quoted;
use crate::session::ledger::{Field, Held, Ledger, Phase};
use crate::session::messages::{Offer, Wish};
use crate::session::mission_view::MissionView;
use crate::session::patch::OUR_KEYS;
use std::borrow::Cow;

/// Which missions of the document are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All of them: another program may have written the file.
    Everything,
    /// Those that changed in the ledger: the file is as we left it.
    Changed,
}

/// Something in the file that cannot be used, for one warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The place in `missions[]`, from 0.
    pub index: usize,
    /// The field, such as `objective`.
    pub field: &'static str,
    /// What is wrong and what to do, for people.
    pub what: String,
}

impl Problem {
    /// Returns where it is, such as `missions[3].objective`.
    pub fn place(&self) -> String {
        let dot = if self.field.is_empty() { "" } else { "." };
        format!("missions[{}]{dot}{}", self.index, self.field)
    }
}

/// What a document asks for.
#[derive(Debug, Default)]
pub struct Findings {
    /// What may be dispatched, when the session dispatches at all.
    pub offers: Vec<Offer>,
    /// What somebody wants of live missions, new since the last look.
    pub wishes: Vec<(MissionId, Wish)>,
    /// Missions that begin a new run, with its number and their new `attempts` array.
    pub requeued: Vec<(MissionId, u32, String)>,
    /// Missions whose fields another program had overwritten with an old copy.
    pub restored: Vec<MissionId>,
    /// Missions that ended in the file before anyone had them.
    pub withdrawn: Vec<MissionId>,
    /// Missions that another bridge had dispatched.
    pub adopted: Vec<MissionId>,
    /// Live missions that are no longer in the array.
    pub gone: Vec<MissionId>,
    /// What cannot be used.
    pub problems: Vec<Problem>,
}

/// Compares the document with the ledger. The ledger takes in what the file asks for; the edits make the file say what
/// the ledger says. Calling it again on the same document finds nothing new and asks for the same edits.
pub fn reconcile(document: &Document, ledger: &mut Ledger, scope: Scope, at: Timestamp) -> (Edits, Findings) {
    let mut edits = Edits::new();
    let mut findings = Findings::default();
    match scope {
        Scope::Everything => {
            for view in document.missions() {
                inspect(document, view, ledger, &mut edits, &mut findings);
            }
            for (mission, held) in ledger.iter() {
                if held.is_live() && document.mission(mission.as_str()).is_none() {
                    findings.gone.push(mission.clone());
                }
            }
            if !document.state().is_dispatching() {
                findings.offers.clear();
            }
        }
        Scope::Changed => {
            let changed: Vec<MissionId> = ledger.changed().cloned().collect();
            for mission in changed {
                if let (Some(view), Some(mut held)) =
                    (document.mission(mission.as_str()), ledger.get_quietly(mission.as_str()))
                {
                    let said = view.string("status").and_then(|text| MissionState::parse(&text).ok());
                    held.lacking |= settle(&view, &mission, &mut held, said, &mut edits, &mut findings);
                }
            }
        }
    }
    if !edits.is_empty() {
        edits.stamp_session("updatedAt", quoted(&at.to_string()));
    }
    (edits, findings)
}

fn inspect(
    document: &Document,
    view: MissionView<'_>,
    ledger: &mut Ledger,
    edits: &mut Edits,
    findings: &mut Findings,
) {
    let mut problem = |field: &'static str, what: String| {
        findings.problems.push(Problem { index: view.index(), field, what });
    };
    if !view.is_object() {
        return problem(
            "",
            "is not an object; write {\"id\": …, \"objective\": …, \"status\": \"queued\"}".to_owned(),
        );
    }
    let Some(id) = view.string("id") else {
        return problem("id", "is missing or not a string; give the mission an id of its own".to_owned());
    };
    let mission = match MissionId::new(&id) {
        Ok(mission) => mission,
        Err(error) => return problem("id", error.to_string()),
    };
    if document.mission(&id).is_some_and(|first| first.index() != view.index()) {
        return problem("id", format!("{id:?} stands in this session twice; the first one counts"));
    }
    let status = view.string("status");
    let said = match status.as_deref().map(MissionState::parse) {
        Some(Ok(state)) => Some(state),
        Some(Err(unknown)) => {
            problem("status", format!("{unknown}; the mission is left alone"));
            None
        }
        None => {
            problem(
                "status",
                "is missing or not a string; write \"queued\" to have the mission run".to_owned(),
            );
            None
        }
    };
    if ledger.get(&id).is_none() {
        let Some(state) = said else { return };
        if !meet(&view, &mission, state, ledger, findings) {
            return;
        }
    }
    let Some(mut held) = ledger.get_quietly(&id) else { return };
    if settle(&view, &mission, &mut held, said, edits, findings) {
        held.lacking = true;
        drop(held);
        ledger.mark(&mission);
    }
}

/// A mission that the ledger does not know. Returns whether it does now.
fn meet(
    view: &MissionView<'_>,
    mission: &MissionId,
    said: MissionState,
    ledger: &mut Ledger,
    findings: &mut Findings,
) -> bool {
    if said.is_terminal() {
        return false;
    }
    if said == MissionState::Queued {
        if has_marks(view) {
            let run = run_in_file(view) + 1;
            let attempts = history(view, None);
            ledger.insert(mission.clone(), Held::waiting(run)).requeue(run, attempts.clone());
            findings.requeued.push((mission.clone(), run, attempts));
            return true;
        }
        if run_in_file(view) > 1 {
            ledger.insert(mission.clone(), Held::waiting(run_in_file(view)));
            return true;
        }
        offer(view, mission, findings);
        return false;
    }
    if !has_marks(view) {
        // Some other program runs this one without any dispatch.
        return false;
    }
    let executor = view.string("executorId").filter(|id| id != "unknown").map(Cow::into_owned);
    let mut held = Held::adopted(run_in_file(view), said, executor);
    held.attempts = view.unsigned("dispatchAttempts").and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
    held.fields = OUR_KEYS
        .iter()
        .filter_map(|key| Some(Field { key, raw: view.field(key)?.to_owned(), dirty: false }))
        .collect();
    ledger.insert(mission.clone(), held);
    findings.adopted.push(mission.clone());
    true
}

fn offer(view: &MissionView<'_>, mission: &MissionId, findings: &mut Findings) {
    if view.string("objective").is_none_or(|text| text.trim().is_empty()) {
        let what = "is missing, empty or not a string; say what is to be done".to_owned();
        findings.problems.push(Problem { index: view.index(), field: "objective", what });
        return;
    }
    findings.offers.push(Offer {
        mission: mission.clone(),
        priority: Priority::from_file(view.string("priority").as_deref()),
        created_at: view.string("createdAt").and_then(|text| Timestamp::parse(&text).ok()),
        index: view.index(),
    });
}

/// A mission that the ledger knows. Returns whether the file lacks something of it.
fn settle(
    view: &MissionView<'_>,
    mission: &MissionId,
    held: &mut Held,
    said: Option<MissionState>,
    edits: &mut Edits,
    findings: &mut Findings,
) -> bool {
    let verdict = match held.phase {
        Phase::Waiting => waiting(view, mission, held, said, findings),
        Phase::Claimed | Phase::Accepted => live(view, mission, held, said, findings),
        Phase::Ended => ended(view, mission, held, said, findings),
    };
    // A bridge that was killed before it wrote leaves an old copy too, and that is nobody's doing.
    let was_written = held.shown.is_some();
    if said.is_some() {
        held.shown = said;
    }
    held.promised = match verdict {
        Verdict::Leave | Verdict::Fields => said,
        Verdict::Status | Verdict::PutBack => Some(held.state),
    };
    let patch = match verdict {
        Verdict::Leave => return false,
        Verdict::Fields => fields(view, held, false),
        Verdict::Status => status(fields(view, held, false), held, said),
        Verdict::PutBack => {
            if was_written {
                findings.restored.push(mission.clone());
            }
            status(fields(view, held, true), held, said)
        }
    };
    let lacking = !patch.is_empty();
    if lacking {
        edits.patch_mission(mission.as_str(), patch);
    }
    lacking
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Theirs stands.
    Leave,
    /// Write our fields, not the status.
    Fields,
    /// Write our fields and the status.
    Status,
    /// Theirs is an old copy: write everything of ours.
    PutBack,
}

fn waiting(
    view: &MissionView<'_>,
    mission: &MissionId,
    held: &mut Held,
    said: Option<MissionState>,
    findings: &mut Findings,
) -> Verdict {
    match said {
        Some(MissionState::Queued) => {
            offer(view, mission, findings);
            Verdict::Fields
        }
        // An old copy from before the new run began still shows the end of the run before.
        Some(_) if held.run > 1 && is_old_copy(view, held) => {
            offer(view, mission, findings);
            Verdict::PutBack
        }
        // The new run's first write: the file is still as the human left it.
        Some(end) if end.is_terminal() && held.fields.iter().any(|f| f.key == "attempts" && f.dirty) => {
            Verdict::Status
        }
        Some(MissionState::Done | MissionState::Failed | MissionState::Aborted) => {
            held.withdrawn(held.state_since);
            findings.withdrawn.push(mission.clone());
            Verdict::Leave
        }
        Some(
            MissionState::Assigned
            | MissionState::Running
            | MissionState::HitlRequired
            | MissionState::Paused
            | MissionState::Suspended,
        )
        | None => Verdict::Leave,
    }
}

fn live(
    view: &MissionView<'_>,
    mission: &MissionId,
    held: &mut Held,
    said: Option<MissionState>,
    findings: &mut Findings,
) -> Verdict {
    use MissionState as S;
    if said == Some(held.state) {
        // The file does not ask for it any more; an answer stands there until somebody changes it.
        held.refused.retain(|wish| matches!(wish, Wish::Answer { .. }));
    }
    let mut ask = |held: &mut Held, wish: Wish| {
        if held.refused.contains(&wish) {
            return Verdict::Status;
        }
        if held.wish.as_ref() != Some(&wish) {
            held.wish = Some(wish.clone());
            findings.wishes.push((mission.clone(), wish));
        }
        Verdict::Fields
    };
    if held.state == S::HitlRequired
        && said != Some(S::Aborted)
        && let Some(response) = answer(view, held)
    {
        let hitl_id: String =
            held.field("hitlId").and_then(|raw| serde_json::from_str(raw).ok()).unwrap_or_default();
        ask(held, Wish::Answer { hitl_id, response });
    }
    let Some(said) = said else {
        // Nobody has it yet: it is not sent while the file says something that nobody knows.
        return if held.phase == Phase::Claimed { Verdict::Leave } else { Verdict::Status };
    };
    if held.overruled {
        return Verdict::Status;
    }
    if said == held.state {
        return match held.wish {
            // They changed their mind before the executor confirmed, or before there was one.
            Some(Wish::Pause) if said == S::Running && held.shown == Some(S::Paused) => {
                ask(held, Wish::Resume)
            }
            Some(Wish::Resume) if said == S::Paused && held.shown == Some(S::Running) => {
                ask(held, Wish::Pause)
            }
            Some(Wish::Abort) if held.phase == Phase::Claimed => {
                held.wish = None;
                Verdict::Status
            }
            Some(Wish::Abort | Wish::Pause | Wish::Resume | Wish::Answer { .. }) | None => Verdict::Status,
        };
    }
    let old_copy = is_old_copy(view, held) || run_in_file(view) < held.run;
    let was_in_step = held.shown == Some(held.state) && !old_copy;
    match said {
        S::Aborted if run_in_file(view) < held.run => Verdict::PutBack,
        S::Aborted => ask(held, Wish::Abort),
        // Nobody has it yet: it is not sent while the file says so.
        S::Paused if held.phase == Phase::Claimed && !held.has_been(S::Paused) => Verdict::Leave,
        S::Paused if held.wish == Some(Wish::Pause) => Verdict::Fields,
        S::Running if held.wish == Some(Wish::Resume) => Verdict::Fields,
        // The first pause of a run cannot be an old copy of ours.
        S::Paused if !held.has_been(S::Paused) || was_in_step => ask(held, Wish::Pause),
        S::Running if held.state == S::Paused && was_in_step => ask(held, Wish::Resume),
        S::Done | S::Failed if !held.has_been(said) && !old_copy => Verdict::Fields,
        // What we wrote last, and there is news since.
        _ if held.shown == Some(said) && !old_copy => Verdict::Status,
        S::Queued
        | S::Assigned
        | S::Running
        | S::HitlRequired
        | S::Paused
        | S::Suspended
        | S::Done
        | S::Failed => Verdict::PutBack,
    }
}

fn ended(
    view: &MissionView<'_>,
    mission: &MissionId,
    held: &mut Held,
    said: Option<MissionState>,
    findings: &mut Findings,
) -> Verdict {
    let Some(said) = said else { return Verdict::Status };
    let pending = held.fields.iter().any(|field| field.dirty);
    if said == held.state {
        return if pending { Verdict::Fields } else { Verdict::Leave };
    }
    if said == MissionState::Queued {
        let run = run_in_file(view);
        if has_marks(view) && run == held.run {
            // Nobody but a human leaves the marks of a run and says queued.
            let attempts = history(view, Some(held.state));
            return begin_again(view, mission, held, run.saturating_add(1), attempts, findings);
        }
        if !has_marks(view) && run > held.run {
            // A bridge before us was killed between writing the new run and saying so in the journal.
            let attempts = view.field("attempts").unwrap_or("[]").to_owned();
            return begin_again(view, mission, held, run, attempts, findings);
        }
        if held.state == MissionState::Aborted && held.fields.is_empty() {
            // Aborted before anyone had it: there is nothing of ours that an old copy could lack.
            *held = Held::waiting(held.run);
            offer(view, mission, findings);
            return Verdict::Leave;
        }
    }
    if said.is_terminal() && !pending && !is_old_copy(view, held) {
        return Verdict::Leave;
    }
    if pending && held.shown == Some(said) && !is_old_copy(view, held) {
        Verdict::Status
    } else {
        Verdict::PutBack
    }
}

fn begin_again(
    view: &MissionView<'_>,
    mission: &MissionId,
    held: &mut Held,
    run: u32,
    attempts: String,
    findings: &mut Findings,
) -> Verdict {
    held.requeue(run, attempts.clone());
    findings.requeued.push((mission.clone(), run, attempts));
    offer(view, mission, findings);
    Verdict::Fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::MissionEvent;
    use crate::domain::lifecycle::Happening;
    use crate::session::edits::MissionPatch;
    use crate::session::journal::Line;
    use crate::session::ledger::Applied;
    use crate::writeback::traces::rebase;
    use proptest::prelude::*;

    const AT: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn document(mission: &str) -> Document {
        Document::parse(format!("{{\"id\":\"s\",\"missions\":[{mission}]}}")).unwrap()
    }

    fn again(document: &Document) -> Document {
        Document::parse(document.bytes().to_vec()).unwrap()
    }

    fn id() -> MissionId {
        MissionId::new("m").unwrap()
    }

    /// Lets the file say what the ledger says, as the desk does.
    fn write(document: &Document, ledger: &mut Ledger) -> (Document, Findings) {
        let (edits, findings) = reconcile(document, ledger, Scope::Everything, AT);
        ledger.settled();
        let text = document.apply(&edits).unwrap_or_else(|| document.bytes().to_vec());
        (Document::parse(text).unwrap(), findings)
    }

    fn status(document: &Document) -> String {
        document.mission("m").unwrap().string("status").unwrap().into_owned()
    }

    fn started() -> MissionEvent {
        MissionEvent::Started { agent_runtime: Some("shell".to_owned()), pty_session_id: None }
    }

    fn completed() -> MissionEvent {
        MissionEvent::Completed {
            exit_code: Some(0),
            tokens_total: None,
            summary: Some("ok".to_owned()),
            artifacts: vec![],
        }
    }

    fn happen(ledger: &mut Ledger, event: &MissionEvent, millis: i64) -> Applied {
        let digest = u64::try_from(millis).unwrap();
        ledger.get_mut(&id()).unwrap().happened(
            event,
            Some("e"),
            AT.plus(std::time::Duration::from_millis(digest)),
            digest,
        )
    }

    /// A mission that was sent and accepted, and the file that says so.
    fn assigned() -> (Document, Ledger) {
        let mut ledger = Ledger::default();
        let file = document(r#"{"id":"m","objective":"o","status":"queued","theirs":1}"#);
        let (_edits, findings) = reconcile(&file, &mut ledger, Scope::Everything, AT);
        assert_eq!(findings.offers.len(), 1);
        ledger.hold(id()).claim(AT);
        ledger.get_mut(&id()).unwrap().assigned(Some("e"), None, AT);
        let (file, _) = write(&file, &mut ledger);
        assert_eq!(status(&file), "assigned");
        (file, ledger)
    }

    fn running() -> (Document, Ledger) {
        let (file, mut ledger) = assigned();
        assert_eq!(happen(&mut ledger, &started(), 10), Applied::Moved);
        let (file, _) = write(&file, &mut ledger);
        (file, ledger)
    }

    fn with_status(file: &Document, said: &str) -> Document {
        let mut edits = Edits::new();
        edits.patch_mission("m", MissionPatch::new().with_str("status", said));
        Document::parse(file.apply(&edits).unwrap_or_else(|| file.bytes().to_vec())).unwrap()
    }

    #[test]
    fn an_old_copy_is_put_back_with_everything_of_ours_and_nothing_of_theirs_is_lost() {
        let queued = document(r#"{"id":"m","objective":"o","status":"queued","theirs":2}"#);
        let (file, mut ledger) = running();
        let assigned_copy = assigned().0;
        for old in [queued, assigned_copy] {
            let (restored, findings) = write(&old, &mut ledger);
            assert_eq!(findings.restored, [id()]);
            assert!(findings.wishes.is_empty() && findings.offers.is_empty() && findings.requeued.is_empty());
            assert_eq!(status(&restored), "running");
            for key in ["executorId", "dispatchedAt", "dispatchAttempts", "startedAt", "agentRuntime"] {
                let (ours, theirs) = (file.mission("m").unwrap(), restored.mission("m").unwrap());
                assert_eq!(ours.field(key), theirs.field(key), "{key}");
            }
            assert_eq!(
                restored.mission("m").unwrap().field("theirs"),
                old.mission("m").unwrap().field("theirs")
            );
        }
    }

    #[test]
    fn an_ended_mission_never_runs_again_by_an_old_copy() {
        let (file, mut ledger) = running();
        assert_eq!(happen(&mut ledger, &completed(), 20), Applied::Moved);
        let (done, _) = write(&file, &mut ledger);
        assert_eq!(status(&done), "done");
        let queued = document(r#"{"id":"m","objective":"o","status":"queued"}"#);
        for old in [queued, file] {
            let (restored, findings) = write(&old, &mut ledger);
            assert!(findings.offers.is_empty());
            assert_eq!(status(&restored), "done");
            assert_eq!(restored.mission("m").unwrap().field("exitCode"), Some("0"));
        }
    }

    #[test]
    fn attempts_of_another_program_are_no_runs_and_are_kept() {
        let mission = |attempts: &str| {
            let mut ledger = Ledger::default();
            let text = format!(r#"{{"id":"m","objective":"o","status":"queued","attempts":{attempts}}}"#);
            let (_, findings) = reconcile(&document(&text), &mut ledger, Scope::Everything, AT);
            assert_eq!((findings.offers.len(), findings.requeued.len()), (1, 0), "{attempts}");
            ledger.hold(id()).claim(AT);
            ledger.get("m").unwrap().idempotency_key(&id())
        };
        for theirs in ["3", "[1,2]", "[{\"try\":1}]", "\"two\"", "null"] {
            assert_eq!(mission(theirs), "m", "{theirs}");
        }
        assert_eq!(mission(r#"[7,{"status":"failed"}]"#), "m#2");
        let again =
            document(r#"{"id":"m","objective":"o","status":"queued","dispatchedAt":"t","attempts":3}"#);
        let (_, findings) = reconcile(&again, &mut Ledger::default(), Scope::Everything, AT);
        let (_, run, attempts) = &findings.requeued[0];
        assert_eq!((*run, attempts.as_str()), (2, r#"[3, {"dispatchedAt": "t"}]"#));
    }

    #[test]
    fn what_was_refused_is_not_wished_for_again_until_it_is_asked_for_anew() {
        let (file, mut ledger) = running();
        let paused = with_status(&file, "paused");
        let wishes = |file: &Document, ledger: &mut Ledger| write(file, ledger).1.wishes.len();
        assert_eq!(wishes(&paused, &mut ledger), 1);
        ledger.get_mut(&id()).unwrap().refuse_wish();
        let (file, findings) = write(&paused, &mut ledger);
        assert_eq!((status(&file).as_str(), findings.wishes.len()), ("running", 0));
        assert_eq!(wishes(&paused, &mut ledger), 0, "an old copy");
        assert_eq!(wishes(&file, &mut ledger), 0);
        assert_eq!(wishes(&with_status(&file, "paused"), &mut ledger), 1, "somebody insists");
    }

    #[test]
    fn an_ended_mission_that_is_queued_again_begins_a_new_run() {
        let (file, mut ledger) = running();
        let failed =
            MissionEvent::Failed { reason: None, error: None, exit_code: Some(3), tokens_total: None };
        assert_eq!(happen(&mut ledger, &failed, 20), Applied::Moved);
        let (file, _) = write(&file, &mut ledger);
        let (again, findings) = write(&with_status(&file, "queued"), &mut ledger);
        assert_eq!(findings.offers.len(), 1);
        assert_eq!(findings.requeued.len(), 1);
        let view = again.mission("m").unwrap();
        assert_eq!(status(&again), "queued");
        assert!(view.field("exitCode").is_none() && view.field("dispatchAttempts").is_none());
        assert_eq!(view.field("theirs"), Some("1"));
        let attempts: serde_json::Value = serde_json::from_str(view.field("attempts").unwrap()).unwrap();
        assert_eq!(attempts[0]["exitCode"], 3);
        assert_eq!(attempts[0]["status"], "failed");
        let held = ledger.get("m").unwrap();
        assert_eq!(held.idempotency_key(&id()), "m#2");
        // The copy from before is an old one now, not a second wish to run it.
        let (still, findings) = write(&with_status(&file, "failed"), &mut ledger);
        assert_eq!(status(&still), "queued");
        assert_eq!(findings.requeued.len(), 0);
        let (_, findings) = write(&still, &mut ledger);
        assert_eq!((findings.offers.len(), findings.requeued.len()), (1, 0));
    }

    #[test]
    fn a_new_run_survives_a_crash_on_either_side_of_its_write() {
        let (file, mut ledger) = running();
        assert_eq!(happen(&mut ledger, &completed(), 20), Applied::Moved);
        let (file, _) = write(&file, &mut ledger);
        let before = ledger.clone();
        let (again, _) = write(&with_status(&file, "queued"), &mut ledger);
        // Killed after the file was written, before the journal line: the ledger still says done.
        let mut forgetful = before;
        let (file, findings) = write(&again, &mut forgetful);
        assert_eq!(status(&file), "queued");
        assert_eq!(findings.offers.len(), 1);
        assert_eq!(forgetful.get("m").unwrap().run, 2);
    }

    #[test]
    fn edits_of_a_live_mission_are_wishes_and_each_is_told_once() {
        let (file, mut ledger) = running();
        let paused = with_status(&file, "paused");
        let (after, findings) = write(&paused, &mut ledger);
        assert_eq!(findings.wishes, [(id(), Wish::Pause)]);
        assert_eq!(status(&after), "paused");
        let (after, findings) = write(&after, &mut ledger);
        assert!(findings.wishes.is_empty());
        assert_eq!(happen(&mut ledger, &MissionEvent::Paused { reason: None }, 30), Applied::Moved);
        let (after, findings) = write(&after, &mut ledger);
        assert!(findings.wishes.is_empty() && after.mission("m").unwrap().field("pausedAt").is_some());
        let (after, findings) = write(&with_status(&after, "running"), &mut ledger);
        assert_eq!(findings.wishes, [(id(), Wish::Resume)]);
        let resumed = MissionEvent::Resumed { resumed_from: Some(MissionState::Paused) };
        assert_eq!(happen(&mut ledger, &resumed, 40), Applied::Moved);
        let (after, _) = write(&after, &mut ledger);
        assert_eq!(status(&after), "running");
        let (after, findings) = write(&with_status(&after, "aborted"), &mut ledger);
        assert_eq!(findings.wishes, [(id(), Wish::Abort)]);
        assert_eq!(status(&after), "aborted");
        assert_eq!(happen(&mut ledger, &completed(), 50), Applied::Moved, "the executor was faster");
        let (after, _) = write(&after, &mut ledger);
        assert_eq!(status(&after), "done");
    }

    #[test]
    fn a_pause_that_was_already_undone_is_an_old_copy() {
        let (file, mut ledger) = running();
        assert_eq!(happen(&mut ledger, &MissionEvent::Paused { reason: None }, 30), Applied::Moved);
        let (paused, _) = write(&file, &mut ledger);
        assert_eq!(happen(&mut ledger, &MissionEvent::Resumed { resumed_from: None }, 40), Applied::Moved);
        let (_, _) = write(&paused, &mut ledger);
        let (after, findings) = write(&paused, &mut ledger);
        assert_eq!(status(&after), "running");
        assert!(findings.wishes.is_empty(), "{findings:?}");
    }

    #[test]
    fn an_answer_belongs_to_its_question() {
        let (file, mut ledger) = running();
        let asks = |hitl: &str| MissionEvent::HitlRequired {
            hitl_id: crate::domain::id::HitlId::new(hitl).unwrap(),
            prompt: "sure?".to_owned(),
            context: None,
            expires_at: None,
        };
        assert_eq!(happen(&mut ledger, &asks("h1"), 30), Applied::Moved);
        let (file, _) = write(&file, &mut ledger);
        assert_eq!(status(&file), "hitl_required");
        let mut edits = Edits::new();
        edits.patch_mission("m", MissionPatch::new().with_str("hitlResponse", "yes"));
        let answered = Document::parse(file.apply(&edits).unwrap()).unwrap();
        let (after, findings) = write(&answered, &mut ledger);
        let wish = Wish::Answer { hitl_id: "h1".to_owned(), response: "yes".to_owned() };
        assert_eq!(findings.wishes, [(id(), wish)]);
        assert_eq!(after.mission("m").unwrap().string("hitlResponse").as_deref(), Some("yes"));
        let responded = MissionEvent::HitlResponded {
            hitl_id: crate::domain::id::HitlId::new("h1").unwrap(),
            response: "yes".to_owned(),
            responded_at: None,
        };
        assert_eq!(happen(&mut ledger, &responded, 40), Applied::Moved);
        let (after, findings) = write(&after, &mut ledger);
        assert!(findings.wishes.is_empty());
        assert_eq!(happen(&mut ledger, &asks("h2"), 50), Applied::Moved);
        let (after, findings) = write(&after, &mut ledger);
        assert!(findings.wishes.is_empty(), "the answer was to the first question");
        assert_eq!(after.mission("m").unwrap().field("hitlResponse"), Some("null"));
    }

    /// A ledger as it comes out of the journal: nothing in it says what had reached the file.
    fn read_back(file: &Document, ledger: &Ledger) -> Ledger {
        let mut line = Vec::new();
        Line::carried(AT, ledger).for_each(|part| part.write(&mut line));
        let mut folded = Ledger::default();
        crate::session::journal::fold(&mut folded, std::str::from_utf8(&line).unwrap());
        rebase(file, &mut folded);
        folded
    }

    fn ended_as(event: &MissionEvent) -> (Document, Ledger) {
        let (file, mut ledger) = running();
        assert_eq!(happen(&mut ledger, event, 20), Applied::Moved);
        let (file, _) = write(&file, &mut ledger);
        (file, ledger)
    }

    #[test]
    fn what_a_killed_bridge_had_not_written_yet_is_nobodys_old_copy() {
        let behind = assigned().0;
        let (_, ledger) = ended_as(&completed());
        let mut ledger = read_back(&behind, &ledger);
        let (after, findings) = write(&behind, &mut ledger);
        assert!(findings.restored.is_empty());
        assert_eq!(status(&after), "done");
        let (_, findings) = write(&behind, &mut ledger);
        assert_eq!(findings.restored, [id()], "now it is one");
    }

    #[test]
    fn edits_made_while_no_bridge_was_running_mean_the_same() {
        let (done, ledger) = ended_as(&completed());
        let edited = with_status(&done, "queued");
        let (after, findings) = write(&edited, &mut read_back(&edited, &ledger));
        assert_eq!((findings.requeued.len(), findings.offers.len()), (1, 1));
        assert_eq!(status(&after), "queued");
        let edited = with_status(&done, "failed");
        let (after, findings) = write(&edited, &mut read_back(&edited, &ledger));
        assert!(findings.restored.is_empty());
        assert_eq!(status(&after), "failed", "a human's word on an ended mission stands");

        let (paused, ledger) = {
            let (file, mut ledger) = running();
            assert_eq!(happen(&mut ledger, &MissionEvent::Paused { reason: None }, 30), Applied::Moved);
            (write(&file, &mut ledger).0, ledger)
        };
        let edited = with_status(&paused, "running");
        let (_, findings) = write(&edited, &mut read_back(&edited, &ledger));
        assert_eq!(findings.wishes, [(id(), Wish::Resume)]);
        let edited = with_status(&paused, "aborted");
        let (_, findings) = write(&edited, &mut read_back(&edited, &ledger));
        assert_eq!(findings.wishes, [(id(), Wish::Abort)]);
    }

    #[test]
    fn a_file_from_before_the_last_write_is_brought_up_to_date_and_steers_nobody() {
        let (file, mut ledger) = running();
        assert_eq!(happen(&mut ledger, &MissionEvent::Paused { reason: None }, 30), Applied::Moved);
        let (paused, _) = write(&file, &mut ledger);
        assert_eq!(happen(&mut ledger, &MissionEvent::Resumed { resumed_from: None }, 40), Applied::Moved);
        let (after, findings) = write(&paused, &mut read_back(&paused, &ledger));
        assert!(findings.wishes.is_empty(), "{findings:?}");
        assert_eq!(status(&after), "running");
        assert_eq!(happen(&mut ledger, &completed(), 50), Applied::Moved);
        let (after, findings) = write(&paused, &mut read_back(&paused, &ledger));
        assert!(findings.wishes.is_empty() && findings.offers.is_empty());
        assert_eq!(status(&after), "done");
    }

    #[test]
    fn a_stale_copy_of_an_earlier_run_neither_runs_nor_aborts_a_later_one() {
        let (done, mut ledger) = ended_as(&completed());
        let stale = with_status(&done, "queued");
        let (second, _) = write(&stale, &mut ledger);
        ledger.get_mut(&id()).unwrap().claim(AT);
        ledger.get_mut(&id()).unwrap().assigned(Some("e"), None, AT);
        let (second, _) = write(&second, &mut ledger);
        let aborted_first_run = with_status(&done, "aborted");
        let (after, findings) = write(&aborted_first_run, &mut ledger);
        assert!(findings.wishes.is_empty());
        assert_eq!(status(&after), "assigned");
        let late = happen(&mut ledger, &MissionEvent::Aborted { aborted_by: None, reason: None }, 15);
        assert_eq!(late, Applied::Late, "it is about the first run");
        assert_eq!(happen(&mut ledger, &completed(), 60), Applied::Moved);
        let (_, _) = write(&second, &mut ledger);
        let (after, findings) = write(&stale, &mut ledger);
        assert!(findings.offers.is_empty() && findings.requeued.is_empty());
        assert_eq!(status(&after), "done");
    }

    #[test]
    fn a_mission_that_nobody_has_yet_is_held_aborted_and_queued_again_by_hand() {
        let queued = document(r#"{"id":"m","objective":"o","status":"queued"}"#);
        let mut ledger = Ledger::default();
        ledger.hold(id()).claim(AT);
        let (after, findings) = write(&with_status(&queued, "paused"), &mut ledger);
        assert!(findings.wishes.is_empty());
        assert_eq!(status(&after), "paused");
        let (_, findings) = write(&with_status(&queued, "aborted"), &mut ledger);
        assert_eq!(findings.wishes.len(), 1, "kept until somebody has it");
        let (_, _) = write(&queued, &mut ledger);
        assert_eq!(ledger.get("m").unwrap().wish, None, "taken back");
        ledger.get_mut(&id()).unwrap().release();
        let (_, findings) = write(&with_status(&queued, "aborted"), &mut ledger);
        assert_eq!(findings.withdrawn, [id()]);
        let (after, findings) = write(&queued, &mut ledger);
        assert_eq!(findings.offers.len(), 1);
        assert_eq!(status(&after), "queued");
    }

    #[test]
    fn unusable_missions_are_named_and_the_rest_goes_on() {
        let file = document(
            r#"7,{"objective":"o","status":"queued"},{"id":"m","status":"queued"},{"id":"n","objective":"o","status":"queued"},
               {"id":"n","objective":"twice","status":"queued"},{"id":"x","objective":"o","status":"sleeping"}"#,
        );
        let (_, findings) = reconcile(&file, &mut Ledger::default(), Scope::Everything, AT);
        let named: Vec<(usize, &str)> = findings.problems.iter().map(|p| (p.index, p.field)).collect();
        assert_eq!(named, [(0, ""), (1, "id"), (2, "objective"), (4, "id"), (5, "status")]);
        assert_eq!(findings.offers.len(), 1);
    }

    #[test]
    fn a_held_session_offers_nothing() {
        let text = r#"{"state":"paused","missions":[{"id":"m","objective":"o","status":"queued"}]}"#;
        let (_, findings) =
            reconcile(&Document::parse(text).unwrap(), &mut Ledger::default(), Scope::Everything, AT);
        assert!(findings.offers.is_empty());
    }

    fn event_of(happening: Happening, n: usize) -> MissionEvent {
        let hitl_id = crate::domain::id::HitlId::new(format!("h{n}")).unwrap();
        match happening {
            Happening::Assigned => MissionEvent::Assigned { estimated_start: None },
            Happening::Started => started(),
            Happening::Progress => MissionEvent::Progress {
                phase: None,
                iteration: Some(1),
                tokens_used: None,
                summary: Some(format!("step {n}")),
                pct_complete: None,
            },
            Happening::HitlRequired => MissionEvent::HitlRequired {
                hitl_id,
                prompt: "?".to_owned(),
                context: None,
                expires_at: None,
            },
            Happening::HitlResponded => {
                MissionEvent::HitlResponded { hitl_id, response: "!".to_owned(), responded_at: None }
            }
            Happening::Paused => MissionEvent::Paused { reason: None },
            Happening::Suspended => MissionEvent::Suspended { checkpoint_id: None, reason: None },
            Happening::Reconnected => MissionEvent::Reconnected { checkpoint_id: None },
            Happening::Resumed => MissionEvent::Resumed { resumed_from: None },
            Happening::Completed => completed(),
            Happening::Failed => {
                MissionEvent::Failed { reason: None, error: None, exit_code: None, tokens_total: None }
            }
            Happening::Aborted => MissionEvent::Aborted { aborted_by: None, reason: None },
        }
    }

    /// Whatever happens, and whichever earlier copy of the file another program writes over it, the file ends up saying what
    /// is true, the mission is never offered again, and nobody is steered. Each step is an event, and which copy is written
    /// over the file after it.
    fn overwritten(steps: Vec<(usize, Option<usize>)>) -> Result<(), TestCaseError> {
        let (file, mut ledger) = assigned();
        let mut copies =
            vec![document(r#"{"id":"m","objective":"o","status":"queued","theirs":1}"#), again(&file)];
        let mut file = file;
        for (n, (kind, overwrite)) in steps.into_iter().enumerate() {
            let _applied =
                happen(&mut ledger, &event_of(Happening::ALL[kind], n), 100 + i64::try_from(n).unwrap());
            let (next, _) = write(&file, &mut ledger);
            file = next;
            copies.push(again(&file));
            if let Some(which) = overwrite {
                let (next, findings) = write(&copies[which % copies.len()], &mut ledger);
                prop_assert!(findings.offers.is_empty() && findings.requeued.is_empty());
                prop_assert!(
                    findings.wishes.iter().all(|(_, wish)| matches!(wish, Wish::Answer { .. })),
                    "{findings:?}"
                );
                file = next;
            }
            let held = ledger.get("m").unwrap();
            prop_assert_eq!(status(&file), held.state.as_file());
            prop_assert_eq!(file.mission("m").unwrap().field("theirs"), Some("1"));
        }
        Ok(())
    }

    /// Found by the property.
    #[test]
    fn an_old_copy_between_two_events_ends_in_the_truth() {
        overwritten(vec![(5, None), (0, Some(8)), (3, None)]).unwrap();
    }

    proptest! {
        #[test]
        fn any_old_copy_at_any_time_ends_in_the_truth(
            steps in proptest::collection::vec((0..Happening::ALL.len(), proptest::option::of(0..100_usize)), 1..30)
        ) {
            overwritten(steps)?;
        }

        /// Writing is done when it is done: a second look at what was written finds nothing.
        #[test]
        fn a_second_look_finds_nothing_new(kinds in proptest::collection::vec(0..Happening::ALL.len(), 0..12)) {
            let (file, mut ledger) = assigned();
            for (n, kind) in kinds.into_iter().enumerate() {
                let _applied = happen(&mut ledger, &event_of(Happening::ALL[kind], n), 100 + i64::try_from(n).unwrap());
            }
            let (file, _) = write(&file, &mut ledger);
            let (edits, findings) = reconcile(&file, &mut ledger, Scope::Everything, AT);
            prop_assert!(edits.is_empty());
            prop_assert!(findings.wishes.is_empty() && findings.restored.is_empty() && findings.offers.is_empty());
        }
    }
}
