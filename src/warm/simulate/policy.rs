//! Owns what each policy knows, and what it writes next.

use super::{
    hot::{Hot, Knowledge},
    trace::RequestTrace,
    view::{Asked, View},
    world::World,
};
use crate::warm::schedule::Budget;
use std::collections::{BTreeMap, HashMap};

/// How many keys a policy considers.
const MAX_KEYS: usize = 20_000;
/// The period from which a fixed list is made, in seconds.
pub const FIRST_HOUR: f64 = 3_600.0;

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

    /// Why its result says little on a trace.
    pub fn caveat(self, trace: &RequestTrace) -> Option<String> {
        let hours = trace.length / 3_600.0;
        (self == Self::Fixed && trace.length < 2.0 * FIRST_HOUR).then(|| {
            format!("the log is too short for a fixed list, which is made of its first hour: it has {hours:.1} h, expected 2 h at least")
        })
    }
}

/// What a policy knows.
pub(super) enum PolicyState<'a> {
    Idle,
    Fixed {
        counts: HashMap<u32, u32>,
        list: Option<Vec<u32>>,
    },
    /// Keys by the second in which they expire.
    Everything(BTreeMap<u64, Vec<u32>>),
    Heat(Box<Knowledge>),
    Oracle {
        trace: &'a RequestTrace,
        hot: Hot,
    },
}

impl<'a> PolicyState<'a> {
    pub fn new(policy: Policy, trace: &'a RequestTrace, world: &World) -> Self {
        match policy {
            Policy::Nothing | Policy::Clairvoyant => Self::Idle,
            Policy::Fixed => Self::Fixed {
                counts: HashMap::new(),
                list: None,
            },
            Policy::Everything => Self::Everything(BTreeMap::new()),
            Policy::Heat => Self::Heat(Box::new(Knowledge::new(world))),
            Policy::Oracle => Self::Oracle {
                trace,
                hot: Hot::default(),
            },
        }
    }

    /// Notes a request; says which keys are to be refreshed at once, since they probably follow.
    pub fn asked(&mut self, asked: &Asked, world: &World) -> Vec<u32> {
        match self {
            Self::Fixed { counts, list: None } => *counts.entry(asked.key).or_default() += 1,
            Self::Heat(knowledge) => return knowledge.asked(asked, world),
            _ => {}
        }
        Vec::new()
    }

    /// Notes that an entry was written, and when it expires.
    pub fn written(&mut self, key: u32, expires: f64) {
        if let Self::Everything(due) = self {
            due.entry(expires as u64).or_default().push(key);
        }
    }

    /// Workers start anew: what they had in memory is gone.
    pub fn forget(&mut self) {
        if let Self::Heat(knowledge) = self {
            knowledge.forget();
        }
    }

    /// What a run writes, in order, with such a budget.
    pub fn run(&mut self, view: &View<'_>, budget: &Budget) -> Vec<u32> {
        match self {
            Self::Idle => Vec::new(),
            Self::Fixed { counts, list } => {
                if list.is_none() && view.now >= FIRST_HOUR {
                    let mut keys: Vec<(u32, u32)> = counts.drain().collect();
                    keys.sort_by_key(|(key, count)| (std::cmp::Reverse(*count), *key));
                    let keys = keys.into_iter().map(|(key, _)| key);
                    *list = Some(keys.take(MAX_KEYS).collect());
                }
                let room = view.room(0);
                let keys = list.iter().flatten().copied();
                affordable(view, keys.filter(|key| view.is_due(*key)), budget)
                    .take(room)
                    .collect()
            }
            Self::Everything(due) => {
                let until = (view.now + view.world.every) as u64 + 1;
                let later = due.split_off(&until);
                let now = std::mem::replace(due, later);
                let mut wanted = Vec::new();
                for (second, keys) in now {
                    for key in keys {
                        let left = view.entries.left(key, view.now);
                        let until = left.map(|left| (view.now + left) as u64);
                        if until.is_some_and(|until| until != second) {
                            // It was written again since.
                        } else if view.is_due(key) {
                            wanted.push(key);
                        } else {
                            due.entry(second).or_default().push(key);
                        }
                    }
                }
                wanted.truncate(view.room(view.entries.count()));
                wanted
            }
            Self::Heat(knowledge) => knowledge.choose(view, budget),
            Self::Oracle { trace, hot } => {
                hot.refresh(view.now, || {
                    let truth = trace.truth.as_ref();
                    let rates = truth.map(|truth| truth.rates(view.now)).unwrap_or_default();
                    let mut keys: Vec<(u32, f64)> = (0u32..).zip(rates).collect();
                    let worth = |(key, rate): &(u32, f64)| {
                        let candidate = view.world.candidate(*key, *rate, false);
                        candidate.worth().unwrap_or(0.0)
                    };
                    keys.sort_by(|a, b| worth(b).total_cmp(&worth(a)));
                    keys.truncate(MAX_KEYS);
                    keys
                });
                hot.choose(view, budget)
            }
        }
    }
}

/// The keys in their order, as far as the budget goes.
fn affordable<'a>(
    view: &'a View<'a>,
    keys: impl Iterator<Item = u32> + 'a,
    budget: &Budget,
) -> impl Iterator<Item = u32> + 'a {
    let (mut inputs, mut renewals) = (budget.inputs, budget.renewals);
    let mut seconds = budget.model_seconds.unwrap_or(f64::INFINITY);
    keys.filter(move |key| {
        if view.is_known(*key) {
            let enough = renewals > 0;
            renewals = renewals.saturating_sub(1);
            return enough;
        }
        let cost = view.world.cost(*key);
        let enough = inputs > 0 && cost <= seconds + 1e-9;
        if enough {
            inputs -= 1;
            seconds -= cost;
        }
        enough
    })
}
