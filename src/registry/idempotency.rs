//! Pure: is this dispatch new, under way, answered, or another one under an old key?
//!
//! Two bodies are the same when their canonical JSON is: keys in order, no white space, escapes and numbers in one spelling. Numbers
//! that a double cannot hold are compared as they are spelled.

use crate::domain::id::{ExecutorId, MissionId};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Deeper values are compared as they are spelled; nobody nests metadata that deep by hand.
const MAX_DEPTH: usize = 64;

/// Identifies a body up to the freedom that JSON gives its writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Computes the fingerprint of a JSON text; of anything else, of its bytes.
    pub fn of(body: &[u8]) -> Self {
        let mut canonical = Vec::with_capacity(body.len());
        match serde_json::from_slice::<&RawValue>(body) {
            Ok(value) => write_canonical(value.get(), 0, &mut canonical),
            Err(_not_json) => canonical.extend_from_slice(body),
        }
        Self(Sha256::digest(&canonical).into())
    }
}

#[derive(serde::Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

fn write_canonical(text: &str, depth: usize, out: &mut Vec<u8>) {
    let nested = depth < MAX_DEPTH;
    match text.as_bytes().first() {
        Some(b'{') if nested => {
            if let Ok(members) = serde_json::from_str::<BTreeMap<Key<'_>, &RawValue>>(text) {
                out.push(b'{');
                for (Key(key), value) in members {
                    write_string(&key, out);
                    out.push(b':');
                    write_canonical(value.get(), depth + 1, out);
                    out.push(b',');
                }
                out.push(b'}');
                return;
            }
        }
        Some(b'[') if nested => {
            if let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(text) {
                out.push(b'[');
                for item in items {
                    write_canonical(item.get(), depth + 1, out);
                    out.push(b',');
                }
                out.push(b']');
                return;
            }
        }
        Some(b'"') => {
            if let Ok(Key(string)) = serde_json::from_str(text) {
                write_string(&string, out);
                return;
            }
        }
        Some(b'-' | b'0'..=b'9') => {
            out.extend_from_slice(canonical_number(text).as_bytes());
            return;
        }
        Some(_) | None => {}
    }
    out.extend_from_slice(text.as_bytes());
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    // Length first: no quoting is needed to tell where it ends.
    out.extend_from_slice(format!("{}\"", text.len()).as_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn canonical_number(text: &str) -> Cow<'_, str> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if text.parse::<i64>().is_ok() && text != "-0" {
        return Cow::Borrowed(text);
    }
    let fractional = text.contains(['.', 'e', 'E']) || text == "-0";
    match text.parse::<f64>() {
        Ok(value) if fractional && value.is_finite() && value.abs() < EXACT && value.fract() == 0.0 => {
            let whole = format!("{value:.0}");
            Cow::Owned(if whole == "-0" { "0".to_owned() } else { whole })
        }
        Ok(value) if fractional && value.is_finite() => Cow::Owned(format!("{value:e}")),
        Ok(_) | Err(_) => Cow::Borrowed(text),
    }
}

/// What is remembered under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEntry {
    /// Which mission it was used for.
    pub mission_id: MissionId,
    /// The body it was used with.
    pub fingerprint: Fingerprint,
    /// The answer, once there is one.
    pub answer: Option<KeyAnswer>,
}

/// What the first dispatch under a key was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyAnswer {
    /// Who took the mission.
    pub executor_id: ExecutorId,
    /// When it expected to begin.
    pub estimated_start: Option<String>,
}

/// What a dispatch is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Judgement {
    /// Never seen: run it.
    Fresh,
    /// The first one is still being forwarded.
    InFlight,
    /// Answered before: answer the same again.
    Replay(KeyAnswer),
    /// The key was used for another body.
    Reused,
}

/// Compares a dispatch with what its key is remembered for.
pub fn judge(known: Option<&KeyEntry>, fingerprint: Fingerprint) -> Judgement {
    match known {
        None => Judgement::Fresh,
        Some(entry) if entry.fingerprint != fingerprint => Judgement::Reused,
        Some(KeyEntry { answer: Some(answer), .. }) => Judgement::Replay(answer.clone()),
        Some(KeyEntry { answer: None, .. }) => Judgement::InFlight,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn same(a: &str, b: &str) -> bool {
        Fingerprint::of(a.as_bytes()) == Fingerprint::of(b.as_bytes())
    }

    #[test]
    fn spelling_does_not_matter_and_values_do() {
        assert!(same(r#"{"a":1,"b":[true,null]}"#, "{ \"b\" : [true , null],\n \"a\": 1.0 }"));
        assert!(same(r#""\u0041\n""#, r#""A\u000a""#));
        assert!(same("100", "1e2"));
        assert!(same("-0", "0"));
        assert!(!same("1", "\"1\""));
        assert!(!same("[1,2]", "[2,1]"));
        assert!(!same("12345678901234567890123", "12345678901234567890124"));
        assert!(!same(r#"{"a":"b"}"#, r#"{"a":"c"}"#));
        assert!(!same(r#"["a","b"]"#, r#"["a\",\"b"]"#));
    }

    #[test]
    fn a_key_is_judged_by_its_body_and_its_answer() {
        let fingerprint = Fingerprint::of(b"{}");
        let other = Fingerprint::of(b"[]");
        let mission_id = MissionId::new("m").unwrap();
        let mut entry = KeyEntry { mission_id, fingerprint, answer: None };
        assert_eq!(judge(None, fingerprint), Judgement::Fresh);
        assert_eq!(judge(Some(&entry), fingerprint), Judgement::InFlight);
        assert_eq!(judge(Some(&entry), other), Judgement::Reused);
        let executor_id = ExecutorId::new("0b7e0c1e-8a53-4c7e-9d52-6f0e5f3f9a11").unwrap();
        let answer = KeyAnswer { executor_id, estimated_start: None };
        entry.answer = Some(answer.clone());
        assert_eq!(judge(Some(&entry), fingerprint), Judgement::Replay(answer));
        assert_eq!(judge(Some(&entry), other), Judgement::Reused);
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,3}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn reversed(value: &Value) -> Value {
        match value {
            Value::Object(members) => {
                Value::Object(members.iter().rev().map(|(k, v)| (k.clone(), reversed(v))).collect())
            }
            Value::Array(items) => items.iter().map(reversed).collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn order_and_white_space_never_matter(value in json()) {
            let pretty = serde_json::to_string_pretty(&reversed(&value)).unwrap();
            prop_assert!(same(&value.to_string(), &pretty));
        }
    }
}
