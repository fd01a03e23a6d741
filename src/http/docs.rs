//! `/docs`: the API to read and to try in a browser, by Swagger UI over `/openapi.json`.
//!
//! Promises to load nothing from other sites. Requests that are tried there carry the key that the reader gives, and nobody else's.

use super::problem::Problem;
use axum::{
    extract::Path,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use std::sync::{Arc, LazyLock};
use utoipa_swagger_ui::Config;

/// Only this origin's scripts and requests; the library sets styles and small pictures of its own.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
    let config = Config::new(["/openapi.json"]);
    let config = config.try_it_out_enabled(true).persist_authorization(false);
    // Otherwise a site of the library's is asked whether the document is valid.
    Arc::new(config.validator_url("none"))
});

/// The path that the files are under.
pub(super) async fn moved() -> impl IntoResponse {
    let to = HeaderValue::from_static("/docs/");
    (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, to)])
}

pub(super) async fn index() -> Result<Response, Problem> {
    served("")
}

pub(super) async fn file(Path(name): Path<String>) -> Result<Response, Problem> {
    served(&name)
}

fn served(name: &str) -> Result<Response, Problem> {
    let file = utoipa_swagger_ui::serve(name, CONFIG.clone())
        .map_err(|_| Problem::unavailable("this file can't be given"))?;
    let Some(file) = file else {
        return Err(Problem::not_found("", "there is no such file under /docs/"));
    };
    let value = HeaderValue::from_static;
    let kind = HeaderValue::from_str(&file.content_type);
    let headers: [(HeaderName, HeaderValue); 5] = [
        (
            header::CONTENT_TYPE,
            kind.unwrap_or(value("application/octet-stream")),
        ),
        (header::CONTENT_SECURITY_POLICY, value(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, value("nosniff")),
        (header::REFERRER_POLICY, value("no-referrer")),
        // After an upgrade, the browser must load the new files.
        (header::CACHE_CONTROL, value("no-cache")),
    ];
    Ok((headers, file.bytes.into_owned()).into_response())
}
