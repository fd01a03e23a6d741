//! Work on bodies, on the thread where it keeps nobody waiting.
//!
//! Promises that what takes long is done on another thread than the one that answers `/livez`.

use super::problem::Problem;
use crate::redact::Redact;
use axum::body::Bytes;

/// Largest body that is read on the port's own thread, in bytes: it takes less time than handing it over.
const SMALL: usize = 8 << 10;

/// Reads a body: a small one here, a large one on a thread that may take its time. What `read` needs besides is moved into it.
pub(super) async fn read<T: Send + 'static>(
    body: Bytes,
    read: impl FnOnce(&[u8]) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    apart(body.len(), move || read(&body)).await
}

/// Does work on so many bytes: a little here, much on a thread that may take its time.
pub(super) async fn apart<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    if bytes <= SMALL {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => {
            let error = error.redacted();
            tracing::error!(error, "work on a body panicked");
            Err(Problem::unavailable("the work for this request failed"))
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
