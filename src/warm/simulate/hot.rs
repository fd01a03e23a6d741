//! Owns what workers know of the requests in a replay, by the code that they know it by.

use super::{
    view::{Asked, View},
    world::{Seen, World},
};
use crate::{
    heat::{
        MAX_REPORTED, Readers,
        follow::Follow,
        sketch::{MAX_CAPACITY, Sketch},
    },
    warm::plan::{self, Candidate, MemoryRoom},
    warm::schedule::Budget,
};
use kiln_contract::key::{self, InputHash};
use rand::{SeedableRng, rngs::StdRng};
use std::collections::HashMap;

/// How often workers report what is hot, in seconds.
const REPORT_SECONDS: f64 = 5.0;
/// How long true rates are used before they are read again, in seconds.
const REFRESH_SECONDS: f64 = 10.0;
/// The one namespace of a replay.
const NAMESPACE: &str = "replay";

/// Keys with their rates, as last read.
#[derive(Default)]
pub(super) struct Hot {
    keys: Vec<(u32, f64)>,
    good_until: f64,
}

impl Hot {
    pub fn refresh(&mut self, now: f64, rates: impl FnOnce() -> Vec<(u32, f64)>) {
        if now >= self.good_until - 1e-6 {
            self.keys = rates();
            self.good_until = now + REFRESH_SECONDS;
        }
    }

    /// Chooses with the planner that real runs use.
    pub fn choose(&self, view: &View<'_>, budget: &Budget) -> Vec<u32> {
        let is_due = |(key, _): &&(u32, f64)| view.is_due(*key);
        let due: Vec<(u32, f64)> = self.keys.iter().filter(is_due).copied().collect();
        let fresh = self.keys.len() - due.len();
        let candidates: Vec<Candidate> = due
            .iter()
            .map(|(key, rate)| view.world.candidate(*key, *rate, view.is_known(*key)))
            .collect();
        let memory = MemoryRoom {
            keeps: match view.world.max_entries {
                Some(_) => view.room(fresh) as f64,
                None => f64::INFINITY,
            },
            ..MemoryRoom::UNKNOWN
        };
        let choice = plan::choose(&candidates, budget, memory);
        let chosen = choice.chosen.into_iter();
        chosen
            .filter_map(|index| due.get(index).map(|(key, _)| *key))
            .collect()
    }
}

/// What workers know: of jobs, and of readers' hints.
pub(super) struct Knowledge {
    sketch: Sketch,
    readers: Readers,
    follow: Option<Box<Follow>>,
    rng: StdRng,
    hot: Hot,
    seen: Seen,
    top: usize,
    /// When workers report next, in seconds since the trace began.
    next_report: f64,
    first_run: f64,
    every: f64,
}

impl Knowledge {
    pub fn new(world: &World) -> Self {
        Self {
            sketch: Sketch::new(MAX_CAPACITY),
            readers: Readers::default(),
            follow: world.follow.then(Box::default),
            rng: StdRng::seed_from_u64(1),
            hot: Hot::default(),
            seen: world.seen,
            top: world.top,
            next_report: REPORT_SECONDS,
            first_run: world.first_run,
            every: world.every,
        }
    }

    /// Notes a request; says which keys probably follow.
    pub fn asked(&mut self, asked: &Asked, world: &World) -> Vec<u32> {
        let (key, at) = (asked.key, asked.at);
        self.report(at);
        if self.seen == Seen::Jobs || asked.waited {
            let value = world.value(key);
            self.sketch.add(&hash(key), 1.0, value, at, &mut self.rng);
        }
        if self.seen == Seen::Hints {
            let name = key.to_string();
            self.readers
                .hinted_at(at, NAMESPACE, std::iter::once(name.as_str()));
        }
        let is_seen = self.seen != Seen::Misses || asked.waited;
        let Some(follow) = self.follow.as_mut().filter(|_| is_seen) else {
            return Vec::new();
        };
        let session = asked.session.map(u64::from);
        let next = follow.asked(&hash(key), session, &mut self.rng);
        next.iter().map(|one| number(&one.input)).collect()
    }

    pub fn forget(&mut self) {
        self.sketch = Sketch::new(MAX_CAPACITY);
        self.readers = Readers::default();
        self.follow = self.follow.as_ref().map(|_| Box::default());
        self.hot = Hot::default();
    }

    pub fn choose(&mut self, view: &View<'_>, budget: &Budget) -> Vec<u32> {
        self.report(view.now);
        self.hot.choose(view, budget)
    }

    /// Reports as often as is due by `now`; those that no run reads are left out.
    fn report(&mut self, now: f64) {
        if now < self.next_report {
            return;
        }
        let last = (now / REPORT_SECONDS).floor() * REPORT_SECONDS;
        self.next_report = last + REPORT_SECONDS;
        let runs = ((last - self.first_run) / self.every).ceil().max(0.0);
        if self.first_run + runs * self.every < self.next_report {
            self.hot.keys = self.reported(last);
        }
    }

    fn reported(&self, now: f64) -> Vec<(u32, f64)> {
        let asked = self.sketch.hot(now).into_iter().take(MAX_REPORTED);
        let mut keys: Vec<(u32, f64)> = asked.map(|(key, rate)| (number(&key), rate)).collect();
        if self.seen == Seen::Hints {
            let mut rates: HashMap<u32, f64> = keys.drain(..).collect();
            let read = self.readers.hottest_at(NAMESPACE, MAX_REPORTED, now, 0);
            for one in read {
                if let Ok(key) = one.name.parse::<u32>() {
                    *rates.entry(key).or_default() += one.rate;
                }
            }
            keys = rates.into_iter().collect();
            keys.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        }
        keys.truncate(self.top);
        keys
    }
}

/// A key's name in the sketch.
fn hash(key: u32) -> InputHash {
    let mut name = key::hash_body(&key.to_le_bytes());
    if let Some(start) = name.last_chunk_mut::<4>() {
        *start = key.to_le_bytes();
    }
    name
}

fn number(name: &InputHash) -> u32 {
    name.last_chunk::<4>()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}
