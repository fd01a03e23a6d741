//! Owns `/docs/`: the API to read and to try in a browser, by Swagger UI over `/openapi.json`.
//!
//! Promises to load nothing from other sites. Requests that are tried there carry the key that the reader gives, and nobody else's.

use super::{accepted, problem::Problem};
use axum::{
    extract::Path,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

/// Only this origin's scripts and requests; the library sets styles and small pictures of its own.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The path that the files are under.
pub(super) async fn moved() -> impl IntoResponse {
    let to = HeaderValue::from_static("/docs/");
    (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, to)])
}

pub(super) async fn index() -> Response {
    served(
        "text/html; charset=utf-8",
        include_str!("docs/index.html").into(),
    )
}

pub(super) async fn file(
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    match name.as_str() {
        "index.html" => return Ok(index().await),
        "start.js" => {
            let kind = "text/javascript; charset=utf-8";
            return Ok(served(kind, include_str!("docs/start.js").into()));
        }
        _ => {}
    }
    let Some(file) = kiln_swagger::file(&name) else {
        return Err(Problem::not_found("", "there is no such file under /docs/"));
    };
    let mut response = if accepted::encoding(&headers, "gzip") > 0 {
        let mut response = served(file.kind, file.packed.into());
        let gzip = HeaderValue::from_static("gzip");
        response
            .headers_mut()
            .insert(header::CONTENT_ENCODING, gzip);
        response
    } else {
        let plain = file.plain();
        let plain = plain.map_err(|_| Problem::unavailable("this file can't be given"))?;
        served(file.kind, plain)
    };
    let by = HeaderValue::from_static("accept-encoding");
    response.headers_mut().insert(header::VARY, by);
    Ok(response)
}

fn served(kind: &'static str, bytes: Vec<u8>) -> Response {
    let value = HeaderValue::from_static;
    let headers = [
        (header::CONTENT_TYPE, value(kind)),
        (header::CONTENT_SECURITY_POLICY, value(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, value("nosniff")),
        (header::REFERRER_POLICY, value("no-referrer")),
        // After an upgrade, the browser must load the new files.
        (header::CACHE_CONTROL, value("no-cache")),
    ];
    (headers, bytes).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(name: &str, accepted: &'static str) -> Result<Response, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(accepted));
        file(Path(name.to_owned()), headers).await
    }

    async fn body(response: Response) -> Vec<u8> {
        let body = axum::body::to_bytes(response.into_body(), 4 << 20).await;
        body.expect("it is whole").to_vec()
    }

    #[tokio::test]
    async fn every_file_that_the_page_names_is_given_and_none_of_other_sites() {
        let page = include_str!("docs/index.html");
        assert!(!page.contains("//"), "{page}");
        let named = page.split('"').filter(|part| {
            [".js", ".css", ".png"]
                .iter()
                .any(|end| part.ends_with(end))
        });
        let named: Vec<&str> = named.collect();
        assert_eq!(named.len(), 6, "{named:?}");
        for name in named {
            let response = get(name, "identity").await.expect(name);
            assert!(!response.headers().contains_key(header::CONTENT_ENCODING));
            let plain = body(response).await;
            assert!(plain.len() > 100, "{name}");
            let response = get(name, "br, gzip;q=0.5").await.expect(name);
            if name != "start.js" {
                assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
                let packed = body(response).await;
                assert!(packed.len() < plain.len() + 100, "{name}");
                assert_eq!(packed[..2], [0x1f, 0x8b], "{name}");
            }
            let response = get(name, "gzip;q=0").await.expect(name);
            assert_eq!(body(response).await, plain, "{name}");
        }
        assert!(get("swagger-ui.css.map", "gzip").await.is_err());
    }
}
