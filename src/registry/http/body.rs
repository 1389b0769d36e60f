//! Service: the body of a request, whole, small enough and JSON.

use crate::protocol::problem::Problem;
use crate::registry::http::error;
use crate::registry::http::guard::is_json;
use crate::registry::http::router::MAX_BODY_BYTES;
use crate::registry::http::state::App;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_LENGTH;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use std::sync::Arc;

/// The bytes of a body that says it is JSON.
#[derive(Debug)]
pub struct JsonBody(pub Bytes);

impl FromRequest<Arc<App>> for JsonBody {
    type Rejection = Response;

    async fn from_request(request: Request, state: &Arc<App>) -> Result<Self, Response> {
        if !is_json(request.headers()) {
            let detail = "the body must be application/json";
            let hint = "send the header Content-Type: application/json";
            return Err(error::answer(&Problem::new(415, "unsupported_media_type", detail).hint(hint)));
        }
        // Refused before it is sent, when it says how long it will be.
        let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        if length.and_then(|text| text.parse::<usize>().ok()).is_some_and(|length| length > MAX_BODY_BYTES) {
            return Err(too_large());
        }
        let reading = Bytes::from_request(request, state);
        let Ok(read) = tokio::time::timeout(state.config.body_timeout, reading).await else {
            let detail = "the body did not arrive in time";
            return Err(error::answer(&Problem::new(408, "body_too_slow", detail)));
        };
        match read {
            Ok(bytes) => Ok(Self(bytes)),
            Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(too_large()),
            Err(rejection) => {
                let detail = rejection.into_response().status().to_string();
                let detail = format!("the body could not be read: {detail}");
                Err(error::answer(&Problem::new(400, "invalid_request", detail)))
            }
        }
    }
}

fn too_large() -> Response {
    error::answer(&Problem::new(413, "body_too_large", "the body is longer than 1 MiB"))
}
