//! Replays requests against warming policies with the same budget: to choose a TTL, an interval and a budget before going live, and to
//! compare the planner with what is possible.
//!
//! The model: an entry expires `ttl` seconds after it was written; a request for a missing one waits for its score, which is then
//! cached. Runs, `every` so many seconds, write entries in advance: those whose scores are known for nothing but memory, the others
//! for model time, of which a budget is set. What runs know of the requests is what workers would.

mod allowance;
mod entries;
mod hot;
pub mod log;
mod policy;
mod rates;
pub mod synthetic;
pub mod trace;
mod view;
pub mod wish;
mod world;

use crate::warm::schedule::Missed;
use allowance::Allowance;
use entries::Entries;
pub use policy::Policy;
use policy::PolicyState;
use rand::{SeedableRng, rngs::StdRng};
use std::{cell::RefCell, collections::VecDeque};
use trace::RequestTrace;
use view::{Asked, View};
pub use world::{Allowed, Renewals, Seen, World};

/// Equal parts of a trace for which shares are counted, for plots.
const PARTS: usize = 96;
/// What follows a request is asked for within so many seconds.
const FOLLOWS_WITHIN: f64 = 1.0;
/// Runs that are made up for at once after an outage.
const MAX_MISSED: usize = 1_000;

/// The result of a policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    pub policy: Policy,
    pub requests: u64,
    /// Requests whose entry wasn't there.
    pub waited: u64,
    /// The same in the second half of the trace, when policies know what is asked for, and all requests then.
    pub waited_later: u64,
    pub requests_later: u64,
    /// How long they waited in total, in seconds.
    pub waiting: f64,
    /// Entries computed in advance.
    pub warmed: u64,
    /// Entries renewed without the model.
    pub renewed: u64,
    /// Model time of these, in seconds.
    pub warming: f64,
    /// Model time of all scoring, in seconds.
    pub model_seconds: f64,
    /// The largest number of entries at once.
    pub entries: usize,
    /// Share of requests that waited, in equal parts of the trace.
    pub parts: Vec<f64>,
}

impl Replay {
    /// Share of requests that waited.
    pub fn waited_share(&self) -> f64 {
        self.waited as f64 / self.requests.max(1) as f64
    }

    /// Share of requests that waited in the second half.
    pub fn waited_share_later(&self) -> f64 {
        self.waited_later as f64 / self.requests_later.max(1) as f64
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
    for (number, &(at, key)) in trace.requests.iter().enumerate() {
        if state.advance(at) {
            progress(number as f64 / trace.requests.len() as f64);
        }
        state.ask(number, at, key);
    }
    state.outcome()
}

/// A replay in progress.
struct State<'a> {
    trace: &'a RequestTrace,
    world: &'a World,
    policy: PolicyState<'a>,
    entries: Entries,
    /// What runs have written that isn't there yet: when it will be, and the key.
    written: VecDeque<(f64, u32)>,
    allowance: Allowance,
    next_run: f64,
    draws: RefCell<StdRng>,
    /// Runs that came due while no worker was up.
    missed: usize,
    was_down: bool,
    outcome: Replay,
    /// Requests, and those that waited, in each part of the trace.
    parts: Vec<(u64, u64)>,
}

impl<'a> State<'a> {
    fn new(trace: &'a RequestTrace, world: &'a World, policy: Policy) -> Self {
        Self {
            trace,
            world,
            policy: PolicyState::new(policy, trace, world),
            entries: Entries::new(trace.keys, world),
            written: VecDeque::new(),
            allowance: Allowance::new(trace, world),
            next_run: world.first_run,
            draws: RefCell::new(StdRng::seed_from_u64(3)),
            missed: 0,
            was_down: false,
            outcome: Replay {
                policy,
                requests: trace.requests.len() as u64,
                waited: 0,
                waited_later: 0,
                requests_later: 0,
                waiting: 0.0,
                warmed: 0,
                renewed: 0,
                warming: 0.0,
                model_seconds: 0.0,
                entries: 0,
                parts: Vec::new(),
            },
            parts: vec![(0, 0); PARTS],
        }
    }

    /// Everything that happens until `at`. Says whether a run was due.
    fn advance(&mut self, at: f64) -> bool {
        let mut ran = false;
        while self.next_run <= at {
            let now = self.next_run;
            self.next_run += self.world.every;
            ran = true;
            self.arrive(now);
            if self.world.is_down(now) {
                self.missed += 1;
                if !std::mem::replace(&mut self.was_down, true) {
                    self.policy.forget();
                }
                continue;
            }
            self.was_down = false;
            let late = match self.world.missed {
                Missed::Skip | Missed::Once => 0,
                Missed::All => self.missed.min(MAX_MISSED),
            };
            // A run that is late is followed by the one that is due now; one of both is enough.
            self.missed = 0;
            for _ in 0..=late {
                self.run(now);
            }
        }
        self.arrive(at);
        ran
    }

    /// Entries that runs have written come to be there.
    fn arrive(&mut self, now: f64) {
        while let Some((at, key)) = self.written.pop_front_if(|(at, _)| *at <= now) {
            self.write(key, at, 0.0);
        }
    }

    /// One run: lets the policy refresh entries.
    fn run(&mut self, now: f64) {
        let view = View {
            now,
            world: self.world,
            entries: &self.entries,
            draws: &self.draws,
        };
        for key in self.policy.run(&view, &self.allowance.budget()) {
            if self.refresh(key, now) {
                self.written.push_back((now + self.world.run_seconds, key));
            }
        }
        self.allowance.refill();
    }

    /// Serves a request.
    fn ask(&mut self, number: usize, at: f64, key: u32) {
        self.allowance.earn();
        let is_down = self.world.is_down(at);
        let is_coming = self.entries.is_coming(key, at);
        let mut waited = is_coming || !self.entries.is_there(key, at);
        if is_coming {
            // Whoever asked before has had it scored; both wait.
            self.outcome.waited += 1;
            self.outcome.waiting += self.world.round_trip + self.world.cost(key);
        } else if waited {
            // It knew, and wrote the entry just before.
            let cost = self.world.cost(key);
            if self.outcome.policy == Policy::Clairvoyant && !is_down && self.refresh(key, at) {
                waited = false;
            } else {
                self.outcome.waited += 1;
                self.outcome.waiting += self.world.round_trip + cost;
                self.outcome.model_seconds += if is_down { 0.0 } else { cost };
            }
            if !is_down {
                let after = if waited {
                    self.world.round_trip + cost
                } else {
                    0.0
                };
                self.write(key, at, after);
            }
        }
        if !is_down {
            let asked = Asked {
                key,
                at,
                waited,
                session: self.trace.session(number),
            };
            for next in self.policy.asked(&asked, self.world) {
                self.follow(next, at);
            }
        }
        self.count(at, waited);
    }

    /// Refreshes what probably comes next, if it isn't there or won't be.
    fn follow(&mut self, key: u32, now: f64) {
        let is_there = self
            .entries
            .left(key, now)
            .is_some_and(|left| left > FOLLOWS_WITHIN);
        if !is_there && !self.entries.is_coming(key, now) && self.refresh_ahead(key, now) {
            self.write(key, now, self.world.cost(key));
        }
    }

    fn count(&mut self, at: f64, waited: bool) {
        if at >= self.trace.length / 2.0 {
            self.outcome.requests_later += 1;
            self.outcome.waited_later += u64::from(waited);
        }
        let part = ((at / self.trace.length * PARTS as f64) as usize).min(PARTS - 1);
        if let Some((all, waits)) = self.parts.get_mut(part) {
            *all += 1;
            *waits += u64::from(waited);
        }
    }

    /// Refreshes an entry: for nothing if its score is known, else if the budget has it.
    fn refresh(&mut self, key: u32, now: f64) -> bool {
        let cost = self.cost(key, now);
        let enough = match cost {
            None => self.allowance.renew(),
            Some(cost) => self.allowance.spend(cost),
        };
        self.refreshed(cost, enough)
    }

    /// The same of what probably comes next.
    fn refresh_ahead(&mut self, key: u32, now: f64) -> bool {
        let cost = self.cost(key, now);
        let enough = self.allowance.spend_ahead(cost);
        self.refreshed(cost, enough)
    }

    /// Model time that a refresh takes, in seconds; nothing if its score is known.
    fn cost(&self, key: u32, now: f64) -> Option<f64> {
        let is_known = self.entries.is_known(key, now, self.world);
        (!is_known).then(|| self.world.cost(key))
    }

    fn refreshed(&mut self, cost: Option<f64>, enough: bool) -> bool {
        match cost {
            _ if !enough => {}
            None => self.outcome.renewed += 1,
            Some(cost) => {
                self.outcome.warmed += 1;
                self.outcome.warming += cost;
            }
        }
        enough
    }

    /// Writes an entry that is there after so many seconds.
    fn write(&mut self, key: u32, at: f64, after: f64) {
        let until = self.entries.write(key, at, after);
        self.policy.written(key, until);
    }

    fn outcome(self) -> Replay {
        let mut outcome = self.outcome;
        outcome.model_seconds += outcome.warming;
        outcome.entries = self.entries.peak();
        outcome.parts = self
            .parts
            .into_iter()
            .map(|(all, waits)| waits as f64 / all.max(1) as f64)
            .collect();
        outcome
    }
}

#[cfg(test)]
mod tests;
