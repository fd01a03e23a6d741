//! Replays requests against warming policies with the same budget: to choose a TTL and a budget before going live, and to compare
//! the planner with what is possible.
//!
//! The model: an entry expires `ttl` seconds after it was scored; a request for a missing one waits for its score, which is then
//! cached. A policy may score entries in advance, for a share of what scoring every request would cost.

mod policy;
mod rates;
pub mod synthetic;
pub mod trace;

use crate::warm::{plan::Candidate, schedule::Budget};
pub use policy::Policy;
use policy::{PolicyState, View};
use trace::RequestTrace;

/// How often a policy acts, in seconds.
const TICK: f64 = 5.0;
/// How much unspent budget may be saved up, in seconds' worth.
const SAVED_UP: f64 = 60.0;
/// Equal parts of a trace for which shares are counted, for plots.
const PARTS: usize = 96;

/// What a replay simulates.
#[derive(Debug, Clone)]
pub struct World {
    /// TTL of an entry, in seconds.
    pub ttl: f64,
    /// Scoring that warming may do, as a share of what scoring each request would take.
    pub budget: f64,
    /// Seconds of model time that each key costs.
    pub costs: Vec<f64>,
    /// What a reader waits beside the model, in seconds.
    pub round_trip: f64,
}

/// The result of a policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    pub policy: Policy,
    pub requests: u64,
    /// Requests whose entry wasn't there.
    pub waited: u64,
    /// How long they waited in total, in seconds.
    pub waiting: f64,
    /// Entries scored in advance.
    pub warmed: u64,
    /// Model time of these, in seconds.
    pub warming: f64,
    /// Model time of all scoring, in seconds.
    pub model_seconds: f64,
    /// Share of requests that waited, in equal parts of the trace.
    pub parts: Vec<f64>,
}

impl Replay {
    /// Share of requests that waited.
    pub fn waited_share(&self) -> f64 {
        self.waited as f64 / (self.requests.max(1)) as f64
    }

    /// Seconds of waiting saved against `nothing` for each second of model time spent on warming.
    pub fn saved_per_second(&self, nothing: &Self) -> f64 {
        if self.warming > 0.0 {
            (nothing.waiting - self.waiting) / self.warming
        } else {
            0.0
        }
    }
}

/// Replays a trace under a policy. `progress` gets the share that is done.
pub fn replay(
    trace: &RequestTrace,
    world: &World,
    policy: Policy,
    mut progress: impl FnMut(f64),
) -> Replay {
    let mut state = State::new(trace, world, policy);
    let mut next_tick = TICK;
    for (number, &(at, key)) in trace.requests.iter().enumerate() {
        while at >= next_tick {
            state.warm(next_tick);
            next_tick += TICK;
            progress(number as f64 / trace.requests.len() as f64);
        }
        state.ask(at, key);
    }
    state.outcome()
}

/// A replay in progress.
struct State<'a> {
    trace: &'a RequestTrace,
    world: &'a World,
    policy: PolicyState<'a>,
    /// When each key's entry expires.
    expires: Vec<f64>,
    allowance: Allowance,
    outcome: Replay,
    /// Requests, and those that waited, in each part of the trace.
    parts: Vec<(u64, u64)>,
}

/// Model time that warming may still spend, in seconds.
struct Allowance {
    left: f64,
    /// What each request adds.
    income: f64,
    /// What can be saved up.
    max: f64,
}

impl Allowance {
    fn new(trace: &RequestTrace, world: &World) -> Self {
        let mean_cost = world.costs.iter().sum::<f64>() / world.costs.len().max(1) as f64;
        let income = world.budget * mean_cost;
        Self {
            left: 0.0,
            income,
            max: income * trace.requests.len() as f64 / trace.length * SAVED_UP,
        }
    }

    fn earn(&mut self) {
        self.left = (self.left + self.income).min(self.max);
    }

    /// Spends, if there is enough.
    fn spend(&mut self, cost: f64) -> bool {
        let enough = cost <= self.left;
        if enough {
            self.left -= cost;
        }
        enough
    }
}

impl<'a> State<'a> {
    fn new(trace: &'a RequestTrace, world: &'a World, policy: Policy) -> Self {
        Self {
            trace,
            world,
            policy: PolicyState::new(policy, trace),
            expires: vec![f64::NEG_INFINITY; trace.keys],
            allowance: Allowance::new(trace, world),
            outcome: Replay {
                policy,
                requests: trace.requests.len() as u64,
                waited: 0,
                waiting: 0.0,
                warmed: 0,
                warming: 0.0,
                model_seconds: 0.0,
                parts: Vec::new(),
            },
            parts: vec![(0, 0); PARTS],
        }
    }

    /// Lets the policy score entries in advance.
    fn warm(&mut self, now: f64) {
        let view = View {
            now,
            horizon: TICK,
            world: self.world,
            expires: &self.expires,
        };
        for key in self.policy.tick(&view, self.allowance.left) {
            if self.spend(cost(self.world, key)) {
                self.scored(key, now);
            }
        }
    }

    /// Serves a request.
    fn ask(&mut self, at: f64, key: u32) {
        self.allowance.earn();
        let cost = cost(self.world, key);
        let value = 1.0 + self.world.round_trip / cost.max(1e-6);
        self.policy.asked(key, at, value as f32);
        let expires = self.expires.get(key as usize).copied();
        debug_assert!(expires.is_some(), "a trace knows how many keys it names");
        let mut waited = expires.is_none_or(|expires| expires <= at);
        if waited {
            self.scored(key, at);
            // It knew, and scored the entry just before.
            if self.outcome.policy == Policy::Clairvoyant && self.spend(cost) {
                waited = false;
            } else {
                self.outcome.waited += 1;
                self.outcome.waiting += self.world.round_trip + cost;
                self.outcome.model_seconds += cost;
            }
        }
        let part = ((at / self.trace.length * PARTS as f64) as usize).min(PARTS - 1);
        if let Some((all, waits)) = self.parts.get_mut(part) {
            *all += 1;
            *waits += u64::from(waited);
        }
    }

    /// Spends model time on warming, if the budget has it.
    fn spend(&mut self, cost: f64) -> bool {
        let enough = self.allowance.spend(cost);
        if enough {
            self.outcome.warmed += 1;
            self.outcome.warming += cost;
        }
        enough
    }

    fn scored(&mut self, key: u32, at: f64) {
        let until = at + self.world.ttl;
        if let Some(expires) = self.expires.get_mut(key as usize) {
            *expires = until;
        }
        self.policy.scored(key, until);
    }

    fn outcome(self) -> Replay {
        let mut outcome = self.outcome;
        outcome.model_seconds += outcome.warming;
        outcome.parts = self
            .parts
            .into_iter()
            .map(|(all, waits)| waits as f64 / all.max(1) as f64)
            .collect();
        outcome
    }
}

fn cost(world: &World, key: u32) -> f64 {
    world.costs.get(key as usize).copied().unwrap_or_default()
}

/// A key as the planner sees it.
fn candidate(world: &World, key: u32, rate: f64) -> Candidate {
    let cost = cost(world, key);
    Candidate {
        inputs: 1,
        computes: 1,
        rate: Some(rate),
        ttl: world.ttl,
        cost,
        wait: world.round_trip + cost,
        ..Candidate::default()
    }
}

/// The planner's budget, by model time alone.
fn seconds(allowance: f64) -> Budget {
    Budget {
        inputs: usize::MAX,
        model_seconds: Some(allowance),
        ..Budget::default()
    }
}

#[cfg(test)]
mod tests;
