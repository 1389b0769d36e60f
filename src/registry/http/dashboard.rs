//! Service: the registry's page in the browser: what runs, what asks, what failed, and the orders for it.
//!
//! A page, its look and its script, served as they lie beside this file. They hold nothing secret: what they show comes from
//! the same routes that everybody uses, under the same guard. The policy that goes with them lets the page load nothing from
//! elsewhere and run no script but this one, so that not even a mission called `<script>` could.

use crate::registry::http::state::App;
use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::Arc;

/// Where the page lies, and what it loads.
pub const PATHS: [&str; 3] = ["/", "/dashboard.css", "/dashboard.js"];

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Returns the page's routes.
pub fn routes() -> Router<Arc<App>> {
    let [page, look, script] = PATHS;
    Router::new()
        .route(page, get(async || file("text/html; charset=utf-8", include_str!("dashboard/page.html"))))
        .route(look, get(async || file("text/css; charset=utf-8", include_str!("dashboard/page.css"))))
        .route(
            script,
            get(async || file("text/javascript; charset=utf-8", include_str!("dashboard/page.js"))),
        )
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        // The next version of the program has another page at the same address.
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}
