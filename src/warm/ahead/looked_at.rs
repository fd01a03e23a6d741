//! Which followers were looked at, and when again: one that lives for long isn't asked for with every request. Pure: takes the time.

use super::due::{Due, WITHIN_SECONDS};
use crate::heat::ahead::Next;
use kiln_contract::key;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Followers that are remembered.
const MAX: usize = 32_768;
/// How long one is left alone at the least, and at the utmost: it may be invalidated or removed meanwhile.
const MIN_REST: Duration = Duration::from_millis(200);
const MAX_REST: Duration = Duration::from_secs(60);
/// How long one that was posted is, at the utmost: its job may be lost.
const POSTED_REST: Duration = Duration::from_secs(5);

/// Followers by when they are to be looked at again.
#[derive(Debug, Default)]
pub(super) struct LookedAt(HashMap<u64, Instant>);

impl LookedAt {
    /// Those of these that are to be looked at now.
    pub fn due(&self, mut next: Next, now: Instant) -> Next {
        next.inputs.retain(|input| self.is_due(input, now));
        next.names.retain(|name| self.is_due(name.as_bytes(), now));
        next
    }

    /// Whether one is to be looked at now.
    pub fn is_due(&self, what: &[u8], now: Instant) -> bool {
        let until = self.0.get(&hash(what));
        until.is_none_or(|until| *until <= now)
    }

    /// One lives for so many seconds more: it is looked at again before it is needed.
    pub fn lives(&mut self, what: &[u8], left: f64, now: Instant) {
        let rest = Duration::try_from_secs_f64(left - WITHIN_SECONDS).unwrap_or_default();
        self.rest(what, rest.clamp(MIN_REST, MAX_REST), now);
    }

    /// Nothing can be done for one.
    pub fn useless(&mut self, what: &[u8], now: Instant) {
        self.rest(what, MAX_REST, now);
    }

    /// These were posted.
    pub fn posted(&mut self, due: &[Due], now: Instant) {
        for one in due {
            let rest = Duration::from_secs(one.ttl_seconds) / 2;
            let rest = rest.clamp(MIN_REST, POSTED_REST);
            self.rest(&one.hash, rest, now);
            if let Some(key) = &one.key {
                self.rest(key.as_bytes(), rest, now);
            }
        }
    }

    fn rest(&mut self, what: &[u8], rest: Duration, now: Instant) {
        if self.0.len() >= MAX {
            self.0.retain(|_, until| *until > now);
        }
        if self.0.len() >= MAX {
            // All are looked at once more.
            self.0.clear();
        }
        self.0.insert(hash(what), now + rest);
    }
}

fn hash(what: &[u8]) -> u64 {
    let digest = key::hash_body(what);
    digest
        .first_chunk()
        .map_or(0, |first| u64::from_le_bytes(*first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next() -> Next {
        Next {
            inputs: [[1; 32], [2; 32]].into(),
            names: ["a".to_owned()].into(),
        }
    }

    #[test]
    fn what_lives_is_looked_at_again_right_before_it_is_needed() {
        let mut looked_at = LookedAt::default();
        let now = Instant::now();
        let later = |seconds: f64| now + Duration::from_secs_f64(seconds);
        assert_eq!(looked_at.due(next(), now), next());
        looked_at.lives(b"a", 30.0, now);
        looked_at.lives(&[1; 32], 3_600.0, now);
        looked_at.lives(&[2; 32], 1.1, now);
        let due = looked_at.due(next(), later(0.3));
        assert!(due.names.is_empty() && due.inputs == [[2; 32]].into());
        assert!(looked_at.due(next(), later(28.9)).names.is_empty());
        // A second before its end.
        assert_eq!(looked_at.due(next(), later(29.0)).names.len(), 1);
        assert_eq!(looked_at.due(next(), later(59.9)).inputs.len(), 1);
        assert_eq!(looked_at.due(next(), later(60.0)).inputs.len(), 2);
        looked_at.useless(b"a", later(100.0));
        assert!(looked_at.due(next(), later(159.0)).names.is_empty());
        looked_at.lives(b"a", f64::NAN, later(200.0));
        assert_eq!(looked_at.due(next(), later(200.2)).names.len(), 1);
    }

    #[test]
    fn it_remembers_no_more_than_it_may() {
        let mut looked_at = LookedAt::default();
        let now = Instant::now();
        for n in 0..3 * MAX {
            looked_at.useless(&n.to_le_bytes(), now);
            assert!(looked_at.0.len() <= MAX);
        }
        assert_eq!(looked_at.0.len(), MAX);
        looked_at.useless(b"new", now + MAX_REST);
        assert_eq!(looked_at.0.len(), 1);
    }
}
