//! How long what a source only remembers may be kept: no longer than somebody vouches for it. Pure.

use super::Gatherer;
use crate::{config::Settings, warm::schedule::Schedule};
use chrono::{DateTime, Utc};

/// Lives are whole steps, so many of which make the age that is allowed: jobs have one life for all that is in them.
const STEPS: u64 = 16;

/// What a namespace says of the age of its entries, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::warm) struct Ages {
    now_ms: i64,
    /// Life of an entry whose age nobody bounds.
    ttl: u64,
    /// How long readers find it after that.
    grace: u64,
    max_age: Option<u64>,
}

impl Ages {
    pub fn of(gatherer: &Gatherer<'_>, schedule: &Schedule, ttl: u64) -> Self {
        Self::new(gatherer.settings, schedule.namespace(), ttl, gatherer.now)
    }

    /// Those of a namespace whose entries live for so many seconds.
    pub fn new(settings: &Settings, namespace: &str, ttl: u64, now: DateTime<Utc>) -> Self {
        let own = settings.namespaces.get(namespace);
        Self {
            now_ms: now.timestamp_millis(),
            ttl,
            grace: settings.grace_seconds(namespace),
            max_age: own.and_then(|own| own.max_age_seconds),
        }
    }

    /// Whether it is bounded how old entries may be.
    pub fn is_bounded(&self) -> bool {
        self.max_age.is_some()
    }

    /// Life of an entry whose age nobody bounds, in seconds.
    pub fn ttl(&self) -> u64 {
        self.ttl
    }

    /// How long an entry may live of which somebody who knows has said then what it is made of, in milliseconds since 1970; nothing if it is to be
    /// asked for again. What nobody is known to have said counts as said now.
    pub fn life(&self, said_ms: Option<i64>) -> Option<u64> {
        let Some(max_age) = self.max_age else {
            return Some(self.ttl);
        };
        let age_ms = said_ms.map_or(0, |said| self.now_ms.saturating_sub(said));
        let age = u64::try_from(age_ms).unwrap_or_default().div_ceil(1_000);
        let left = max_age.saturating_sub(self.grace).saturating_sub(age);
        if left >= self.ttl {
            return Some(self.ttl);
        }
        let step = (max_age / STEPS).max(1);
        let whole = left - left % step;
        Some(if whole > 0 { whole } else { left }).filter(|left| *left > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_lives_for_longer_than_somebody_vouches_for_it() {
        let ages = Ages {
            now_ms: 10_000_000,
            ttl: 3_600,
            grace: 0,
            max_age: Some(900),
        };
        let said = |seconds_ago: i64| Some(10_000_000 - 1_000 * seconds_ago);
        // Whole sixteenths of a quarter of an hour.
        assert_eq!(ages.life(said(0)), Some(896));
        assert_eq!(ages.life(said(-5)), Some(896), "its clock is ahead");
        assert_eq!(ages.life(said(100)), Some(784));
        assert_eq!(ages.life(said(890)), Some(10));
        assert_eq!(ages.life(said(900)), None);
        assert_eq!(ages.life(Some(i64::MIN)), None);
        assert_eq!(ages.life(None), Some(896), "nobody knows");
        let graceful = Ages { grace: 300, ..ages };
        assert_eq!(graceful.life(said(0)), Some(560));
        assert_eq!(graceful.life(said(600)), None);
        let short = Ages { ttl: 60, ..ages };
        assert_eq!(short.life(said(800)), Some(60));
        assert_eq!(short.life(said(850)), Some(50));
        let unbounded = Ages {
            max_age: None,
            ..ages
        };
        assert_eq!(unbounded.life(said(1_000_000)), Some(3_600));
        let tight = Ages {
            max_age: Some(1),
            ..ages
        };
        assert_eq!((tight.life(said(0)), tight.life(said(1))), (Some(1), None));
    }
}
