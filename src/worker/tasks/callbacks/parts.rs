//! Owns the steps of posting: taking what is due, one try of one callback with what comes of it, and tidying up.
//!
//! Promises that a try is noted by whoever still has the right to it; that at a stop, or where it is too late for a try, what hasn't been sent is another
//! worker's at once; that no statement is left without its answer for that; and that no more of a job's row is read than may be posted.

use super::{
    post::{Answer, Letter, Sent, post},
    sign,
};
use crate::{
    clock,
    config::{self, Callbacks},
    store::{DueCallback, JobEnd, PostgresStore, StoreError},
    telemetry::metrics::{CallbackOutcome, Metrics},
};
use kiln_contract::result;
use rand::Rng;
use std::{pin::pin, sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_rustls::rustls::ClientConfig;
use tokio_util::sync::CancellationToken;

/// Steps of giving up at one time, of 1,000 rows each.
const TIDY_STEPS: u32 = 100;
/// Longest wait between two tries.
const MAX_WAIT: Duration = Duration::from_secs(3_600);

/// What the task works with.
pub(super) struct Parts {
    pub settings: Callbacks,
    pub max_body_bytes: usize,
    /// Longest wait for the database.
    pub database_limit: Duration,
    pub store: PostgresStore,
    pub metrics: Metrics,
}

/// A callback that this worker has until then.
pub(super) struct Held {
    pub due: DueCallback,
    until: Instant,
}

/// One to this host has ended, and whether that took long.
pub(super) struct Freed {
    pub host: String,
    pub was_slow: bool,
}

/// What a try came to.
enum Tried {
    Answered {
        answer: Answer,
        took: Duration,
    },
    /// There is nothing to post.
    NoJob,
    /// Nothing was sent: there is a stop, or another worker may have it before the try would be over.
    Unsent,
}

impl Parts {
    /// Takes what is due for hosts with free seats; for long enough to look its job up, post it and say what came of it.
    pub(super) async fn claim(
        &self,
        free: Vec<(String, usize)>,
        left: usize,
    ) -> Result<Vec<Held>, StoreError> {
        let held_for = config::ms(self.settings.timeout_ms)
            + self.database_limit.saturating_mul(3)
            + Duration::from_secs(1);
        let until = Instant::now() + held_for;
        let age = Duration::from_secs(self.settings.max_age_seconds);
        let free: Vec<(&str, usize)> = free.iter().map(|(host, n)| (host.as_str(), *n)).collect();
        let claimed = self.store.claim_callbacks(&free, left, held_for, age).await;
        claimed.map(|all| all.into_iter().map(|due| Held { due, until }).collect())
    }

    /// Leaves one that hasn't been sent to any worker, at once.
    pub(super) async fn give_back(&self, held: &Held) -> Result<(), StoreError> {
        self.store.return_callback(&held.due).await
    }

    /// Posts one, and says what came of it.
    pub(super) async fn deliver(
        &self,
        held: Held,
        client: Arc<ClientConfig>,
        stop: &CancellationToken,
    ) -> Freed {
        let tried = self.attempt(&held, client, stop).await;
        let (due, limit) = (&held.due, config::ms(self.settings.timeout_ms));
        let mut was_slow = false;
        let noted = match tried {
            Ok(Tried::Answered { answer, took }) => {
                was_slow = took >= limit / 2;
                self.conclude(due, answer).await
            }
            Ok(Tried::NoJob) => {
                let why = "its job's row is gone, or another body's";
                self.give_up(due, why).await
            }
            Ok(Tried::Unsent) => self.give_back(&held).await,
            Err(error) => Err(error),
        };
        if let Err(error) = noted {
            // It is due again once its time is over.
            tracing::debug!(%error, "what came of a callback can't be noted");
        }
        Freed {
            host: held.due.host,
            was_slow,
        }
    }

    async fn attempt(
        &self,
        held: &Held,
        client: Arc<ClientConfig>,
        stop: &CancellationToken,
    ) -> Result<Tried, StoreError> {
        let due = &held.due;
        let max = self.max_body_bytes;
        // A stop doesn't cut it: nobody has a connection before a statement that was left without its answer has ended.
        let end = self.store.job_to_post(&due.job_id, &due.body_sha256, max);
        let Some(end) = end.await? else {
            return Ok(Tried::NoJob);
        };
        let limit = config::ms(self.settings.timeout_ms);
        let begun = Instant::now();
        if stop.is_cancelled() || begun + limit > held.until {
            return Ok(Tried::Unsent);
        }
        let answer = match self.letter(due, end) {
            Ok(letter) => {
                let sent = Sent::default();
                let mut posting = pin!(post(letter, client, limit, &sent));
                tokio::select! {
                    biased;
                    answer = posting.as_mut() => answer,
                    () = stop.cancelled() => match sent.is_possible() {
                        true => posting.await,
                        false => return Ok(Tried::Unsent),
                    }
                }
            }
            Err(reason) => Answer::Failed(reason.to_owned()),
        };
        let took = begun.elapsed();
        Ok(Tried::Answered { answer, took })
    }

    /// What is posted of a job. Its results are let go before anything is sent: they are in the body.
    fn letter(&self, due: &DueCallback, end: JobEnd) -> Result<Letter, &'static str> {
        let mut body = match &end {
            JobEnd::Done(done) => result::ok_reply(&due.job_id, done),
            JobEnd::Rejected(error) => result::stored_rejected_reply(&due.job_id, error),
        };
        if let JobEnd::Done(done) = end
            && body.len() > self.max_body_bytes
        {
            body = result::ok_reply_without_results(&due.job_id, &done);
        }
        let secret = self.settings.secret_of(&due.host);
        let secret = secret.ok_or("its host has no secret here")?.expose();
        let (delivery, now) = (due.delivery(), clock::now().timestamp());
        Ok(Letter {
            url: due.url.clone(),
            may_be_private: self.settings.may_be_private(&due.host),
            signature: sign::signature(secret.as_bytes(), now, &delivery, &body)?,
            delivery,
            body,
        })
    }

    async fn conclude(&self, due: &DueCallback, answer: Answer) -> Result<(), StoreError> {
        let reason = match answer {
            Answer::Delivered => {
                if self.store.end_callback(due).await? {
                    self.metrics.callbacks(CallbackOutcome::Delivered, 1);
                }
                return Ok(());
            }
            Answer::Gone => {
                if self.store.end_callback(due).await? {
                    self.metrics.callbacks(CallbackOutcome::Gone, 1);
                    let (job_id, host) = (&due.job_id, &due.host);
                    tracing::debug!(job_id, host, "a callback's receiver wants it no more");
                }
                return Ok(());
            }
            Answer::Failed(reason) => reason,
        };
        let tries = due.tries.unsigned_abs();
        let is_old = due.age_seconds >= self.settings.max_age_seconds as f64;
        if is_old || tries >= self.settings.max_tries {
            return self.give_up(due, &reason).await;
        }
        self.metrics.callbacks(CallbackOutcome::Retried, 1);
        tracing::debug!(
            job_id = due.job_id,
            host = due.host,
            tries,
            reason,
            "a callback is tried again later"
        );
        let first = config::ms(self.settings.first_wait_ms);
        let wait = wait(first, tries).mul_f64(rand::rng().random_range(0.5..=1.0));
        self.store.postpone_callback(due, wait).await
    }

    async fn give_up(&self, due: &DueCallback, reason: &str) -> Result<(), StoreError> {
        if !self.store.end_callback(due).await? {
            // It is another worker's by now, or of a new end.
            return Ok(());
        }
        self.metrics.callbacks(CallbackOutcome::GivenUp, 1);
        let (job_id, host, tries) = (&due.job_id, &due.host, due.tries);
        tracing::warn!(job_id, host, tries, reason, "a callback is given up");
        Ok(())
    }

    /// Gives up what is too old, or too much, and counts what waits where this worker posts any; at a stop no further than it has come.
    pub(super) async fn tidy(&self, stop: &CancellationToken) {
        let settings = &self.settings;
        let age = Duration::from_secs(settings.max_age_seconds);
        let mut given_up = 0;
        for _step in 0..TIDY_STEPS {
            if stop.is_cancelled() {
                break;
            }
            // That the database is out of reach is told by its own check.
            let old = self.store.give_up_old_callbacks(age).await.unwrap_or(0);
            let excess = self.store.give_up_excess_callbacks(settings.max_waiting);
            let step = old + excess.await.unwrap_or(0);
            if step == 0 {
                break;
            }
            given_up += step;
        }
        if given_up > 0 {
            self.metrics.callbacks(CallbackOutcome::GivenUp, given_up);
            tracing::warn!(
                callbacks = given_up,
                "callbacks are given up: they waited too long, or too many did"
            );
        }
        if settings.are_on() && !stop.is_cancelled() {
            let found = self.store.waiting_callbacks(settings.max_waiting).await;
            let found = found.map(|found| (found.waiting as f64, found.oldest_seconds));
            self.metrics.callbacks_waiting(found.ok());
        }
    }
}

/// The wait after so many tries, before anything is drawn from it.
fn wait(first: Duration, tries: u32) -> Duration {
    let doubled = first.saturating_mul(1 << tries.saturating_sub(1).min(20));
    doubled.min(MAX_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_an_hour() {
        let of = |tries| wait(Duration::from_secs(5), tries).as_secs();
        assert_eq!((of(1), of(2), of(4), of(11)), (5, 10, 40, 3_600));
        assert_eq!(of(u32::MAX), 3_600);
    }
}
