//! Lets pages of the origins that the settings list use the API from a browser.
//!
//! Promises that a page of any other origin is reported nothing and may change nothing, that a listed one needs a key like everybody else, and that no
//! browser sends along what it keeps for this host: keys are in a header that the page itself writes. Refuses to allow origins by a pattern.

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use std::collections::BTreeSet;

/// What a page may do and send, and for how long its browser needn't ask again, in seconds.
const METHODS: &str = "GET, POST, PUT";
const HEADERS: &str =
    "authorization, content-encoding, content-type, idempotency-key, traceparent, tracestate";
const MAX_AGE: &str = "600";
/// What a page may read of an answer, beside its body and type.
const SHOWN: &str = "idempotency-replayed, retry-after, traceparent, tracestate";

/// The origins that are allowed.
#[derive(Debug, Default)]
pub(super) struct Origins(BTreeSet<String>);

impl Origins {
    pub(super) fn new(listed: &[String]) -> Self {
        Self(listed.iter().cloned().collect())
    }

    /// The request's origin, where it is one that is allowed.
    pub(super) fn allowed<'a>(&self, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
        let mut said = headers.get_all(header::ORIGIN).iter();
        // Of two, whoever passed the request on may have believed the other one.
        let (Some(origin), None) = (said.next(), said.next()) else {
            return None;
        };
        let is_listed = origin.to_str().is_ok_and(|text| self.0.contains(text));
        is_listed.then_some(origin)
    }

    /// Tells a browser whether the page that asked may read the answer, and others that keep it that it is for that page.
    pub(super) fn answer(&self, origin: Option<HeaderValue>, headers: &mut HeaderMap) {
        if self.0.is_empty() {
            return;
        }
        let by = HeaderValue::from_static("origin");
        headers.append(header::VARY, by);
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            let shown = HeaderValue::from_static(SHOWN);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, shown);
        }
    }
}

/// Whether a browser asks what a page may do.
pub(super) fn is_preflight(parts: &Parts) -> bool {
    let asked = header::ACCESS_CONTROL_REQUEST_METHOD;
    parts.method == Method::OPTIONS && parts.headers.contains_key(asked)
}

/// The answer to that.
pub(super) fn preflight() -> Response {
    let value = HeaderValue::from_static;
    let headers: [(HeaderName, HeaderValue); 3] = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, value(METHODS)),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, value(HEADERS)),
        (header::ACCESS_CONTROL_MAX_AGE, value(MAX_AGE)),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listed_origin_is_allowed_and_only_as_it_is_written() {
        let origins = Origins::new(&["https://shop.example".into()]);
        let allowed = |said: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in said {
                headers.append(header::ORIGIN, value.parse().expect("a header"));
            }
            origins.allowed(&headers).is_some()
        };
        assert!(allowed(&["https://shop.example"]));
        for other in [
            "http://shop.example",
            "https://shop.example:444",
            "https://shop.example.evil.example",
            "https://evil.example/https://shop.example",
            "HTTPS://SHOP.EXAMPLE",
            "https://shop.example/",
            "null",
            "*",
            "",
        ] {
            assert!(!allowed(&[other]), "{other}");
        }
        assert!(!allowed(&[]));
        assert!(!allowed(&["https://shop.example", "https://evil.example"]));
        assert!(Origins::default().allowed(&HeaderMap::new()).is_none());
    }

    #[test]
    fn without_a_list_nothing_is_said_and_others_are_told_apart() {
        let reported = |origins: &Origins, origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            origins.answer(origin.map(HeaderValue::from_static), &mut headers);
            headers
        };
        assert!(reported(&Origins::default(), None).is_empty());
        let origins = Origins::new(&["https://shop.example".into()]);
        let other = reported(&origins, None);
        assert_eq!(
            (other.len(), &other[header::VARY]),
            (1, &HeaderValue::from_static("origin"))
        );
        let listed = reported(&origins, Some("https://shop.example"));
        assert_eq!(
            listed[header::ACCESS_CONTROL_ALLOW_ORIGIN],
            "https://shop.example"
        );
        assert!(!listed.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
    }
}
