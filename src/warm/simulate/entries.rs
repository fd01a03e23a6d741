//! Owns which entries are in Redis during a replay, and which scores are known.

use super::world::{Renewals, World};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::collections::BTreeMap;

/// The entries of every key.
pub(super) struct Entries {
    /// When what readers find expires.
    expires: Vec<f64>,
    /// From when on it is there.
    begins: Vec<f64>,
    /// When the score itself expires: its TTL is drawn by itself.
    scores: Vec<f64>,
    ttl: f64,
    spread: f64,
    rng: StdRng,
    /// Entries by the second in which they expire.
    by_second: BTreeMap<u64, usize>,
    there: usize,
    peak: usize,
}

impl Entries {
    pub fn new(keys: usize, world: &World) -> Self {
        Self {
            expires: vec![f64::NEG_INFINITY; keys],
            begins: vec![f64::NEG_INFINITY; keys],
            scores: vec![f64::NEG_INFINITY; keys],
            ttl: world.ttl,
            spread: world.ttl_spread,
            rng: StdRng::seed_from_u64(2),
            by_second: BTreeMap::new(),
            there: 0,
            peak: 0,
        }
    }

    /// Seconds that an entry has left; nothing if it isn't there.
    pub fn left(&self, key: u32, now: f64) -> Option<f64> {
        let left = self.expires.get(key as usize)? - now;
        (left > 0.0).then_some(left)
    }

    /// Whether readers find a key's entry.
    pub fn is_there(&self, key: u32, now: f64) -> bool {
        self.left(key, now).is_some()
    }

    /// Whether a key's entry is being scored for somebody.
    pub fn is_coming(&self, key: u32, now: f64) -> bool {
        self.begins
            .get(key as usize)
            .is_some_and(|begin| now < *begin)
    }

    /// Whether a key can be refreshed without the model.
    pub fn is_known(&self, key: u32, now: f64, world: &World) -> bool {
        let until = self.scores.get(key as usize).copied();
        let until = until.unwrap_or(f64::NEG_INFINITY);
        match world.renewals {
            Renewals::Stored => until.is_finite(),
            Renewals::Cached => until > now,
            Renewals::None => false,
        }
    }

    /// Entries that are there.
    pub fn count(&self) -> usize {
        self.there
    }

    /// The largest number of them so far.
    pub fn peak(&self) -> usize {
        self.peak
    }

    /// Writes a key's entry, which is there after so many seconds, and says until when.
    pub fn write(&mut self, key: u32, asked: f64, after: f64) -> f64 {
        let now = asked + after;
        if let Some(begin) = self.begins.get_mut(key as usize).filter(|_| after > 0.0) {
            *begin = now;
        }
        while let Some(first) = self.by_second.first_entry()
            && (*first.key() as f64) < now.floor()
        {
            self.there = self.there.saturating_sub(first.remove());
        }
        let mut life = || self.ttl * (1.0 - self.spread * self.rng.random::<f64>());
        let (until, score) = (now + life(), now + life());
        if let Some(before) = self.expires.get_mut(key as usize) {
            let second = before.max(0.0) as u64;
            if let Some(count) = self
                .by_second
                .get_mut(&second)
                .filter(|_| before.is_finite() && *before > now)
            {
                *count = count.saturating_sub(1);
                self.there = self.there.saturating_sub(1);
            }
            *before = until;
            *self.by_second.entry(until.max(0.0) as u64).or_default() += 1;
            self.there += 1;
            self.peak = self.peak.max(self.there);
        }
        if let Some(known) = self.scores.get_mut(key as usize) {
            *known = score;
        }
        until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_are_there_are_counted() {
        let mut world = World::new(10.0, vec![1.0; 3]);
        let mut entries = Entries::new(3, &world);
        entries.write(0, 0.0, 0.0);
        entries.write(1, 5.0, 0.0);
        entries.write(0, 6.0, 0.0);
        assert_eq!((entries.count(), entries.peak()), (2, 2));
        assert!(entries.is_there(0, 15.0) && !entries.is_there(1, 15.0));
        entries.write(2, 39.0, 1.0);
        assert!(entries.is_coming(2, 39.5) && !entries.is_coming(2, 40.0));
        assert_eq!((entries.count(), entries.peak()), (1, 2));
        assert!(entries.is_known(0, 40.0, &world) && !entries.is_known(9, 40.0, &world));
        world.renewals = Renewals::Cached;
        assert!(!entries.is_known(0, 40.0, &world) && entries.is_known(2, 40.0, &world));
        world.renewals = Renewals::None;
        assert!(!entries.is_known(2, 40.0, &world));
        world.ttl_spread = 0.5;
        let mut entries = Entries::new(1, &world);
        assert!((0..100).all(|_| (5.0..=10.0).contains(&entries.write(0, 0.0, 0.0))));
    }
}
