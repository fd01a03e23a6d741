//! `/`: the page that shows this worker. It holds no figures: it asks the API for them, with the caller's key.
//!
//! Promises to need nothing from elsewhere, and that the browser lets nothing from elsewhere in.

use axum::{
    http::{HeaderName, HeaderValue, header},
    response::IntoResponse,
};

/// Everything comes from here, and no other site may show the page within its own.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! file {
    ($name:ident, $kind:expr, $file:literal) => {
        pub(super) async fn $name() -> impl IntoResponse {
            served($kind, include_str!(concat!("page/", $file)))
        }
    };
}

file!(html, HTML, "index.html");
file!(style, CSS, "page.css");
file!(script, SCRIPT, "page.js");
file!(chart_style, CSS, "uplot.css");
file!(chart_script, SCRIPT, "uplot.js");

fn served(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let value = HeaderValue::from_static;
    let headers: [(HeaderName, HeaderValue); 5] = [
        (header::CONTENT_TYPE, value(kind)),
        (header::CONTENT_SECURITY_POLICY, value(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, value("nosniff")),
        (header::REFERRER_POLICY, value("no-referrer")),
        // A worker of another version is to show its own page.
        (header::CACHE_CONTROL, value("no-cache")),
    ];
    (headers, text)
}
