//! `/livez`, `/readyz` and `/metrics`.

use super::{Shared, accepted};
use crate::{health::Readiness, telemetry::metrics};
use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::IntoResponse,
};

/// 200 while the process can answer.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// 200 where jobs that are taken end, with a line for each part that the worker goes on without; 503 with a line for each part that
/// keeps them from ending.
pub(super) async fn readyz(State(shown): State<Shared>) -> impl IntoResponse {
    let report = shown.health.report();
    let status = match report.readiness() {
        Readiness::Ready | Readiness::Degraded => StatusCode::OK,
        Readiness::NotReady => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, report.to_string())
}

/// The metrics in Prometheus' text format, or in OpenMetrics' for who asks for that.
pub(super) async fn metrics(State(shown): State<Shared>, headers: HeaderMap) -> impl IntoResponse {
    // The worker's own tasks keep its figures up to date, unless it is they who stand still.
    shown.health.report();
    metrics::tasks(shown.runtime.num_alive_tasks());
    let text = shown.metrics.render();
    let (kind, body) = match accepted::open_metrics(&headers) {
        None => ("text/plain; version=0.0.4; charset=utf-8", text),
        Some("0.0.1") => (
            "application/openmetrics-text; version=0.0.1; charset=utf-8",
            metrics::open_metrics(&text),
        ),
        Some(_) => (
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            metrics::open_metrics(&text),
        ),
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::VARY, HeaderValue::from_static("accept")),
    ];
    (headers, body)
}
