//! Owns a day's worth of how jobs went, by namespace and kind of key: what the API and the page show, and Prometheus can't
//! hold without a series for each.
//!
//! Promises bounded memory: so many patterns, the rest together, each with so many slots of time.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Patterns that are counted apart.
const MAX_PATTERNS: usize = 128;
/// Seconds of one slot.
const SLOT_SECONDS: u64 = 300;
/// Slots kept: a day.
const SLOTS: u64 = 288;
/// Buckets of latencies: each is the square root of two times as wide as the one before.
const BUCKETS: usize = 40;
/// The first bucket's upper bound, in milliseconds.
const FIRST_MS: f64 = 0.1;
/// Longest prefix of a key, in bytes.
const MAX_PREFIX_BYTES: usize = 48;

/// A namespace, or the keys of one that begin alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pattern {
    Namespace(String),
    /// Keys of a namespace up to their first colon.
    Prefix(String, String),
    /// Whatever came after there was no room.
    Others,
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Namespace(namespace) => f.write_str(namespace),
            Self::Prefix(namespace, prefix) => write!(f, "{namespace}/{prefix}:*"),
            Self::Others => f.write_str("(others)"),
        }
    }
}

/// What stands before a key's first colon; nothing where that is no kind of key.
pub fn prefix(key: &str) -> Option<&str> {
    let (prefix, _) = key.split_once(':')?;
    (1..=MAX_PREFIX_BYTES)
        .contains(&prefix.len())
        .then_some(prefix)
}

/// How the misses of a pattern came about, as far as inputs were watched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Causes {
    /// Asked for the first time, as far as is known.
    pub first: u64,
    /// Asked again within half an hour of the end of their entry's life.
    pub soon_after: u64,
    /// Asked again later than that.
    pub late: u64,
    /// Asked again although their entry should have been there.
    pub dropped: u64,
}

impl Causes {
    /// Adds others.
    pub fn add(&mut self, other: &Self) {
        self.first += other.first;
        self.soon_after += other.soon_after;
        self.late += other.late;
        self.dropped += other.dropped;
    }

    /// All that were watched.
    pub fn all(&self) -> u64 {
        self.first + self.soon_after + self.late + self.dropped
    }
}

/// What is said of a pattern over a time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    pub hits: u64,
    pub misses: u64,
    /// Requests whose time was taken: jobs, not inputs.
    pub requests: u64,
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub causes: Causes,
}

impl Figures {
    /// Share of the inputs that hit; nothing where there were none.
    pub fn hit_rate(&self) -> Option<f64> {
        let all = self.hits + self.misses;
        (all > 0).then(|| self.hits as f64 / all as f64)
    }
}

#[derive(Debug, Clone)]
struct Slot {
    number: u64,
    hits: u64,
    misses: u64,
    total_ms: f64,
    latencies: [u32; BUCKETS],
    causes: Causes,
}

impl Slot {
    fn new(number: u64) -> Self {
        Self {
            number,
            hits: 0,
            misses: 0,
            total_ms: 0.0,
            latencies: [0; BUCKETS],
            causes: Causes::default(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.total_ms += other.total_ms;
        self.causes.add(&other.causes);
        for (sum, count) in self.latencies.iter_mut().zip(other.latencies) {
            *sum = sum.saturating_add(count);
        }
    }

    fn figures(&self) -> Figures {
        let requests: u64 = self.latencies.iter().map(|n| u64::from(*n)).sum();
        Figures {
            hits: self.hits,
            misses: self.misses,
            requests,
            mean_ms: if requests > 0 {
                self.total_ms / requests as f64
            } else {
                0.0
            },
            p50_ms: self.percentile(requests, 0.5),
            p95_ms: self.percentile(requests, 0.95),
            p99_ms: self.percentile(requests, 0.99),
            causes: self.causes,
        }
    }

    /// The upper bound of the bucket that holds a share of all.
    fn percentile(&self, requests: u64, share: f64) -> f64 {
        let wanted = (requests as f64 * share).ceil();
        let mut seen = 0.0;
        for (bucket, count) in self.latencies.iter().enumerate() {
            seen += f64::from(*count);
            if seen >= wanted && seen > 0.0 {
                return bound_ms(bucket);
            }
        }
        0.0
    }
}

fn bound_ms(bucket: usize) -> f64 {
    FIRST_MS * 2f64.powf(bucket as f64 / 2.0)
}

fn bucket(ms: f64) -> usize {
    let steps = (ms.max(FIRST_MS) / FIRST_MS).log2() * 2.0;
    (steps.ceil() as usize).min(BUCKETS - 1)
}

/// What one job, or one part of it, adds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Noted {
    pub hits: u64,
    pub misses: u64,
    pub causes: Causes,
    /// The job's time, where it counts for this pattern.
    pub latency: Option<Duration>,
}

/// A day of figures.
#[derive(Debug)]
pub struct Window {
    began: Instant,
    patterns: Mutex<BTreeMap<Pattern, VecDeque<Slot>>>,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            patterns: Mutex::default(),
        }
    }
}

impl Window {
    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<Pattern, VecDeque<Slot>>) -> T) -> T {
        // Counts are sound after a panic elsewhere.
        work(&mut self.patterns.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Seconds for which figures are there at most.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Notes several patterns at once.
    pub fn note(&self, noted: impl Iterator<Item = (Pattern, Noted)>) {
        let number = self.began.elapsed().as_secs() / SLOT_SECONDS;
        self.with(|patterns| {
            for (pattern, noted) in noted {
                let known = patterns.contains_key(&pattern) || patterns.len() < MAX_PATTERNS;
                let pattern = if known { pattern } else { Pattern::Others };
                let slots = patterns.entry(pattern).or_default();
                if slots.back().is_none_or(|slot| slot.number != number) {
                    slots.push_back(Slot::new(number));
                }
                while slots
                    .front()
                    .is_some_and(|slot| slot.number + SLOTS < number)
                {
                    slots.pop_front();
                }
                let Some(slot) = slots.back_mut() else {
                    continue;
                };
                slot.hits += noted.hits;
                slot.misses += noted.misses;
                slot.causes.add(&noted.causes);
                if let Some(latency) = noted.latency {
                    let ms = latency.as_secs_f64() * 1e3;
                    slot.total_ms += ms;
                    if let Some(count) = slot.latencies.get_mut(bucket(ms)) {
                        *count = count.saturating_add(1);
                    }
                }
            }
        });
    }

    /// The figures of every pattern over the last `minutes`, rounded up to whole slots of five.
    pub fn figures(&self, minutes: u64) -> Vec<(Pattern, Figures)> {
        let first = self.first(minutes);
        self.with(|patterns| {
            let figures = patterns.iter().map(|(pattern, slots)| {
                let mut sum = Slot::new(0);
                let recent = slots.iter().filter(|slot| slot.number >= first);
                recent.for_each(|slot| sum.add(slot));
                (pattern.clone(), sum.figures())
            });
            figures
                .filter(|(_, f)| f.hits + f.misses + f.requests > 0)
                .collect()
        })
    }

    /// The same over all namespaces together.
    pub fn total(&self, minutes: u64) -> Figures {
        let first = self.first(minutes);
        self.with(|patterns| {
            let mut sum = Slot::new(0);
            for (pattern, slots) in patterns.iter() {
                if matches!(pattern, Pattern::Prefix(..)) {
                    continue;
                }
                let recent = slots.iter().filter(|slot| slot.number >= first);
                recent.for_each(|slot| sum.add(slot));
            }
            sum.figures()
        })
    }

    fn first(&self, minutes: u64) -> u64 {
        let now = self.began.elapsed().as_secs() / SLOT_SECONDS;
        now.saturating_sub((minutes * 60).div_ceil(SLOT_SECONDS))
    }

    /// Forgets everything.
    pub fn reset(&self) {
        self.with(BTreeMap::clear);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str) -> Pattern {
        Pattern::Namespace(name.to_owned())
    }

    #[test]
    fn figures_are_those_of_their_pattern_and_percentiles_are_near() {
        let window = Window::default();
        for n in 1..=100u64 {
            let noted = Noted {
                hits: 7,
                misses: 1,
                causes: Causes {
                    first: 1,
                    ..Causes::default()
                },
                latency: Some(Duration::from_millis(n)),
            };
            let reviews = Pattern::Prefix("feed".into(), "review".into());
            window.note([(namespace("feed"), noted), (reviews, noted)].into_iter());
        }
        let all = window.figures(60);
        assert_eq!(all.len(), 2);
        let total = window.total(60);
        assert_eq!((total.hits, total.misses, total.requests), (700, 100, 100));
        assert_eq!((total.hit_rate(), total.causes.first), (Some(0.875), 100));
        assert!((total.mean_ms - 50.5).abs() < 1e-9);
        for (shown, exact) in [
            (total.p50_ms, 50.0),
            (total.p95_ms, 95.0),
            (total.p99_ms, 99.0),
        ] {
            assert!(
                shown >= exact && shown <= exact * 1.42,
                "{shown} of {exact}"
            );
        }
        assert_eq!(all[1].0.to_string(), "feed/review:*");
        window.reset();
        assert_eq!(window.total(60), Figures::default());
    }

    #[test]
    fn patterns_are_bounded_and_nothing_is_lost() {
        let window = Window::default();
        for n in 0..10_000 {
            let noted = Noted {
                hits: 1,
                ..Noted::default()
            };
            window.note([(namespace(&n.to_string()), noted)].into_iter());
        }
        assert_eq!(window.figures(60).len(), MAX_PATTERNS + 1);
        assert_eq!(window.total(60).hits, 10_000);
    }

    #[test]
    fn a_prefix_is_what_stands_before_the_first_colon() {
        assert_eq!(prefix("feed:page:1"), Some("feed"));
        for odd in ["", ":a", "plain", &"x".repeat(60)] {
            assert_eq!(prefix(odd), None);
        }
    }
}
