//! Service: which path leads where.

use crate::protocol::problem::Problem;
use crate::registry::http::state::App;
use crate::registry::http::{
    dashboard, error, events, executors, guard, health, lists, missions, sessions, ws,
};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{get, post};
use std::any::Any;
use std::sync::Arc;
use tower_http::catch_panic::CatchPanicLayer;

/// Longest body that is read, in bytes.
pub const MAX_BODY_BYTES: usize = 1 << 20;

/// Builds the routes, with the guard before all of them.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/api/health", get(health::health))
        .route("/api/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/api/v1/openapi.json", get(health::openapi))
        .route("/api/v1/executors/register", post(executors::register))
        .route("/api/v1/executors", get(executors::list))
        .route("/api/v1/executors/{id}", get(executors::get).delete(executors::delete))
        .route("/api/v1/sessions/{id}/dispatch", post(sessions::dispatch))
        .route("/api/v1/sessions/{id}/explain", post(sessions::explain))
        .route("/api/v1/sessions/{id}/missions", get(lists::of_session))
        .route("/api/sessions/{id}/dispatch", post(sessions::moved))
        .route("/api/v1/missions", get(lists::missions))
        .route("/api/v1/missions/{id}", get(missions::get))
        .route("/api/v1/missions/{id}/hitl_response", post(missions::hitl_response))
        .route("/api/v1/missions/{id}/pause", post(missions::pause))
        .route("/api/v1/missions/{id}/resume", post(missions::resume))
        .route("/api/v1/missions/{id}/abort", post(missions::abort))
        .route("/api/v1/hitl", get(lists::hitl))
        .route("/api/v1/events", get(events::events))
        .route("/ws/executors/{id}", get(ws::upgrade))
        .merge(dashboard::routes())
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(Arc::clone(&app), guard::guard))
        .with_state(app)
}

async fn unknown_path() -> Response {
    error::answer(&Problem::new(404, "not_found", "there is nothing at this path"))
}

async fn wrong_method() -> Response {
    error::answer(&Problem::new(405, "method_not_allowed", "this path does not take that method"))
}

fn panicked(_cause: Box<dyn Any + Send>) -> Response {
    tracing::error!("a request's handler panicked");
    error::answer(&Problem::new(500, "internal_error", "the registry made a mistake; it was logged"))
}
