//! Owns the tree of settings: every name, meaning and default.

use crate::{model::ModelSettings, secret::Secret, tls::TlsSettings};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

/// Every setting of Kiln.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub amqp: Amqp,
    pub redis: Redis,
    pub database: Database,
    pub databases: BTreeMap<String, NamedDatabase>,
    pub http: Http,
    pub queues: Queues,
    pub intake: Intake,
    pub retry: Retry,
    pub cache: Cache,
    pub namespaces: BTreeMap<String, Namespace>,
    pub models: ModelSettings,
    pub store: Store,
    pub embedded: Embedded,
    pub drain: Drain,
    pub warm: Warm,
    pub trace: Trace,
    pub log: Log,
}

impl Settings {
    /// Life of an entry, in seconds: what was asked for, or else what its namespace, its model, or all entries have.
    pub fn ttl_seconds(&self, asked: Option<u64>, namespace: &str, model: Option<u64>) -> u64 {
        asked
            .or_else(|| self.namespaces.get(namespace).and_then(|n| n.ttl_seconds))
            .or(model)
            .unwrap_or(self.cache.ttl_seconds)
    }

    /// Time for which what readers of a namespace find is still there after its life, in seconds.
    pub fn grace_seconds(&self, namespace: &str) -> u64 {
        let own = self.namespaces.get(namespace).and_then(|n| n.grace_seconds);
        own.unwrap_or(self.cache.grace_seconds)
    }
}

/// The broker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Amqp {
    /// `amqp://user:password@host:port/vhost`, or `amqps://` for TLS.
    pub url: Option<Secret>,
    pub tls: TlsSettings,
    /// Seconds between heartbeats; two missed ones end the connection.
    pub heartbeat_seconds: u16,
    /// Longest wait for a connection, a declaration or a publisher confirm, in milliseconds.
    pub timeout_ms: u64,
    /// Longest wait between two attempts to connect, in milliseconds.
    pub backoff_most_ms: u64,
}

impl Default for Amqp {
    fn default() -> Self {
        Self {
            url: None,
            tls: TlsSettings::default(),
            heartbeat_seconds: 5,
            timeout_ms: 10_000,
            backoff_most_ms: 5_000,
        }
    }
}

/// The cache server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redis {
    /// `redis://user:password@host:port/database`, or `rediss://` for TLS.
    pub url: Option<Secret>,
    pub tls: TlsSettings,
    /// Longest wait for one answer, in milliseconds; later than that, the model is asked instead.
    pub timeout_ms: u64,
    /// Time for which Redis is left alone after a failure, in milliseconds.
    pub cooldown_ms: u64,
}

impl Default for Redis {
    fn default() -> Self {
        Self {
            url: None,
            tls: TlsSettings::default(),
            timeout_ms: 500,
            cooldown_ms: 1_000,
        }
    }
}

/// The database.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// `postgres://user:password@host:port/database`; `?sslmode=verify-full` for TLS.
    pub url: Option<Secret>,
    pub tls: TlsSettings,
    /// Connections that one worker may open.
    pub connections: u32,
    /// Longest wait for one statement, in milliseconds.
    pub timeout_ms: u64,
    /// Longest wait between two attempts to store a batch, in milliseconds.
    pub backoff_most_ms: u64,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            url: None,
            tls: TlsSettings::default(),
            connections: 8,
            timeout_ms: 15_000,
            backoff_most_ms: 2_000,
        }
    }
}

/// A database that schedules read from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedDatabase {
    /// `postgres://user:password@host:port/database`; a user that may only read is best.
    pub url: Secret,
    #[serde(default)]
    pub tls: TlsSettings,
}

/// The HTTP port.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Address of the API, and of `/metrics`, `/livez` and `/readyz`.
    pub addr: SocketAddr,
    /// Whether there is an API; without it only `/metrics`, `/livez` and `/readyz` are served.
    pub api: bool,
    /// Who may use the API, by name; without any, whoever is on this machine.
    pub keys: BTreeMap<String, ApiKey>,
    /// Longest time for one request, with its body, in milliseconds.
    pub timeout_ms: u64,
    /// Connections served at once.
    pub connections: usize,
}

/// What a key is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Looking at anything.
    Read,
    /// Scoring, posting jobs, giving hints.
    Score,
    /// Changing how workers run.
    Admin,
}

/// One API key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// SHA-256 of the key, 64 hexadecimal digits; `kiln key` makes both.
    pub sha256: String,
    pub scopes: Vec<Scope>,
    /// Requests a second, on average and at once; without it, as many as it likes.
    pub requests_per_second: Option<u32>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            addr: SocketAddr::from(([127, 0, 0, 1], 9464)),
            api: true,
            keys: BTreeMap::new(),
            timeout_ms: 10_000,
            connections: 512,
        }
    }
}

/// The queues' names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Queues {
    /// What every queue's name starts with.
    pub prefix: String,
    /// Name of the queue of jobs; empty: `{prefix}.jobs`.
    pub jobs: String,
    /// Name of the queue of warming jobs; empty: `{prefix}.warm`.
    pub warm: String,
    /// Name of the queue of dead letters; empty: `{prefix}.dead`.
    pub dead: String,
    /// Deliveries after which the broker itself gives a message up; a backstop far beyond `retry.max_tries`.
    pub delivery_limit: u32,
}

impl Default for Queues {
    fn default() -> Self {
        Self {
            prefix: "kiln".into(),
            jobs: String::new(),
            warm: String::new(),
            dead: String::new(),
            delivery_limit: 100,
        }
    }
}

/// How jobs are taken in.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Intake {
    /// Unacknowledged jobs that the broker may hand to this worker, 1 to 2000.
    pub prefetch: u16,
    /// The same for warming jobs.
    pub warm_prefetch: u16,
    /// Time without producers' jobs after which warming may use everything, in milliseconds.
    pub warm_idle_ms: u64,
    /// Share of the time that warming may have while jobs come, above 0 to 1.
    pub warm_share: f64,
    /// Jobs of one batch.
    pub batch_jobs: usize,
    /// Tokens of one batch, estimated as a quarter of the bodies' bytes.
    pub batch_tokens: usize,
    /// Longest time that a batch is kept open while others are in flight, in milliseconds.
    pub batch_wait_ms: u64,
    /// Batches that are worked on at once.
    pub batches_in_flight: usize,
    /// Largest body of a job, in bytes; a larger one is rejected unparsed.
    pub max_body_bytes: usize,
    /// Redeliveries after which a job is suspected of killing workers and runs alone.
    pub suspect_after: u32,
    /// Runs alone that a suspect may leave unfinished before it is given up.
    pub suspect_runs: u32,
}

impl Default for Intake {
    fn default() -> Self {
        Self {
            prefetch: 1_000,
            warm_prefetch: 64,
            warm_idle_ms: 1_000,
            warm_share: 0.1,
            batch_jobs: 64,
            batch_tokens: 1 << 20,
            batch_wait_ms: 3,
            batches_in_flight: 6,
            max_body_bytes: 8 << 20,
            suspect_after: 2,
            suspect_runs: 3,
        }
    }
}

/// What happens to a job that failed for a reason that may pass.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Wait before each further try, in milliseconds; the last one repeats. One queue per distinct wait.
    pub delays_ms: Vec<u64>,
    /// Tries of a job before it is given up as `exhausted`.
    pub max_tries: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            delays_ms: vec![1_000, 10_000, 60_000],
            max_tries: 5,
        }
    }
}

/// Entries in Redis and in the worker's own memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// Whether entries are looked up and kept at all; off only to measure what the cache is worth.
    pub enabled: bool,
    /// Life of an entry where neither job, namespace nor model says otherwise, in seconds.
    pub ttl_seconds: u64,
    /// Time for which named entries and rankings are still served after their life, while they are refreshed, in seconds.
    pub grace_seconds: u64,
    /// Bound of the cache in the worker's memory, which serves while Redis doesn't, in MiB.
    pub memory_mib: u64,
    /// Model time of an input from which workers that miss it at once agree on one to score it, in milliseconds; 0: always.
    pub lease_from_ms: f64,
    /// Life of such an agreement where its worker is gone, in milliseconds; nobody waits for more than two of them.
    pub lease_ms: u64,
    pub health: CacheThresholds,
}

/// What the cache is to hold to be called healthy.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheThresholds {
    /// Least share of the inputs that hit, 0 to 1.
    pub hit_rate: f64,
    /// Longest mean time of a job, in milliseconds.
    pub mean_ms: f64,
    /// Longest time of 95 jobs in a hundred, in milliseconds.
    pub p95_ms: f64,
}

impl Default for CacheThresholds {
    fn default() -> Self {
        Self {
            hit_rate: 0.5,
            mean_ms: 50.0,
            p95_ms: 100.0,
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            enabled: true,
            ttl_seconds: 3_600,
            grace_seconds: 0,
            memory_mib: 64,
            lease_from_ms: 5.0,
            lease_ms: 5_000,
            health: CacheThresholds::default(),
        }
    }
}

/// One namespace.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Namespace {
    /// Life of an entry of this namespace, in seconds.
    pub ttl_seconds: Option<u64>,
    /// Time for which its named entries and rankings are still served after their life, in seconds.
    pub grace_seconds: Option<u64>,
}

/// What is kept in the database.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// Whether the inputs of misses are stored beside their scores.
    pub inputs: bool,
    /// Whether the scores of misses are stored at all.
    pub scores: bool,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            inputs: true,
            scores: true,
        }
    }
}

/// Kiln without servers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Embedded {
    /// The SQLite file that holds results and scores.
    pub path: PathBuf,
}

impl Default for Embedded {
    fn default() -> Self {
        Self {
            path: PathBuf::from("kiln.db"),
        }
    }
}

/// How the worker stops.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// Time to finish the jobs in hand after SIGTERM, in seconds; what is left then goes back to its queue.
    pub limit_seconds: u64,
}

impl Default for Drain {
    fn default() -> Self {
        Self { limit_seconds: 25 }
    }
}

/// Warming.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Warm {
    /// Whether this worker plans and posts warming runs; it takes warming jobs either way.
    pub enabled: bool,
    /// The folder of schedule files.
    pub dir: PathBuf,
    /// Inputs of one posted job; a ranking is one job whatever its size.
    pub piece_inputs: usize,
    /// Runs that this worker plans and posts at once.
    pub runs_at_once: usize,
    /// Seconds without a sign of life after which another worker takes a run over.
    pub claim_seconds: u64,
    /// Producers' jobs waiting at which posting pauses.
    pub backlog_most: u32,
    /// Warming jobs waiting at which posting pauses.
    pub queued_most: u32,
}

impl Default for Warm {
    fn default() -> Self {
        Self {
            enabled: true,
            dir: PathBuf::from("schedules"),
            piece_inputs: 64,
            runs_at_once: 4,
            claim_seconds: 15,
            backlog_most: 1_000,
            queued_most: 1_000,
        }
    }
}

/// The shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    Json,
    Text,
}

/// Traces of jobs, for an OpenTelemetry collector.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Trace {
    /// Where a collector takes OTLP over HTTP, such as `http://127.0.0.1:4318`; without it, nothing is traced.
    pub endpoint: Option<String>,
    /// Share of the jobs to trace, 0 to 1, where their producers don't say.
    pub share: f64,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            endpoint: None,
            share: 0.01,
        }
    }
}

/// Logging.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `auto`, `json` or `text`.
    pub format: LogFormat,
    /// Levels in the syntax of tracing's `EnvFilter`, such as `info,kiln=debug`.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Auto,
            filter: "info,lapin=off".into(),
        }
    }
}
