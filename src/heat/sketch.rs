//! Owns how often keys are asked for: the hottest of a stream, in bounded memory, with how fast each is asked for now.
//!
//! Which keys are held: counters that fade exponentially, where a key that has none takes the smallest one's place with
//! probability 1 / (count + 1) (Ben Basat, Chen, Einziger, Friedman: "Randomized admission policy for efficient top-k,
//! frequency, and volume estimation", IEEE/ACM Transactions on Networking 27, 2019). A long tail of keys that are asked for
//! once doesn't wash out the warm ones then, as it does with plain Space-Saving.
//!
//! How fast each is asked for: estimates over several half-lives, weighted for each key by how well each has foretold its
//! requests of late (averaging of models with forgetting, as in Raftery, Kárný, Ettler: "Online prediction under model
//! uncertainty via dynamic model averaging", Technometrics 52, 2010). So a steady key is read over hours and a trend over
//! minutes, with nothing to tune.

use ahash::RandomState;
use kiln_contract::key::InputHash;
use rand::Rng;
use std::collections::HashMap;

/// Half-lives of the estimates, in seconds.
const HALF_LIVES: [f32; PACES] = [60.0, 240.0, 960.0, 3_840.0, 15_360.0];
/// How far each is trusted before it has foretold anything: a key is taken for steady until shown otherwise.
const TRUST: [f32; PACES] = [0.02, 0.05, 0.13, 0.3, 0.5];
/// Half-life of the memory of how well each foretold, in seconds.
const TRUST_HALF_LIFE: f32 = 1_800.0;
/// Half-life of the counts by which keys are ranked, in seconds.
const RANK_HALF_LIFE: f64 = 1_800.0;
/// The weight of a new request at which all weights are brought down.
const LARGEST_WEIGHT: f64 = 1e100;
/// Slowest pace that counts as one, in requests a second.
const SLOWEST: f32 = 1e-7;

const PACES: usize = 5;

/// Keys that are held of one namespace: they take less than a mebibyte.
pub const CAPACITY: usize = 5_500;
/// Keys for which room is made at a time.
const STEP: usize = 500;
/// Bytes that a step takes, about.
pub const STEP_BYTES: usize = STEP * 192;

/// How fast one key is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pace {
    /// Requests, fading with each half-life, as of `at`.
    sums: [f32; PACES],
    /// Logarithms of how far each estimate is trusted, as of `at`.
    trust: [f32; PACES],
    /// Seconds since the sketch began.
    at: f64,
}

fn mean_life(half_life: f32) -> f32 {
    half_life / std::f32::consts::LN_2
}

/// How much of an estimate's past the sketch has seen after `age` seconds, in seconds.
fn seen(half_life: f32, age: f64) -> f32 {
    let life = mean_life(half_life);
    (life * (1.0 - (-(age as f32) / life).exp())).max(1.0)
}

impl Pace {
    pub(super) fn new(now: f64) -> Self {
        Self {
            sums: [0.0; PACES],
            trust: TRUST.map(f32::ln),
            at: now,
        }
    }

    /// As it stands at `now`: a time without requests speaks against the estimates that expected some.
    fn at(&self, now: f64) -> Self {
        let gap = (now - self.at).max(0.0) as f32;
        let forget = (-gap * std::f32::consts::LN_2 / TRUST_HALF_LIFE).exp();
        let mut moved = *self;
        moved.at = self.at.max(now);
        for (((sum, trust), half_life), prior) in moved
            .sums
            .iter_mut()
            .zip(&mut moved.trust)
            .zip(HALF_LIVES)
            .zip(TRUST)
        {
            let fade = (-gap / mean_life(half_life)).exp();
            let faded = *sum * fade;
            // The integral of the estimate over the gap.
            let expected = (*sum - faded) * mean_life(half_life) / seen(half_life, now);
            let prior = prior.ln();
            *trust = prior + (*trust - prior) * forget - expected;
            *sum = faded;
        }
        moved
    }

    /// Notes `weight` requests at `now`.
    pub(super) fn asked(&self, now: f64, weight: f32) -> Self {
        let mut moved = self.at(now);
        let first = moved.sums.iter().all(|sum| *sum <= 0.0);
        for ((sum, trust), half_life) in moved.sums.iter_mut().zip(&mut moved.trust).zip(HALF_LIVES)
        {
            if !first {
                let foretold = (*sum / seen(half_life, now)).max(SLOWEST);
                *trust += weight * foretold.ln();
            }
            *sum += weight;
        }
        let max = moved.trust.iter().copied().fold(f32::MIN, f32::max);
        moved.trust.iter_mut().for_each(|trust| *trust -= max);
        moved
    }

    /// Requests a second at `now`.
    pub(super) fn rate(&self, now: f64) -> f64 {
        let moved = self.at(now);
        let max = moved.trust.iter().copied().fold(f32::MIN, f32::max);
        let (mut rate, mut all) = (0.0, 0.0);
        for ((sum, trust), half_life) in moved.sums.iter().zip(&moved.trust).zip(HALF_LIVES) {
            let weight = (trust - max).exp();
            rate += weight * sum / seen(half_life, now);
            all += weight;
        }
        f64::from(rate / all)
    }
}

/// One key that is held.
#[derive(Debug, Clone)]
struct Entry {
    key: InputHash,
    /// Fading count, in weights of when it was last asked for.
    count: f64,
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
    by_key: HashMap<u64, u32, RandomState>,
    /// Indices of entries, the smallest count first.
    heap: Vec<u32>,
    /// When a request weighed 1, in seconds since the sketch began.
    unit_at: f64,
    /// Whether room may be made for more keys than there is room for.
    pub may_grow: bool,
}

/// The first bytes of a hash are as random as the whole.
fn short(key: &InputHash) -> u64 {
    key.iter()
        .take(8)
        .fold(0, |all, byte| all << 8 | u64::from(*byte))
}

impl Sketch {
    /// A sketch of at most `capacity` keys. It takes some 150 bytes for each.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self {
            capacity,
            entries: Vec::new(),
            by_key: HashMap::default(),
            heap: Vec::new(),
            unit_at: 0.0,
            may_grow: true,
        }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        // The map keeps an eighth of its slots empty, and a byte beside each.
        let map = self.by_key.capacity() * 8 / 7 * (size_of::<(u64, u32)>() + 1);
        self.entries.capacity() * size_of::<Entry>() + self.heap.capacity() * 4 + map
    }

    /// Notes `weight` requests for a key at `now`, in seconds since the sketch began. Keys are ranked by how often they are
    /// requested times `value`, what one request for them is worth compared with others.
    pub fn add(&mut self, key: &InputHash, weight: f32, value: f32, now: f64, rng: &mut impl Rng) {
        let mut unit = self.unit(now);
        if unit > LARGEST_WEIGHT {
            for entry in &mut self.entries {
                entry.count /= unit;
            }
            self.unit_at = now;
            unit = 1.0;
        }
        let worth = f64::from(weight * value);
        let grown = worth * unit;
        if let Some(index) = self.by_key.get(&short(key)).copied() {
            if let Some(entry) = self.entries.get_mut(index as usize) {
                entry.count += grown;
                entry.pace = entry.pace.asked(now, weight);
                let index = entry.heap_index as usize;
                self.sink(index);
            }
            return;
        }
        let pace = || Pace::new(now).asked(now, weight);
        if self.has_room() {
            let index = self.entries.len() as u32;
            self.by_key.insert(short(key), index);
            self.heap.push(index);
            self.entries.push(Entry {
                key: *key,
                count: grown,
                pace: pace(),
                heap_index: index,
            });
            self.rise(index as usize);
            return;
        }
        let Some(smallest) = self.heap.first().copied() else {
            return;
        };
        let Some(entry) = self.entries.get_mut(smallest as usize) else {
            return;
        };
        let min = entry.count / unit;
        if rng.random::<f64>() * (min + worth) >= worth {
            return;
        }
        self.by_key.remove(&short(&entry.key));
        self.by_key.insert(short(key), smallest);
        *entry = Entry {
            key: *key,
            count: entry.count + grown,
            pace: pace(),
            heap_index: entry.heap_index,
        };
        self.sink(0);
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
        let asked = self.asked(now).into_iter();
        asked.map(|one| (one.input, one.rate)).collect()
    }

    /// The same, with when each was asked for last.
    pub fn asked(&self, now: f64) -> Vec<Asked> {
        let mut all: Vec<Asked> = self
            .entries
            .iter()
            .map(|entry| Asked {
                input: entry.key,
                rate: entry.pace.rate(now),
                at: entry.pace.at,
            })
            .collect();
        all.sort_by(|a, b| b.rate.total_cmp(&a.rate));
        all
    }

    /// Keys held.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    fn unit(&self, now: f64) -> f64 {
        ((now - self.unit_at).max(0.0) / RANK_HALF_LIFE).exp2()
    }

    fn count_at(&self, index: usize) -> f64 {
        self.heap
            .get(index)
            .and_then(|index| self.entries.get(*index as usize))
            .map_or(f64::INFINITY, |entry| entry.count)
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
