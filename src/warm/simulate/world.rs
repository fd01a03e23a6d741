//! Owns what a replay takes for given: entries, costs, budgets, runs, and what workers get to see of the requests.

use crate::warm::{
    plan::Candidate,
    schedule::{Budget, Missed},
};

/// What warming may compute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Allowed {
    /// A share of what scoring each request would take, saved up for a minute at most, or until the next run.
    Share(f64),
    /// A budget for each run, as a schedule has it.
    Run(Budget),
}

/// What is refreshed without the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Renewals {
    /// Whatever was scored before: the score is in the table.
    #[default]
    Stored,
    /// What is still in Redis.
    Cached,
    /// Nothing: how policies compare if each refresh costs model time.
    None,
}

/// What workers see of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Seen {
    /// Each request is a job.
    #[default]
    Jobs,
    /// Readers look in Redis and give hints; a job is posted for what isn't there.
    Hints,
    /// Readers look in Redis; only jobs for what isn't there are seen.
    Misses,
}

/// What a replay simulates.
#[derive(Debug, Clone)]
pub struct World {
    /// TTL of an entry, in seconds.
    pub ttl: f64,
    /// By what share of it a TTL is shortened at most, at random.
    pub ttl_spread: f64,
    pub allowed: Allowed,
    pub renewals: Renewals,
    pub seen: Seen,
    /// Seconds from one run to the next, and to the first.
    pub every: f64,
    pub first_run: f64,
    /// How long after its due time a run's entries are there, in seconds.
    pub run_seconds: f64,
    /// How many of the hottest inputs a run considers.
    pub top: usize,
    /// Whether what probably follows a request is refreshed at once.
    pub follow: bool,
    /// Entries that warming may keep in Redis.
    pub max_entries: Option<usize>,
    /// When no worker is up, in seconds since the trace began.
    pub outage: Option<(f64, f64)>,
    /// What happens to runs that came due then.
    pub missed: Missed,
    /// Seconds of model time that each key costs.
    pub costs: Vec<f64>,
    /// What a reader waits beside the model, in seconds.
    pub round_trip: f64,
}

impl World {
    /// How often a run is due if nothing else is said, in seconds.
    pub const EVERY: f64 = 5.0;
    /// How many of the hottest inputs a run considers if nothing else is said.
    pub const TOP: usize = crate::heat::sketch::MAX_CAPACITY;

    /// Entries that live so long and keys that cost so much, a twentieth of them computed in advance.
    pub fn new(ttl: f64, costs: Vec<f64>) -> Self {
        Self {
            ttl,
            ttl_spread: 0.0,
            allowed: Allowed::Share(0.05),
            renewals: Renewals::default(),
            seen: Seen::default(),
            every: Self::EVERY,
            first_run: Self::EVERY,
            run_seconds: 0.0,
            top: Self::TOP,
            follow: false,
            max_entries: None,
            outage: None,
            missed: Missed::default(),
            costs,
            round_trip: 0.003,
        }
    }

    /// With runs that are due every so many seconds.
    pub fn every(self, every: f64) -> Self {
        Self {
            every,
            first_run: every,
            ..self
        }
    }

    /// Whether no worker is up.
    pub(super) fn is_down(&self, at: f64) -> bool {
        self.outage.is_some_and(|(from, to)| at >= from && at < to)
    }

    /// Model time that a key costs, in seconds.
    pub(super) fn cost(&self, key: u32) -> f64 {
        self.costs.get(key as usize).copied().unwrap_or_default()
    }

    /// What a hit on a key saves, for what it costs.
    pub(super) fn value(&self, key: u32) -> f32 {
        (1.0 + self.round_trip / self.cost(key).max(1e-6)) as f32
    }

    /// A key as the planner sees it.
    pub(super) fn candidate(&self, key: u32, rate: f64, is_known: bool) -> Candidate {
        let cost = self.cost(key);
        Candidate {
            inputs: 1,
            computes: usize::from(!is_known),
            rate: Some(rate),
            ttl: self.ttl,
            cost: if is_known { 0.0 } else { cost },
            wait: self.round_trip + cost,
            bytes: 1.0,
            adds: 0.0,
        }
    }
}
