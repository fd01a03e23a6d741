//! Owns what a process knows of invalidations: each namespace's mark and the latest of all, as the database says, and as Redis has shown.
//!
//! Promises that a mark never goes back, whatever Redis has lost. Pure: no I/O.

use std::{
    collections::HashMap,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// How far a mark in Redis may be ahead of this machine's clock: what is further is no mark.
const AHEAD_MS: u64 = 86_400_000;

/// What is known of invalidations.
#[derive(Debug, Default)]
pub struct Marks {
    by_namespace: RwLock<HashMap<String, u64>>,
    latest: AtomicU64,
}

impl Marks {
    /// Notes a mark; an empty name: the latest of all.
    pub fn learn(&self, namespace: &str, stamp: u64) {
        self.latest.fetch_max(stamp, Ordering::Relaxed);
        if namespace.is_empty() || self.of(namespace) >= stamp {
            return;
        }
        // The map is sound after a panic elsewhere: every change to it is one call.
        let mut all = self
            .by_namespace
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let known = all.entry(namespace.to_owned()).or_default();
        *known = stamp.max(*known);
    }

    /// Notes a mark that Redis has shown, unless it can't be one.
    pub fn seen(&self, namespace: &str, stamp: u64, now_ms: u64) {
        if stamp > 0 && stamp <= now_ms.saturating_add(AHEAD_MS) {
            self.learn(namespace, stamp);
        }
    }

    /// A namespace's mark; 0 where it has none.
    pub fn of(&self, namespace: &str) -> u64 {
        let all = self
            .by_namespace
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        all.get(namespace).copied().unwrap_or_default()
    }

    /// The latest of all.
    pub fn latest(&self) -> u64 {
        self.latest.load(Ordering::Relaxed)
    }

    /// Every namespace's mark.
    pub fn all(&self) -> Vec<(String, u64)> {
        let all = self
            .by_namespace
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .map(|(name, mark)| (name.clone(), *mark))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_never_goes_back() {
        let marks = Marks::default();
        marks.learn("feed", 20);
        marks.learn("feed", 10);
        marks.learn("", 30);
        assert_eq!((marks.of("feed"), marks.of("other")), (20, 0));
        assert_eq!(
            (marks.latest(), marks.all()),
            (30, vec![("feed".to_owned(), 20)])
        );
    }

    #[test]
    fn what_is_far_ahead_in_redis_is_no_mark() {
        let marks = Marks::default();
        marks.seen("feed", u64::MAX, 1_000);
        assert_eq!((marks.of("feed"), marks.latest()), (0, 0));
        marks.seen("feed", 1_001, 1_000);
        assert_eq!(marks.of("feed"), 1_001);
    }
}
