//! Pure: the members of one JSON object, each read by name, so that a refusal can say which one is wrong.
//!
//! A derived reader stops at "invalid type: integer, expected a string" and leaves the sender to guess where. The values stay raw
//! text until they are asked for: what nobody asks for is never interpreted.

use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

/// What is wrong, and in which field (`body` for the whole).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct FieldError {
    /// Path of the field, like `executor_filter.executor_id`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl FieldError {
    /// Names a field and its problem.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

/// One JSON object. Of keys that come twice the last counts.
#[derive(Debug)]
pub struct Fields<'a> {
    prefix: &'static str,
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
}

#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some((Key(key), value)) = map.next_entry()? {
                    members.push((key, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

impl<'a> Fields<'a> {
    /// Reads an object; `prefix` goes before the names in errors (empty, or ending in a dot).
    ///
    /// # Errors
    /// [`FieldError`] for `body`, or for the prefix, when the text is no JSON object.
    pub fn parse(text: &'a str, prefix: &'static str) -> Result<Self, FieldError> {
        match serde_json::from_str::<Members<'a>>(text) {
            Ok(Members(members)) => Ok(Self { prefix, members }),
            Err(error) => {
                let field = prefix.trim_end_matches('.');
                Err(FieldError::new(if field.is_empty() { "body" } else { field }, error.to_string()))
            }
        }
    }

    /// Reads an object from bytes that should be UTF-8.
    ///
    /// # Errors
    /// [`FieldError`] for `body`.
    pub fn parse_bytes(bytes: &'a [u8]) -> Result<Self, FieldError> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::parse(text, ""),
            Err(error) => Err(FieldError::new("body", error.to_string())),
        }
    }

    /// Returns the raw value; JSON `null` reads as absent.
    pub fn raw(&self, name: &str) -> Option<&'a RawValue> {
        let found = self.members.iter().rfind(|(key, _)| key == name);
        found.map(|(_, value)| *value).filter(|value| value.get() != "null")
    }

    /// Reads a field that must be there.
    ///
    /// # Errors
    /// [`FieldError`] when it is absent, null or of another type.
    pub fn required<T: DeserializeOwned>(&self, name: &str) -> Result<T, FieldError> {
        self.optional(name)?.ok_or_else(|| self.error(name, "is missing"))
    }

    /// Reads a field that may be absent or null, but not of another type.
    ///
    /// # Errors
    /// [`FieldError`] when it is of another type.
    pub fn optional<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, FieldError> {
        match self.raw(name).map(|raw| serde_json::from_str(raw.get())) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value)),
            Some(Err(error)) => Err(self.error(name, without_position(&error))),
        }
    }

    /// Reads a field that only informs: anything unreadable counts as absent.
    pub fn lenient<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        self.raw(name).and_then(|raw| serde_json::from_str(raw.get()).ok())
    }

    /// Reads a whole number that only informs, also when it is spelled `3.0`.
    pub fn lenient_integer<T: TryFrom<i128>>(&self, name: &str) -> Option<T> {
        let text = self.raw(name)?.get();
        let whole = text.strip_suffix(".0").unwrap_or(text);
        whole.parse::<i128>().ok().and_then(|number| T::try_from(number).ok())
    }

    /// Reads a nested object, empty when absent.
    ///
    /// # Errors
    /// [`FieldError`] when it is there and no object.
    pub fn object(&self, name: &str, prefix: &'static str) -> Result<Fields<'a>, FieldError> {
        match self.raw(name) {
            Some(raw) => Fields::parse(raw.get(), prefix),
            None => Ok(Fields { prefix, members: Vec::new() }),
        }
    }

    /// Returns every member once, also those that are null: of keys that come twice the last value, in the place of the
    /// first.
    pub fn into_unique(self) -> Vec<(Cow<'a, str>, &'a RawValue)> {
        let mut places: HashMap<Cow<'a, str>, usize> = HashMap::with_capacity(self.members.len());
        let mut unique: Vec<(Cow<'a, str>, &'a RawValue)> = Vec::with_capacity(self.members.len());
        for (key, value) in self.members {
            if let Some((_, earlier)) = places.get(&key).and_then(|&place| unique.get_mut(place)) {
                *earlier = value;
            } else {
                places.insert(key.clone(), unique.len());
                unique.push((key, value));
            }
        }
        unique
    }

    /// Returns every member that is not among `known`, for keeping.
    pub fn others(&self, known: &[&str]) -> Vec<(String, Box<RawValue>)> {
        let unknown = self.members.iter().filter(|(key, _)| !known.contains(&key.as_ref()));
        unknown.map(|(key, value)| (key.clone().into_owned(), (*value).to_owned())).collect()
    }

    /// Makes an error for one field of this object.
    pub fn error(&self, name: &str, problem: impl Into<String>) -> FieldError {
        FieldError::new(format!("{}{name}", self.prefix), problem)
    }
}

fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(message, _)| message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_field_with_its_path() {
        let fields = Fields::parse(r#"{"a":1,"b":{"c":[]},"n":null}"#, "").unwrap();
        let wrong = fields.required::<String>("a").unwrap_err();
        assert_eq!(wrong.to_string(), "a: invalid type: integer `1`, expected a string");
        let inner = fields.object("b", "b.").unwrap();
        assert_eq!(inner.required::<String>("c").unwrap_err().field, "b.c");
        assert_eq!(fields.required::<u8>("n").unwrap_err().to_string(), "n: is missing");
        assert_eq!(Fields::parse("[1]", "").unwrap_err().field, "body");
    }

    #[test]
    fn whole_numbers_may_be_spelled_with_a_fraction_of_zero() {
        let fields = Fields::parse(r#"{"a":3.0,"b":3.5,"c":-1,"d":"4"}"#, "").unwrap();
        assert_eq!(fields.lenient_integer::<u64>("a"), Some(3));
        assert_eq!(fields.lenient_integer::<u64>("b"), None);
        assert_eq!(fields.lenient_integer::<u64>("c"), None);
        assert_eq!(fields.lenient_integer::<i64>("c"), Some(-1));
        assert_eq!(fields.lenient_integer::<i64>("d"), None);
    }
}
