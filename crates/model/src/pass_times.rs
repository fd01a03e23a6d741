//! Owns how long a version's passes took within the last minutes: each pass, and each of its inputs.
//!
//! Promises bounded memory, whatever is recorded: so many slots of a minute, each with so many buckets.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Minutes that the figures cover; the one that has begun is more.
pub const MINUTES: u64 = 10;
/// Buckets of durations: each is the fourth root of two times as wide as the one before.
const BUCKETS: usize = 112;
/// Buckets from one doubling to the next, and the first one's upper bound; the last one's is four minutes.
pub const PASS_BUCKETS: PassBuckets = PassBuckets {
    steps: 4,
    first_ns: 1_000,
};
const STEPS: f64 = PASS_BUCKETS.steps as f64;
const FIRST_SECONDS: f64 = PASS_BUCKETS.first_ns as f64 / 1e9;

/// What the buckets' numbers mean: counts by them are added up only where that is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassBuckets {
    /// Buckets from one doubling to the next.
    pub steps: u32,
    /// The first one's upper bound, in nanoseconds.
    pub first_ns: u32,
}

/// How long passes of a version took within the last ten minutes. Percentiles are interpolated within buckets that are a fifth wide.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PassFigures {
    /// Minutes that they cover at most.
    pub minutes: u64,
    /// Forward passes.
    pub passes: u64,
    /// Inputs that they scored.
    pub inputs: u64,
    /// Percentiles of a pass's seconds on its model thread.
    pub pass_p50: f64,
    pub pass_p99: f64,
    /// The same of an input's part of its pass: the pass's seconds by its rows.
    pub input_p50: f64,
    pub input_p99: f64,
}

/// How many passes of a version took how long within the last ten minutes, on one worker or on several: what percentiles over all of them are made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PassCounts {
    /// Buckets of durations, by their numbers, with how many passes fell into each.
    pub buckets: Vec<(u8, u64)>,
    /// Inputs that the passes scored.
    pub inputs: u64,
}

impl PassCounts {
    /// Adds those of another worker that counts by the same buckets, as far as they are known here.
    pub fn add(&mut self, other: &Self) {
        let mut all = self.counts();
        all.add_all(&other.counts());
        self.buckets = all.filled();
        self.inputs = self.inputs.saturating_add(other.inputs);
    }

    /// Passes, and seconds that these shares of them didn't exceed.
    pub fn figures<const N: usize>(&self, shares: [f64; N]) -> (u64, [f64; N]) {
        let counts = self.counts();
        (counts.all(), shares.map(|share| counts.percentile(share)))
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for (bucket, count) in &self.buckets {
            if let Some(known) = counts.0.get_mut(usize::from(*bucket)) {
                *known = known.saturating_add(*count);
            }
        }
        counts
    }
}

/// Counts by duration.
#[derive(Debug, Clone)]
struct Counts([u64; BUCKETS]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Counts {
    fn add(&mut self, seconds: f64, count: u64) {
        let steps = (seconds.max(FIRST_SECONDS) / FIRST_SECONDS).log2() * STEPS;
        let bucket = (steps.ceil() as usize).min(BUCKETS - 1);
        if let Some(known) = self.0.get_mut(bucket) {
            *known = known.saturating_add(count);
        }
    }

    fn add_all(&mut self, other: &Self) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum = sum.saturating_add(count);
        }
    }

    /// The buckets that aren't empty.
    fn filled(&self) -> Vec<(u8, u64)> {
        let all = (0..).zip(self.0);
        all.filter(|(_, count)| *count > 0).collect()
    }

    fn all(&self) -> u64 {
        self.0
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Seconds that a share of all didn't exceed.
    fn percentile(&self, share: f64) -> f64 {
        let wanted = share * self.all() as f64;
        let (mut below, mut low) = (0.0, 0.0);
        for (bucket, count) in self.0.iter().enumerate() {
            let (inside, high) = (
                *count as f64,
                FIRST_SECONDS * (bucket as f64 / STEPS).exp2(),
            );
            if inside > 0.0 && below + inside >= wanted {
                return low + (high - low) * ((wanted - below) / inside).clamp(0.0, 1.0);
            }
            below += inside;
            low = high;
        }
        low
    }
}

/// What came within one minute.
#[derive(Debug, Default)]
struct Slot {
    minute: u64,
    passes: Counts,
    inputs: Counts,
}

/// The passes of the last minutes.
#[derive(Debug)]
pub(crate) struct PassTimes {
    began: Instant,
    slots: Mutex<VecDeque<Slot>>,
}

impl PassTimes {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            slots: Mutex::default(),
        }
    }

    /// Records a pass over so many rows.
    pub fn record(&self, rows: usize, seconds: f64) {
        self.record_at(self.began.elapsed(), rows, seconds);
    }

    /// What the last minutes had; none where that is nothing.
    pub fn figures(&self) -> Option<PassFigures> {
        self.figures_at(self.began.elapsed())
    }

    fn record_at(&self, at: Duration, rows: usize, seconds: f64) {
        if rows == 0 || !seconds.is_finite() {
            return;
        }
        let minute = at.as_secs() / 60;
        // Counts are sound after a panic elsewhere.
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.back().is_none_or(|slot| slot.minute < minute) {
            slots.push_back(Slot {
                minute,
                ..Slot::default()
            });
        }
        while slots
            .front()
            .is_some_and(|slot| slot.minute + MINUTES < minute)
        {
            slots.pop_front();
        }
        if let Some(slot) = slots.back_mut() {
            slot.passes.add(seconds, 1);
            slot.inputs.add(seconds / rows as f64, rows as u64);
        }
    }

    /// The same as counts, for figures over several workers; none where there was no pass.
    pub fn counts(&self) -> Option<PassCounts> {
        let (passes, inputs) = self.counts_at(self.began.elapsed());
        (passes.all() > 0).then(|| PassCounts {
            buckets: passes.filled(),
            inputs: inputs.all(),
        })
    }

    fn counts_at(&self, at: Duration) -> (Counts, Counts) {
        let minute = at.as_secs() / 60;
        let (mut passes, mut inputs) = (Counts::default(), Counts::default());
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        for slot in slots.iter().filter(|slot| slot.minute + MINUTES >= minute) {
            passes.add_all(&slot.passes);
            inputs.add_all(&slot.inputs);
        }
        (passes, inputs)
    }

    fn figures_at(&self, at: Duration) -> Option<PassFigures> {
        let (passes, inputs) = self.counts_at(at);
        (passes.all() > 0).then(|| PassFigures {
            minutes: MINUTES,
            passes: passes.all(),
            inputs: inputs.all(),
            pass_p50: passes.percentile(0.5),
            pass_p99: passes.percentile(0.99),
            input_p50: inputs.percentile(0.5),
            input_p99: inputs.percentile(0.99),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_near(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 0.2, "{found}: {expected}");
    }

    #[test]
    fn passes_and_their_inputs_have_percentiles_of_their_own() {
        let times = PassTimes::new();
        assert_eq!(times.figures(), None);
        // Each of the many small ones is as long as the few large ones' inputs together.
        for _ in 0..90 {
            times.record(1, 0.002);
        }
        for _ in 0..10 {
            times.record(100, 0.05);
        }
        for (rows, seconds) in [(0, 1.0), (1, f64::NAN), (1, f64::INFINITY)] {
            times.record(rows, seconds);
        }
        let figures = times.figures().expect("passes");
        assert_eq!((figures.passes, figures.inputs), (100, 1_090));
        is_near(figures.pass_p50, 0.002);
        is_near(figures.pass_p99, 0.05);
        is_near(figures.input_p50, 0.0005);
        is_near(figures.input_p99, 0.002);
    }

    #[test]
    fn counts_of_several_workers_have_the_percentiles_of_all_their_passes() {
        let (fast, slow) = (PassTimes::new(), PassTimes::new());
        assert_eq!(fast.counts(), None);
        for _ in 0..80 {
            fast.record(2, 0.001);
        }
        for _ in 0..20 {
            slow.record(1, 0.1);
        }
        let mut all = fast.counts().expect("passes");
        all.add(&slow.counts().expect("passes"));
        let (passes, [half, worst]) = all.figures([0.5, 0.99]);
        assert_eq!((passes, all.inputs), (100, 180));
        is_near(half, 0.001);
        is_near(worst, 0.1);
        // What another release says of buckets that aren't known here is left out, and nothing overflows.
        all.add(&PassCounts {
            buckets: vec![(255, 7), (3, u64::MAX)],
            inputs: u64::MAX,
        });
        assert_eq!((all.figures([0.5]).0, all.inputs), (u64::MAX, u64::MAX));
    }

    #[test]
    fn what_is_older_than_the_minutes_is_forgotten_and_memory_is_bounded() {
        let times = PassTimes::new();
        let minute = |n: u64| Duration::from_secs(60 * n + 1);
        times.record_at(minute(0), 1, 100.0);
        for n in 1..=5_000 {
            times.record_at(minute(n), 1, 0.001);
        }
        let kept = times.slots.lock().expect("slots").len() as u64;
        assert_eq!(kept, MINUTES + 1);
        let figures = times.figures_at(minute(5_000)).expect("passes");
        assert_eq!(figures.passes, MINUTES + 1);
        is_near(figures.pass_p99, 0.001);
        assert_eq!(times.figures_at(minute(5_001 + MINUTES)), None);
    }

    #[test]
    fn durations_of_any_size_have_a_bucket() {
        for (seconds, expected) in [(0.0, 1e-6), (-1.0, 1e-6), (1e9, 226.0)] {
            let times = PassTimes::new();
            times.record(1, seconds);
            let found = times.figures().expect("a pass").pass_p99;
            is_near(found, expected);
        }
    }
}
