//! Decides which of a run's candidates are worth their cost, and in which order. Pure.
//!
//! Two kinds of cost. What must be computed takes model time, and is ordered by the waiting that it is expected to save per second of
//! it. What is only renewed, because its score is known, takes memory and a write: it is ordered by the waiting saved per byte that it
//! keeps. An entry with a TTL of `T` seconds and `λ` requests per second is missed once every `T + 1/λ` seconds if nobody refreshes it, and
//! never if it is refreshed in time. So each refresh, one every `T` seconds, saves `λT / (1 + λT)` misses.
//!
//! When: an entry that outlives the next run can wait for it. Those that expire soon after are refreshed early with a
//! probability that rises towards the end, so that entries don't expire all at once (XFetch: Vattani, Chierichetti, Lowenstein:
//! "Optimal probabilistic cache stampede prevention", PVLDB 8, 2015).

use super::schedule::Budget;

/// Misses that one refresh saves, for an entry with a TTL of `ttl` seconds and `rate` requests per second.
pub fn misses_saved(rate: f64, ttl: f64) -> f64 {
    let asked = rate.max(0.0) * ttl.max(0.0);
    asked / (1.0 + asked)
}

/// Whether an entry with `left` seconds to live can wait for the next run, in `next` seconds.
///
/// `spread` is how long a refresh takes, in seconds, and `random` a number within 0 to 1.
pub fn is_fresh(left: Option<f64>, next: f64, spread: f64, random: f64) -> bool {
    let early = spread * -random.clamp(f64::MIN_POSITIVE, 1.0).ln();
    left.is_some_and(|left| left > next + early)
}

/// One input, or one ranking, that a run may refresh.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Candidate {
    /// How many inputs it has.
    pub inputs: usize,
    /// Those of them that the model must compute: the scores of the others are known.
    pub computes: usize,
    /// Requests per second, if known.
    pub rate: Option<f64>,
    /// TTL of its entry, in seconds.
    pub ttl: f64,
    /// Model time that it costs, in seconds; 0 if nothing is to be computed.
    pub cost: f64,
    /// How long one reader who misses it waits, in seconds.
    pub wait: f64,
    /// Memory that its entries fill in Redis, in bytes.
    pub bytes: f64,
    /// Those of them that aren't filled yet.
    pub adds: f64,
}

impl Candidate {
    /// Waiting time that its refresh saves, in seconds.
    pub fn saves(&self) -> Option<f64> {
        Some(misses_saved(self.rate?, self.ttl) * self.wait)
    }

    /// What is computed is ordered by: seconds of waiting saved per second of model time.
    pub fn worth(&self) -> Option<f64> {
        // Without model time there is still a round trip; the floor avoids a division by zero.
        Some(self.saves()? / self.cost.max(1e-6))
    }

    /// What is kept is ordered by: seconds of waiting saved per byte of memory.
    pub fn worth_per_byte(&self) -> Option<f64> {
        Some(self.saves()? / self.bytes.max(1.0))
    }

    fn renewed(&self) -> usize {
        self.inputs.saturating_sub(self.computes)
    }
}

/// What Redis says of its memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RedisMemory {
    pub used: f64,
    /// What it may use: its `maxmemory`, or all that its machine has.
    pub max: f64,
    /// Whether it makes room by itself where there is none.
    pub makes_room: bool,
    /// Whether it has done so since the last run.
    pub evicts: bool,
}

/// Share of its memory up to which a Redis that doesn't make room by itself is filled: beyond, others' writes fail.
const BRIM: f64 = 0.95;
/// While Redis evicts, warming keeps so much of what it may keep otherwise.
const WHILE_EVICTING: f64 = 0.5;

/// What a run's entries may fill of Redis, in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MemoryRoom {
    /// In total.
    pub keeps: f64,
    /// In addition to what they fill now.
    pub adds: f64,
}

impl MemoryRoom {
    /// No bound is known.
    pub const UNKNOWN: Self = Self {
        keeps: f64::INFINITY,
        adds: f64::INFINITY,
    };
}

impl RedisMemory {
    /// What all that warming keeps may fill, if that is a `share` of it, in bytes.
    pub fn total(&self, share: f64) -> f64 {
        let limited = if self.evicts { WHILE_EVICTING } else { 1.0 };
        self.max * share * limited
    }

    /// What a run may fill, if all that warming keeps may fill a `share` of it, and so many bytes are kept already: by other schedules,
    /// and by what the run leaves because it is fresh.
    pub fn room(&self, share: f64, kept: f64) -> MemoryRoom {
        let keeps = (self.total(share) - kept).max(0.0);
        let adds = if self.makes_room {
            keeps
        } else {
            (self.max * BRIM - self.used).max(0.0)
        };
        MemoryRoom { keeps, adds }
    }
}

/// What was chosen, and what was left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Choice {
    /// The candidates to refresh by their numbers, in order: what is only renewed comes first.
    pub chosen: Vec<usize>,
    pub left: LeftOver,
}

/// Inputs of candidates that were left out, by what they didn't fit into.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOver {
    /// The inputs, or the model time, that may be computed.
    pub compute: usize,
    /// The inputs that may be renewed.
    pub renewals: usize,
    /// The memory that may be filled.
    pub memory: usize,
}

impl LeftOver {
    /// Adds what was left out elsewhere.
    pub fn add(&mut self, other: Self) {
        self.compute += other.compute;
        self.renewals += other.renewals;
        self.memory += other.memory;
    }

    /// All inputs that were left out.
    pub fn inputs(&self) -> usize {
        self.compute + self.renewals + self.memory
    }
}

/// What is left of both budgets.
struct Room {
    inputs: usize,
    seconds: f64,
    renewals: usize,
    memory: MemoryRoom,
}

/// A sum of what was taken may miss the budget's last bit.
const ROUNDING: f64 = 1e-9;

impl Room {
    fn new(budget: &Budget, memory: MemoryRoom) -> Self {
        Self {
            inputs: budget.inputs,
            seconds: budget.model_seconds.unwrap_or(f64::INFINITY),
            renewals: budget.renewals,
            memory,
        }
    }

    fn may_compute(&self, one: &Candidate) -> bool {
        one.computes == 0 || (one.computes <= self.inputs && one.cost <= self.seconds + ROUNDING)
    }

    fn may_renew(&self, one: &Candidate) -> bool {
        one.renewed() <= self.renewals
    }

    fn holds(&self, one: &Candidate) -> bool {
        one.bytes <= self.memory.keeps && one.adds <= self.memory.adds
    }

    fn take(&mut self, one: &Candidate) {
        self.inputs = self.inputs.saturating_sub(one.computes);
        self.seconds -= one.cost;
        self.renewals = self.renewals.saturating_sub(one.renewed());
        self.memory.keeps -= one.bytes;
        self.memory.adds -= one.adds;
    }
}

/// The candidates to refresh, in order, within the budget and the memory. What is computed is taken by its worth per second of model time,
/// and then all that would be kept by its worth per byte; those without a known rate come last, in their order. One that doesn't fit is
/// left out, and smaller ones after it may still fit.
pub fn choose(candidates: &[Candidate], budget: &Budget, memory: MemoryRoom) -> Choice {
    let all = || (0..).zip(candidates);
    let computed: Vec<usize> = all()
        .filter_map(|(n, one)| (one.computes > 0).then_some(n))
        .collect();
    let by_second = ordered(candidates, computed, Candidate::worth);
    // As if memory were no matter.
    let mut room = Room::new(budget, MemoryRoom::UNKNOWN);
    let mut wanted = vec![false; candidates.len()];
    for (number, one) in by_second
        .iter()
        .filter_map(|n| Some((*n, candidates.get(*n)?)))
    {
        let fits = room.may_compute(one);
        if fits {
            room.take(one);
        }
        if let Some(wanted) = wanted.get_mut(number) {
            *wanted = fits;
        }
    }
    let is_wanted = |(n, one): &(usize, &Candidate)| {
        one.computes == 0 || wanted.get(*n).copied().unwrap_or_default()
    };
    let kept: Vec<usize> = all().filter(is_wanted).map(|(n, _)| n).collect();
    let mut room = Room::new(budget, memory);
    let mut choice = Choice::default();
    let mut taken = vec![false; candidates.len()];
    let by_byte = ordered(candidates, kept, Candidate::worth_per_byte);
    // What was computed beyond the memory leaves its model time to others.
    let again = by_second
        .iter()
        .copied()
        .filter(|n| !wanted.get(*n).copied().unwrap_or_default());
    for (number, one) in by_byte
        .iter()
        .copied()
        .chain(again)
        .filter_map(|n| Some((n, candidates.get(n)?)))
    {
        let left = if !room.may_compute(one) {
            &mut choice.left.compute
        } else if !room.may_renew(one) {
            &mut choice.left.renewals
        } else if !room.holds(one) {
            &mut choice.left.memory
        } else {
            room.take(one);
            if let Some(taken) = taken.get_mut(number) {
                *taken = true;
            }
            continue;
        };
        *left += one.inputs;
    }
    let renewed = by_byte
        .into_iter()
        .filter(|n| candidates.get(*n).is_some_and(|one| one.computes == 0));
    let order = renewed.chain(by_second);
    choice.chosen = order
        .filter(|n| taken.get(*n).copied().unwrap_or_default())
        .collect();
    choice
}

/// By worth, highest first; those without one last, in their order.
fn ordered(
    candidates: &[Candidate],
    mut numbers: Vec<usize>,
    worth: impl Fn(&Candidate) -> Option<f64>,
) -> Vec<usize> {
    let worth: Vec<f64> = candidates
        .iter()
        .map(|one| worth(one).unwrap_or(-1.0))
        .collect();
    numbers.sort_by(|a, b| {
        let of = |n: &usize| worth.get(*n).copied().unwrap_or(-1.0);
        of(b).total_cmp(&of(a))
    });
    numbers
}

#[cfg(test)]
mod tests;
