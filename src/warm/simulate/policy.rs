//! Owns what each policy knows and what it would score next.

use super::{World, candidate, cost, seconds, trace::Trace};
use crate::{
    heat::sketch::{CAPACITY, Sketch},
    key::{self, InputHash},
    warm::plan,
};
use rand::{SeedableRng, rngs::StdRng};
use std::collections::{BTreeMap, HashMap};

/// How long a look at all rates is good for, in seconds.
const LOOK: f64 = 10.0;
/// Keys of which a policy looks at the rate.
const LOOKED_AT: usize = 20_000;
/// What a fixed list is made of, in seconds.
const FIRST_HOUR: f64 = 3_600.0;

/// Ways to choose what to have ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// No warming.
    Nothing,
    /// What was asked for most in the first hour, refreshed whenever it expires.
    Fixed,
    /// Whatever expires is refreshed, as long as the budget lasts.
    Everything,
    /// Kiln's: by how fast keys are asked for, as its own sketch tells.
    Heat,
    /// Kiln's planner, told the true rates.
    Oracle,
    /// Knows every request beforehand.
    Clairvoyant,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 6] = [
        Self::Nothing,
        Self::Fixed,
        Self::Everything,
        Self::Heat,
        Self::Oracle,
        Self::Clairvoyant,
    ];

    /// As people and scripts read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Fixed => "fixed list",
            Self::Everything => "everything",
            Self::Heat => "heat",
            Self::Oracle => "oracle",
            Self::Clairvoyant => "clairvoyant",
        }
    }
}

/// What a policy sees when it acts.
pub(super) struct View<'a> {
    pub now: f64,
    /// How long until it acts again, in seconds.
    pub horizon: f64,
    pub world: &'a World,
    pub expires: &'a [f64],
}

/// What a policy knows.
pub(super) enum Mind<'a> {
    Idle,
    Fixed {
        counts: HashMap<u32, u32>,
        list: Option<Vec<u32>>,
    },
    /// Keys by the tick in which they expire.
    Everything(BTreeMap<u64, Vec<u32>>),
    Heat {
        sketch: Box<Sketch>,
        rng: Box<StdRng>,
        hot: Hot,
    },
    Oracle {
        trace: &'a Trace,
        hot: Hot,
    },
}

/// Keys with their rates, as of a moment ago.
#[derive(Default)]
pub(super) struct Hot {
    keys: Vec<(u32, f64)>,
    good_until: f64,
}

impl<'a> Mind<'a> {
    pub fn new(policy: Policy, trace: &'a Trace, _world: &World) -> Self {
        match policy {
            Policy::Nothing | Policy::Clairvoyant => Self::Idle,
            Policy::Fixed => Self::Fixed {
                counts: HashMap::new(),
                list: None,
            },
            Policy::Everything => Self::Everything(BTreeMap::new()),
            Policy::Heat => Self::Heat {
                sketch: Box::new(Sketch::new(CAPACITY)),
                rng: Box::new(StdRng::seed_from_u64(1)),
                hot: Hot::default(),
            },
            Policy::Oracle => Self::Oracle {
                trace,
                hot: Hot::default(),
            },
        }
    }

    /// Hears of a request.
    pub fn asked(&mut self, key: u32, at: f64, value: f32) {
        match self {
            Self::Fixed { counts, list: None } => *counts.entry(key).or_default() += 1,
            Self::Heat { sketch, rng, .. } => sketch.add(&name(key), 1.0, value, at, rng),
            _ => {}
        }
    }

    /// Hears that an entry was made, and until when it lives.
    pub fn scored(&mut self, key: u32, expires: f64) {
        if let Self::Everything(due) = self {
            due.entry(expires as u64).or_default().push(key);
        }
    }

    /// What it would score now, in order.
    pub fn tick(&mut self, view: &View<'_>, purse: f64) -> Vec<u32> {
        match self {
            Self::Idle => Vec::new(),
            Self::Fixed { counts, list } => {
                if list.is_none() && view.now >= FIRST_HOUR {
                    let mut keys: Vec<(u32, u32)> = counts.drain().collect();
                    keys.sort_by_key(|(key, count)| (std::cmp::Reverse(*count), *key));
                    *list = Some(
                        keys.into_iter()
                            .map(|(key, _)| key)
                            .take(LOOKED_AT)
                            .collect(),
                    );
                }
                let keys = list.iter().flatten().copied();
                let mut left = purse;
                keys.filter(|key| view.is_due(*key))
                    .take_while(|key| {
                        left -= cost(view.world, *key);
                        left >= 0.0
                    })
                    .collect()
            }
            Self::Everything(due) => {
                let later = due.split_off(&((view.now + view.horizon) as u64 + 1));
                let now = std::mem::replace(due, later);
                now.into_values()
                    .flatten()
                    .filter(|key| view.is_due(*key))
                    .collect()
            }
            Self::Heat { sketch, hot, .. } => {
                hot.refresh(view.now, || {
                    sketch
                        .hot(view.now)
                        .into_iter()
                        .map(|(key, rate)| (number(&key), rate))
                        .collect()
                });
                hot.choose(view, purse)
            }
            Self::Oracle { trace, hot } => {
                hot.refresh(view.now, || {
                    let rates = trace
                        .truth
                        .as_ref()
                        .map(|truth| truth.rates(view.now))
                        .unwrap_or_default();
                    let mut keys: Vec<(u32, f64)> = (0u32..).zip(rates).collect();
                    let worth = |(key, rate): &(u32, f64)| {
                        candidate(view.world, *key, *rate).worth().unwrap_or(0.0)
                    };
                    keys.sort_by(|a, b| worth(b).total_cmp(&worth(a)));
                    keys.truncate(LOOKED_AT);
                    keys
                });
                hot.choose(view, purse)
            }
        }
    }
}

impl Hot {
    fn refresh(&mut self, now: f64, look: impl FnOnce() -> Vec<(u32, f64)>) {
        if now >= self.good_until - 1e-6 {
            self.keys = look();
            self.good_until = now + LOOK;
        }
    }

    /// By the planner that runs use.
    fn choose(&self, view: &View<'_>, purse: f64) -> Vec<u32> {
        let due: Vec<(u32, f64)> = self
            .keys
            .iter()
            .filter(|(key, _)| view.is_due(*key))
            .copied()
            .collect();
        let candidates: Vec<plan::Candidate> = due
            .iter()
            .map(|(key, rate)| candidate(view.world, *key, *rate))
            .collect();
        plan::choose(&candidates, &seconds(purse))
            .into_iter()
            .filter_map(|index| due.get(index).map(|(key, _)| *key))
            .collect()
    }
}

impl View<'_> {
    /// Whether a key's entry doesn't outlive the next time to act.
    fn is_due(&self, key: u32) -> bool {
        let left = self
            .expires
            .get(key as usize)
            .map(|at| at - self.now)
            .filter(|left| *left > 0.0);
        !plan::is_fresh(left, self.horizon, 0.0, 1.0)
    }
}

/// A key's name in the sketch.
fn name(key: u32) -> InputHash {
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
