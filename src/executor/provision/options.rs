//! Pure: a provider's options and allocations, read with an error that names the key.

use crate::executor::provision::provider::Object;
use serde_json::Value;

/// An option of the wrong form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} {problem}, not {found}")]
pub struct OptionError {
    /// Which option.
    pub key: &'static str,
    /// What it must be.
    pub problem: String,
    /// What was there, cut to 100 characters.
    pub found: String,
}

impl OptionError {
    /// Makes the refusal of what was found under `key`.
    pub fn new(key: &'static str, problem: impl Into<String>, found: &str) -> Self {
        Self { key, problem: problem.into(), found: found.chars().take(100).collect() }
    }
}

/// Reads a non-empty string; `None` when it is absent or null.
///
/// # Errors
/// [`OptionError`] for anything else.
pub fn string<'a>(options: &'a Object, key: &'static str) -> Result<Option<&'a str>, OptionError> {
    match options.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(Some(text)),
        Some(other) => Err(OptionError::new(key, "must be a non-empty string", &other.to_string())),
    }
}

/// Reads an integer of at least `least`; `default` when it is absent or null.
///
/// # Errors
/// [`OptionError`] for anything else.
pub fn integer(options: &Object, key: &'static str, least: i64, default: i64) -> Result<i64, OptionError> {
    match options.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => value.as_i64().filter(|number| *number >= least).ok_or_else(|| {
            OptionError::new(key, format!("must be an integer of at least {least}"), &value.to_string())
        }),
    }
}

/// Reads a string that an allocation must have.
///
/// # Errors
/// [`OptionError`] when it is absent or no string.
pub fn required_string<'a>(allocation: &'a Object, key: &'static str) -> Result<&'a str, OptionError> {
    string(allocation, key)?.ok_or_else(|| OptionError::new(key, "must be a non-empty string", "absent"))
}

/// Reads an integer that an allocation must have.
///
/// # Errors
/// [`OptionError`] when it is absent or no integer of at least zero.
pub fn required_integer(allocation: &Object, key: &'static str) -> Result<i64, OptionError> {
    match integer(allocation, key, 0, -1)? {
        -1 => Err(OptionError::new(key, "must be an integer of at least 0", "absent")),
        number => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn options_are_read_or_refused_by_name() {
        let object = json!({"a": "x", "b": " ", "c": 3, "d": null, "e": 1.5, "f": true});
        let options = object.as_object().unwrap();
        assert_eq!(string(options, "a"), Ok(Some("x")));
        assert_eq!(string(options, "d"), Ok(None));
        assert_eq!(string(options, "zz"), Ok(None));
        assert!(string(options, "b").is_err());
        assert_eq!(integer(options, "c", 1, 7), Ok(3));
        assert_eq!(integer(options, "d", 1, 7), Ok(7));
        assert!(integer(options, "c", 4, 7).is_err());
        assert!(integer(options, "e", 1, 7).is_err());
        let error = integer(options, "f", 1, 7).unwrap_err();
        assert_eq!(error.to_string(), "f must be an integer of at least 1, not true");
        assert!(required_integer(options, "zz").is_err());
        assert!(required_string(options, "d").is_err());
    }
}
