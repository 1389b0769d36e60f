//! Service: who may come in, before any handler runs.
//!
//! | check | refusal | against |
//! |---|---|---|
//! | `Host` is one of ours | 421 | a page that rebinds its own name to our address |
//! | `Origin`, when sent, is that host | 403 | a page elsewhere that fetches, posts a form or opens a WebSocket |
//! | a body is `application/json` | 415 | forms, which need no permission to be sent across origins |
//! | a peer from elsewhere has the operator token | 401 | everyone else on the network |
//! | a peer from elsewhere stays under its rate | 429 | one peer keeping the others out |
//! | it is no webhook of a registry | 403 | an address in a mission that would operate a registry |
//! | nothing is changed under `--read-only` | 403 | |
//!
//! Every refusal is logged with the peer's address, and never with what it sent as a token.

use crate::domain::secret::Token;
use crate::protocol::problem::Problem;
use crate::protocol::route;
use crate::registry::http::dashboard;
use crate::registry::http::error;
use crate::registry::http::executors::bearer;
use crate::registry::http::state::{App, Peer};
use crate::registry::post::EVENT_HEADER;
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN, RETRY_AFTER, TRANSFER_ENCODING,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// Runs the checks and logs the access.
pub async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let peer = request.extensions().get::<Peer>().copied().unwrap_or(Peer::UNKNOWN);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let refusal = check(&app, peer, &method, &path, request.headers());
    let is_refused = refusal.is_some();
    let response = match refusal {
        None => next.run(request).await,
        Some(problem) => {
            tracing::info!(
                peer = %peer, http.method = %method, http.url = path, http.status = problem.status,
                error = problem.error, "request refused at the door"
            );
            refused(&problem)
        }
    };
    let duration = started.elapsed();
    app.metrics.request(response.status().as_u16(), is_refused);
    tracing::debug!(
        target: "aiwg_rs::access",
        peer = %peer, http.method = %method, http.url = path, http.status = response.status().as_u16(),
        duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), "request"
    );
    response
}

fn refused(problem: &Problem) -> Response {
    let mut response = error::answer(problem);
    if problem.status == 429 {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn check(app: &App, peer: Peer, method: &Method, path: &str, headers: &HeaderMap) -> Option<Problem> {
    if !peer.is_local() && !app.rates.admit(peer) {
        return Some(Problem::new(429, "too_many_requests", "this peer sends more requests than it may"));
    }
    let host = match host(&app.config.hosts, app.is_open, peer, headers) {
        Ok(host) => host,
        Err(problem) => return Some(*problem),
    };
    if let Some(origin) = headers.get(ORIGIN)
        && !is_same_origin(origin, host)
    {
        let detail = "requests from pages of another origin are not taken";
        return Some(Problem::new(403, "foreign_origin", detail));
    }
    if headers.contains_key(EVENT_HEADER) {
        return Some(Problem::new(403, "webhook_refused", "a registry takes no webhooks"));
    }
    let changes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    if changes && app.config.read_only {
        return Some(Problem::new(403, "read_only", "this registry only lets itself be read"));
    }
    if *method == Method::POST && has_body(headers) && !is_json(headers) {
        let hint = "send the header Content-Type: application/json";
        let problem = Problem::new(415, "unsupported_media_type", "the body must be application/json");
        return Some(problem.hint(hint));
    }
    if !peer.is_local() && needs_operator(method, path) && !is_operator(app, headers) {
        return Some(match headers.get(AUTHORIZATION) {
            Some(_) => Problem::new(401, "token_invalid", "the bearer token is not the operator's"),
            None => Problem::new(401, "token_missing", "from another host the operator token is required")
                .hint("send Authorization: Bearer with the content of the registry's operator token file"),
        });
    }
    None
}

/// Returns the `Host` when it is one of ours. An address cannot be rebound, so where we listen to the network any address will do.
fn host<'a>(
    ours: &[String],
    is_open: bool,
    peer: Peer,
    headers: &'a HeaderMap,
) -> Result<Option<&'a str>, Box<Problem>> {
    let text = headers.get(HOST).and_then(|value| value.to_str().ok());
    if peer.is_unix() {
        return Ok(text);
    }
    let authority: Option<Authority> = text.and_then(|text| text.parse().ok());
    let name = authority.as_ref().map(|authority| authority.host().trim_matches(['[', ']']));
    let is_ours = name.is_some_and(|name| {
        let address: Option<IpAddr> = name.parse().ok();
        name.eq_ignore_ascii_case("localhost")
            || address.is_some_and(|address| is_open || address.is_loopback())
            || ours.iter().any(|host| host.eq_ignore_ascii_case(name))
    });
    if is_ours {
        return Ok(text);
    }
    let detail = "the Host header names somebody else";
    let problem = Problem::new(421, "wrong_host", detail);
    Err(Box::new(problem.hint("start the registry with --host NAME to use another name")))
}

fn is_same_origin(origin: &HeaderValue, host: Option<&str>) -> bool {
    let origin = origin.to_str().ok().and_then(|text| text.split_once("://"));
    match (origin, host) {
        (Some(("http" | "https", authority)), Some(host)) => authority.eq_ignore_ascii_case(host),
        (Some(_) | None, _) => false,
    }
}

fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    headers.contains_key(TRANSFER_ENCODING)
        || headers.contains_key(CONTENT_TYPE)
        || length.is_some_and(|text| text.trim() != "0")
}

/// Says whether the body is announced as JSON.
pub fn is_json(headers: &HeaderMap) -> bool {
    let said = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = said.map(|text| text.split(';').next().unwrap_or(text).trim());
    essence.is_some_and(|text| text.eq_ignore_ascii_case("application/json"))
}

/// Everything but what says who it is by other means (lines, and an executor that takes itself out or reads) or has nothing
/// to tell (health, and the page, which asks for the token).
fn needs_operator(method: &Method, path: &str) -> bool {
    let is_executors = path == route::EXECUTORS || path.starts_with("/api/v1/executors/");
    let has_own_check =
        is_executors && path != route::REGISTER && matches!(*method, Method::GET | Method::DELETE);
    let tells_nothing = path == route::HEALTH || path == "/api/ready" || dashboard::PATHS.contains(&path);
    !(tells_nothing || path.starts_with("/ws/") || has_own_check)
}

/// Says whether the request carries the operator token.
pub fn is_operator(app: &App, headers: &HeaderMap) -> bool {
    bearer(headers).is_some_and(|token| is_operator_token(app, &token))
}

/// Compares with the operator token, in constant time.
pub fn is_operator_token(app: &App, token: &Token) -> bool {
    app.config.operator_token.as_ref() == Some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (axum::http::HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn only_our_own_names_are_hosts() {
        let ours = ["registry.example".to_owned()];
        let peer = Peer::UNKNOWN;
        for good in ["127.0.0.1:7337", "localhost", "LOCALHOST:1", "[::1]:7337", "Registry.Example:7337"] {
            assert!(host(&ours, false, peer, &headers(&[("host", good)])).is_ok(), "{good}");
        }
        for bad in [
            "evil.example",
            "evil.example:7337",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "",
            "localhost@evil.example",
        ] {
            assert!(host(&ours, false, peer, &headers(&[("host", bad)])).is_err(), "{bad}");
        }
        assert!(host(&ours, false, peer, &headers(&[])).is_err());
        assert!(host(&ours, true, peer, &headers(&[("host", "10.0.0.1:7337")])).is_ok());
    }

    #[test]
    fn an_origin_is_ours_only_with_our_host_and_port() {
        let ours =
            |origin: &'static str| is_same_origin(&HeaderValue::from_static(origin), Some("127.0.0.1:7337"));
        assert!(ours("http://127.0.0.1:7337"));
        for foreign in [
            "http://127.0.0.1:3000",
            "null",
            "http://evil.example",
            "file://127.0.0.1:7337",
            "127.0.0.1:7337",
        ] {
            assert!(!ours(foreign), "{foreign}");
        }
    }

    #[test]
    fn a_form_is_not_json_and_an_empty_post_is_no_body() {
        assert!(is_json(&headers(&[("content-type", "application/json; charset=utf-8")])));
        assert!(!is_json(&headers(&[("content-type", "text/plain")])));
        assert!(!has_body(&headers(&[("content-length", "0")])));
        assert!(has_body(&headers(&[("transfer-encoding", "chunked")])));
    }

    #[test]
    fn only_health_lines_and_executors_of_their_own_need_no_operator() {
        for (method, path) in [
            (Method::POST, "/api/v1/executors/register"),
            (Method::GET, "/api/v1/missions"),
            (Method::GET, "/metrics"),
            (Method::POST, "/api/v1/missions/m/abort"),
        ] {
            assert!(needs_operator(&method, path), "{path}");
        }
        for (method, path) in [
            (Method::GET, "/api/health"),
            (Method::DELETE, "/api/v1/executors/x"),
            (Method::GET, "/api/v1/executors"),
            (Method::GET, "/ws/executors/x"),
            (Method::GET, "/"),
            (Method::GET, "/dashboard.js"),
        ] {
            assert!(!needs_operator(&method, path), "{path}");
        }
    }
}
