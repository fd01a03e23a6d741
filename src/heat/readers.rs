//! Owns how often readers request each named entry, though all they do is a GET.
//!
//! Two ways to know: readers' services give hints, which are counted; or Redis itself is asked about the names that were
//! written here. Under an LFU policy its counter stands where requests and its decay hold each other (its keeper counts one
//! up with probability 1 / (factor · (counter - 5) + 1), and one down every so many minutes). Under the others it says
//! how long a key has been idle: a name that was read since the last check counts as one read in the time since then, which
//! is the maximum-likelihood rate of a Poisson process seen that way.
//!
//! Promises bounded memory: names that are read least make room. Refuses to talk to Redis.

use super::sketch::Pace;
use crate::cache::Access;
use kiln_contract::key::InputHash;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// Namespaces that are watched.
const MAX_NAMESPACES: usize = 32;
/// Names of one namespace.
const MAX_NAMES: usize = 4_096;
/// Names that are drawn, of which the one that is read least makes room.
const LOTS: usize = 8;
/// Half-life of what Redis reported, in seconds.
const HALF_LIFE: f64 = 900.0;
/// Redis counts idle time in whole seconds, by a clock that is up to one behind.
const IDLE_STEP: f64 = 0.5;
/// How much less idle than it is a key may therefore look, in seconds.
const IDLE_SLACK: f64 = 1.5;

/// One name of a namespace, with how often it is read.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedRate {
    pub name: String,
    /// The input that its entry was last made of; nothing for a ranking, or where that isn't known here.
    pub input: Option<InputHash>,
    /// Reads a second.
    pub rate: f64,
    /// Whether readers' own hints say so: what several workers received then adds up.
    pub counted: bool,
}

/// How often names are read, as one worker knows it.
#[derive(Debug)]
pub struct Readers {
    began: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    namespaces: BTreeMap<String, Names>,
    rng: SmallRng,
    /// Where the next check begins.
    turn: usize,
}

#[derive(Debug, Default)]
struct Names {
    all: Vec<Name>,
    by_name: HashMap<String, usize>,
}

#[derive(Debug)]
struct Name {
    name: String,
    input: Option<InputHash>,
    hints: Option<Pace>,
    /// Reads and the seconds in which they were seen, both fading.
    seen: (f64, f64),
    /// Sum of the rates that Redis reported, and their number, both fading.
    reported: (f64, f64),
    /// When it was last checked or written, in seconds since the beginning.
    checked: f64,
}

impl Name {
    fn new(name: &str, now: f64) -> Self {
        Self {
            name: name.to_owned(),
            input: None,
            hints: None,
            seen: (0.0, 0.0),
            reported: (0.0, 0.0),
            checked: now,
        }
    }

    fn rate(&self, now: f64) -> f64 {
        match &self.hints {
            Some(hints) => hints.rate(now),
            None if self.reported.1 > 0.0 => self.reported.0 / self.reported.1,
            None if self.seen.1 > 0.0 => self.seen.0 / self.seen.1,
            None => 0.0,
        }
    }

    fn note(&mut self, access: Access, now: f64) {
        let since = (now - self.checked).max(0.0);
        let fade = (-since / HALF_LIFE).exp2();
        self.checked = now;
        match access {
            Access::Rate(rate) => {
                self.reported = (self.reported.0 * fade + rate, self.reported.1 * fade + 1.0)
            }
            Access::Idle(idle) => {
                let idle = idle + IDLE_STEP;
                // What happened right after the last check can't be distinguished from that check, or from a write.
                let since = (since - IDLE_SLACK).max(0.0);
                let read = idle < since;
                self.seen = (
                    self.seen.0 * fade + f64::from(u8::from(read)),
                    self.seen.1 * fade + idle.min(since),
                );
            }
        }
    }
}

impl Names {
    /// The entry of a name, which replaces one that is read less where there is no room.
    fn entry(&mut self, name: &str, now: f64, rng: &mut SmallRng) -> Option<&mut Name> {
        if let Some(index) = self.by_name.get(name).copied() {
            return self.all.get_mut(index);
        }
        let index = if self.all.len() < MAX_NAMES {
            self.all.push(Name::new(name, now));
            self.all.len() - 1
        } else {
            let drawn = (0..LOTS).map(|_| rng.random_range(0..MAX_NAMES));
            let rate = |index: &usize| self.all.get(*index).map_or(0.0, |name| name.rate(now));
            let rarest = drawn.min_by(|a, b| rate(a).total_cmp(&rate(b)))?;
            let slot = self.all.get_mut(rarest)?;
            self.by_name.remove(&slot.name);
            *slot = Name::new(name, now);
            rarest
        };
        self.by_name.insert(name.to_owned(), index);
        self.all.get_mut(index)
    }
}

impl Default for Readers {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            inner: Mutex::new(Inner {
                namespaces: BTreeMap::new(),
                rng: SmallRng::from_os_rng(),
                turn: 0,
            }),
        }
    }
}

impl Readers {
    fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        // Sound after a panic elsewhere: no change is left half done by the code inside.
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes what was written for readers, with the input of each entry that has one.
    pub fn written<'a>(
        &self,
        namespace: &str,
        names: impl Iterator<Item = (&'a str, Option<InputHash>)>,
    ) {
        let now = self.now();
        self.with(|inner| {
            for (name, input) in names {
                if let Some(name) = inner.name(namespace, name, now) {
                    name.input = input;
                    // A write looks like a read to Redis.
                    name.checked = now;
                }
            }
        });
    }

    /// Counts reads that a reader's service reports.
    pub fn hinted<'a>(&self, namespace: &str, names: impl Iterator<Item = &'a str>) {
        let now = self.now();
        self.with(|inner| {
            for name in names {
                if let Some(name) = inner.name(namespace, name, now) {
                    let hints = name.hints.unwrap_or_else(|| Pace::new(now));
                    name.hints = Some(hints.asked(now, 1.0));
                }
            }
        });
    }

    /// The next `max` names about which Redis is to be asked: all of them in turn. Names with hints are left out: hints are more exact.
    pub fn next(&self, max: usize) -> Vec<(String, String)> {
        self.with(|inner| {
            let unhinted: Vec<(&String, &Name)> = inner
                .namespaces
                .iter()
                .flat_map(|(namespace, names)| names.all.iter().map(move |name| (namespace, name)))
                .filter(|(_, name)| name.hints.is_none())
                .collect();
            let first = inner.turn % unhinted.len().max(1);
            let next: Vec<(String, String)> = unhinted
                .iter()
                .cycle()
                .skip(first)
                .take(max.min(unhinted.len()))
                .map(|(space, name)| ((*space).clone(), name.name.clone()))
                .collect();
            inner.turn = first + next.len();
            next
        })
    }

    /// Notes what Redis said of some names; nothing of one that isn't there.
    pub fn found(&self, names: &[(String, String)], accesses: &[Option<Access>]) {
        let now = self.now();
        self.with(|inner| {
            for ((namespace, name), access) in names.iter().zip(accesses) {
                let known = inner.namespaces.get_mut(namespace).and_then(|names| {
                    let index = *names.by_name.get(name)?;
                    names.all.get_mut(index)
                });
                match (known, access) {
                    (Some(name), Some(access)) => name.note(*access, now),
                    (Some(name), None) => name.checked = now,
                    (None, _) => {}
                }
            }
        });
    }

    /// The `top` names of each namespace that are read most, the fastest first; none that nobody reads.
    pub fn hottest(&self, top: usize) -> Vec<(String, Vec<NamedRate>)> {
        let now = self.now();
        self.with(|inner| {
            let namespaces = inner.namespaces.iter().map(|(namespace, names)| {
                let mut hot: Vec<NamedRate> = names
                    .all
                    .iter()
                    .map(|name| NamedRate {
                        name: name.name.clone(),
                        input: name.input,
                        rate: name.rate(now),
                        counted: name.hints.is_some(),
                    })
                    .filter(|name| name.rate > 0.0)
                    .collect();
                hot.sort_by(|a, b| b.rate.total_cmp(&a.rate).then_with(|| a.name.cmp(&b.name)));
                hot.truncate(top);
                (namespace.clone(), hot)
            });
            namespaces.filter(|(_, hot)| !hot.is_empty()).collect()
        })
    }
}

impl Inner {
    fn name(&mut self, namespace: &str, name: &str, now: f64) -> Option<&mut Name> {
        if !self.namespaces.contains_key(namespace) {
            if self.namespaces.len() >= MAX_NAMESPACES {
                return None;
            }
            self.namespaces
                .insert(namespace.to_owned(), Names::default());
        }
        self.namespaces
            .get_mut(namespace)?
            .entry(name, now, &mut self.rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::seq::IndexedRandom;

    #[test]
    fn hints_are_counted_and_names_that_nobody_reads_make_room() {
        let readers = Readers::default();
        for n in 0..100 {
            readers.hinted("feed", (0..n).map(|_| "page:1").chain(["page:2"]));
            let written: Vec<String> = (0..200).map(|w| format!("{n}-{w}")).collect();
            readers.written("feed", written.iter().map(|name| (name.as_str(), None)));
        }
        let hot = readers.hottest(10);
        let [(namespace, names)] = hot.as_slice() else {
            panic!("one namespace: {hot:?}")
        };
        let read: Vec<&str> = names.iter().map(|name| name.name.as_str()).collect();
        assert_eq!(
            (namespace.as_str(), read),
            ("feed", vec!["page:1", "page:2"])
        );
        assert!(names.iter().all(|name| name.counted));
        assert_eq!(readers.next(100_000).len(), MAX_NAMES - 2);
        for n in 0..100 {
            readers.hinted(&format!("space{n}"), ["a"].into_iter());
        }
        assert_eq!(readers.hottest(1).len(), MAX_NAMESPACES);
    }

    /// Looks every five seconds, for two hours, at a key that is read `rate` times a second.
    fn idle(rate: f64, rng: &mut SmallRng) -> f64 {
        let mut name = Name::new("a", 0.0);
        let mut last = 0.0;
        let mut next = -(1.0 - rng.random::<f64>()).ln() / rate;
        for look in 1..=1_440 {
            let now = f64::from(look) * 5.0;
            while next < now {
                last = next;
                next -= (1.0 - rng.random::<f64>()).ln() / rate;
            }
            name.note(Access::Idle((now - last).floor()), now);
        }
        name.rate(7_200.0)
    }

    #[test]
    fn idle_times_tell_rates_within_a_factor_of_two() {
        let mut rng = SmallRng::seed_from_u64(7);
        for rate in [0.01, 0.05, 0.2, 0.5] {
            let rates: Vec<f64> = (0..100).map(|_| idle(rate, &mut rng)).collect();
            let mean = rates.iter().sum::<f64>() / 100.0;
            assert!((0.6..1.7).contains(&(mean / rate)), "{rate}: {mean}");
        }
        assert_eq!(Name::new("never read", 0.0).rate(10.0), 0.0);
    }

    #[test]
    fn every_name_has_its_turn() {
        let readers = Readers::default();
        let names: Vec<String> = (0..10).map(|n| n.to_string()).collect();
        readers.written("a", names.iter().map(|name| (name.as_str(), None)));
        let mut seen: Vec<String> = Vec::new();
        for _ in 0..5 {
            seen.extend(readers.next(4).into_iter().map(|(_, name)| name));
        }
        for name in &names {
            assert_eq!(seen.iter().filter(|one| *one == name).count(), 2);
        }
        let drawn = names.choose(&mut rand::rng()).expect("a name").clone();
        readers.found(&[("a".into(), drawn.clone())], &[Some(Access::Rate(3.0))]);
        let hot = readers.hottest(10);
        assert_eq!(
            (hot[0].1[0].name.as_str(), hot[0].1[0].rate),
            (drawn.as_str(), 3.0)
        );
    }
}
