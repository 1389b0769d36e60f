//! Edge: one POST of an event to a receiver.

use crate::domain::secret::Token;
use crate::domain::time::Timestamp;
use crate::net::http::{self, Http};
use crate::protocol::route;
use crate::registry::signature;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use std::time::Duration;

/// The header that names the event, as [`route::visible`] text. No registry takes a request that carries it.
pub const EVENT_HEADER: &str = "x-aiwg-event";

/// How long a receiver may take to answer. 10 s.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub struct Parcel<'a> {
    /// Where to.
    pub url: &'a str,
    /// Number of the event.
    pub seq: u64,
    /// Name of the event.
    pub kind: &'a str,
    /// Its envelope.
    pub raw: &'a str,
    /// What to sign with.
    pub secret: Option<&'a Token>,
}

/// Sends it once; returns the status, 0 without one, and what was said.
pub async fn post(http: &Http, parcel: Parcel<'_>, now: Timestamp) -> (u16, String) {
    let mut request = http
        .request(Method::POST, parcel.url)
        .timeout(TIMEOUT)
        .header(CONTENT_TYPE, http::JSON)
        .header(EVENT_HEADER, &*route::visible(parcel.kind))
        .header("x-aiwg-event-id", parcel.seq.to_string());
    if let Some(secret) = parcel.secret {
        let seconds = now.as_millis() / 1000;
        let signed = signature::sign(secret.reveal().as_bytes(), seconds, parcel.raw.as_bytes());
        request = request.header(signature::HEADER, signed);
    }
    match http.send(request.body(parcel.raw.to_owned())).await {
        Ok(answer) => (answer.status, answer.message()),
        Err(failure) => (0, failure.cause()),
    }
}

/// Returns scheme, host and port: all that a log may show of an address whose path or query may be its secret.
pub fn origin(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            format!("{scheme}://{host}")
        }
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_the_host_is_shown() {
        assert_eq!(origin("https://u:p@h.example:8/T0/secret?k=v"), "https://h.example:8");
        assert_eq!(origin("http://h?k=v"), "http://h");
        assert_eq!(origin("secret"), "");
    }
}
