//! Service: which path leads where.

use crate::protocol::problem::Problem;
use crate::registry::http::state::App;
use crate::registry::http::{error, executors, health, missions, sessions, ws};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::response::Response;
use axum::routing::{get, post};
use std::sync::Arc;

/// Longest body that is read, in bytes.
pub const MAX_BODY_BYTES: usize = 1 << 20;

/// Builds the routes of the contract.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/api/health", get(health::health))
        .route("/api/v1/executors/register", post(executors::register))
        .route("/api/v1/executors", get(executors::list))
        .route("/api/v1/executors/{id}", get(executors::get).delete(executors::delete))
        .route("/api/v1/sessions/{id}/dispatch", post(sessions::dispatch))
        .route("/api/v1/sessions/{id}/explain", post(sessions::explain))
        .route("/api/sessions/{id}/dispatch", post(sessions::moved))
        .route("/api/v1/missions/{id}", get(missions::get))
        .route("/api/v1/missions/{id}/hitl_response", post(missions::hitl_response))
        .route("/api/v1/missions/{id}/pause", post(missions::pause))
        .route("/api/v1/missions/{id}/resume", post(missions::resume))
        .route("/api/v1/missions/{id}/abort", post(missions::abort))
        .route("/ws/executors/{id}", get(ws::upgrade))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(app)
}

async fn unknown_path() -> Response {
    error::answer(&Problem::new(404, "not_found", "there is nothing at this path"))
}

async fn wrong_method() -> Response {
    error::answer(&Problem::new(405, "method_not_allowed", "this path does not take that method"))
}
