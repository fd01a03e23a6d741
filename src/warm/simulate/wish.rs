//! Finds what to set, TTL, interval and budget, so that no more than a wished share of the requests waits.

use super::{Allowed, Policy, Replay, World, replay, trace::RequestTrace};
use std::collections::HashSet;

/// TTLs that are tried, in seconds.
const TTLS: [f64; 5] = [60.0, 300.0, 3_600.0, 21_600.0, 86_400.0];
/// Intervals that are tried, in seconds.
const INTERVALS: [f64; 2] = [60.0, 300.0];
/// Budgets that are tried, as shares of what scoring each request would take; the first is no warming.
const BUDGETS: [f64; 8] = [0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];

/// Settings with which no more than the wished share waits.
#[derive(Debug, Clone)]
pub struct Settings {
    /// TTL of an entry, in seconds.
    pub ttl: f64,
    /// Seconds from one run to the next; nothing if no warming is needed.
    pub every: Option<f64>,
    /// What warming may compute, as a share of what scoring each request would take.
    pub budget: f64,
    /// The same for each run, as `budget.inputs` and `budget.model_seconds` of a schedule: inputs, and seconds.
    pub inputs: usize,
    pub model_seconds: f64,
    /// What comes of it.
    pub outcome: Replay,
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Advice {
    /// By TTL and interval, each with the smallest budget that does.
    pub fits: Vec<Settings>,
    /// The share that waits with the best of all that was tried.
    pub best: f64,
    /// What of the TTL and the interval that were asked for wasn't tried, and why.
    pub untried: Vec<String>,
    /// Share of requests that are the first for their key: they wait whatever is kept, unless another source than heat knows the key.
    pub first: f64,
}

/// Tries heat with several TTLs, intervals and budgets; what else the world says stays. `progress` gets the share that is done.
pub fn advise(
    trace: &RequestTrace,
    world: &World,
    wish: f64,
    mut progress: impl FnMut(f64),
) -> Advice {
    let distinct: HashSet<u32> = trace.requests.iter().map(|(_, key)| *key).collect();
    let mut advice = Advice {
        fits: Vec::new(),
        best: 1.0,
        untried: untried(trace, world),
        first: distinct.len() as f64 / trace.requests.len().max(1) as f64,
    };
    let ttls = with(&TTLS, world.ttl);
    let intervals = with(&INTERVALS, world.every);
    let all = (ttls.len() * intervals.len()) as f64;
    for (number, ttl) in ttls.iter().enumerate() {
        for (turn, every) in intervals.iter().enumerate() {
            progress((number * intervals.len() + turn) as f64 / all);
            let is_unwarmed = advice
                .fits
                .iter()
                .any(|one| one.ttl == *ttl && one.every.is_none());
            if is_unwarmed || !is_tried(*every, *ttl) || *ttl > max_ttl(trace) {
                continue;
            }
            let tried = World {
                ttl: *ttl,
                ..world.clone()
            };
            let tried = tried.every(*every);
            advice.try_budgets(trace, tried, wish);
        }
    }
    advice
}

impl Advice {
    /// Finds the smallest budget that does: more never makes more wait, but for chance.
    fn try_budgets(&mut self, trace: &RequestTrace, mut world: World, wish: f64) {
        let (mut low, mut high) = (0, BUDGETS.len());
        let mut found = None;
        while low < high {
            // The ends first: mostly one of them decides.
            let middle = if low == 0 && found.is_none() {
                0
            } else {
                (low + high) / 2
            };
            let Some(budget) = BUDGETS.get(middle).copied() else {
                break;
            };
            world.allowed = Allowed::Share(budget);
            let policy = if middle == 0 {
                Policy::Nothing
            } else {
                Policy::Heat
            };
            let outcome = replay(trace, &world, policy, |_| {});
            self.best = self.best.min(outcome.waited_share());
            if outcome.waited_share() > wish {
                low = middle + 1;
                continue;
            }
            high = middle;
            let (inputs, model_seconds) = each_run(trace, &world, budget);
            found = Some(Settings {
                inputs,
                model_seconds,
                ttl: world.ttl,
                every: (middle > 0).then_some(world.every),
                budget,
                outcome,
            });
        }
        self.fits.extend(found);
    }
}

/// What a share of all scoring comes to for each run: inputs, and model time in seconds.
fn each_run(trace: &RequestTrace, world: &World, share: f64) -> (usize, f64) {
    let mean_cost = world.costs.iter().sum::<f64>() / world.costs.len().max(1) as f64;
    let inputs = share * trace.requests.len() as f64 / trace.length * world.every;
    (inputs.ceil() as usize, inputs * mean_cost)
}

/// Whether an interval is tried with a TTL: an entry that lives shorter than two intervals is refreshed in vain.
fn is_tried(every: f64, ttl: f64) -> bool {
    every <= ttl / 2.0
}

/// Longest TTL that is tried: longer than the trace nothing is learnt.
fn max_ttl(trace: &RequestTrace) -> f64 {
    2.0 * trace.length
}

/// What of one's own TTL and interval isn't tried.
fn untried(trace: &RequestTrace, world: &World) -> Vec<String> {
    let (ttl, every, max) = (world.ttl, world.every, max_ttl(trace));
    let mut untried = Vec::new();
    if ttl > max {
        let length = trace.length;
        untried.push(format!(
            "--ttl {ttl} wasn't tried: the log of {length:.0} s tells of TTLs up to {max:.0} s"
        ));
    } else if !is_tried(every, ttl) {
        let half = ttl / 2.0;
        untried.push(format!(
            "--ttl {ttl} wasn't tried with --every {every}: a run is to come twice in an entry's life, every {half} s or oftener"
        ));
    }
    let ttls = with(&TTLS, ttl);
    if !ttls.iter().any(|ttl| *ttl <= max && is_tried(every, *ttl)) {
        untried.push(format!(
            "--every {every} wasn't tried: no TTL that the log tells of is twice as long"
        ));
    }
    untried
}

/// The usual values with one's own, in order.
fn with(usual: &[f64], own: f64) -> Vec<f64> {
    let mut all: Vec<f64> = usual.iter().copied().chain([own]).collect();
    all.sort_by(f64::total_cmp);
    all.dedup();
    all
}
