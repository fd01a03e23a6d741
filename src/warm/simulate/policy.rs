//! Owns what each policy knows, and what it scores next.

use super::{World, candidate, cost, seconds, trace::RequestTrace};
use crate::{
    heat::sketch::{CAPACITY, Sketch},
    warm::plan::{self, MemoryRoom},
};
use kiln_contract::key::{self, InputHash};
use rand::{SeedableRng, rngs::StdRng};
use std::collections::{BTreeMap, HashMap};

/// How long rates are used before they are read again, in seconds.
const REFRESH_SECONDS: f64 = 10.0;
/// How many keys a policy considers.
const MAX_KEYS: usize = 20_000;
/// The period from which a fixed list is made, in seconds.
const FIRST_HOUR: f64 = 3_600.0;

/// Ways to choose what to warm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// No warming.
    Nothing,
    /// The most requested keys of the first hour, refreshed whenever they expire.
    Fixed,
    /// Whatever expires is refreshed, as long as the budget lasts.
    Everything,
    /// Kiln's: by request rates as its own sketch estimates them.
    Heat,
    /// Kiln's planner with the true rates.
    Oracle,
    /// Knows every request in advance.
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

    /// Its name in output.
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
pub(super) enum PolicyState<'a> {
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
        trace: &'a RequestTrace,
        hot: Hot,
    },
}

/// Keys with their rates, as last read.
#[derive(Default)]
pub(super) struct Hot {
    keys: Vec<(u32, f64)>,
    good_until: f64,
}

impl<'a> PolicyState<'a> {
    pub fn new(policy: Policy, trace: &'a RequestTrace) -> Self {
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

    /// Notes a request.
    pub fn asked(&mut self, key: u32, at: f64, value: f32) {
        match self {
            Self::Fixed { counts, list: None } => *counts.entry(key).or_default() += 1,
            Self::Heat { sketch, rng, .. } => sketch.add(&name(key), 1.0, value, at, rng),
            _ => {}
        }
    }

    /// Notes that an entry was scored, and when it expires.
    pub fn scored(&mut self, key: u32, expires: f64) {
        if let Self::Everything(due) = self {
            due.entry(expires as u64).or_default().push(key);
        }
    }

    /// What to score now, in order.
    pub fn tick(&mut self, view: &View<'_>, allowance: f64) -> Vec<u32> {
        match self {
            Self::Idle => Vec::new(),
            Self::Fixed { counts, list } => {
                if list.is_none() && view.now >= FIRST_HOUR {
                    let mut keys: Vec<(u32, u32)> = counts.drain().collect();
                    keys.sort_by_key(|(key, count)| (std::cmp::Reverse(*count), *key));
                    *list = Some(
                        keys.into_iter()
                            .map(|(key, _)| key)
                            .take(MAX_KEYS)
                            .collect(),
                    );
                }
                let keys = list.iter().flatten().copied();
                let mut left = allowance;
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
                hot.choose(view, allowance)
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
                    keys.truncate(MAX_KEYS);
                    keys
                });
                hot.choose(view, allowance)
            }
        }
    }
}

impl Hot {
    fn refresh(&mut self, now: f64, rates: impl FnOnce() -> Vec<(u32, f64)>) {
        if now >= self.good_until - 1e-6 {
            self.keys = rates();
            self.good_until = now + REFRESH_SECONDS;
        }
    }

    /// Chooses with the planner that real runs use.
    fn choose(&self, view: &View<'_>, allowance: f64) -> Vec<u32> {
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
        let choice = plan::choose(&candidates, &seconds(allowance), MemoryRoom::UNKNOWN);
        let chosen = choice.chosen.into_iter();
        chosen
            .filter_map(|index| due.get(index).map(|(key, _)| *key))
            .collect()
    }
}

impl View<'_> {
    /// Whether a key's entry expires before the policy acts again.
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
