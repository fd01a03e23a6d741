//! Owns how often readers request each named entry, though all they do is a GET.
//!
//! Two ways to know: readers' services give hints, which are counted; or Redis itself is asked about the names that were
//! written here. Under an LFU policy its counter stands where requests and its decay hold each other (its keeper counts one
//! up with probability 1 / (factor · (counter - 5) + 1), and one down every so many minutes). Under the others it says
//! how long a key has been idle: a name that was read since the last check counts as one read in the time since then, which
//! is the maximum-likelihood rate of a Poisson process seen that way.
//!
//! Promises bounded memory: names that are read least make room. Refuses to talk to Redis.

mod hottest;

use super::pace::{Now, Pace, Trust};
use crate::cache::Access;
use kiln_contract::key::InputHash;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// Bytes that a name takes beside its two copies.
const NAME_BYTES: usize = 288;
/// After so many seconds without a sign a namespace may make room for another.
const IDLE_SECONDS: f64 = 600.0;
/// Names of one namespace among many, and of one at the utmost while a half of the bytes is free.
const USUAL_NAMES: usize = 4_096;
const MAX_NAMES: usize = 32_000;
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
    /// When that was, in milliseconds since 1970.
    pub written_ms: i64,
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
    /// Bytes of all names.
    bytes: usize,
    max_bytes: usize,
    /// Signs of names that there was no room for.
    dropped: u64,
    rng: SmallRng,
    /// Where the next check begins.
    turn: usize,
}

#[derive(Debug, Default)]
struct Names {
    all: Vec<Name>,
    by_name: HashMap<String, usize>,
    /// When there was a sign of any, in seconds since the beginning.
    last: f64,
    trust: Trust,
}

#[derive(Debug)]
struct Name {
    name: String,
    input: Option<InputHash>,
    /// When it was last written, in seconds since the beginning.
    written: f64,
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
            written: 0.0,
            hints: None,
            seen: (0.0, 0.0),
            reported: (0.0, 0.0),
            checked: now,
        }
    }

    fn rate(&self, now: &Now, trust: &Trust) -> f64 {
        match &self.hints {
            Some(hints) => hints.rate(now, trust),
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
    fn bytes(&self) -> usize {
        self.all.iter().map(|name| bytes_of(&name.name)).sum()
    }

    /// The entry of a name, which replaces one that is read less where there is no room. `bytes` is what all names take.
    fn entry(
        &mut self,
        name: &str,
        now: f64,
        rng: &mut SmallRng,
        (bytes, max_bytes): (&mut usize, usize),
    ) -> Option<&mut Name> {
        self.last = now;
        if let Some(index) = self.by_name.get(name).copied() {
            return self.all.get_mut(index);
        }
        let own = bytes_of(name);
        let (max_names, room) = match self.all.len() {
            ..USUAL_NAMES => (USUAL_NAMES, max_bytes),
            _ => (MAX_NAMES, max_bytes / 2),
        };
        let index = if self.all.len() < max_names && *bytes + own <= room {
            self.all.push(Name::new(name, now));
            self.all.len() - 1
        } else {
            let count = self.all.len();
            let drawn = (0..LOTS).filter(|_| count > 0);
            let drawn = drawn.map(|_| rng.random_range(0..count));
            let (moment, trust) = (Now::new(now), &self.trust);
            let rate = |index: &usize| {
                let name = self.all.get(*index);
                name.map_or(0.0, |name| name.rate(&moment, trust))
            };
            let rarest = drawn.min_by(|a, b| rate(a).total_cmp(&rate(b)))?;
            let slot = self.all.get_mut(rarest)?;
            *bytes = bytes.saturating_sub(bytes_of(&slot.name));
            self.by_name.remove(&slot.name);
            *slot = Name::new(name, now);
            rarest
        };
        *bytes += own;
        self.by_name.insert(name.to_owned(), index);
        self.all.get_mut(index)
    }
}

fn bytes_of(name: &str) -> usize {
    NAME_BYTES + 2 * name.len()
}

impl Default for Readers {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            inner: Mutex::new(Inner {
                namespaces: BTreeMap::new(),
                bytes: 0,
                max_bytes: super::MAX_BYTES,
                dropped: 0,
                rng: SmallRng::from_os_rng(),
                turn: 0,
            }),
        }
    }
}

impl Readers {
    /// Seconds since it began.
    pub fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        // Sound after a panic elsewhere: no change is left half done by the code inside.
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes what was written for readers, with the input of each entry that has one. Warming writes again what others said: that is no
    /// news.
    pub fn written<'a>(
        &self,
        namespace: &str,
        names: impl Iterator<Item = (&'a str, Option<InputHash>)>,
        is_news: bool,
    ) {
        let now = self.now();
        self.with(|inner| {
            for (name, input) in names {
                if let Some(name) = inner.name(namespace, name, now) {
                    if is_news {
                        (name.input, name.written) = (input, now);
                    } else if name.input.is_none() {
                        name.input = input;
                    }
                    // A write looks like a read to Redis.
                    name.checked = now;
                }
            }
        });
    }

    /// Counts reads that a reader's service reports.
    pub fn hinted<'a>(&self, namespace: &str, names: impl Iterator<Item = &'a str>) {
        self.hinted_at(self.now(), namespace, names);
    }

    /// The same at a time of the caller's, in seconds since the beginning.
    pub fn hinted_at<'a>(&self, now: f64, namespace: &str, names: impl Iterator<Item = &'a str>) {
        let moment = Now::new(now);
        self.with(|inner| {
            let known = inner.namespaces.get(namespace);
            let mut trust = known.map_or_else(Trust::default, |names| names.trust);
            for name in names {
                if let Some(name) = inner.name(namespace, name, now) {
                    let hints = name.hints.unwrap_or_else(|| Pace::new(now));
                    name.hints = Some(hints.asked(&moment, 1.0, &mut trust));
                }
            }
            if let Some(names) = inner.namespaces.get_mut(namespace) {
                names.trust = trust;
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

    /// Signs of names that there was no room for, since this was last asked.
    pub fn take_dropped(&self) -> u64 {
        self.with(|inner| std::mem::take(&mut inner.dropped))
    }
}

impl Inner {
    fn name(&mut self, namespace: &str, name: &str, now: f64) -> Option<&mut Name> {
        let is_known = self.namespaces.contains_key(namespace);
        if !is_known && self.bytes + bytes_of(name) > self.max_bytes && !self.make_room(now) {
            self.dropped += 1;
            return None;
        }
        if !is_known {
            self.namespaces
                .insert(namespace.to_owned(), Names::default());
        }
        let room = (&mut self.bytes, self.max_bytes);
        self.namespaces
            .get_mut(namespace)?
            .entry(name, now, &mut self.rng, room)
    }

    /// Forgets the namespace of which there was no sign for the longest time, where that is long enough.
    fn make_room(&mut self, now: f64) -> bool {
        let last = |one: &(&String, &Names)| one.1.last;
        let namespaces = self.namespaces.iter();
        let idlest = namespaces.min_by(|a, b| last(a).total_cmp(&last(b)));
        let idlest = idlest.filter(|one| now - last(one) > IDLE_SECONDS);
        let Some(idlest) = idlest.map(|(namespace, _)| namespace.clone()) else {
            return false;
        };
        if let Some(gone) = self.namespaces.remove(&idlest) {
            self.bytes = self.bytes.saturating_sub(gone.bytes());
        }
        true
    }
}

#[cfg(test)]
#[path = "readers/tests.rs"]
mod tests;
