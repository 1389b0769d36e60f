//! Pure: the address that is told when one mission ends, in its metadata.
//!
//! The contract passes metadata through untouched and knows no other place for a wish of the sender's, so the wish is a key of the
//! metadata that nobody else uses: bridges and servers that do not know it carry it along.

use crate::protocol::field::{FieldError, Fields};

/// The key in a mission's `metadata`.
pub const KEY: &str = "aiwg_notify";

/// Longest address that is taken, in bytes.
const MAX_BYTES: usize = 2048;

/// Returns the address in a mission's metadata, given as JSON text.
///
/// # Errors
/// [`FieldError`] when it is there and cannot be an address.
pub fn wanted(metadata: &str) -> Result<Option<String>, FieldError> {
    // Most metadata has none; looking is far cheaper than reading all of it.
    if !metadata.contains(KEY) {
        return Ok(None);
    }
    let fields = Fields::parse(metadata, "metadata.")?;
    let Some(url) = fields.optional::<String>(KEY)? else { return Ok(None) };
    match check(&url) {
        Ok(()) => Ok(Some(url)),
        Err(problem) => Err(fields.error(KEY, problem)),
    }
}

/// Returns the address in the body of a dispatch that has been checked before.
pub fn in_body(body: &str) -> Option<String> {
    if !body.contains(KEY) {
        return None;
    }
    let metadata = Fields::parse(body, "").ok()?.raw("metadata")?;
    wanted(metadata.get()).ok()?
}

/// Checks that a text is the address of a web server, without a password in it.
///
/// # Errors
/// What is wrong, for people.
pub fn check(url: &str) -> Result<(), &'static str> {
    let lower = url.get(..8).unwrap_or(url).to_ascii_lowercase();
    let Some(rest) = ["http://", "https://"].iter().find(|scheme| lower.starts_with(**scheme)) else {
        return Err("is no http or https URL");
    };
    let rest = url.get(rest.len()..).unwrap_or_default();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if url.len() > MAX_BYTES {
        Err("is longer than 2048 bytes")
    } else if !url.bytes().all(|byte| byte.is_ascii_graphic()) || url.contains('\\') {
        Err("holds characters that do not belong into a URL; percent-encode them")
    } else if authority.contains('@') {
        Err("holds a user name or a password; put a secret into its path or query")
    } else if authority.is_empty() || authority.starts_with(':') {
        Err("names no host")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_where_it_belongs_and_nowhere_else() {
        assert_eq!(wanted(r#"{"aiwg_notify":"http://h/x"}"#).unwrap().as_deref(), Some("http://h/x"));
        assert_eq!(wanted(r#"{"deep":{"aiwg_notify":"http://h/x"},"aiwg_notify":null}"#).unwrap(), None);
        let body = r#"{"objective":"aiwg_notify","metadata":{"n":1,"aiwg_notify":"https://h/?a=b"}}"#;
        assert_eq!(in_body(body).as_deref(), Some("https://h/?a=b"));
        assert_eq!(in_body(r#"{"objective":"aiwg_notify"}"#), None);
        for wrong in [r#"{"aiwg_notify":7}"#, r#"{"aiwg_notify":"ftp://h"}"#] {
            assert_eq!(wanted(wrong).unwrap_err().field, "metadata.aiwg_notify", "{wrong}");
        }
    }

    #[test]
    fn only_addresses_of_web_servers_are_taken() {
        for good in ["http://h", "HTTPS://h:1/a?b=c#d", "http://[::1]:9/x", "https://hooks.example/T0/B0"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let long = format!("http://h/{}", "x".repeat(MAX_BYTES));
        for bad in [
            "",
            "h",
            "ftp://h",
            "file:///etc/passwd",
            "http://",
            "http:///x",
            "http://:80",
            "http://u:p@h",
            "http://h@evil",
            "http://h\\@evil",
            "http://h/a b",
            "http://h/\n",
            "http://hé/",
            &long,
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
