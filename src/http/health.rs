//! `/livez`, `/readyz` and `/metrics`.

use super::Shared;
use axum::{
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use std::fmt::Write;

/// 200 while the process can answer.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// 200 where every part works; 503 with a line for each that doesn't.
pub(super) async fn readyz(State(shown): State<Shared>) -> impl IntoResponse {
    let missing = shown.health.missing();
    if missing.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    let mut body = String::from("not ready\n");
    for (part, reason) in missing {
        // Writing to a string can't fail.
        let _infallible = writeln!(body, "{}: {reason}", part.as_str());
    }
    (StatusCode::SERVICE_UNAVAILABLE, body)
}

/// The metrics in Prometheus' text format.
pub(super) async fn metrics(State(shown): State<Shared>) -> impl IntoResponse {
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        shown.metrics.render(),
    )
}
