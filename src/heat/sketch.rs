//! Owns how often keys are asked for: the hottest of a stream, in bounded memory, with how fast each is asked for now.
//!
//! Which keys are held: counters that fade exponentially, where a key that has none takes the smallest one's place with
//! probability 1 / (count + 1) (Ben Basat, Chen, Einziger, Friedman: "Randomized admission policy for efficient top-k,
//! frequency, and volume estimation", IEEE/ACM Transactions on Networking 27, 2019). A long tail of keys that are asked for
//! once doesn't wash out the warm ones then, as it does with plain Space-Saving.
//! How fast each is asked for is [`Pace`](super::pace)'s.

use super::pace::{Now, Pace, Trust};
use ahash::RandomState;
use hashbrown::HashTable;
use kiln_contract::key::InputHash;
use rand::Rng;

/// Half-life of the counts by which keys are ranked, in seconds.
const RANK_HALF_LIFE: f64 = 1_800.0;
/// The weight of a new request at which all weights are brought down.
const LARGEST_WEIGHT: f64 = 1e30;
/// Keys that are held of one namespace among many: they take less than a mebibyte.
pub const CAPACITY: usize = 8_500;
/// Those that are held of one at the utmost, where there is room.
pub const MAX_CAPACITY: usize = 32_000;
/// Keys for which room is made at a time.
const STEP: usize = 500;
/// Bytes that a step takes, about.
pub const STEP_BYTES: usize = STEP * 112;

/// One key that is held.
#[derive(Debug, Clone)]
struct Entry {
    key: InputHash,
    /// Fading count, in weights of when it was last asked for.
    count: f32,
    pace: Pace,
    /// Where it is in the heap.
    heap_index: u32,
}

/// How fast a key is asked for, and when it was asked for last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Asked {
    pub input: InputHash,
    /// Requests a second.
    pub rate: f64,
    /// Seconds since the sketch began.
    pub at: f64,
}

/// The hottest keys of one stream.
#[derive(Debug)]
pub struct Sketch {
    capacity: usize,
    entries: Vec<Entry>,
    /// Indices of entries by their keys.
    by_key: HashTable<u32>,
    hasher: RandomState,
    trust: Trust,
    /// Indices of entries, the smallest count first.
    heap: Vec<u32>,
    /// When a request weighed 1, in seconds since the sketch began.
    unit_at: f64,
    /// Whether room may be made for more keys than there is room for.
    pub may_grow: bool,
}

/// The keys that a sketch held at one moment.
#[derive(Debug)]
pub struct Held {
    keys: Vec<(InputHash, Pace)>,
    trust: Trust,
}

impl Held {
    /// Every key with its requests a second at `now`, the fastest first.
    pub fn hot(self, now: f64) -> Vec<(InputHash, f64)> {
        let asked = self.asked(now).into_iter();
        asked.map(|one| (one.input, one.rate)).collect()
    }

    /// The same, with when each was asked for last.
    pub fn asked(self, now: f64) -> Vec<Asked> {
        let moment = Now::new(now);
        let rated = self.keys.iter().map(|(key, pace)| Asked {
            input: *key,
            rate: pace.rate(&moment, &self.trust),
            at: pace.last(),
        });
        let mut all: Vec<Asked> = rated.collect();
        all.sort_by(|a, b| b.rate.total_cmp(&a.rate));
        all
    }
}

impl Sketch {
    /// A sketch of at most `capacity` keys. It takes some hundred bytes for each.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self {
            capacity,
            entries: Vec::new(),
            by_key: HashTable::new(),
            hasher: RandomState::new(),
            trust: Trust::default(),
            heap: Vec::new(),
            unit_at: 0.0,
            may_grow: true,
        }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        // The map keeps an eighth of its slots empty, and a byte beside each.
        let map = self.by_key.capacity() * 8 / 7 * (size_of::<u32>() + 1);
        self.entries.capacity() * size_of::<Entry>() + self.heap.capacity() * 4 + map
    }

    /// Notes `weight` requests for a key at `now`, in seconds since the sketch began. Keys are ranked by how often they are
    /// requested times `value`, what one request for them is worth compared with others.
    pub fn add(&mut self, key: &InputHash, weight: f32, value: f32, now: f64, rng: &mut impl Rng) {
        let mut unit = self.unit(now);
        if unit > LARGEST_WEIGHT {
            for entry in &mut self.entries {
                entry.count = (f64::from(entry.count) / unit) as f32;
            }
            self.unit_at = now;
            unit = 1.0;
        }
        let worth = f64::from(weight * value);
        let grown = (worth * unit) as f32;
        let (moment, hash) = (Now::new(now), self.hasher.hash_one(key));
        if let Some(index) = self.index_of(key, hash) {
            if let Some(entry) = self.entries.get_mut(index as usize) {
                entry.count += grown;
                entry.pace = entry.pace.asked(&moment, weight, &mut self.trust);
                let index = entry.heap_index as usize;
                self.sink(index);
            }
            return;
        }
        let pace = Pace::new(now).asked(&moment, weight, &mut self.trust);
        if self.has_room() {
            let index = self.entries.len() as u32;
            self.heap.push(index);
            self.entries.push(Entry {
                key: *key,
                count: grown,
                pace,
                heap_index: index,
            });
            self.insert(index, hash);
            self.rise(index as usize);
            return;
        }
        let Some(smallest) = self.heap.first().copied() else {
            return;
        };
        let Some(entry) = self.entries.get(smallest as usize) else {
            return;
        };
        let (count, heap_index) = (entry.count, entry.heap_index);
        let min = f64::from(count) / unit;
        if rng.random::<f64>() * (min + worth) >= worth {
            return;
        }
        let old = self.hasher.hash_one(entry.key);
        if let Ok(found) = self.by_key.find_entry(old, |index| *index == smallest) {
            found.remove();
        }
        if let Some(entry) = self.entries.get_mut(smallest as usize) {
            *entry = Entry {
                key: *key,
                count: count + grown,
                pace,
                heap_index,
            };
        }
        self.insert(smallest, hash);
        self.sink(0);
    }

    fn index_of(&self, key: &InputHash, hash: u64) -> Option<u32> {
        let entries = &self.entries;
        let is_it = |index: &u32| entries.get(*index as usize).is_some_and(|e| e.key == *key);
        self.by_key.find(hash, is_it).copied()
    }

    fn insert(&mut self, index: u32, hash: u64) {
        let (entries, hasher) = (&self.entries, &self.hasher);
        let of = |index: &u32| {
            entries
                .get(*index as usize)
                .map_or(0, |e| hasher.hash_one(e.key))
        };
        self.by_key.insert_unique(hash, index, of);
    }

    /// Whether one more key can be held, for which room is made where it may be.
    fn has_room(&mut self) -> bool {
        if self.entries.len() >= self.capacity {
            return false;
        }
        if self.entries.len() == self.entries.capacity()
            && (self.may_grow || self.entries.is_empty())
        {
            let more = STEP.min(self.capacity - self.entries.len());
            self.entries.reserve_exact(more);
            self.heap.reserve_exact(more);
        }
        self.entries.len() < self.entries.capacity()
    }

    /// Every key that is held with its requests a second at `now`, the fastest first.
    pub fn hot(&self, now: f64) -> Vec<(InputHash, f64)> {
        self.held().hot(now)
    }

    /// A copy of what is held, from which the rates are worked out without the sketch.
    pub fn held(&self) -> Held {
        let keys = self.entries.iter().map(|entry| (entry.key, entry.pace));
        Held {
            keys: keys.collect(),
            trust: self.trust,
        }
    }

    /// Keys held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    fn unit(&self, now: f64) -> f64 {
        ((now - self.unit_at).max(0.0) / RANK_HALF_LIFE).exp2()
    }

    fn count_at(&self, index: usize) -> f32 {
        self.heap
            .get(index)
            .and_then(|index| self.entries.get(*index as usize))
            .map_or(f32::INFINITY, |entry| entry.count)
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        for index in [one, other] {
            if let Some(entry) = self
                .heap
                .get(index)
                .and_then(|index| self.entries.get_mut(*index as usize))
            {
                entry.heap_index = index as u32;
            }
        }
    }

    /// Moves what grew towards the leaves.
    fn sink(&mut self, mut index: usize) {
        loop {
            let (left, right) = (2 * index + 1, 2 * index + 2);
            let child = if self.count_at(right) < self.count_at(left) {
                right
            } else {
                left
            };
            if self.count_at(child) >= self.count_at(index) {
                return;
            }
            self.swap(index, child);
            index = child;
        }
    }

    fn rise(&mut self, mut index: usize) {
        while index > 0 {
            let parent = (index - 1) / 2;
            if self.count_at(parent) <= self.count_at(index) {
                return;
            }
            self.swap(index, parent);
            index = parent;
        }
    }
}

#[cfg(test)]
#[path = "sketch/tests.rs"]
mod tests;
