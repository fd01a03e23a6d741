//! `/`: the dashboard of this worker. The page itself holds no data: it gets all of it from the API, with the caller's key.
//!
//! Promises to load nothing from other sites, and to have the browser block everything that comes from there.

use axum::{
    http::{HeaderName, HeaderValue, header},
    response::IntoResponse,
};

/// Only this origin's scripts, styles and requests, and no framing by other sites.
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
        // After an upgrade, the browser must load the new page.
        (header::CACHE_CONTROL, value("no-cache")),
    ];
    (headers, text)
}
