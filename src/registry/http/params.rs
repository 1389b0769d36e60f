//! Service: the query and the id in the path of a request; what cannot be read is refused like everything else.

use crate::protocol::field::FieldError;
use crate::registry::refusal::Refusal;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

/// The members of the query, each at most once.
#[derive(Debug)]
pub struct Params<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Refusal> {
        let Query(params) = Query::try_from_uri(&parts.uri)
            .map_err(|rejection| FieldError::new("query", rejection.body_text()))?;
        Ok(Self(params))
    }
}

/// The id in the path, decoded.
#[derive(Debug)]
pub struct Segment(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(segment)) => Ok(Self(segment)),
            Err(rejection) => Err(FieldError::new("path", rejection.body_text()).into()),
        }
    }
}
