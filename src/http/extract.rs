//! Extractors for bodies, path segments and query parameters, whose rejections are [`Problem`]s.
//!
//! Promises that a large body is read on another thread than the one that answers `/livez`.

use super::{Shared, problem::Problem};
use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{StatusCode, request::Parts},
};
use serde::de::DeserializeOwned;

/// A body of any kind, within the limit.
pub(super) struct Payload(pub(super) Bytes);

impl FromRequest<Shared> for Payload {
    type Rejection = Problem;

    async fn from_request(request: Request, shared: &Shared) -> Result<Self, Problem> {
        match Bytes::from_request(request, shared).await {
            Ok(bytes) => Ok(Self(bytes)),
            Err(refused) if refused.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(Problem::too_large(refused.body_text()))
            }
            Err(refused) => Err(Problem::invalid("", refused.body_text())),
        }
    }
}

/// Largest body that is read on the port's own thread, in bytes: it takes less time than handing it over.
const SMALL: usize = 8 << 10;

/// Reads a body: a small one here, a large one on a thread that may take its time. What `read` needs besides is moved into it.
pub(super) async fn read<T: Send + 'static>(
    body: Bytes,
    read: impl FnOnce(&[u8]) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    if body.len() <= SMALL {
        return read(&body);
    }
    match tokio::task::spawn_blocking(move || read(&body)).await {
        Ok(outcome) => outcome,
        Err(error) => {
            tracing::error!(%error, "reading a body panicked");
            Err(Problem::unavailable("the work for this request failed"))
        }
    }
}

/// The name in the path.
pub(super) struct Named(pub(super) String);

impl FromRequestParts<Shared> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        match Path::<String>::from_request_parts(parts, shared).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(refused) => Err(Problem::invalid("path", refused.body_text())),
        }
    }
}

/// Query parameters.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Shared> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(parts, shared).await {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(refused) => Err(Problem::invalid("query", refused.body_text())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::{self, ThreadId};

    async fn reader_of(length: usize) -> ThreadId {
        let body = Bytes::from(vec![b' '; length]);
        let reader = read(body, move |body| {
            assert_eq!(body.len(), length);
            Ok(thread::current().id())
        });
        reader.await.expect("a thread")
    }

    #[tokio::test]
    async fn only_small_bodies_are_read_on_the_ports_own_thread() {
        let own = thread::current().id();
        assert_eq!(reader_of(0).await, own);
        assert_eq!(reader_of(SMALL).await, own);
        assert_ne!(reader_of(SMALL + 1).await, own);
        let refused = read(Bytes::from(vec![b' '; SMALL + 1]), |_| {
            Err::<(), _>(Problem::invalid("field", "bad"))
        });
        assert_eq!(refused.await.expect_err("refused").status_code(), 400);
    }
}
