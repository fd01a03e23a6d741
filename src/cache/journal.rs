//! Owns hearing of invalidations where they live: in the database.
//!
//! Promises that what a Redis answers over a new connection isn't trusted before the database has been asked: it may have been started
//! again, or stand in for another one, and have lost marks that nobody here knows yet.

use super::RedisCache;
use crate::{
    clock,
    store::{PostgresStore, StoreError},
};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::sync::Mutex;

/// Longest wait for the database: a look-up may be waiting.
const PATIENCE: Duration = Duration::from_secs(1);
/// How far a mark may be ahead of this machine's clock: what is further isn't handed over.
const AHEAD_MS: u64 = 86_400_000;

/// Where invalidations are heard.
#[derive(Debug)]
pub(super) struct Journal {
    store: PostgresStore,
    heard: Mutex<Heard>,
    /// How many connections to Redis had been made when the database was asked last.
    up_to: AtomicU64,
}

/// What the database has said so far.
#[derive(Debug)]
struct Heard {
    /// The last change that is known; none at first.
    change: i64,
    marks: BTreeMap<String, u64>,
}

impl Default for Heard {
    fn default() -> Self {
        Self {
            change: -1,
            marks: BTreeMap::new(),
        }
    }
}

impl Journal {
    pub fn new(store: &PostgresStore) -> Self {
        Self {
            store: store.with_limit(PATIENCE),
            heard: Mutex::default(),
            up_to: AtomicU64::new(0),
        }
    }
}

impl RedisCache {
    /// Has invalidations heard in this database.
    pub fn hearing(mut self, store: &PostgresStore) -> Self {
        self.journal = Some(Journal::new(store));
        self
    }

    /// Asks the database what is new.
    pub async fn hear(&self) -> Result<(), StoreError> {
        let Some(journal) = &self.journal else {
            return Ok(());
        };
        let mut heard = journal.heard.lock().await;
        self.ask(journal, &mut heard).await
    }

    async fn ask(&self, journal: &Journal, heard: &mut Heard) -> Result<(), StoreError> {
        let made = self.connections_made();
        let mut news = journal.store.marks_since(heard.change).await?;
        let last = |news: &[_]| {
            news.iter()
                .map(|mark: &crate::store::InvalidationMark| mark.change)
                .max()
        };
        if last(&news).unwrap_or(-1) < heard.change {
            // It was set up anew, or from a backup.
            *heard = Heard::default();
            news = journal.store.marks_since(heard.change).await?;
        }
        heard.change = last(&news).unwrap_or(-1);
        for mark in news {
            self.marks().learn(&mark.namespace, mark.stamp);
            heard.marks.insert(mark.namespace, mark.stamp);
        }
        journal.up_to.fetch_max(made, Ordering::Release);
        Ok(())
    }

    /// Whether all is known that any of the connections' servers may have lost. Asks the database where that isn't so.
    pub(super) async fn is_current(&self) -> bool {
        let Some(journal) = &self.journal else {
            return true;
        };
        let made = self.connections_made();
        let is_current = || journal.up_to.load(Ordering::Acquire) >= made;
        if is_current() {
            return true;
        }
        // While the database is away nothing is stored either, and so nothing served: there is no need to wait for one's turn.
        let Ok(mut heard) = tokio::time::timeout(PATIENCE, journal.heard.lock()).await else {
            return false;
        };
        // Another look-up may have asked meanwhile.
        is_current() || self.ask(journal, &mut heard).await.is_ok()
    }

    /// Hands to the database what only Redis has shown: a mark of an earlier release, or one that a database from a backup has lost.
    pub async fn hand_over(&self) -> Result<(), StoreError> {
        let Some(journal) = &self.journal else {
            return Ok(());
        };
        let heard = journal.heard.lock().await;
        let latest = (String::new(), self.marks().latest());
        let bound = clock::now().timestamp_millis().unsigned_abs() + AHEAD_MS;
        for (namespace, mark) in self.marks().all().into_iter().chain([latest]) {
            let known = heard.marks.get(&namespace).copied().unwrap_or_default();
            if mark > known && mark <= bound {
                journal.store.adopt_mark(&namespace, mark).await?;
            }
        }
        Ok(())
    }
}
