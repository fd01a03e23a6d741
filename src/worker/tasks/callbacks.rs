//! Owns posting jobs' ends to whoever asked for that: what is due is taken from the database, posted, and then forgotten or tried again later.
//!
//! Promises no more at once than the settings say, of all and to one host, and one at once to a host that is slow, so that it holds up no other; that
//! what a worker had in hand when it died is posted by another one once its time is over, so that a receiver may hear of a job twice; that what is given
//! up is counted and said. Refuses to write what is to be posted: that is done with the job's row.

mod post;
mod seats;
mod sign;

use crate::{
    clock,
    config::{self, Callbacks, Settings},
    health::{Health, Part},
    store::{DueCallback, JobEnd, PostgresStore, StoreError},
    telemetry::metrics::{CallbackOutcome, Metrics},
    tls::Tls,
    worker::supervisor::{Stage, Supervisor},
};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use kiln_contract::result;
use post::{Answer, Letter, post};
use rand::Rng;
use seats::Seats;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_rustls::rustls::ClientConfig;
use tokio_util::sync::CancellationToken;

/// How often it is asked what is due.
const LOOK: Duration = Duration::from_millis(500);
/// How often what is too old or too much is given up, and what waits is counted.
const TIDY: Duration = Duration::from_secs(60);
/// The same where nothing is posted, for what was to be posted when something was.
const SELDOM: Duration = Duration::from_secs(3_600);
/// The age, in seconds, and the number that no worker's settings go beyond.
const LOOSEST: (u64, u32) = (30 * 86_400, 10_000_000);
/// Steps of that at one time, of 1,000 rows each.
const TIDY_STEPS: u32 = 100;
/// Longest wait between two tries.
const MAX_WAIT: Duration = Duration::from_secs(3_600);
/// Longest wait, at a stop, for what is under way.
const GOODBYE: Duration = Duration::from_secs(2);

/// Adds the task, which posts nothing where the settings list no host.
pub(in crate::worker) fn add(
    tasks: &mut Supervisor,
    settings: &Arc<Settings>,
    store: &PostgresStore,
    health: &Health,
    metrics: &Metrics,
) {
    let mut callbacks = settings.callbacks.clone();
    if !callbacks.are_on() {
        // Other workers may still post what this one doesn't, for as long as theirs allow.
        (callbacks.max_age_seconds, callbacks.max_waiting) = LOOSEST;
    }
    let parts = Arc::new(Parts {
        settings: callbacks,
        max_body_bytes: settings.reply.max_bytes,
        database_limit: config::ms(settings.database.timeout_ms),
        store: store.clone(),
        metrics: metrics.clone(),
    });
    let health = health.clone();
    tasks.add(Stage::Background, "callbacks", move |stop| {
        keep_posting(parts.clone(), health.clone(), stop)
    });
}

/// What the task works with.
struct Parts {
    settings: Callbacks,
    max_body_bytes: usize,
    /// Longest wait for the database.
    database_limit: Duration,
    store: PostgresStore,
    metrics: Metrics,
}

/// What has come of something that is under way.
enum Event {
    Claimed(Result<Vec<Held>, StoreError>),
    /// One to this host has ended, and whether that took long.
    Posted {
        host: String,
        was_slow: bool,
    },
    Tidied,
}

/// A callback that this worker has until then.
struct Held {
    due: DueCallback,
    until: Instant,
}

async fn keep_posting(
    parts: Arc<Parts>,
    health: Health,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !health.is_up(Part::Migrations) {
        if stop.run_until_cancelled(look.tick()).await.is_none() {
            return Ok(());
        }
    }
    if !parts.settings.are_on() {
        // Of what was to be posted when something was.
        while stop
            .run_until_cancelled(tokio::time::sleep(SELDOM))
            .await
            .is_some()
        {
            parts.tidy().await;
        }
        return Ok(());
    }
    let client = tokio::task::spawn_blocking(|| Tls::default().client()).await?;
    let client = Arc::new(client.map_err(anyhow::Error::msg)?);
    let mut under_way = UnderWay::new(&parts);
    let mut tidy = tokio::time::interval(TIDY);
    tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(event) = under_way.all.next(), if !under_way.all.is_empty() => under_way.hear(event, &client),
            _ = look.tick() => under_way.claim(),
            _ = tidy.tick(), if !under_way.is_tidying => {
                under_way.is_tidying = true;
                under_way.all.push(parts.tidy().boxed());
            }
        }
    }
    under_way.end().await;
    Ok(())
}

/// What is being done at the same time.
struct UnderWay<'a> {
    parts: &'a Parts,
    all: FuturesUnordered<BoxFuture<'a, Event>>,
    seats: Seats,
    is_claiming: bool,
    is_tidying: bool,
    /// The last claim found something, so that there may be more.
    may_be_more: bool,
    /// It was said that the database refuses claims.
    is_refused: bool,
}

impl<'a> UnderWay<'a> {
    fn new(parts: &'a Parts) -> Self {
        Self {
            parts,
            all: FuturesUnordered::new(),
            seats: Seats::new(&parts.settings),
            is_claiming: false,
            is_tidying: false,
            may_be_more: false,
            is_refused: false,
        }
    }

    fn claim(&mut self) {
        let free = self.seats.free();
        if !self.is_claiming && !free.is_empty() {
            self.is_claiming = true;
            let claim = self.parts.claim(free, self.seats.left());
            self.all.push(claim.boxed());
        }
    }

    fn hear(&mut self, event: Event, client: &Arc<ClientConfig>) {
        match event {
            Event::Claimed(claimed) => {
                self.is_claiming = false;
                let held = self.judged(claimed);
                self.may_be_more = !held.is_empty();
                for one in held {
                    self.seats.take(&one.due.host);
                    self.all
                        .push(self.parts.deliver(one, client.clone()).boxed());
                }
            }
            Event::Posted { host, was_slow } => {
                self.seats.give_back(&host, was_slow);
                if self.may_be_more {
                    self.claim();
                }
            }
            Event::Tidied => self.is_tidying = false,
        }
    }

    /// What was claimed. That the database is out of reach is told by its own check; that it refuses is said here, once.
    fn judged(&mut self, claimed: Result<Vec<Held>, StoreError>) -> Vec<Held> {
        match claimed {
            Ok(held) => {
                self.is_refused = false;
                held
            }
            Err(error) => {
                if !error.may_pass() && !std::mem::replace(&mut self.is_refused, true) {
                    tracing::warn!(%error, "callbacks wait: the database refuses to say which are due");
                }
                Vec::new()
            }
        }
    }

    /// Waits a little for what is under way; what isn't told its end by then is posted again.
    async fn end(mut self) {
        let until = Instant::now() + GOODBYE;
        while self.seats.are_taken() || self.is_claiming {
            match tokio::time::timeout_at(until, self.all.next()).await {
                Ok(Some(Event::Posted { host, was_slow })) => {
                    self.seats.give_back(&host, was_slow);
                }
                Ok(Some(Event::Claimed(claimed))) => {
                    self.is_claiming = false;
                    for Held { due, .. } in claimed.unwrap_or_default() {
                        let back = self.parts.store.postpone_callback(&due, Duration::ZERO);
                        let _left = tokio::time::timeout_at(until, back).await;
                    }
                }
                Ok(Some(Event::Tidied)) => {}
                Ok(None) | Err(_) => break,
            }
        }
    }
}

impl Parts {
    /// Takes what is due for hosts with free seats; for long enough to look its job up, post it and say what came of it.
    async fn claim(&self, free: Vec<(String, usize)>, left: usize) -> Event {
        let held_for = config::ms(self.settings.timeout_ms)
            + self.database_limit.saturating_mul(3)
            + Duration::from_secs(1);
        let until = Instant::now() + held_for;
        let age = Duration::from_secs(self.settings.max_age_seconds);
        let free: Vec<(&str, usize)> = free.iter().map(|(host, n)| (host.as_str(), *n)).collect();
        let claimed = self.store.claim_callbacks(&free, left, held_for, age).await;
        let held = |due| Held { due, until };
        Event::Claimed(claimed.map(|all| all.into_iter().map(held).collect()))
    }

    /// Posts one, and says what came of it.
    async fn deliver(&self, held: Held, client: Arc<ClientConfig>) -> Event {
        let Held { due, until } = held;
        let limit = config::ms(self.settings.timeout_ms);
        let mut was_slow = false;
        let noted = match self.store.job_of_body(&due.job_id, &due.body_sha256).await {
            // Another worker may have it before this one's try is over.
            Ok(Some(_)) if Instant::now() + limit > until => Ok(()),
            Ok(Some(end)) => {
                let begun = Instant::now();
                let answer = match self.letter(&due, &end) {
                    Ok(letter) => post(letter, client, limit).await,
                    Err(reason) => Answer::Failed(reason.to_owned()),
                };
                was_slow = begun.elapsed() >= limit / 2;
                self.conclude(&due, answer).await
            }
            Ok(None) => {
                let why = "its job's row is gone, or another body's";
                self.give_up(&due, why).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = noted {
            // It is due again once its time is over.
            tracing::debug!(%error, "what came of a callback can't be noted");
        }
        Event::Posted {
            host: due.host,
            was_slow,
        }
    }

    fn letter(&self, due: &DueCallback, end: &JobEnd) -> Result<Letter, &'static str> {
        let mut body = match end {
            JobEnd::Done(done) => result::ok_reply(&due.job_id, done),
            JobEnd::Rejected(error) => result::stored_rejected_reply(&due.job_id, error),
        };
        if let JobEnd::Done(done) = end
            && body.len() > self.max_body_bytes
        {
            body = result::ok_reply_without_results(&due.job_id, done);
        }
        let secret = self.settings.secret.as_ref();
        let secret = secret.ok_or("callbacks.secret is missing")?.expose();
        Ok(Letter {
            url: due.url.clone(),
            may_be_private: self.settings.may_be_private(&due.host),
            signature: sign::signature(secret.as_bytes(), clock::now().timestamp(), &body)?,
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
            Answer::Gone => return self.give_up(due, "answered 410").await,
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

    /// Gives up what is too old, or too much, and counts what waits.
    async fn tidy(&self) -> Event {
        let settings = &self.settings;
        let age = Duration::from_secs(settings.max_age_seconds);
        let mut given_up = 0;
        for _step in 0..TIDY_STEPS {
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
        if let Ok(found) = self.store.waiting_callbacks(settings.max_waiting).await {
            let waiting = found.waiting as f64;
            self.metrics
                .callbacks_waiting(waiting, found.oldest_seconds);
        }
        Event::Tidied
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
