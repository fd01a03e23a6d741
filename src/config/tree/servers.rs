//! Owns the settings of the servers that Kiln connects to.

use crate::{secret::Secret, tls::TlsSettings};
use serde::{Deserialize, Serialize};

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
    pub max_backoff_ms: u64,
}

impl Default for Amqp {
    fn default() -> Self {
        Self {
            url: None,
            tls: TlsSettings::default(),
            heartbeat_seconds: 5,
            timeout_ms: 10_000,
            max_backoff_ms: 5_000,
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
    pub max_backoff_ms: u64,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            url: None,
            tls: TlsSettings::default(),
            connections: 8,
            timeout_ms: 15_000,
            max_backoff_ms: 2_000,
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
