//! Owns repeating a call until the database has answered it.
//!
//! Promises to wait between two attempts, and to end only with an answer that the caller doesn't want to repeat. Refuses to
//! decide what is repeated and what is recorded of it: both are the caller's.

use super::StoreError;
use crate::backoff::Backoff;

/// Repeats `call`, waiting by `backoff`, for as long as `repeat` says so of its error. `repeat` also hears the number of
/// attempts made, the failed one included: it is where a caller records the failure.
pub async fn until_answered<T, W: Future<Output = Result<T, StoreError>>>(
    mut backoff: Backoff,
    call: impl Fn() -> W,
    mut repeat: impl FnMut(&StoreError, u32) -> bool,
) -> Result<T, StoreError> {
    loop {
        match call().await {
            Ok(value) => return Ok(value),
            Err(error) => {
                let wait = backoff.next_wait();
                if !repeat(&error, backoff.attempts()) {
                    return Err(error);
                }
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// Objections in a row after which one counts as a refusal: some seconds of them.
const OBJECTIONS: u32 = 8;

/// The same for whoever can do without an answer that a damaged row never gives.
pub async fn until_refused<T, W: Future<Output = Result<T, StoreError>>>(
    backoff: Backoff,
    call: impl Fn() -> W,
) -> Result<T, StoreError> {
    let mut objections = 0;
    until_answered(backoff, call, |error, _| {
        match error {
            StoreError::Objected(_) => objections += 1,
            _ => objections = 0,
        }
        error.may_pass() && objections < OBJECTIONS
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, time::Duration};

    fn backoff() -> Backoff {
        Backoff::new(Duration::from_millis(1), Duration::from_millis(1))
    }

    #[tokio::test]
    async fn repeats_until_there_is_an_answer() {
        let calls = Cell::new(0);
        let mut attempts = Vec::new();
        let answer = until_answered(
            backoff(),
            async || {
                calls.set(calls.get() + 1);
                match calls.get() {
                    1 => Err(StoreError::Unavailable("down".into())),
                    2 => Err(StoreError::Contended("deadlock".into())),
                    calls => Ok(calls),
                }
            },
            |error, attempt| {
                attempts.push(attempt);
                error.may_pass()
            },
        );
        assert_eq!(answer.await.expect("an answer"), 3);
        assert_eq!(attempts, [1, 2]);
    }

    #[tokio::test]
    async fn a_refusal_is_an_answer() {
        let call = async || Err::<(), _>(StoreError::Refused("no".into()));
        let answer = until_answered(backoff(), call, |error, _| error.may_pass()).await;
        assert!(matches!(answer, Err(StoreError::Refused(_))));
    }

    #[tokio::test]
    async fn what_is_objected_to_again_and_again_is_refused() {
        let calls = Cell::new(0);
        let call = async || {
            calls.set(calls.get() + 1);
            match calls.get() {
                5 => Err::<(), _>(StoreError::Unavailable("down".into())),
                _ => Err(StoreError::Objected("damaged".into())),
            }
        };
        let answer = until_refused(backoff(), call).await;
        assert!(matches!(answer, Err(StoreError::Objected(_))));
        assert_eq!(calls.get(), 5 + OBJECTIONS, "in a row");
    }
}
