//! Owns the tree of settings: every name, meaning and default, a file for each group of sections.
//!
//! The doc comments are what `docs/settings.md` is generated from.

mod audit;
mod callbacks;
mod entries;
mod http;
mod jobs;
mod lanes;
mod observe;
mod reply;
mod servers;
mod warm;

pub use audit::Audit;
pub(in crate::config) use callbacks::is_listable;
pub use callbacks::{CallbackReceiver, Callbacks};
pub use entries::{
    Cache, CacheMode, CacheThresholds, Embedded, Namespace, Store, StoredJobs, StoredScores,
};
pub use http::{ApiKey, Http, Scope};
pub use jobs::{Drain, Intake, Queues, Retry};
pub use lanes::{Lane, LaneLimits, lanes_by_model};
pub use observe::{Log, LogFormat, Trace};
pub use reply::Reply;
pub use servers::{Amqp, Database, NamedDatabase, NamedRedis, Redis};
pub use warm::Warm;

use kiln_model::ModelSettings;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Every setting of Kiln.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub amqp: Amqp,
    pub redis: Redis,
    pub database: Database,
    pub databases: BTreeMap<String, NamedDatabase>,
    pub redis_sources: BTreeMap<String, NamedRedis>,
    pub http: Http,
    pub queues: Queues,
    pub intake: Intake,
    pub lane: LaneLimits,
    pub lanes: BTreeMap<String, Lane>,
    pub retry: Retry,
    pub reply: Reply,
    pub callbacks: Callbacks,
    pub cache: Cache,
    pub namespaces: BTreeMap<String, Namespace>,
    pub models: ModelSettings,
    pub store: Store,
    pub embedded: Embedded,
    pub drain: Drain,
    pub warm: Warm,
    pub audit: Audit,
    pub trace: Trace,
    pub log: Log,
}

impl Settings {
    /// Life of an entry, in seconds: what was asked for, or else what its namespace, its model, or all entries have.
    pub fn ttl_seconds(&self, asked: Option<u64>, namespace: &str, model: Option<u64>) -> u64 {
        let own = self.namespaces.get(namespace);
        self.cache.life_seconds(asked, own, model)
    }

    /// Whether every score that a model gives for a namespace has its row in the database.
    pub fn stores_scores(&self, namespace: Option<&str>, model: &str) -> bool {
        let own = namespace.and_then(|name| self.namespaces.get(name));
        self.store.scores == StoredScores::All
            && self.cache.mode_of(own, model) == CacheMode::Always
    }

    /// Time for which what readers of a namespace find is still there after its life, in seconds.
    pub fn grace_seconds(&self, namespace: &str) -> u64 {
        self.cache.grace_of(self.namespaces.get(namespace))
    }
}
