//! Service: the body of a request, whole, small enough and JSON.

use crate::protocol::problem::Problem;
use crate::registry::http::error;
use crate::registry::http::guard::is_json;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use std::time::Duration;

/// How long a body may take. 30 s: a mebibyte over a slow line.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The bytes of a body that says it is JSON.
#[derive(Debug)]
pub struct JsonBody(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        if !is_json(request.headers()) {
            let detail = "the body must be application/json";
            let hint = "send the header Content-Type: application/json";
            return Err(error::answer(&Problem::new(415, "unsupported_media_type", detail).hint(hint)));
        }
        let reading = Bytes::from_request(request, state);
        let Ok(read) = tokio::time::timeout(BODY_TIMEOUT, reading).await else {
            let detail = "the body did not arrive in time";
            return Err(error::answer(&Problem::new(408, "body_too_slow", detail)));
        };
        match read {
            Ok(bytes) => Ok(Self(bytes)),
            Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                let detail = "the body is longer than 1 MiB";
                Err(error::answer(&Problem::new(413, "body_too_large", detail)))
            }
            Err(rejection) => {
                let detail = rejection.into_response().status().to_string();
                let detail = format!("the body could not be read: {detail}");
                Err(error::answer(&Problem::new(400, "invalid_request", detail)))
            }
        }
    }
}
