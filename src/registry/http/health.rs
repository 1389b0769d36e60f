//! Service: `GET /api/health`.

use axum::Json;
use serde_json::{Value, json};

/// Says that the process lives.
pub async fn health() -> Json<Value> {
    Json(
        json!({"status": "ok", "version": env!("CARGO_PKG_VERSION"), "spec_version": crate::protocol::executor_v1::SPEC_VERSION}),
    )
}
