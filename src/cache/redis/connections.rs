//! Owns the connections to one server of Redis, and the round trips over them.
//!
//! Promises a deadline by size to each round trip, and that a connection whose answer is late is closed: the answer is never read as another
//! one's. Large round trips leave one connection to the small ones. When half of its time has passed, a round trip asks on another connection
//! whether Redis answers at all, and goes there itself if it may be sent twice: so a connection that is slow alone costs its user little, and a
//! dead Redis no more than one time-out. A connection to a server that has become a replica is made anew; where there are several servers to
//! choose from, all are, and so they are when it is lost. Refuses to retry otherwise.
use super::{
    breaker::{Breaker, Failed, Since},
    followed::Followed,
    open::LATE,
    question::{Again, Question, Unanswered, is_no_primary, is_refusal},
    size::Size,
    source::Source,
};
use crate::{
    clock,
    config::{self, Redis},
    redact::Redact,
    secret::Secret,
    telemetry::metrics::Metrics,
    tls,
};
use rand::Rng;
use redis::{ErrorKind, FromRedisValue, RedisError, Value, aio::MultiplexedConnection};
use std::{
    ops::Range,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// How often it is said that a connection is lost while the others go on.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// The rest before the server that takes writes is looked for again, as a part of the usual one.
const FOLLOWING: Range<f64> = 0.2..0.35;

/// What went wrong on a connection.
enum Trouble {
    /// It couldn't be made.
    Connect(RedisError),
    Ask(RedisError),
    /// It is one of a cluster: nothing is asked of it as if it were alone.
    Cluster,
}

/// One connection, made when it is first needed and made again after it was closed.
#[derive(Default)]
struct Open {
    connection: Option<MultiplexedConnection>,
    /// When it was made.
    made: Since,
    /// Counts how often it was made.
    generation: u64,
    /// When, as the epochs of all go.
    epoch: u64,
}

/// All connections to one server.
pub(super) struct Connections {
    settings: Redis,
    followed: Followed,
    /// What it is reached by: its credentials are shown nowhere.
    url: Secret,
    base: Duration,
    started: Instant,
    breaker: Mutex<Breaker>,
    open: Vec<tokio::sync::Mutex<Open>>,
    /// Counts how often all were closed, or left for another server: those of before aren't used again.
    epoch: AtomicU64,
    /// How many connections were made so far, to this server and others beside it.
    made: Arc<AtomicU64>,
    /// Large round trips at the same time: one connection fewer than there are.
    large: Semaphore,
    /// Milliseconds since `started` before which a lost connection isn't logged again.
    quiet_until: AtomicU64,
    metrics: Metrics,
}

/// Bytes in flight on a connection, until dropped.
struct Flight<'a> {
    connections: &'a Connections,
    index: usize,
    bytes: usize,
    /// Bytes that were in flight before.
    ahead: usize,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.connections.breaker().done(self.index, self.bytes);
    }
}

impl Connections {
    /// Connections that are made when they are needed.
    pub fn new(
        url: &Secret,
        source: Source,
        settings: &Redis,
        metrics: Metrics,
        made: Arc<AtomicU64>,
    ) -> Self {
        let count = settings.connections.max(1);
        let cooldown = config::ms(settings.cooldown_ms);
        // Another primary may be elected any moment. Workers that lost one together don't ask together.
        let refused = match source.follows() {
            true => cooldown.mul_f64(clock::rng().random_range(FOLLOWING)),
            false => cooldown,
        };
        Self {
            settings: settings.clone(),
            followed: Followed::new(source, settings, metrics.clone()),
            url: url.clone(),
            base: config::ms(settings.timeout_ms),
            started: clock::instant(),
            breaker: Mutex::new(Breaker::new(count, cooldown).with_refused(refused)),
            open: (0..count).map(|_| tokio::sync::Mutex::default()).collect(),
            epoch: AtomicU64::new(0),
            made,
            large: Semaphore::new(count.saturating_sub(1).max(1)),
            quiet_until: AtomicU64::new(0),
            metrics,
        }
    }

    /// Whether what is connected to is part of a cluster, and is left to those who know all of it.
    pub fn is_cluster(&self) -> bool {
        self.followed.is_cluster()
    }

    /// Which server is spoken to.
    pub fn followed(&self) -> &Followed {
        &self.followed
    }

    /// How many there may be.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// Whether every one rests.
    pub fn is_closed(&self) -> bool {
        self.breaker().is_closed(self.now())
    }

    /// What a failure says, without credentials.
    pub fn scrub(&self, error: &RedisError) -> String {
        tls::explain(self.url.scrub(&error.redacted()))
    }

    /// Asks, unless every connection rests.
    pub async fn ask<T: FromRedisValue>(
        &self,
        question: &Question,
        size: Size,
        again: Again,
    ) -> Result<T, Unanswered> {
        if self.is_closed() {
            return Err(Unanswered::Skipped);
        }
        // Its holders have deadlines; it is never closed.
        let _large = match size.is_large() {
            true => self.large.acquire().await.ok(),
            false => None,
        };
        let chosen = self.breaker().choose(self.now(), None);
        let index = chosen.ok_or(Unanswered::Skipped)?;
        let answer = self.round_trip(index, question, size, again).await;
        answer.map_err(|error| question.unanswered(error))
    }

    /// Asks something small once, whatever rests.
    pub async fn ask_anyway<T: FromRedisValue>(
        &self,
        question: &Question,
    ) -> Result<T, RedisError> {
        let index = self.breaker().choose_any(self.now());
        self.round_trip(index, question, Size::SMALL, Again::No)
            .await
    }

    async fn round_trip<T: FromRedisValue>(
        &self,
        index: usize,
        question: &Question,
        size: Size,
        again: Again,
    ) -> Result<T, RedisError> {
        let flight = self.flight(index, size);
        let limit = size.limit(self.base, flight.ahead);
        let (half, end) = (limit / 2, tokio::time::Instant::now() + limit);
        let proof_since = self.now() + half;
        let generation = AtomicU64::new(0);
        let mut work = pin!(self.attempt::<T>(index, question, &generation));
        if let Ok(result) = tokio::time::timeout(half, &mut work).await {
            return self.noted(index, result, &generation);
        }
        let mut elsewhere = pin!(self.elsewhere::<T>(index, question, size, again));
        let either = async {
            let mut is_asking = true;
            loop {
                tokio::select! {
                    biased;
                    result = &mut work => return Ok(result),
                    found = &mut elsewhere, if is_asking => match found {
                        Some(answer) => return Err(answer),
                        None => is_asking = false,
                    },
                }
            }
        };
        match tokio::time::timeout_at(end, either).await {
            Ok(Ok(result)) => self.noted(index, result, &generation),
            first_elsewhere => {
                self.failed(index, Failed::Late { proof_since }, LATE, &generation);
                match first_elsewhere {
                    Ok(Err(answer)) => Ok(answer),
                    _ => Err(RedisError::from((ErrorKind::Io, LATE))),
                }
            }
        }
    }

    /// Finds out on another connection whether Redis answers, and if so asks there what may be asked again.
    async fn elsewhere<T: FromRedisValue>(
        &self,
        index: usize,
        question: &Question,
        size: Size,
        again: Again,
    ) -> Option<T> {
        let other = self.breaker().choose(self.now(), Some(index))?;
        let flight = self.flight(other, Size::SMALL);
        let generation = AtomicU64::new(0);
        let ping = Question::from(redis::cmd("PING"));
        let pong = self.attempt::<Value>(other, &ping, &generation).await;
        self.noted(other, pong, &generation).ok()?;
        drop(flight);
        if again == Again::No {
            return None;
        }
        let _flight = self.flight(other, size);
        let answer = self.attempt::<T>(other, question, &generation).await;
        self.noted(other, answer, &generation).ok()
    }

    /// Asks on one connection, and says in `generation` which one that was.
    async fn attempt<T: FromRedisValue>(
        &self,
        index: usize,
        question: &Question,
        generation: &AtomicU64,
    ) -> Result<T, Trouble> {
        let (mut connection, made) = self.connection(index).await.map_err(Trouble::Connect)?;
        if self.followed.is_cluster() {
            return Err(Trouble::Cluster);
        }
        generation.store(made, Ordering::Relaxed);
        question.send(&mut connection).await.map_err(Trouble::Ask)
    }

    async fn connection(&self, index: usize) -> Result<(MultiplexedConnection, u64), RedisError> {
        let unknown = || RedisError::from((ErrorKind::InvalidClientConfig, "no such connection"));
        let mut open = self.open.get(index).ok_or_else(unknown)?.lock().await;
        let epoch = self.epoch.load(Ordering::Acquire);
        if let Some(connection) = open.connection.as_ref().filter(|_| open.epoch == epoch) {
            return Ok((connection.clone(), open.generation));
        }
        let (made, is_elsewhere) = self.followed.connect().await?;
        open.epoch = match is_elsewhere {
            true => 1 + self.epoch.fetch_add(1, Ordering::AcqRel),
            false => epoch,
        };
        open.generation += 1;
        self.made.fetch_add(1, Ordering::Release);
        open.made = self.now();
        open.connection = Some(made.clone());
        Ok((made, open.generation))
    }

    /// Notes how it went on a connection.
    fn noted<T>(
        &self,
        index: usize,
        result: Result<T, Trouble>,
        generation: &AtomicU64,
    ) -> Result<T, RedisError> {
        let (failed, error) = match result {
            Ok(answer) => {
                self.breaker().answered(index, self.now());
                return Ok(answer);
            }
            Err(Trouble::Ask(error)) if is_refusal(&error) => {
                self.breaker().answered(index, self.now());
                if is_no_primary(&error) {
                    self.leave(index, generation, &error);
                }
                return Err(error);
            }
            Err(Trouble::Ask(error)) => (Failed::Broken, error),
            Err(Trouble::Cluster) => {
                self.breaker().answered(index, self.now());
                self.close_all();
                let found = "it is part of a cluster";
                return Err(RedisError::from((ErrorKind::Client, found)));
            }
            Err(Trouble::Connect(error)) if is_refusal(&error) => (Failed::Broken, error),
            Err(Trouble::Connect(error)) => (Failed::Refused, error),
        };
        self.failed(index, failed, &self.scrub(&error), generation);
        Err(error)
    }

    /// Has a connection made anew: the server's name may mean another one by now. Not sooner than a cooldown after it was made, so that a
    /// server which stays a replica is connected to a bounded number of times; what it answers meanwhile is good for look-ups.
    fn leave(&self, index: usize, generation: &AtomicU64, why: &RedisError) {
        if self.followed.leaves_at_once() {
            self.followed.demoted(&self.scrub(why));
            return self.close_all();
        }
        let old = self
            .now()
            .saturating_sub(config::ms(self.settings.cooldown_ms));
        if let Some(mut open) = self.same(index, generation)
            && open.made <= old
        {
            open.connection = None;
        }
    }

    /// Closes every connection; one that is being made isn't used.
    pub fn close_all(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        for open in self.open.iter().filter_map(|open| open.try_lock().ok()) {
            let mut open = open;
            open.connection = None;
        }
    }

    /// A connection, unless it was made anew meanwhile, or is being made.
    fn same(
        &self,
        index: usize,
        generation: &AtomicU64,
    ) -> Option<tokio::sync::MutexGuard<'_, Open>> {
        let open = self.open.get(index)?.try_lock().ok()?;
        (open.generation == generation.load(Ordering::Relaxed)).then_some(open)
    }

    /// Closes a connection and leaves it alone for a while.
    fn failed(&self, index: usize, failed: Failed, reason: &str, generation: &AtomicU64) {
        let now = self.now();
        let is_closed = {
            let mut breaker = self.breaker();
            breaker.failed(index, now, failed);
            breaker.is_closed(now)
        };
        self.metrics.cache_connection_lost();
        // Where it is being made, what failed is gone already.
        if let Some(mut open) = self.same(index, generation) {
            open.connection = None;
        }
        self.followed.lost(reason);
        if is_closed && self.followed.source().follows() {
            self.close_all();
        }
        let now = now.as_millis() as u64;
        if !is_closed && self.quiet_until.load(Ordering::Relaxed) <= now {
            let until = now + SAY_AGAIN.as_millis() as u64;
            self.quiet_until.store(until, Ordering::Relaxed);
            tracing::warn!(reason, "a connection to redis is lost; the others go on");
        }
    }

    fn flight(&self, index: usize, size: Size) -> Flight<'_> {
        Flight {
            connections: self,
            index,
            bytes: size.bytes,
            ahead: self.breaker().sent(index, size.bytes),
        }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        // It is sound after a panic elsewhere: every change to it is one call.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Since {
        clock::since(self.started)
    }
}

#[cfg(test)]
mod tests;
