//! Owns the settings of the servers that Kiln connects to.

use crate::{secret::Secret, tls::TlsSettings};
use serde::{Deserialize, Serialize};

/// The connection to RabbitMQ.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Amqp {
    /// `amqp://user:password@host:port/vhost`, or `amqps://` for TLS; several hosts with commas between them, or a list of URLs.
    pub url: Option<Secret>,
    pub tls: TlsSettings,
    /// Time between heartbeats, in seconds; a connection on which nothing comes for one and a half of them is given up.
    pub heartbeat_seconds: u16,
    /// Longest wait for a connection, a declaration or a publisher confirm, in milliseconds.
    pub timeout_ms: u64,
    /// Longest wait between two attempts to connect, in milliseconds.
    pub max_backoff_ms: u64,
}

impl Default for Amqp {
    fn default() -> Self {
        Self {
            url: None,
            tls: TlsSettings::default(),
            heartbeat_seconds: 4,
            timeout_ms: 10_000,
            max_backoff_ms: 5_000,
        }
    }
}

/// The connection to Redis or Valkey.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redis {
    /// `redis://user:password@host:port/database`, or `rediss://` for TLS; several hosts with commas between them, or a list of URLs: the one
    /// that takes writes is used, or all of a Redis Cluster. `redis+sentinel://host:26379,host:26379/NAME/database` (`rediss+sentinel://`): the
    /// primary that Sentinels know by that name.
    pub url: Option<Secret>,
    pub tls: TlsSettings,
    /// Connections that one worker may open; a large answer on one doesn't hold up small ones on the others.
    pub connections: usize,
    /// Longest wait for one small answer, in milliseconds; a large one has a second more for every 10 MiB. Without one by then, inputs are
    /// scored by the model instead.
    pub timeout_ms: u64,
    /// Time after a failure during which its connection is not tried again, in milliseconds.
    pub cooldown_ms: u64,
}

impl Default for Redis {
    fn default() -> Self {
        Self {
            url: None,
            tls: TlsSettings::default(),
            connections: 4,
            timeout_ms: 500,
            cooldown_ms: 1_000,
        }
    }
}

/// The connection to Postgres.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// `postgres://user:password@host:port/database`; `?sslmode=verify-full` for TLS; several hosts with commas between them, or a list of URLs.
    pub url: Option<Secret>,
    pub tls: TlsSettings,
    /// Connections that one worker may open.
    pub connections: u32,
    /// Longest wait for one statement, in milliseconds.
    pub timeout_ms: u64,
    /// Time after which the server itself ends a statement, in milliseconds; never more than four fifths of `timeout_ms`.
    pub statement_timeout_ms: u64,
    /// Longest wait between two attempts to store a batch, in milliseconds.
    pub max_backoff_ms: u64,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            url: None,
            tls: TlsSettings::default(),
            connections: 8,
            timeout_ms: 15_000,
            statement_timeout_ms: 12_000,
            max_backoff_ms: 2_000,
        }
    }
}

/// The databases that schedules read from, by name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedDatabase {
    /// `postgres://user:password@host:port/database`; a user that may only read is best.
    pub url: Secret,
    #[serde(default)]
    pub tls: TlsSettings,
}

/// The Redis servers that schedules read from, by name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedRedis {
    /// As `redis.url`: one server, several, a Redis Cluster, or Sentinels; a user that may only read is best.
    pub url: Secret,
    #[serde(default)]
    pub tls: TlsSettings,
}
