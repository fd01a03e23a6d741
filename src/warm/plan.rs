//! Decides which of a run's candidates are worth their cost, and in which order. Pure.
//!
//! Order: by the waiting time that a refresh is expected to save per second of model time. An entry with a TTL of `T` seconds and
//! `λ` requests per second is missed once every `T + 1/λ` seconds if nobody refreshes it, and never if it is refreshed in time.
//! So each refresh, one every `T` seconds, saves `λT / (1 + λT)` misses.
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
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// How many inputs it has.
    pub inputs: usize,
    /// Requests per second, if known.
    pub rate: Option<f64>,
    /// TTL of its entry, in seconds.
    pub ttl: f64,
    /// Model time that it costs, in seconds; 0 if its score is cached.
    pub cost: f64,
    /// How long one reader who misses it waits, in seconds.
    pub wait: f64,
}

impl Candidate {
    /// Waiting time that its refresh saves, in seconds.
    pub fn saves(&self) -> Option<f64> {
        Some(misses_saved(self.rate?, self.ttl) * self.wait)
    }

    /// What candidates are ordered by: seconds of waiting saved per second of model time.
    pub fn worth(&self) -> Option<f64> {
        // Without model time there is still a round trip; the floor avoids a division by zero.
        Some(self.saves()? / self.cost.max(1e-6))
    }
}

/// The candidates to refresh, in order, within the budget. Those with a known rate come first, by their worth;
/// the others keep their order. One that doesn't fit is left out, and smaller ones after it may still fit.
pub fn choose(candidates: &[Candidate], budget: &Budget) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    let worth: Vec<f64> = candidates
        .iter()
        .map(|c| c.worth().unwrap_or(-1.0))
        .collect();
    order.sort_by(|a, b| {
        let of = |i: &usize| worth.get(*i).copied().unwrap_or(-1.0);
        of(b).total_cmp(&of(a))
    });
    let (mut inputs, mut seconds) = (0, 0.0);
    order.retain(|index| {
        let Some(one) = candidates.get(*index) else {
            return false;
        };
        let fits = inputs + one.inputs <= budget.inputs
            && budget
                .model_seconds
                .is_none_or(|max| seconds + one.cost <= max);
        if fits {
            inputs += one.inputs;
            seconds += one.cost;
        }
        fits
    });
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(rate: Option<f64>, cost: f64) -> Candidate {
        Candidate {
            inputs: 1,
            rate,
            ttl: 300.0,
            cost,
            wait: 0.01,
        }
    }

    #[test]
    fn what_saves_most_for_its_cost_comes_first() {
        let candidates = [
            one(None, 0.001),
            one(Some(0.1), 0.001),
            one(Some(0.001), 0.001),
            one(Some(10.0), 0.1),
            one(None, 0.001),
            one(Some(0.01), 0.0),
        ];
        let all = Budget::default();
        assert_eq!(choose(&candidates, &all), [5, 1, 2, 3, 0, 4]);
        let few = Budget {
            inputs: 3,
            model_seconds: None,
        };
        assert_eq!(choose(&candidates, &few), [5, 1, 2]);
        let short = Budget {
            inputs: 100,
            model_seconds: Some(0.0031),
        };
        assert_eq!(choose(&candidates, &short), [5, 1, 2, 0]);
    }

    #[test]
    fn an_entry_that_outlives_the_next_run_waits_for_it() {
        assert!(is_fresh(Some(100.0), 60.0, 5.0, 0.9));
        assert!(!is_fresh(Some(59.0), 60.0, 5.0, 1.0));
        assert!(!is_fresh(None, 60.0, 5.0, 0.5));
    }

    #[test]
    fn early_refreshes_grow_likelier_towards_the_end() {
        let early = |left: f64| {
            let draws = 1_000;
            let taken = (0..draws).filter(|i| {
                !is_fresh(
                    Some(left),
                    60.0,
                    5.0,
                    (f64::from(*i) + 0.5) / f64::from(draws),
                )
            });
            taken.count()
        };
        let (near, middle, far) = (early(61.0), early(65.0), early(90.0));
        assert!(
            near > 700 && middle > 300 && middle < 450 && far < 10,
            "{near} {middle} {far}"
        );
    }

    proptest! {
        #[test]
        fn a_plan_never_goes_over_its_budget(rates in prop::collection::vec(prop::option::of(0.0f64..100.0), 0..60), inputs in 1usize..50, seconds in 0.0f64..0.1) {
            let candidates: Vec<Candidate> = rates.iter().enumerate().map(|(i, rate)| Candidate { inputs: 1 + i % 3, ..one(*rate, 0.001 * (i % 5) as f64) }).collect();
            let budget = Budget { inputs, model_seconds: Some(seconds) };
            let chosen = choose(&candidates, &budget);
            prop_assert!(chosen.iter().map(|i| candidates[*i].inputs).sum::<usize>() <= inputs);
            prop_assert!(chosen.iter().map(|i| candidates[*i].cost).sum::<f64>() <= seconds + 1e-9);
            let mut distinct = chosen.clone();
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert_eq!(distinct.len(), chosen.len());
        }
    }
}
