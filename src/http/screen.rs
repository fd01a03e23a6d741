//! Looks at a request before any handler: whose name it came by, what its body is said to be; and at its answer: whether the connection can go on.
//!
//! Promises that a page which has its own name resolve to this machine can't use a worker without keys, and that a client on a connection that it
//! keeps sees why a request was refused: what is left of a small body is read, and where it isn't, the answer says that the connection closes.

use super::{Shared, cors, problem::Problem};
use crate::telemetry::trace::{self, TRACEPARENT, TRACESTATE};
use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use std::{
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

/// Paths that whatever watches the worker may use, by any name.
const ANY_HOST: [&str; 2] = ["/livez", "/readyz"];
/// What is read of a refused request's body so that its connection can go on, in bytes, and for how long.
const DRAINED: usize = 1 << 20;
const DRAIN: Duration = Duration::from_secs(1);

/// Lets a request through if it may be one, and sees to its connection.
pub(super) async fn screen(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let trace = Trace::of(&parts.headers);
    let asks_first = parts.headers.contains_key(header::EXPECT);
    let origin = shared.origins.allowed(&parts.headers).cloned();
    let lent = Lent(Arc::new(Mutex::new(body)));
    let rest = lent.clone();
    let mut response = match refusal(&shared, &parts, &lent) {
        Some(refused) => refused.into_response(),
        None if origin.is_some() && cors::is_preflight(&parts) => cors::preflight(),
        None => {
            if parts.version == Version::HTTP_2
                && matches!(parts.method, Method::GET | Method::HEAD)
            {
                // Nobody reads it, and what isn't read has no room for others on its connection.
                lent.forget();
            }
            let request = Request::from_parts(parts, Body::new(lent));
            next.run(request).await
        }
    };
    let status = response.status();
    if (status.is_client_error() || status.is_server_error())
        && !rest.is_end_stream()
        && (asks_first || !rest.drain().await)
    {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    trace.answer(response.headers_mut());
    shared.origins.answer(origin, response.headers_mut());
    response
}

/// Why a request isn't one for this worker.
fn refusal(shared: &Shared, parts: &Parts, body: &Lent) -> Option<Problem> {
    // Of two names, whoever passed the request on may have believed the other one.
    if parts.headers.get_all(header::HOST).iter().nth(1).is_some() {
        return Some(Problem::invalid("host", "expected one Host header"));
    }
    let path = parts.extensions.get::<MatchedPath>();
    let is_probe = path.is_some_and(|path| ANY_HOST.contains(&path.as_str()));
    if shared.wants_local_host && !is_probe && !is_local(&parts.uri, &parts.headers) {
        return Some(Problem::forbidden(
            "host",
            "a worker without keys answers to localhost and loopback addresses alone: give it keys under [http.keys] (`kiln key` makes one)",
        ));
    }
    let content_type = parts.headers.get(header::CONTENT_TYPE);
    let is_json = content_type.is_none_or(|value| value.to_str().is_ok_and(is_json));
    if path.is_some() && !body.is_end_stream() && !is_json {
        return Some(Problem::not_json());
    }
    None
}

/// Whether a request was sent to a name that only this machine has. What sends no name is no browser.
fn is_local(uri: &Uri, headers: &HeaderMap) -> bool {
    let named = headers.get(header::HOST).map(HeaderValue::to_str);
    let host = match (uri.authority(), named) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(Ok(host))) => host,
        (None, Some(Err(_))) => return false,
        (None, None) => return true,
    };
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let is_loopback = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    is_loopback || host == "localhost" || host.ends_with(".localhost")
}

/// Whether a content type is JSON's.
fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    matches!(
        kind.as_str(),
        "application/json" | "application/x-ndjson" | "application/jsonl"
    ) || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// The trace context that a request came with, where it is one.
struct Trace(Vec<(HeaderName, HeaderValue)>);

impl Trace {
    fn of(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let context = trace::context(text(TRACEPARENT), text(TRACESTATE));
        let found = [(TRACEPARENT, context.parent), (TRACESTATE, context.state)];
        let found = found.into_iter().filter_map(|(name, value)| {
            let value = HeaderValue::from_str(value?).ok()?;
            Some((HeaderName::from_static(name), value))
        });
        Self(found.collect())
    }

    /// Tells the client which trace its answer belongs to.
    fn answer(self, headers: &mut HeaderMap) {
        headers.extend(self.0.into_iter().map(|(name, value)| (Some(name), value)));
    }
}

/// A request's body, of which what a handler leaves can still be read.
#[derive(Clone)]
struct Lent(Arc<Mutex<Body>>);

impl Lent {
    fn with<T>(&self, work: impl FnOnce(&mut Body) -> T) -> T {
        // A body that panicked is one that fails.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets what comes of it go unread.
    fn forget(&self) {
        self.with(|body| *body = Body::empty());
    }

    /// Reads what is left, if it is little and comes soon. Says whether nothing is left.
    async fn drain(&self) -> bool {
        let known = self.size_hint().lower();
        if known > DRAINED as u64 {
            return false;
        }
        let mut rest = self.clone();
        let reading = async {
            let mut left = DRAINED;
            while let Some(frame) = rest.frame().await {
                let Ok(frame) = frame else { return false };
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                match left.checked_sub(bytes) {
                    Some(less) => left = less,
                    None => return false,
                }
            }
            true
        };
        tokio::time::timeout(DRAIN, reading).await.unwrap_or(false)
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.with(|body| Pin::new(body).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.with(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.with(|body| body.size_hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        let is_local = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_str(host).expect("a header"));
            is_local(&Uri::from_static("/v1/score"), &headers)
        };
        for host in [
            "localhost",
            "LOCALHOST:9464",
            "127.0.0.1:80",
            "127.9.9.9",
            "[::1]:9464",
            "kiln.localhost",
            "localhost.",
        ] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "evillocalhost",
            "10.0.0.1",
            "0.0.0.0",
            "[fe80::1]",
            "",
            "127.0.0.1.evil.example",
        ] {
            assert!(!is_local(host), "{host}");
        }
        let uri = Uri::from_static("http://evil.example/v1/score");
        assert!(!super::is_local(&uri, &HeaderMap::new()));
        assert!(super::is_local(&Uri::from_static("/"), &HeaderMap::new()));
    }

    #[test]
    fn json_is_known_by_its_type() {
        for kind in [
            "application/json",
            "application/json; charset=utf-8",
            "Application/JSON",
            "application/problem+json",
            "application/x-ndjson",
        ] {
            assert!(is_json(kind), "{kind}");
        }
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
            "",
        ] {
            assert!(!is_json(kind), "{kind}");
        }
    }

    #[tokio::test]
    async fn what_is_left_of_a_small_body_is_read_and_a_large_one_is_not() {
        let lent = |bytes: usize| Lent(Arc::new(Mutex::new(Body::from(vec![0; bytes]))));
        let small = lent(DRAINED);
        assert!(!small.is_end_stream() && small.drain().await);
        assert!(small.is_end_stream());
        assert!(!lent(DRAINED + 1).drain().await);
        let endless =
            futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![0_u8; 1024]));
        let endless = Lent(Arc::new(Mutex::new(Body::from_stream(endless))));
        assert!(!endless.drain().await);
    }
}
