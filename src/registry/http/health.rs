//! Service: is it alive, is it ready, and what does it measure.

use crate::protocol::executor_v1::SPEC_VERSION;
use crate::registry::http::state::App;
use crate::registry::refusal::Refusal;
use axum::Json;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;

/// `GET /api/health`: the process lives.
pub async fn health() -> Json<Value> {
    Json(json!({"status": "ok", "version": env!("CARGO_PKG_VERSION"), "spec_version": SPEC_VERSION}))
}

/// `GET /api/ready`: decisions are taken and reach the disk.
pub async fn ready(State(app): State<Arc<App>>) -> Result<Json<Value>, Refusal> {
    app.registry.probe().await?;
    Ok(Json(json!({"status": "ready"})))
}

/// `GET /api/v1/openapi.json`: this surface, written by hand and compared with the answers by a test.
pub async fn openapi() -> Response {
    let mut response = include_str!("openapi.json").into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// `GET /metrics`, for Prometheus.
pub async fn metrics(State(app): State<Arc<App>>) -> Result<Response, Refusal> {
    let mut gauges = app.registry.gauges().await?;
    gauges.dropped = app.drops.totals();
    gauges.observers = u64::try_from(app.hub.observers()).unwrap_or(u64::MAX);
    let mut response = app.metrics.render(&gauges).into_response();
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    Ok(response)
}
