//! Pure: lays edits over a document by replacing ranges of its text.
//!
//! How new text looks is read off its neighbours: a new member copies the gap in front of the last member of the same
//! object and the colon of it, a new mission the gap in front of the last mission. So a pretty file stays pretty, a
//! minified one minified, whoever wrote it. Only where there is no neighbour does the file's own first line decide,
//! and for an empty object two spaces, as Mission Control writes.

use std::borrow::Cow;
use std::collections::HashSet;

use super::document::Document;
use super::edits::{Edits, MissionPatch};
use super::json::{self, Fault, Layout, Member, Scanner, Span, last_named};

/// One range of the old text and what stands there instead.
struct Splice {
    start: usize,
    end: usize,
    text: String,
}

/// The look of a whole file.
#[derive(Clone, Copy)]
struct Style<'a> {
    lines: bool,
    newline: &'a str,
    unit: &'a str,
}

impl<'a> Style<'a> {
    fn of(text: &'a str, session: Span, members: &[Member]) -> Self {
        let pretty = Self { lines: true, newline: "\n", unit: "  " };
        let Some(first) = members.first() else {
            return pretty;
        };
        let gap = &text[session.start() + 1..first.key.start()];
        match line_start(gap) {
            Some((newline, unit)) => {
                Self { lines: true, newline, unit: if unit.is_empty() { "  " } else { unit } }
            }
            None => Self { lines: false, ..pretty },
        }
    }

    fn layout(&self, base: &'a str) -> Layout<'a> {
        if self.lines {
            Layout::Lines { newline: self.newline, unit: self.unit, base }
        } else {
            Layout::Compact
        }
    }
}

/// Splits the last line break of a gap from the indentation behind it.
fn line_start(gap: &str) -> Option<(&str, &str)> {
    let at = gap.rfind('\n')?;
    let start = if gap[..at].ends_with('\r') { at - 1 } else { at };
    Some((&gap[start..=at], &gap[at + 1..]))
}

/// How the members of one object, or the elements of one array, follow each other.
struct Neighbour<'a> {
    gap: &'a str,
    colon: &'a str,
    layout: Layout<'a>,
}

impl<'a> Neighbour<'a> {
    /// Copies the last member of an object.
    fn of_member(text: &'a str, object: Span, members: &[Member], style: Style<'a>) -> Option<Self> {
        let last = members.last()?;
        let before = members.len().checked_sub(2).and_then(|place| members.get(place));
        let gap = gap_before(text, object, before.map(|member| member.value), last.key);
        let colon = &text[last.key.end()..last.value.start()];
        Some(Self { gap, colon, layout: layout_behind(gap, style) })
    }
}

/// The white space between an opening bracket, or the comma behind `before`, and `item`.
fn gap_before(text: &str, container: Span, before: Option<Span>, item: Span) -> &str {
    let from = match before {
        Some(before) => {
            let comma = text[before.end()..item.start()].find(',').unwrap_or(0);
            before.end() + comma + 1
        }
        None => container.start() + 1,
    };
    &text[from..item.start()]
}

fn layout_behind<'a>(gap: &'a str, style: Style<'a>) -> Layout<'a> {
    match line_start(gap) {
        Some((newline, base)) => Layout::Lines { newline, unit: style.unit, base },
        None => Layout::Compact,
    }
}

pub(super) fn apply(document: &Document, edits: &Edits) -> Option<Vec<u8>> {
    let text = document.text();
    let (session, members) = document.session_object();
    let style = Style::of(text, session, members);
    let mut splices = Vec::new();
    for (id, patch) in &edits.patches {
        if let Some(mission) = document.mission(id) {
            patch_object(text, mission.span(), mission.members(), patch, style, &mut splices);
        }
    }
    let mut settings = MissionPatch::default();
    for (key, raw) in edits.session.iter().filter(|(key, _)| key != "missions") {
        settings = settings.with(key.clone(), raw.clone());
    }
    append_missions(document, &edits.appended, style, &mut splices, &mut settings);
    let mut session_splices = Vec::new();
    patch_object(text, session, members, &settings, style, &mut session_splices);
    if splices.is_empty() && session_splices.is_empty() {
        return None;
    }
    if !edits.stamps.is_empty() {
        for (key, raw) in edits.stamps.iter().filter(|(key, _)| key != "missions") {
            settings = settings.with(key.clone(), raw.clone());
        }
        session_splices.clear();
        patch_object(text, session, members, &settings, style, &mut session_splices);
    }
    splices.append(&mut session_splices);
    Some(spliced(text, splices))
}

fn spliced(text: &str, mut splices: Vec<Splice>) -> Vec<u8> {
    splices.sort_by_key(|splice| (splice.start, splice.end));
    let growth: usize = splices.iter().map(|splice| splice.text.len()).sum();
    let mut out = Vec::with_capacity(text.len() + growth);
    let mut at = 0;
    for splice in splices {
        out.extend_from_slice(&text.as_bytes()[at..splice.start]);
        out.extend_from_slice(splice.text.as_bytes());
        at = splice.end;
    }
    out.extend_from_slice(&text.as_bytes()[at..]);
    out
}

/// Takes a value as JSON; text that is none becomes a string, so that the file parses whatever it was.
fn checked(raw: &str) -> Cow<'_, str> {
    match Scanner::whole(raw) {
        Ok(span) => Cow::Borrowed(span.of(raw)),
        Err(_no_json) => Cow::Owned(json::quoted(raw)),
    }
}

fn patch_object<'a>(
    text: &'a str,
    object: Span,
    members: &[Member],
    patch: &MissionPatch,
    style: Style<'a>,
    splices: &mut Vec<Splice>,
) {
    let neighbour = Neighbour::of_member(text, object, members, style);
    let layout = neighbour.as_ref().map_or(style.layout(style.unit), |neighbour| neighbour.layout);
    let (gap, colon) = match &neighbour {
        Some(neighbour) => (Cow::Borrowed(neighbour.gap), neighbour.colon),
        None if style.lines => (Cow::Owned(format!("{}{}", style.newline, style.unit)), ": "),
        None => (Cow::Borrowed(""), ":"),
    };
    let mut kept = members.len();
    if !patch.remove.is_empty() {
        let removed: Vec<bool> = members.iter().map(|member| is_removed(text, member, patch)).collect();
        kept = removed.iter().filter(|gone| !**gone).count();
        if kept < members.len() {
            remove_members(object, members, &removed, splices);
        }
    }
    let mut new = String::new();
    for (key, raw) in &patch.set {
        let raw = checked(raw);
        match last_named(text, members, key) {
            Some(member) if json::is_same(member.value.of(text), &raw) => {}
            Some(member) => splices.push(Splice {
                start: member.value.start(),
                end: member.value.end(),
                text: json::laid_out(&raw, layout),
            }),
            None => {
                if new.is_empty() {
                    // Room for the others as well, if they are about as long.
                    new.reserve(patch.set.len() * (gap.len() + key.len() + raw.len() + 8));
                }
                if kept > 0 || !new.is_empty() {
                    new.push(',');
                }
                new.push_str(&gap);
                json::push_quoted(&mut new, key);
                new.push_str(colon);
                json::push_laid_out(&mut new, &raw, layout);
            }
        }
    }
    if new.is_empty() {
        return;
    }
    let at = match members.last() {
        Some(last) if kept > 0 => last.value.end(),
        Some(_) | None => object.end() - 1,
    };
    if kept == 0 {
        if let Some((newline, base)) = line_start(&gap) {
            new.push_str(newline);
            new.push_str(base.strip_suffix(style.unit).unwrap_or_default());
        }
        // Nothing of the old inside is left, white space included.
        splices.retain(|splice| splice.start < object.start() || splice.end > object.end());
        splices.push(Splice { start: object.start() + 1, end: at, text: new });
    } else {
        splices.push(Splice { start: at, end: at, text: new });
    }
}

fn is_removed(text: &str, member: &Member, patch: &MissionPatch) -> bool {
    !patch.remove.is_empty()
        && patch.remove.iter().any(|key| {
            json::spells(member.key.of(text), key) && !patch.set.iter().any(|(name, _)| name == key)
        })
}

/// Takes members out, each with the comma in front of it; the first ones with the comma behind.
fn remove_members(object: Span, members: &[Member], removed: &[bool], splices: &mut Vec<Splice>) {
    let cut = |start, end| Splice { start, end, text: String::new() };
    let Some(first_kept) = removed.iter().position(|gone| !gone) else {
        splices.push(cut(object.start() + 1, object.end() - 1));
        return;
    };
    if first_kept > 0 {
        splices.push(cut(members[0].key.start(), members[first_kept].key.start()));
    }
    for place in first_kept + 1..members.len() {
        if removed[place] {
            splices.push(cut(members[place - 1].value.end(), members[place].value.end()));
        }
    }
}

fn append_missions(
    document: &Document,
    appended: &[String],
    style: Style<'_>,
    splices: &mut Vec<Splice>,
    settings: &mut MissionPatch,
) {
    let mut ids = HashSet::new();
    let new: Vec<&String> = appended
        .iter()
        .filter(|raw| match mission_id(raw) {
            Some(id) => document.mission(&id).is_none() && ids.insert(id),
            None => true,
        })
        .collect();
    if new.is_empty() {
        return;
    }
    let text = document.text();
    let Some(array) = document.missions_array() else {
        let list: Vec<&str> = new.iter().map(|raw| raw.as_str()).collect();
        *settings = std::mem::take(settings).with("missions", format!("[{}]", list.join(",")));
        return;
    };
    let elements = document.elements();
    if let Some(last) = elements.last() {
        let before = elements.len().checked_sub(2).and_then(|place| elements.get(place));
        let gap = gap_before(text, array, before.map(|element| element.span), last.span);
        let layout = layout_behind(gap, style);
        let mut out = String::new();
        for raw in new {
            out.push(',');
            out.push_str(gap);
            out.push_str(&json::laid_out(raw, layout));
        }
        splices.push(Splice { start: last.span.end(), end: last.span.end(), text: out });
    } else {
        let list: Vec<&str> = new.iter().map(|raw| raw.as_str()).collect();
        let out = json::laid_out(&format!("[{}]", list.join(",")), style.layout(style.unit));
        splices.push(Splice { start: array.start(), end: array.end(), text: out });
    }
}

/// Lays a patch over an object given as its text.
pub(crate) fn patched_object(raw: &str, patch: &MissionPatch) -> String {
    let Ok((object, members)) = object_members(raw) else {
        return raw.to_owned();
    };
    let mut splices = Vec::new();
    patch_object(raw, object, &members, patch, Style::of(raw, object, &members), &mut splices);
    String::from_utf8_lossy(&spliced(raw, splices)).into_owned()
}

/// Returns the id of a mission given as the text of an object.
fn mission_id(raw: &str) -> Option<String> {
    let (_, members) = object_members(raw).ok()?;
    let id = last_named(raw, &members, "id")?;
    json::decoded(id.value.of(raw)).map(Cow::into_owned)
}

/// Finds the members of an object given as its text.
pub(crate) fn object_members(raw: &str) -> Result<(Span, Vec<Member>), Fault> {
    let mut members = Vec::new();
    let mut scanner = Scanner::new(raw)?;
    if scanner.peek() != Some(b'{') {
        return scanner.fault("an object starts with a brace");
    }
    let object = scanner.object(|scanner, key| {
        let value = scanner.value()?;
        members.push(Member { key, value });
        Ok(())
    })?;
    Ok((object, members))
}
