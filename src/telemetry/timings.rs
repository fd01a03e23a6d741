//! Owns how long things took within a time: jobs, stages, models, servers. Each worker notes its own; whoever shows a fleet adds them up.
//!
//! Promises so many parts of a kind, whatever names come: the rest is one part. Refuses to know where a time was taken.

use super::metrics::SECONDS;
use serde::{Deserialize, Serialize};
use std::{cmp::Reverse, collections::BTreeMap};

/// Buckets of a histogram: those of the metrics, and one for all that took longer.
const BUCKETS: usize = SECONDS.len() + 1;
/// Parts of one kind that are kept apart.
const MAX_OF_A_KIND: usize = 64;
/// Longest name of a part, in bytes.
const MAX_NAME_BYTES: usize = 200;
/// What the parts are called for which there was no room.
pub const OTHERS: &str = "(others)";

/// What took its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A job, from its delivery to its stored result.
    Job,
    /// A batch in a stage.
    Stage,
    /// A model's pass.
    Model,
    /// A server's answer.
    Server,
    /// The jobs of one worker.
    Worker,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Job,
        Self::Stage,
        Self::Model,
        Self::Server,
        Self::Worker,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::Stage => "stage",
            Self::Model => "model",
            Self::Server => "server",
            Self::Worker => "worker",
        }
    }

    fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// One thing that took its time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    pub kind: Kind,
    pub name: String,
}

impl Part {
    /// A part by its kind and name.
    pub fn new(kind: Kind, name: impl Into<String>) -> Self {
        let name = name.into();
        Self { kind, name }
    }
}

/// How long something took: a histogram.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spread {
    /// How often.
    pub calls: u64,
    /// Altogether.
    pub seconds: f64,
    counts: [u64; BUCKETS],
}

impl Spread {
    /// From cumulative counts, as Prometheus has them.
    pub fn from_cumulative(cumulative: [u64; BUCKETS], seconds: f64) -> Self {
        let mut counts = cumulative;
        for (count, below) in counts.iter_mut().skip(1).zip(cumulative) {
            *count = count.saturating_sub(below);
        }
        Self {
            calls: cumulative.last().copied().unwrap_or_default(),
            seconds,
            counts,
        }
    }

    /// Adds another.
    pub fn add(&mut self, other: &Self) {
        self.calls = self.calls.saturating_add(other.calls);
        self.seconds += other.seconds;
        for (sum, count) in self.counts.iter_mut().zip(other.counts) {
            *sum = sum.saturating_add(count);
        }
    }

    /// What came after `before`; all of it where that is no earlier state of the same.
    fn since(&self, before: &Self) -> Self {
        if self.calls < before.calls {
            return *self;
        }
        let mut counts = self.counts;
        for (count, was) in counts.iter_mut().zip(before.counts) {
            *count = count.saturating_sub(was);
        }
        Self {
            calls: self.calls - before.calls,
            seconds: (self.seconds - before.seconds).max(0.0),
            counts,
        }
    }

    /// The mean, in milliseconds; nothing where nothing took any time.
    pub fn mean_ms(&self) -> Option<f64> {
        (self.calls > 0).then(|| 1e3 * self.seconds / self.calls as f64)
    }

    /// A percentile in milliseconds, interpolated within its bucket; of what took longer than the last bound, that bound.
    pub fn percentile_ms(&self, share: f64) -> Option<f64> {
        let all: u64 = self
            .counts
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count));
        if all == 0 {
            return None;
        }
        let wanted = share * all as f64;
        let (mut below, mut low) = (0.0, 0.0);
        for (count, high) in self.counts.iter().zip(SECONDS) {
            let inside = *count as f64;
            if inside > 0.0 && below + inside >= wanted {
                let part = ((wanted - below) / inside).clamp(0.0, 1.0);
                return Some(1e3 * (low + (high - low) * part));
            }
            below += inside;
            low = high;
        }
        Some(1e3 * low)
    }
}

/// One part as it is stored: counts of buckets by their upper bound in seconds, which is missing of the last one.
#[derive(Serialize, Deserialize)]
struct Stored {
    kind: String,
    name: String,
    calls: u64,
    seconds: f64,
    buckets: Vec<(Option<f64>, u64)>,
}

/// How long each part took.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Timings(BTreeMap<Part, Spread>);

impl Timings {
    /// Adds to a part; to the others of its kind where there is no room for another one.
    pub fn add(&mut self, part: &Part, spread: &Spread) {
        if let Some(known) = self.0.get_mut(part) {
            return known.add(spread);
        }
        let same = self.0.keys().filter(|known| known.kind == part.kind);
        let has_room = part.name.len() <= MAX_NAME_BYTES && same.count() < MAX_OF_A_KIND;
        let name = if has_room { &part.name } else { OTHERS };
        let part = Part::new(part.kind, name);
        self.0.entry(part).or_default().add(spread);
    }

    /// Adds all of another.
    pub fn add_all(&mut self, other: &Self) {
        other
            .0
            .iter()
            .for_each(|(part, spread)| self.add(part, spread));
    }

    /// What came after `before`, of what took any time since.
    pub fn since(&self, before: &Self) -> Self {
        let grown = self.0.iter().map(|(part, spread)| {
            let was = before.0.get(part).copied().unwrap_or_default();
            (part.clone(), spread.since(&was))
        });
        Self(grown.filter(|(_, spread)| spread.calls > 0).collect())
    }

    /// The `count` parts of each kind that took longest; the others of the kind together.
    pub fn longest(&self, count: usize) -> Self {
        let mut sorted: Vec<_> = self.0.iter().collect();
        sorted.sort_by_key(|(_, spread)| Reverse((1e6 * spread.seconds) as u64));
        let mut kept = BTreeMap::<Part, Spread>::new();
        for (part, spread) in sorted {
            let is_same = |known: &&Part| known.kind == part.kind && known.name != OTHERS;
            let has_room = kept.keys().filter(is_same).count() < count;
            let part = match has_room && part.name != OTHERS {
                true => part.clone(),
                false => Part::new(part.kind, OTHERS),
            };
            kept.entry(part).or_default().add(spread);
        }
        Self(kept)
    }

    /// Every part, by kind and name.
    pub fn iter(&self) -> impl Iterator<Item = (&Part, &Spread)> {
        self.0.iter()
    }

    /// A part's as `all` names them: the others are together what it has no name for.
    pub fn of(&self, part: &Part, all: &Self) -> Option<Spread> {
        if part.name != OTHERS {
            return self.get(part).copied();
        }
        let is_other =
            |own: &Part| own.kind == part.kind && (own == part || !all.0.contains_key(own));
        let others = self.0.iter().filter(|(own, _)| is_other(own));
        others.map(|(_, spread)| *spread).reduce(|mut sum, other| {
            sum.add(&other);
            sum
        })
    }

    /// A part's.
    pub fn get(&self, part: &Part) -> Option<&Spread> {
        self.0.get(part)
    }

    /// Whether nothing took any time.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        let bounds = || SECONDS.into_iter().map(Some).chain([None]);
        let stored = self.0.iter().map(|(part, spread)| Stored {
            kind: part.kind.as_str().to_owned(),
            name: part.name.clone(),
            calls: spread.calls,
            seconds: spread.seconds,
            buckets: bounds()
                .zip(spread.counts)
                .filter(|(_, count)| *count > 0)
                .collect(),
        });
        // Numbers and texts are always JSON.
        serde_json::to_string(&stored.collect::<Vec<_>>()).unwrap_or_else(|_| "[]".to_owned())
    }

    /// Of JSON, as far as it is known here: what isn't read is left out.
    pub fn from_json(text: &str) -> Self {
        let stored: Vec<Stored> = serde_json::from_str(text).unwrap_or_default();
        let mut timings = Self::default();
        for one in stored {
            let Some(kind) = Kind::of(&one.kind).filter(|_| one.seconds >= 0.0) else {
                continue;
            };
            let mut spread = Spread {
                calls: one.calls,
                seconds: one.seconds,
                ..Spread::default()
            };
            for (bound, count) in one.buckets {
                // Another release may have other bounds: what took as long counts where it belongs here.
                let index = SECONDS.partition_point(|known| bound.is_none_or(|b| *known < b));
                if let Some(sum) = spread.counts.get_mut(index) {
                    *sum = sum.saturating_add(count);
                }
            }
            timings.add(&Part::new(kind, one.name), &spread);
        }
        timings
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// So many calls of so many milliseconds.
    pub fn spread(calls: u64, ms: f64) -> Spread {
        let mut cumulative = [0; BUCKETS];
        let bounds = SECONDS.into_iter().chain([f64::INFINITY]);
        for (count, bound) in cumulative.iter_mut().zip(bounds) {
            *count = if ms / 1e3 <= bound { calls } else { 0 };
        }
        Spread::from_cumulative(cumulative, calls as f64 * ms / 1e3)
    }

    #[test]
    fn percentiles_are_within_their_bucket_and_nothing_has_none() {
        let mut all = spread(99, 4.0);
        all.add(&spread(1, 90.0));
        let p50 = all.percentile_ms(0.5).expect("one");
        let p99 = all.percentile_ms(0.995).expect("one");
        assert!((2.5..=5.0).contains(&p50), "{p50}");
        assert!((50.0..=100.0).contains(&p99), "{p99}");
        assert_eq!(all.mean_ms().map(f64::round), Some(5.0));
        assert_eq!(spread(3, 60_000.0).percentile_ms(0.99), Some(30_000.0));
        assert_eq!(Spread::default().percentile_ms(0.99), None);
        assert_eq!(Spread::default().mean_ms(), None);
    }

    #[test]
    fn what_came_since_is_a_difference_and_a_restart_counts_from_nothing() {
        let store = Part::new(Kind::Stage, "store");
        let (mut before, mut now) = (Timings::default(), Timings::default());
        before.add(&store, &spread(5, 4.0));
        now.add(&store, &spread(5, 4.0));
        assert!(now.since(&before).is_empty());
        now.add(&store, &spread(2, 90.0));
        let since = now.since(&before);
        assert_eq!(since.get(&store).map(|s| s.calls), Some(2));
        assert_eq!(before.since(&now), before);
    }

    #[test]
    fn json_comes_back_and_what_is_not_known_is_left_out() {
        let mut timings = Timings::default();
        timings.add(&Part::new(Kind::Job, "jobs"), &spread(7, 3.0));
        timings.add(&Part::new(Kind::Model, "a \"b\""), &spread(1, 60_000.0));
        assert_eq!(Timings::from_json(&timings.to_json()), timings);
        let newer = r#"[{"kind":"stage","name":"store","calls":3,"seconds":0.2,"buckets":[[0.003,2],[null,1]],"colour":1},
            {"kind":"moon","name":"x","calls":1,"seconds":1,"buckets":[]},{"kind":"stage","name":"y","calls":1,"seconds":-1,"buckets":[]}]"#;
        let read = Timings::from_json(newer);
        let names: Vec<&str> = read.iter().map(|(part, _)| part.name.as_str()).collect();
        assert_eq!(names, ["store"]);
        for odd in ["", "{}", "[1]", "null"] {
            assert!(Timings::from_json(odd).is_empty(), "{odd}");
        }
    }

    #[test]
    fn a_flood_of_names_is_one_part_and_nothing_is_lost() {
        let mut timings = Timings::default();
        for n in 0..20_000u64 {
            timings.add(&Part::new(Kind::Model, format!("m{n}")), &spread(1, 1.0));
        }
        timings.add(&Part::new(Kind::Model, "x".repeat(201)), &spread(1, 1.0));
        assert_eq!(timings.iter().count(), MAX_OF_A_KIND + 1);
        let calls = |of: &Timings| of.iter().map(|(_, spread)| spread.calls).sum::<u64>();
        assert_eq!(calls(&timings), 20_001);
        timings.add(&Part::new(Kind::Model, "m3"), &spread(1, 500.0));
        let few = timings.longest(3);
        let names: Vec<&str> = few.iter().map(|(part, _)| part.name.as_str()).collect();
        assert_eq!(few.iter().count(), 4);
        assert!(
            names.contains(&"m3") && names.contains(&OTHERS),
            "{names:?}"
        );
        assert_eq!(calls(&few), 20_002);
    }
}
