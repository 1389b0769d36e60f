//! Service: a refusal becomes an answer.

use crate::protocol::problem::{CONTENT_TYPE, Problem};
use crate::registry::refusal::Refusal;
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE as CONTENT_TYPE_HEADER, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

/// Turns a problem into an answer.
pub fn answer(problem: &Problem) -> Response {
    let mut response = Response::new(Body::from(problem.to_json()));
    *response.status_mut() =
        StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE_HEADER, HeaderValue::from_static(CONTENT_TYPE));
    response
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = answer(&self.problem());
        if let Some(seconds) = self.retry_after_seconds() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
