//! `/`: the dashboard of this worker. The page itself holds no data: it gets all of it from the API, with the caller's key.
//!
//! Promises to load nothing from other sites, and to have the browser block everything that comes from there.

use super::Shared;
use axum::{
    Router,
    http::{HeaderName, HeaderValue, header},
    response::IntoResponse,
    routing::get,
};

/// Only this origin's scripts, styles and requests, and no framing by other sites.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! file {
    ($name:ident, $kind:expr, $file:literal) => {
        async fn $name() -> impl IntoResponse {
            served($kind, include_str!(concat!("page/", $file)))
        }
    };
}

file!(html, HTML, "index.html");
file!(style, CSS, "page.css");
file!(script, SCRIPT, "page.js");
file!(focus_script, SCRIPT, "focus.js");
file!(jobs_script, SCRIPT, "jobs.js");
file!(search_script, SCRIPT, "search.js");
file!(dead_script, SCRIPT, "dead.js");
file!(slow_script, SCRIPT, "slow.js");
file!(models_script, SCRIPT, "models.js");
file!(warming_script, SCRIPT, "warming.js");
file!(chart_style, CSS, "uplot.css");
file!(chart_script, SCRIPT, "uplot.js");

/// The page's own paths.
pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/", get(html))
        .route("/page/page.css", get(style))
        .route("/page/page.js", get(script))
        .route("/page/focus.js", get(focus_script))
        .route("/page/jobs.js", get(jobs_script))
        .route("/page/search.js", get(search_script))
        .route("/page/dead.js", get(dead_script))
        .route("/page/slow.js", get(slow_script))
        .route("/page/models.js", get(models_script))
        .route("/page/warming.js", get(warming_script))
        .route("/page/uplot.css", get(chart_style))
        .route("/page/uplot.js", get(chart_script))
}

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

#[cfg(test)]
mod tests {
    use super::POLICY;

    /// What a job, a model or a log line says is text to the page, whatever it looks like.
    #[test]
    fn no_text_becomes_markup_or_a_script() {
        for (file, script) in [
            ("page.js", include_str!("page/page.js")),
            ("focus.js", include_str!("page/focus.js")),
            ("jobs.js", include_str!("page/jobs.js")),
            ("search.js", include_str!("page/search.js")),
            ("dead.js", include_str!("page/dead.js")),
            ("slow.js", include_str!("page/slow.js")),
            ("models.js", include_str!("page/models.js")),
            ("warming.js", include_str!("page/warming.js")),
        ] {
            for way in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "DOMParser",
                "createContextualFragment",
                "eval(",
                "new Function",
            ] {
                assert!(!script.contains(way), "{file} has {way}");
            }
        }
        assert!(POLICY.contains("default-src 'none'; script-src 'self';"));
    }
}
