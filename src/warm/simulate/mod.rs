//! Replays requests against policies of warming, at the same budget: how a user chooses a life and a budget before going
//! live, and how the planner is held against what is possible.
//!
//! The world: an entry lives `ttl` seconds from when it was scored; a request for one that isn't there waits for its score,
//! which is then kept. A policy may score entries beforehand, for a share of what scoring every request would cost.

mod policy;
pub mod trace;

use crate::warm::{plan::Candidate, schedule::Budget};
pub use policy::Policy;
use policy::{Mind, View};
use trace::Trace;

/// How often a policy acts, in seconds.
const TICK: f64 = 5.0;
/// How long a budget that isn't spent may be saved up, in seconds.
const SAVED_UP: f64 = 60.0;
/// Parts of a trace in which shares are counted, for plots.
const PARTS: usize = 96;

/// What one replay is about.
#[derive(Debug, Clone)]
pub struct World {
    /// Life of an entry, in seconds.
    pub ttl: f64,
    /// Scoring that warming may do, as a share of what scoring each request would take.
    pub budget: f64,
    /// Seconds of model time that each key costs.
    pub costs: Vec<f64>,
    /// What a reader waits beside the model, in seconds.
    pub round_trip: f64,
}

/// How a policy did.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub policy: Policy,
    pub requests: u64,
    /// Requests whose entry wasn't there.
    pub waited: u64,
    /// How long they waited together, in seconds.
    pub waiting: f64,
    /// Entries scored beforehand.
    pub warmed: u64,
    /// Model time of that, in seconds.
    pub warming: f64,
    /// Model time of all, in seconds.
    pub model_seconds: f64,
    /// Share of requests that waited, in equal parts of the trace.
    pub parts: Vec<f64>,
}

impl Outcome {
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

/// Replays a trace under a policy. `progress` hears of the share that is through.
pub fn replay(
    trace: &Trace,
    world: &World,
    policy: Policy,
    mut progress: impl FnMut(f64),
) -> Outcome {
    let mut mind = Mind::new(policy, trace, world);
    let mut expires = vec![f64::NEG_INFINITY; trace.keys];
    let mean_cost = world.costs.iter().sum::<f64>() / world.costs.len().max(1) as f64;
    let income = world.budget * mean_cost;
    let most = income * trace.requests.len() as f64 / trace.length * SAVED_UP;
    let mut purse = 0.0f64;
    let mut next_tick = TICK;
    let mut outcome = Outcome {
        policy,
        requests: trace.requests.len() as u64,
        waited: 0,
        waiting: 0.0,
        warmed: 0,
        warming: 0.0,
        model_seconds: 0.0,
        parts: Vec::new(),
    };
    let mut parts = vec![(0u64, 0u64); PARTS];
    for (number, &(at, key)) in trace.requests.iter().enumerate() {
        while at >= next_tick {
            let view = View {
                now: next_tick,
                horizon: TICK,
                world,
                expires: &expires,
            };
            for chosen in mind.tick(&view, purse) {
                let cost = cost(world, chosen);
                if cost > purse {
                    continue;
                }
                purse -= cost;
                outcome.warmed += 1;
                outcome.warming += cost;
                if let Some(expires) = expires.get_mut(chosen as usize) {
                    *expires = next_tick + world.ttl;
                }
                mind.scored(chosen, next_tick + world.ttl);
            }
            next_tick += TICK;
            progress(number as f64 / trace.requests.len() as f64);
        }
        purse = (purse + income).min(most);
        let value = 1.0 + world.round_trip / cost(world, key).max(1e-6);
        mind.asked(key, at, value as f32);
        let Some(expires) = expires.get_mut(key as usize) else {
            continue;
        };
        let part = ((at / trace.length * PARTS as f64) as usize).min(PARTS - 1);
        let mut waited = *expires <= at;
        if waited {
            let cost = cost(world, key);
            *expires = at + world.ttl;
            mind.scored(key, *expires);
            if policy == Policy::Clairvoyant && cost <= purse {
                // It knew, and scored it the moment before.
                purse -= cost;
                outcome.warmed += 1;
                outcome.warming += cost;
                waited = false;
            } else {
                outcome.waited += 1;
                outcome.waiting += world.round_trip + cost;
                outcome.model_seconds += cost;
            }
        }
        if let Some((all, waits)) = parts.get_mut(part) {
            *all += 1;
            *waits += u64::from(waited);
        }
    }
    outcome.model_seconds += outcome.warming;
    outcome.parts = parts
        .into_iter()
        .map(|(all, waits)| waits as f64 / all.max(1) as f64)
        .collect();
    outcome
}

fn cost(world: &World, key: u32) -> f64 {
    world.costs.get(key as usize).copied().unwrap_or_default()
}

/// What the planner is given of a key.
fn candidate(world: &World, key: u32, rate: f64) -> Candidate {
    let cost = cost(world, key);
    Candidate {
        inputs: 1,
        rate: Some(rate),
        ttl: world.ttl,
        cost,
        wait: world.round_trip + cost,
    }
}

/// The planner's budget where only model time counts.
fn seconds(purse: f64) -> Budget {
    Budget {
        inputs: usize::MAX,
        model_seconds: Some(purse),
    }
}

#[cfg(test)]
mod tests;
