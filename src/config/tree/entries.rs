//! Owns the settings of what is kept: entries in Redis and memory, rows in the database.

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, Unexpected, Visitor},
};
use std::{collections::BTreeMap, fmt, path::PathBuf};

/// Which inputs are looked up in the cache, and their scores kept there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheMode {
    /// All of them.
    #[default]
    Always,
    /// Those that the model is measured to take longer for than a look-up.
    Auto,
}

/// Entries in Redis and in the worker's own memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// Whether entries are looked up and stored at all; off only to measure the benefit of the cache.
    pub enabled: bool,
    /// Which inputs are looked up and have their scores kept: `always`, or `auto`, which leaves those alone that the model is measured to score faster than they are looked up.
    pub mode: CacheMode,
    /// The same for single models, by name.
    pub models: BTreeMap<String, CacheMode>,
    /// TTL of an entry if neither its job, its namespace nor its model sets one, in seconds.
    pub ttl_seconds: u64,
    /// Time for which named entries and rankings are still served after their TTL, while they are refreshed, in seconds.
    pub grace_seconds: u64,
    /// Size of the cache in the worker's memory, which is used while Redis fails, in MiB.
    pub memory_mib: u64,
    /// Model time of one input, in milliseconds, from which a lease makes sure that only one worker scores an input that several miss; 0: always.
    pub lease_from_ms: f64,
    /// TTL of a lease, in case its worker is gone, in milliseconds; no worker waits for longer than two of them.
    pub lease_ms: u64,
    pub health: CacheThresholds,
}

impl Cache {
    /// Life of an entry, in seconds: what was asked for, or else what its namespace, its model, or all entries have.
    pub fn life_seconds(
        &self,
        asked: Option<u64>,
        namespace: Option<&Namespace>,
        model: Option<u64>,
    ) -> u64 {
        asked
            .or_else(|| namespace?.ttl_seconds)
            .or(model)
            .unwrap_or(self.ttl_seconds)
    }

    /// Which of a model's inputs are looked up for a namespace: what is set for that, or else for the model, or for all.
    pub fn mode_of(&self, namespace: Option<&Namespace>, model: &str) -> CacheMode {
        namespace
            .and_then(|own| own.cache_mode)
            .or_else(|| self.models.get(model).copied())
            .unwrap_or(self.mode)
    }

    /// Time for which what readers of a namespace find is still there after its life, in seconds.
    pub fn grace_of(&self, namespace: Option<&Namespace>) -> u64 {
        namespace
            .and_then(|own| own.grace_seconds)
            .unwrap_or(self.grace_seconds)
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            enabled: true,
            mode: CacheMode::Always,
            models: BTreeMap::new(),
            ttl_seconds: 3_600,
            grace_seconds: 0,
            memory_mib: 64,
            lease_from_ms: 5.0,
            lease_ms: 5_000,
            health: CacheThresholds::default(),
        }
    }
}

/// What `/v1/cache/health` counts as healthy.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheThresholds {
    /// Lowest share of the inputs that hit, 0 to 1.
    pub hit_rate: f64,
    /// Longest mean time of a job, in milliseconds.
    pub mean_ms: f64,
    /// Longest 95th percentile of the time of a job, in milliseconds.
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

/// Settings of single namespaces, by name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Namespace {
    /// TTL of the entries of this namespace, in seconds.
    pub ttl_seconds: Option<u64>,
    /// Time for which its named entries and rankings are still served after their TTL, in seconds.
    pub grace_seconds: Option<u64>,
    /// Which of its inputs are looked up: as `cache.mode`, which it goes before, as it does before `cache.models`.
    pub cache_mode: Option<CacheMode>,
    /// Part of a lane's time that this namespace has, in proportion to the others that wait; 1 if absent.
    pub weight: Option<f64>,
    /// Jobs a second of this namespace that are scored in each of a worker's lanes; further ones wait.
    pub max_jobs_per_second: Option<f64>,
    /// Model seconds a second that this namespace has of each of a worker's lanes; further jobs wait.
    pub max_model_seconds_per_second: Option<f64>,
    /// Its objective: age up to which what its readers find is young enough, in seconds. Warming by heat renews a named entry no further than that since a producer's job said last what it is made of.
    pub max_age_seconds: Option<u64>,
    /// Share of what its readers find that is to be young enough, 0 to 1; 0.999 if absent.
    pub max_age_share: Option<f64>,
    /// Its objective for tables that schedules follow: time within which what its readers find follows a row's change, in seconds.
    pub max_staleness_seconds: Option<u64>,
}

/// Share of what readers find that is to be young enough, where a namespace has none of its own.
const MAX_AGE_SHARE: f64 = 0.999;

impl Namespace {
    /// Its objective: the oldest age in seconds, and the share that is to be no older; nothing where it has none.
    pub fn objective(&self) -> Option<(u64, f64)> {
        let share = self.max_age_share.unwrap_or(MAX_AGE_SHARE);
        self.max_age_seconds.map(|seconds| (seconds, share))
    }
}

/// What is stored of a finished job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoredJobs {
    /// Its results as well.
    #[default]
    All,
    /// That it is done: enough to know a repeat from a conflict.
    Ledger,
}

/// Which scores of misses are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StoredScores {
    /// All that the cache keeps.
    #[default]
    All,
    /// Those that a model takes longer for than a look-up.
    Dear,
    /// None.
    None,
}

impl<'de> Deserialize<'de> for StoredScores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScoresVisitor)
    }
}

struct ScoresVisitor;

impl Visitor<'_> for ScoresVisitor {
    type Value = StoredScores;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`all`, `dear` or `none`")
    }

    /// It was a switch once.
    fn visit_bool<E: Error>(self, is_on: bool) -> Result<StoredScores, E> {
        Ok(if is_on {
            StoredScores::All
        } else {
            StoredScores::None
        })
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<StoredScores, E> {
        match name {
            "all" | "true" => Ok(StoredScores::All),
            "dear" => Ok(StoredScores::Dear),
            "none" | "false" => Ok(StoredScores::None),
            _ => Err(E::invalid_value(Unexpected::Str(name), &self)),
        }
    }
}

/// What is stored in the database.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// What is stored of a finished job in Postgres: `all`, or `ledger`, which is that it is done, without its results; a repeat is scored again then, as a rule from the cache.
    pub jobs: StoredJobs,
    /// Whether the inputs of misses are stored beside their scores.
    pub inputs: bool,
    /// Which scores of misses are stored: `all` that the cache keeps, those that are `dear`, which a model is measured to take longer for than a look-up, or `none`. `true` stands for `all`, `false` for `none`.
    pub scores: StoredScores,
    /// Whether a row is stored whenever what readers find under a name changes: what `kiln explain` shows as its history.
    pub served: bool,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            jobs: StoredJobs::All,
            inputs: true,
            scores: StoredScores::All,
            served: true,
        }
    }
}

/// Kiln without servers, as `kiln score` runs.
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
