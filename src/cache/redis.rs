//! Owns the conversation with Redis: one MGET and one pipeline of SETs a batch, cut where they are large.
//!
//! Promises that a failing Redis costs a batch at most one time-out, and then nothing until it has had time
//! to come back. Refuses to retry: a look-up that fails is a miss.

mod beside;
mod breaker;
mod capacity;
mod cluster;
mod connections;
mod each;
mod find;
mod followed;
mod key_reader;
mod kind;
mod open;
mod primaries;
mod published;
mod question;
mod shared;
#[cfg(test)]
#[cfg(feature = "faults")]
pub mod simulated;
mod size;
mod source;
mod spread;
mod unsure;
mod words;

pub use capacity::Capacity;
pub use capacity::memory_bytes;
pub use key_reader::KeyReader;
pub use kind::{Kind, Survey, survey};
pub use open::connect_one as connect;
pub(super) use primaries::Walk;
pub use published::{Forgotten, Published};
use question::{Again, Question};
use size::Size;
pub use words::{REMOVED, Word, WordKind, Words};

use super::{
    journal::Journal,
    marks::Marks,
    tally::{Tallied, Tally},
};
use crate::{
    clock,
    config::Redis,
    secret::Secret,
    telemetry::metrics::{CacheOperation, CacheOutcome, Metrics, Server},
};
use cluster::{Cluster, Many};
use connections::Connections;
use futures_util::{StreamExt, future::BoxFuture, stream};
use question::Unanswered;
pub(super) use question::is_refusal;
use redis::{Cmd, FromRedisValue, RedisError, Value};
use size::{Part, parts};
use source::Source;
use std::{
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use unsure::AllUnsure;

/// A bad URL.
#[derive(Debug, thiserror::Error)]
#[error("setting `redis.url`: {0}")]
pub struct BadUrl(String);

/// A value to store.
#[derive(Debug, Clone)]
pub struct Put {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    /// TTL in milliseconds.
    pub ttl_ms: u64,
}

impl Put {
    /// About what it takes on its way.
    pub(super) fn bytes(&self) -> usize {
        self.key.len() + self.value.len()
    }
}

/// A command that stores a value.
fn set(put: &Put) -> Cmd {
    let mut set = redis::cmd("SET");
    set.arg(put.key.as_slice()).arg(put.value.as_slice());
    set.arg("PX").arg(put.ttl_ms);
    set
}

/// About what an answer takes that is a number or a word.
pub(super) const SHORT_ANSWER: usize = 16;

/// What is asked of one Redis.
pub struct RedisCache {
    url: Secret,
    /// Connections that were made so far.
    made: Arc<AtomicU64>,
    /// To the one server that takes writes; to none where it is a cluster.
    home: Connections,
    cluster: Cluster,
    /// What the server calls the script that writes what readers find, once it has it.
    write_hash: OnceLock<String>,
    /// Whether the last look-up, and the last write, failed.
    failing: [AtomicBool; 2],
    tally: Tallied,
    marks: Marks,
    unsure: AllUnsure,
    pub(super) journal: Option<Journal>,
    metrics: Metrics,
}

impl std::fmt::Debug for RedisCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RedisCache({:?})", self.url)
    }
}

impl RedisCache {
    /// A cache that connects when it is first used.
    pub fn new(url: &Secret, settings: &Redis, metrics: Metrics) -> Result<Self, BadUrl> {
        let source = Source::read(url).map_err(BadUrl)?;
        for url in source.first() {
            open::client(url, &settings.tls).map_err(BadUrl)?;
        }
        let made = Arc::new(AtomicU64::new(0));
        Ok(Self {
            url: url.clone(),
            home: Connections::new(url, source, settings, metrics.clone(), made.clone()),
            cluster: Cluster::new(url, settings, metrics.clone(), made.clone()),
            made,
            write_hash: OnceLock::new(),
            failing: [AtomicBool::new(false), AtomicBool::new(false)],
            tally: Tallied::default(),
            marks: Marks::default(),
            unsure: AllUnsure::default(),
            journal: None,
            metrics,
        })
    }

    /// What is known of invalidations.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// How many connections were made so far.
    pub fn connections_made(&self) -> u64 {
        self.made.load(Ordering::Acquire)
    }

    /// Where it is, as the settings say, without credentials.
    pub fn host(&self) -> String {
        self.url.host()
    }

    /// The cluster, if it is one.
    fn cluster(&self) -> Option<&Cluster> {
        self.home.is_cluster().then_some(&self.cluster)
    }

    /// Whether look-ups or writes fail: the last one was refused, or no connection works.
    pub fn is_failing(&self) -> bool {
        self.failing.iter().any(|f| f.load(Ordering::Relaxed))
    }

    /// A round trip, whatever the cooldown says. The error holds no credentials.
    pub async fn ping(&self) -> Result<(), String> {
        let result = self.any::<Value>(redis::cmd("PING")).await;
        self.note(CacheOperation::Get, result.as_ref().err());
        result.map(|_| ()).map_err(|e| self.scrub(&e))
    }

    /// Notes that it answers.
    pub(super) fn answered(&self) {
        self.note(CacheOperation::Get, None);
    }

    /// How round trips went so far, probes and those that were left out apart.
    pub fn tally(&self) -> Tally {
        self.tally.get()
    }

    /// The values of `keys`, in order, of which each takes about `value_bytes`; all missing where Redis fails. Pays for at most one
    /// time-out.
    pub async fn get(
        &self,
        keys: &[Vec<u8>],
        value_bytes: impl Fn(usize) -> usize,
    ) -> Option<Vec<Option<Vec<u8>>>> {
        self.get_noting(keys, value_bytes, |_| {}).await
    }

    /// The same; `unread` hears of each key of a cluster that couldn't be asked for, by its number.
    pub(super) async fn get_noting(
        &self,
        keys: &[Vec<u8>],
        value_bytes: impl Fn(usize) -> usize,
        unread: impl FnMut(usize),
    ) -> Option<Vec<Option<Vec<u8>>>> {
        let bytes = keys.iter().enumerate();
        let bytes: Vec<usize> = bytes.map(|(n, key)| key.len() + value_bytes(n)).collect();
        let ask = |range: Range<usize>| {
            let mut command = redis::cmd("MGET");
            for key in keys.get(range).unwrap_or_default() {
                command.arg(key.as_slice());
            }
            command.into()
        };
        let answers = match self.cluster() {
            None => {
                self.in_parts(CacheOperation::Get, parts(&bytes), &ask, Again::Yes)
                    .await
            }
            Some(_) => None,
        };
        if let (None, Some(cluster)) = (&answers, self.cluster()) {
            return self.get_each(cluster, keys, &bytes, unread).await;
        }
        let mut found = Vec::with_capacity(keys.len());
        for answer in answers? {
            let Value::Array(values) = answer else {
                return None;
            };
            found.extend(values.into_iter().map(|value| match value {
                Value::BulkString(bytes) => Some(bytes),
                _ => None,
            }));
        }
        (found.len() == keys.len()).then_some(found)
    }

    /// Sets keys that aren't there to `value`; says for each whether it wasn't. Nothing where Redis fails.
    pub async fn set_new(
        &self,
        keys: &[Vec<u8>],
        value: &str,
        life: Duration,
    ) -> Option<Vec<bool>> {
        let life_ms = life.as_millis() as u64;
        let bytes: Vec<usize> = keys.iter().map(|key| key.len() + value.len()).collect();
        let key = |number: usize| keys.get(number).map_or(&[][..], Vec::as_slice);
        let command = |number: usize| {
            let mut command = redis::cmd("SET");
            let set = command.arg(key(number)).arg(value);
            set.arg("NX").arg("PX").arg(life_ms);
            command
        };
        let many = Many {
            bytes: &bytes,
            key: &key,
            command: &command,
        };
        let set = self.each(CacheOperation::Set, &many, Again::No);
        let set: Vec<Option<Option<String>>> = set.await?;
        // Where its server fails, nobody else could have it.
        Some(set.iter().map(|set| !matches!(set, Some(None))).collect())
    }

    /// Asks in as many round trips as it takes, several at the same time; the answers in order, or nothing where one fails.
    async fn in_parts<T: FromRedisValue + Send>(
        &self,
        operation: CacheOperation,
        parts: Vec<Part>,
        ask: &(dyn Fn(Range<usize>) -> Question + Sync),
        again: Again,
    ) -> Option<Vec<T>> {
        if let [part] = parts.as_slice() {
            let question = ask(part.keys.clone());
            let answer = self.guarded(operation, &question, part.size, again);
            return Some(vec![answer.await?]);
        }
        let mut answers = Vec::with_capacity(parts.len());
        let mut asked: Vec<BoxFuture<'_, Option<T>>> = Vec::with_capacity(parts.len());
        for part in parts {
            asked.push(Box::pin(async move {
                let question = ask(part.keys);
                self.guarded(operation, &question, part.size, again).await
            }));
        }
        let mut asked = stream::iter(asked).buffered(self.home.count());
        while let Some(answer) = asked.next().await {
            answers.push(answer?);
        }
        Some(answers)
    }

    /// Runs one round trip unless Redis is in its cooldown, and notes how it went.
    pub(super) async fn guarded<T: FromRedisValue>(
        &self,
        operation: CacheOperation,
        question: &Question,
        size: Size,
        again: Again,
    ) -> Option<T> {
        let begun = clock::instant();
        let answered = self.home.ask(question, size, again).await;
        if answered.is_err() && self.home.is_cluster() {
            // It is asked in another way.
            return None;
        }
        self.concluded(operation, begun, answered)
    }

    /// Notes how a round trip went that began then.
    fn concluded<T>(
        &self,
        operation: CacheOperation,
        begun: Instant,
        answered: Result<T, Unanswered>,
    ) -> Option<T> {
        let result = match answered {
            Err(Unanswered::Skipped) => {
                self.metrics.cache(operation, CacheOutcome::Skipped, None);
                return None;
            }
            Err(Unanswered::Failed(error) | Unanswered::Unsent(error)) => Err(error),
            Ok(answer) => Ok(answer),
        };
        let outcome = if result.is_ok() {
            CacheOutcome::Ok
        } else {
            CacheOutcome::Error
        };
        self.metrics
            .cache(operation, outcome, Some(clock::since(begun)));
        let failure = result.as_ref().err().map(|error| self.scrub(error));
        self.tally.add(failure);
        self.note(operation, result.as_ref().err());
        result.ok()
    }

    /// Notes whether it fails; health says so in the log, with its patience. What fails on one connection while others work is no
    /// such change.
    fn note(&self, operation: CacheOperation, error: Option<&RedisError>) {
        let is_refusal = error.is_some_and(is_refusal);
        let (works, answers) = match self.cluster() {
            Some(cluster) => (cluster.servers.is_whole(), cluster.servers.any_answers()),
            None => (!self.home.is_closed(), false),
        };
        if error.is_some() && !is_refusal && works {
            return;
        }
        let was = self
            .failing
            .get(operation as usize)
            .is_some_and(|f| f.swap(error.is_some(), Ordering::Relaxed));
        // A cluster that lacks one shard is there, whichever keys are asked for.
        let is_up = error.is_none() || is_refusal || answers;
        self.metrics.server(Server::Redis, is_up);
        let operation = operation.as_str();
        match (was, error) {
            (false, Some(error)) => {
                let error = self.scrub(error);
                tracing::debug!(operation, %error, "redis is failing");
            }
            (true, None) => tracing::debug!(operation, "redis works again"),
            _ => {}
        }
    }

    /// What a failure says, without credentials.
    pub(super) fn scrub(&self, error: &RedisError) -> String {
        self.home.scrub(error)
    }
}
