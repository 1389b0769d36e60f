//! Pure: refusals as problem JSON (RFC 9457), with the two keys that existing clients look for.
//!
//! `detail` is the sentence for people and `error` the word for programs; clients in the field read `detail` first and
//! `error` second, and nothing else.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The media type of every refusal.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// The key that says whether the same request need only wait for room.
pub const BUSY: &str = "busy";

/// One refusal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// Always `about:blank`: the kind of problem is in `error`.
    #[serde(rename = "type", default = "about_blank")]
    pub kind: String,
    /// The status in words.
    #[serde(default)]
    pub title: String,
    /// The HTTP status, repeated.
    #[serde(default)]
    pub status: u16,
    /// The word for programs, `snake_case`.
    #[serde(default)]
    pub error: String,
    /// The sentence for people.
    #[serde(default)]
    pub detail: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Anything else, such as the offending `field`.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

fn about_blank() -> String {
    "about:blank".to_owned()
}

impl Problem {
    /// Makes a refusal.
    pub fn new(status: u16, error: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: about_blank(),
            title: title(status).to_owned(),
            status,
            error: error.to_owned(),
            detail: detail.into(),
            hint: None,
            more: Map::new(),
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a key of its own.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.more.insert(key.to_owned(), value.into());
        self
    }

    /// Returns the JSON text.
    pub fn to_json(&self) -> String {
        // A struct of strings and values always serialises; an empty object would still be a valid problem.
        serde_json::to_string(self).unwrap_or_else(|_impossible| "{}".to_owned())
    }

    /// Reads whatever a server answered with `status`: problem JSON, any JSON with `detail` or `error`, or anything else.
    ///
    /// `detail` is never empty: it is the body's `detail`, else its `error`, else `HTTP <status>`.
    pub fn read(status: u16, body: &[u8]) -> Self {
        let members = match serde_json::from_slice::<Value>(body) {
            Ok(Value::Object(members)) => members,
            Ok(_) | Err(_) => Map::new(),
        };
        let text = |key: &str| members.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let error = text("error").unwrap_or_default().to_owned();
        let detail = text("detail").or(text("error")).map_or_else(|| format!("HTTP {status}"), str::to_owned);
        let hint = text("hint").map(str::to_owned);
        let mut problem = Self { hint, ..Self::new(status, &error, detail) };
        let known = ["type", "title", "status", "error", "detail", "hint"];
        problem.more = members.into_iter().filter(|(key, _)| !known.contains(&key.as_str())).collect();
        problem
    }
}

fn title(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Problem",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_carries_detail_and_error_beside_the_standard_keys() {
        let problem = Problem::new(404, "mission_not_found", "no mission m-1").hint("list them");
        let json: Value = serde_json::from_str(&problem.with("field", "id").to_json()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "type": "about:blank", "title": "Not Found", "status": 404, "error": "mission_not_found",
                "detail": "no mission m-1", "hint": "list them", "field": "id"
            })
        );
    }

    #[test]
    fn detail_wins_over_error_and_error_over_the_status() {
        assert_eq!(Problem::read(500, br#"{"detail":"d","error":"e"}"#).detail, "d");
        assert_eq!(Problem::read(500, br#"{"error":"e"}"#).detail, "e");
        assert_eq!(Problem::read(500, br#"{"error":{"code":1}}"#).detail, "HTTP 500");
        assert_eq!(Problem::read(502, b"<html>").detail, "HTTP 502");
        assert_eq!(Problem::read(502, b"").detail, "HTTP 502");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let problem = Problem::new(503, "no_executor_available", "none").with("registered", 3);
        assert_eq!(Problem::read(503, problem.to_json().as_bytes()), problem);
    }
}
