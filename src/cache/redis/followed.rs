//! Owns which server is spoken to, where there are several to choose from: it follows the one that takes writes.
//!
//! Promises one line and one count for each move to another address, with the reason why the one before was left.

use super::{
    find::{Says, elected, find},
    source::Source,
};
use crate::{
    config::{self, Redis},
    telemetry::metrics::{Metrics, Server},
};
use redis::{RedisError, aio::MultiplexedConnection};
use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

/// How often the Sentinels are asked whether the primary is one still, as a number of checks of Redis: those come each second.
const ASK_EVERY: u32 = 5;

/// The server that is spoken to.
pub(super) struct Followed {
    source: Source,
    settings: Redis,
    metrics: Metrics,
    last: Mutex<Last>,
    is_cluster: AtomicBool,
    /// How often somebody wanted to know whether the primary is one still.
    asked: AtomicU32,
}

#[derive(Debug, Default)]
struct Last {
    /// Where it is, without credentials.
    address: Option<String>,
    /// Why it was left.
    why: String,
    /// The address that takes no writes any more.
    demoted: Option<String>,
    /// Whether it says itself whether it takes writes.
    says_so: bool,
}

impl Followed {
    pub fn new(source: Source, settings: &Redis, metrics: Metrics) -> Self {
        Self {
            source,
            settings: settings.clone(),
            metrics,
            last: Mutex::default(),
            is_cluster: AtomicBool::new(false),
            asked: AtomicU32::new(0),
        }
    }

    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Whether what answered last is part of a cluster.
    pub fn is_cluster(&self) -> bool {
        self.is_cluster.load(Ordering::Acquire)
    }

    /// Whether a server that takes no writes may be left as soon as it says so: the next one is asked before it is used.
    pub fn leaves_at_once(&self) -> bool {
        self.source.follows() && self.last().says_so
    }

    /// Where it is, without credentials; nothing before the first connection.
    pub fn address(&self) -> Option<String> {
        self.last().address.clone()
    }

    /// Connects to it, and says whether it is at another address than before.
    pub async fn connect(&self) -> Result<(MultiplexedConnection, bool), RedisError> {
        let (first, demoted) = {
            let last = self.last();
            (last.address.clone(), last.demoted.clone())
        };
        let found = find(
            &self.source,
            &self.settings,
            first.as_deref(),
            demoted.as_deref(),
        );
        let found = found.await?;
        let is_elsewhere = self.met(found.url.host(), found.says);
        Ok((found.connection, is_elsewhere))
    }

    fn met(&self, address: String, says: Says) -> bool {
        self.is_cluster.fetch_or(says.is_cluster, Ordering::AcqRel);
        let mut last = self.last();
        last.says_so = says.takes_writes.is_some();
        if last.demoted.as_ref() == Some(&address) {
            last.demoted = None;
        }
        if last.address.as_ref() == Some(&address) {
            last.why.clear();
            return false;
        }
        let from = last.address.replace(address.clone());
        let why = std::mem::take(&mut last.why);
        drop(last);
        let from = from.filter(|_| !says.is_cluster);
        if let Some(from) = &from {
            moved(&self.metrics, from, &address, &why);
        }
        from.is_some()
    }

    /// Whether the Sentinels call another server the primary than the one that is spoken to, which may not know it yet. They are asked once
    /// in a while.
    pub async fn is_outvoted(&self) -> bool {
        let turn = self.asked.fetch_add(1, Ordering::Relaxed);
        let Source::Sentinel(sentinels) = &self.source else {
            return false;
        };
        if !turn.is_multiple_of(ASK_EVERY) {
            return false;
        }
        let Some(known) = self.address() else {
            return false;
        };
        let elected = elected(sentinels, &self.settings);
        let limit = config::ms(self.settings.timeout_ms);
        let elected = tokio::time::timeout(limit, elected).await;
        let is_other = matches!(elected, Ok(Some(url)) if url.host() != known);
        if is_other {
            self.demoted("the Sentinels call another server the primary");
        }
        is_other
    }

    /// Notes why the next connection may be to another server. What came first since the last one counts.
    pub fn lost(&self, why: &str) {
        let mut last = self.last();
        if last.why.is_empty() {
            last.why.push_str(why);
        }
    }

    /// Notes that it takes no writes any more: another one is tried first.
    pub fn demoted(&self, why: &str) {
        self.lost(why);
        let mut last = self.last();
        last.demoted = last.address.clone();
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        // It is sound after a panic elsewhere: each field stands for itself.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that what was at one address is at another one now.
pub(super) fn moved(metrics: &Metrics, from: &str, to: &str, why: &str) {
    metrics.failover(Server::Redis);
    tracing::warn!(
        server = "redis",
        from,
        to,
        why,
        "connected to another address than before"
    );
}
