//! What warming may still spend: in a run, and between two runs on what comes next. Pure.

use super::{Allowed, RequestTrace, World};
use crate::warm::schedule::Budget;

/// How much unspent budget may be saved up, in seconds' worth.
const SAVED_UP: f64 = 60.0;
/// A sum of many parts may miss the last bit.
const ROUNDING: f64 = 1e-9;

/// What warming may still compute.
pub(super) struct Allowance {
    allowed: Allowed,
    inputs: usize,
    renewals: usize,
    /// Model time, in seconds.
    left: f64,
    /// What of it may be spent on what comes next.
    ahead: Budget,
    /// What each request adds.
    income: f64,
    /// What can be saved up.
    max: f64,
}

impl Allowance {
    pub fn new(trace: &RequestTrace, world: &World) -> Self {
        let mean_cost = world.costs.iter().sum::<f64>() / world.costs.len().max(1) as f64;
        let income = match world.allowed {
            Allowed::Share(share) => share * mean_cost,
            Allowed::Run(_) => 0.0,
        };
        let a_second = trace.requests.len() as f64 / trace.length;
        let mut allowance = Self {
            allowed: world.allowed,
            inputs: usize::MAX,
            renewals: usize::MAX,
            left: 0.0,
            ahead: Budget {
                inputs: usize::MAX,
                model_seconds: Some(0.0),
                renewals: usize::MAX,
            },
            income,
            max: income * a_second * SAVED_UP.max(world.every),
        };
        allowance.refill();
        allowance
    }

    pub fn earn(&mut self) {
        if self.income > 0.0 {
            self.left = (self.left + self.income).min(self.max);
            if let Some(ahead) = &mut self.ahead.model_seconds {
                *ahead = (*ahead + self.income / 2.0).min(self.max / 2.0);
            }
        }
    }

    /// A run has its own budget, less what was spent since the last one on what comes next; what it leaves over is gone.
    pub fn refill(&mut self) {
        if let Allowed::Run(budget) = self.allowed {
            self.inputs = budget.inputs;
            self.renewals = budget.renewals;
            self.left = budget.model_seconds.unwrap_or(f64::INFINITY);
            self.ahead = budget.ahead();
        }
    }

    /// Whether so much model time, or with none a renewal, may be spent on what comes next; if so, it is.
    pub fn spend_ahead(&mut self, cost: Option<f64>) -> bool {
        let (before, seconds) = (self.ahead, self.ahead.model_seconds);
        let is_within = match cost {
            None => self.ahead.renewals > 0,
            Some(cost) => {
                self.ahead.inputs > 0 && seconds.is_none_or(|left| cost <= left + ROUNDING)
            }
        };
        let computes = usize::from(cost.is_some());
        self.ahead = Budget {
            inputs: before.inputs.saturating_sub(computes),
            model_seconds: seconds.map(|left| left - cost.unwrap_or_default()),
            renewals: before.renewals.saturating_sub(1 - computes),
        };
        let is_spent = is_within
            && match cost {
                None => self.renew(),
                Some(cost) => self.spend(cost),
            };
        if !is_spent {
            self.ahead = before;
        }
        is_spent
    }

    /// What is left of it.
    pub fn budget(&self) -> Budget {
        Budget {
            inputs: self.inputs,
            model_seconds: self.left.is_finite().then_some(self.left),
            renewals: self.renewals,
        }
    }

    /// Renews what is known, if that may still be done.
    pub fn renew(&mut self) -> bool {
        let enough = self.renewals > 0;
        self.renewals = self.renewals.saturating_sub(1);
        enough
    }

    /// Spends, if there is enough.
    pub fn spend(&mut self, cost: f64) -> bool {
        let enough = self.inputs > 0 && cost <= self.left + ROUNDING;
        if enough {
            self.left -= cost;
            self.inputs -= 1;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_run(budget: Budget) -> Allowance {
        let trace = RequestTrace {
            requests: vec![(0.0, 0)],
            sessions: Vec::new(),
            keys: 1,
            length: 60.0,
            truth: None,
        };
        let allowed = Allowed::Run(budget);
        let world = World {
            allowed,
            ..World::new(60.0, vec![1.0])
        };
        Allowance::new(&trace, &world)
    }

    #[test]
    fn what_comes_next_leaves_a_half_to_the_next_run() {
        let budget = Budget {
            inputs: 5,
            model_seconds: Some(10.0),
            renewals: 4,
        };
        let mut allowance = of_run(budget);
        let mut ahead = |cost| (0..20).filter(|_| allowance.spend_ahead(cost)).count();
        assert_eq!((ahead(Some(1.0)), ahead(None)), (3, 2));
        let left = allowance.budget();
        assert_eq!((left.inputs, left.renewals), (2, 2));
        assert_eq!(left.model_seconds, Some(7.0));
        allowance.refill();
        let mut ahead = |cost| (0..20).filter(|_| allowance.spend_ahead(cost)).count();
        assert_eq!(ahead(Some(2.5)), 2, "a half of the model time");
        // What a run has spent is gone.
        while allowance.spend(1.0) || allowance.renew() {}
        assert!(!allowance.spend_ahead(Some(0.1)) && !allowance.spend_ahead(None));
    }
}
