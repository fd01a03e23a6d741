//! Owns the conversation with Redis: one MGET and one pipeline of SETs a batch, each with a deadline.
//!
//! Promises that a failing Redis costs a batch at most one time-out, and then nothing until it has had time
//! to come back. Refuses to retry: a look-up that fails is a miss.

use super::tally::{Tallied, Tally, is_refusal};
use crate::{
    config::{self, Redis},
    secret::Secret,
    telemetry::metrics::{CacheOperation, CacheOutcome, Metrics, Server},
    tls::{self, Tls, TlsSettings},
};
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, Pipeline, RedisError, Value,
    aio::MultiplexedConnection,
};
use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};
use tokio::sync::Mutex;

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

/// A client of the server at `url`; an error holds no credentials.
fn client(url: &Secret, settings: &TlsSettings) -> Result<Client, String> {
    let made = if url.expose().starts_with("rediss://") {
        let tls = Tls::read("redis", settings).map_err(|e| e.to_string())?;
        Client::build_with_tls(url.expose(), tls.redis())
    } else {
        Client::open(url.expose())
    };
    made.map_err(|e| url.scrub(&e.to_string()))
}

/// Connects to the server at `url`, within the time for one answer.
pub async fn connect(url: &Secret, settings: &Redis) -> Result<MultiplexedConnection, RedisError> {
    let wrong = |e| RedisError::from((ErrorKind::InvalidClientConfig, "settings", e));
    let client = client(url, &settings.tls).map_err(wrong)?;
    let timeout = config::ms(settings.timeout_ms);
    let limits = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(timeout))
        .set_response_timeout(Some(timeout));
    let connected = client.get_multiplexed_async_connection_with_config(&limits);
    match tokio::time::timeout(timeout, connected).await {
        Ok(Err(error)) if !error.is_timeout() => Err(error),
        Ok(Ok(connection)) => Ok(connection),
        // It takes the first bytes of TLS for the beginning of a command, and waits for the rest.
        Ok(Err(_)) | Err(_) if url.expose().starts_with("rediss://") => {
            let silent = "no answer to a TLS handshake, as if the server speaks plaintext there";
            Err(RedisError::from((ErrorKind::Io, silent)))
        }
        Ok(Err(_)) | Err(_) => Err(RedisError::from((ErrorKind::Io, LATE))),
    }
}

/// Commands that store values.
pub(super) fn sets<'a>(values: impl IntoIterator<Item = &'a Put>) -> Pipeline {
    let mut pipeline = Pipeline::new();
    for put in values {
        pipeline
            .cmd("SET")
            .arg(put.key.as_slice())
            .arg(put.value.as_slice())
            .arg("PX")
            .arg(put.ttl_ms)
            .ignore();
    }
    pipeline
}

/// The error when no answer comes.
const LATE: &str = "no answer in time";

/// One connection, made when it is first used and made again when it breaks.
pub struct RedisCache {
    settings: Redis,
    url: Secret,
    timeout: Duration,
    cooldown: Duration,
    connection: Mutex<Option<MultiplexedConnection>>,
    started: Instant,
    /// Milliseconds since `started` until which Redis is not tried.
    closed_until: AtomicU64,
    /// Whether the last look-up, and the last write, failed.
    failing: [AtomicBool; 2],
    tally: Tallied,
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
        client(url, &settings.tls).map_err(BadUrl)?;
        Ok(Self {
            settings: settings.clone(),
            url: url.clone(),
            timeout: config::ms(settings.timeout_ms),
            cooldown: config::ms(settings.cooldown_ms),
            connection: Mutex::new(None),
            started: Instant::now(),
            closed_until: AtomicU64::new(0),
            failing: [AtomicBool::new(false), AtomicBool::new(false)],
            tally: Tallied::default(),
            metrics,
        })
    }

    /// Where it is, without credentials.
    pub fn host(&self) -> String {
        self.url.host()
    }

    /// Whether the last look-up or the last write failed.
    pub fn is_failing(&self) -> bool {
        self.failing.iter().any(|f| f.load(Ordering::Relaxed))
    }

    /// A round trip, whatever the cooldown says. The error holds no credentials.
    pub async fn ping(&self) -> Result<(), String> {
        let result = self.command::<Value>(&redis::cmd("PING")).await;
        self.note(CacheOperation::Get, result.as_ref().err()).await;
        result.map(|_| ()).map_err(|e| self.scrub(&e))
    }

    /// How round trips went so far, probes and those that were left out apart.
    pub fn tally(&self) -> Tally {
        self.tally.get()
    }

    /// The values of `keys`, in order; all missing where Redis fails. Pays for at most one time-out.
    pub async fn get(&self, keys: &[Vec<u8>]) -> Option<Vec<Option<Vec<u8>>>> {
        if keys.is_empty() {
            return Some(Vec::new());
        }
        let mut command = redis::cmd("MGET");
        for key in keys {
            command.arg(key.as_slice());
        }
        let answer = self
            .guarded(CacheOperation::Get, self.command(&command))
            .await?;
        let Value::Array(values) = answer else {
            return None;
        };
        let found: Vec<Option<Vec<u8>>> = values
            .into_iter()
            .map(|value| match value {
                Value::BulkString(bytes) => Some(bytes),
                _ => None,
            })
            .collect();
        (found.len() == keys.len()).then_some(found)
    }

    /// What is left of each key's TTL in milliseconds, none for one that isn't there; nothing where Redis fails.
    pub async fn ttls(&self, keys: &[Vec<u8>]) -> Option<Vec<Option<u64>>> {
        if keys.is_empty() {
            return Some(Vec::new());
        }
        let mut pipeline = Pipeline::with_capacity(keys.len());
        for key in keys {
            pipeline.cmd("PTTL").arg(key.as_slice());
        }
        let ttls: Vec<i64> = self.piped(CacheOperation::Get, &pipeline).await?;
        // -2: not there; -1: without an end, which nothing of Kiln's is.
        Some(ttls.into_iter().map(|ms| u64::try_from(ms).ok()).collect())
    }

    /// Stores values; `false` where Redis failed or refused any of them.
    pub async fn put(&self, values: &[Put]) -> bool {
        if values.is_empty() {
            return true;
        }
        let pipeline = sets(values);
        self.piped::<()>(CacheOperation::Set, &pipeline)
            .await
            .is_some()
    }

    /// Sets keys that aren't there to `value`; says for each whether it wasn't. Nothing where Redis fails.
    pub async fn set_new(
        &self,
        keys: &[Vec<u8>],
        value: &str,
        life: Duration,
    ) -> Option<Vec<bool>> {
        let mut pipeline = Pipeline::with_capacity(keys.len());
        for key in keys {
            pipeline
                .cmd("SET")
                .arg(key.as_slice())
                .arg(value)
                .arg("NX")
                .arg("PX")
                .arg(life.as_millis() as u64);
        }
        let set: Vec<Option<String>> = self.piped(CacheOperation::Set, &pipeline).await?;
        Some(set.into_iter().map(|answer| answer.is_some()).collect())
    }

    /// Runs a script of Kiln's own on each key, with one argument.
    pub async fn run_on_each(&self, script: &'static str, keys: &[Vec<u8>], argument: &str) {
        if keys.is_empty() {
            return;
        }
        let mut pipeline = Pipeline::with_capacity(keys.len());
        for key in keys {
            pipeline
                .cmd("EVAL")
                .arg(script)
                .arg(1)
                .arg(key.as_slice())
                .arg(argument)
                .ignore();
        }
        self.piped::<()>(CacheOperation::Set, &pipeline).await;
    }

    /// Writes one field of a hash and notes it in an index; both expire after `life`.
    pub async fn record(
        &self,
        index: &str,
        member: &str,
        hash: &str,
        field: &str,
        value: &[u8],
        life: Duration,
    ) -> bool {
        let seconds = life.as_secs();
        let mut pipeline = Pipeline::new();
        pipeline.cmd("SADD").arg(index).arg(member).ignore();
        pipeline.cmd("EXPIRE").arg(index).arg(seconds).ignore();
        pipeline
            .cmd("HSET")
            .arg(hash)
            .arg(field)
            .arg(value)
            .ignore();
        pipeline.cmd("EXPIRE").arg(hash).arg(seconds).ignore();
        self.piped::<()>(CacheOperation::Set, &pipeline)
            .await
            .is_some()
    }

    /// The members of a set; nothing where Redis fails.
    pub async fn members(&self, set: &str) -> Option<Vec<String>> {
        let mut command = redis::cmd("SMEMBERS");
        command.arg(set);
        self.asked(&command).await
    }

    /// The fields of a hash; nothing where Redis fails.
    pub async fn fields(&self, hash: &str) -> Option<HashMap<String, Vec<u8>>> {
        let mut command = redis::cmd("HGETALL");
        command.arg(hash);
        self.asked(&command).await
    }

    async fn asked<T: FromRedisValue>(&self, command: &redis::Cmd) -> Option<T> {
        self.guarded(CacheOperation::Get, self.command(command))
            .await
    }

    /// Runs a pipeline in one round trip.
    pub(super) async fn piped<T: FromRedisValue>(
        &self,
        operation: CacheOperation,
        pipeline: &Pipeline,
    ) -> Option<T> {
        self.guarded(operation, async {
            let mut connection = self.connect().await?;
            self.deadline(pipeline.query_async(&mut connection)).await
        })
        .await
    }

    /// Runs one round trip unless Redis is in its cooldown, and notes how it went.
    pub(super) async fn guarded<T>(
        &self,
        operation: CacheOperation,
        work: impl Future<Output = Result<T, RedisError>>,
    ) -> Option<T> {
        let now = self.started.elapsed().as_millis() as u64;
        if now < self.closed_until.load(Ordering::Relaxed) {
            self.metrics.cache(operation, CacheOutcome::Skipped, None);
            return None;
        }
        let begun = Instant::now();
        let result = work.await;
        let outcome = if result.is_ok() {
            CacheOutcome::Ok
        } else {
            CacheOutcome::Error
        };
        self.metrics
            .cache(operation, outcome, Some(begun.elapsed()));
        let failure = result.as_ref().err().map(|error| self.scrub(error));
        self.tally.add(failure);
        self.note(operation, result.as_ref().err()).await;
        result.ok()
    }

    /// Notes whether it fails; health says so in the log, with its patience. After a failed round trip the connection is made
    /// anew, and not before the cooldown: an answer that comes late must never be read as the next one's.
    async fn note(&self, operation: CacheOperation, error: Option<&RedisError>) {
        // A server that answers with a refusal, such as being out of memory, is there.
        let refusal = error.is_some_and(is_refusal);
        if error.is_some() && !refusal {
            let until = self.started.elapsed() + self.cooldown;
            self.closed_until
                .store(until.as_millis() as u64, Ordering::Relaxed);
            *self.connection.lock().await = None;
        }
        let was = self
            .failing
            .get(operation as usize)
            .is_some_and(|f| f.swap(error.is_some(), Ordering::Relaxed));
        self.metrics
            .server(Server::Redis, error.is_none() || refusal);
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

    /// One command with its deadline, whatever the cooldown says; its outcome changes nothing.
    pub(super) async fn command<T: FromRedisValue>(
        &self,
        command: &redis::Cmd,
    ) -> Result<T, RedisError> {
        let mut connection = self.connect().await?;
        self.deadline(command.query_async(&mut connection)).await
    }

    /// What a failure says, without credentials.
    pub(super) fn scrub(&self, error: &RedisError) -> String {
        tls::explain(self.url.scrub(&error.to_string()))
    }

    async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        let mut slot = self
            .deadline(async { Ok(self.connection.lock().await) })
            .await?;
        if let Some(connection) = slot.as_ref() {
            return Ok(connection.clone());
        }
        let made = connect(&self.url, &self.settings).await?;
        *slot = Some(made.clone());
        Ok(made)
    }

    async fn deadline<T>(
        &self,
        work: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, RedisError> {
        match tokio::time::timeout(self.timeout, work).await {
            Ok(result) => result,
            Err(_) => Err(RedisError::from((ErrorKind::Io, LATE))),
        }
    }
}
