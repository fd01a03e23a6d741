//! Owns the settings of what is kept: entries in Redis and memory, rows in the database.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

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
