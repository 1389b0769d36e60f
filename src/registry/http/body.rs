//! Service: the body of a request, whole, small enough and JSON.

use crate::protocol::problem::Problem;
use crate::registry::http::error;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

/// The bytes of a body that says it is JSON.
#[derive(Debug)]
pub struct JsonBody(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let said = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = said.map(|text| text.split(';').next().unwrap_or(text).trim());
        if !essence.is_some_and(|text| text.eq_ignore_ascii_case("application/json")) {
            let detail = "the body must be application/json";
            let hint = "send the header Content-Type: application/json";
            return Err(error::answer(&Problem::new(415, "unsupported_media_type", detail).hint(hint)));
        }
        match Bytes::from_request(request, state).await {
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
