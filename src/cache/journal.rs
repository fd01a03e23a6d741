//! Owns hearing of invalidations where they live: in the database.
//!
//! Promises that what a Redis answers over a new connection isn't trusted before the database has been asked: it may have been started
//! again, or stand in for another one, and have lost marks that nobody here knows yet.

use super::marks::Marks;
use crate::{
    clock,
    store::{InvalidationMark, PostgresStore, StoreError},
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

impl Heard {
    /// Whether the database was set up anew, or from a backup, since it was asked for what is new since a change: it doesn't come as far, or comes
    /// as far with another mark, as what was lost and has been made up for by others.
    fn is_of_another(&self, news: &[InvalidationMark], since: i64) -> bool {
        let latest = self.marks.get("");
        let differs = |mark: &InvalidationMark| {
            mark.namespace.is_empty()
                && mark.change == self.change
                && latest.is_some_and(|stamp| *stamp != mark.stamp)
        };
        last(news) < since || news.iter().any(differs)
    }

    fn learn(&mut self, marks: &Marks, news: &[InvalidationMark]) {
        self.change = self.change.max(last(news));
        for mark in news {
            marks.learn(&mark.namespace, mark.stamp);
            let known = self.marks.entry(mark.namespace.clone()).or_default();
            *known = mark.stamp.max(*known);
        }
    }
}

/// The last change of all that are new.
fn last(news: &[InvalidationMark]) -> i64 {
    news.iter().map(|mark| mark.change).max().unwrap_or(-1)
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
    /// One that has heard nothing yet.
    pub fn new(store: &PostgresStore) -> Self {
        Self {
            store: store.with_limit(PATIENCE),
            heard: Mutex::default(),
            up_to: AtomicU64::new(0),
        }
    }

    /// Asks the database what is new, now that so many connections to Redis have been made.
    pub async fn hear(&self, marks: &Marks, made: u64) -> Result<(), StoreError> {
        let mut heard = self.heard.lock().await;
        self.ask(&mut heard, marks, made).await
    }

    /// The last change that is known.
    pub async fn change(&self) -> i64 {
        self.heard.lock().await.change
    }

    /// Takes what the database says is new since a change, asked when so many connections to Redis had been made. Says whether that is all.
    pub async fn take(
        &self,
        marks: &Marks,
        news: &[InvalidationMark],
        since: i64,
        made: u64,
    ) -> bool {
        let mut heard = self.heard.lock().await;
        if heard.is_of_another(news, since) {
            *heard = Heard::default();
            return false;
        }
        heard.learn(marks, news);
        self.up_to.fetch_max(made, Ordering::Release);
        true
    }

    async fn ask(&self, heard: &mut Heard, marks: &Marks, made: u64) -> Result<(), StoreError> {
        let mut news = self.store.marks_since(heard.change).await?;
        if heard.is_of_another(&news, heard.change) {
            *heard = Heard::default();
            news = self.store.marks_since(heard.change).await?;
        }
        heard.learn(marks, &news);
        self.up_to.fetch_max(made, Ordering::Release);
        Ok(())
    }

    /// Whether all is known that the servers of so many connections may have lost. Asks the database where that isn't so, or a mark
    /// couldn't be read.
    pub async fn is_current(&self, marks: &Marks, made: u64, is_unread: bool) -> bool {
        let is_current = || !is_unread && self.up_to.load(Ordering::Acquire) >= made;
        if is_current() {
            return true;
        }
        // While the database is away nothing is stored either, and so nothing served: there is no need to wait for one's turn.
        let Ok(mut heard) = tokio::time::timeout(PATIENCE, self.heard.lock()).await else {
            return false;
        };
        // Another look-up may have asked meanwhile.
        is_current() || self.ask(&mut heard, marks, made).await.is_ok()
    }

    /// Hands to the database what only Redis has shown: a mark of an earlier release, or one that a database from a backup has lost.
    pub async fn hand_over(&self, marks: &Marks) -> Result<(), StoreError> {
        let heard = self.heard.lock().await;
        let latest = (String::new(), marks.latest());
        let bound = clock::now().timestamp_millis().unsigned_abs() + AHEAD_MS;
        for (namespace, mark) in marks.all().into_iter().chain([latest]) {
            let known = heard.marks.get(&namespace).copied().unwrap_or_default();
            if mark > known && mark <= bound {
                self.store.adopt_mark(&namespace, mark).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_from_a_backup_is_known_though_it_comes_as_far() {
        let marks = Marks::default();
        let news = |namespace: &str, stamp, change| {
            let mark = |namespace: &str| InvalidationMark {
                namespace: namespace.to_owned(),
                stamp,
                change,
            };
            [mark(""), mark(namespace)]
        };
        let mut heard = Heard::default();
        heard.learn(&marks, &news("reviews", 1_000, 7));
        assert!(!heard.is_of_another(&news("reviews", 1_000, 7), 7));
        assert!(!heard.is_of_another(&news("other", 2_000, 8), 7));
        assert!(heard.is_of_another(&news("reviews", 900, 6), 7));
        assert!(heard.is_of_another(&news("other", 1_500, 7), 7));
        // What was asked for before others were heard isn't another history.
        heard.learn(&marks, &news("other", 2_000, 8));
        assert!(!heard.is_of_another(&news("reviews", 1_000, 7), 7));
    }
}
