//! What a run that follows a table has spent of its budget, and whether the next job fits what is left. Pure.
//!
//! Promises that a bound of model time is kept whatever was expected: what ended jobs took counts as it was measured, what is under way counts as it
//! is expected by what others took, and no more jobs are under way than have told what they took, but for one.

use crate::warm::schedule::Budget;
use std::collections::HashMap;

/// What becomes of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// It is posted.
    Now,
    /// It is posted though it costs more than the whole budget: nothing is spent yet, and it can't be divided.
    Alone,
    /// Others have to tell first what they took.
    Later,
    /// It is left to the next run.
    Never,
}

/// What a run has spent.
#[derive(Debug, Default)]
pub(super) struct Outlay {
    inputs: usize,
    /// Model time that ended jobs took, and that was expected of them, in seconds.
    took: f64,
    expected: f64,
    /// Jobs that have ended, and what the others are expected to take.
    reported: usize,
    under_way: HashMap<String, f64>,
    is_over: bool,
}

impl Outlay {
    /// One that has spent so much already, under another worker.
    pub(super) fn of(inputs: usize, took: f64) -> Self {
        Self {
            inputs,
            took,
            ..Self::default()
        }
    }

    /// How many times as long as expected things take. Never less: a table's rows may come from the cache now and not later.
    fn factor(&self) -> f64 {
        match self.expected > 0.0 {
            true => (self.took / self.expected).max(1.0),
            false => 1.0,
        }
    }

    /// Model time that is spent, or will be by what is under way.
    fn seconds(&self) -> f64 {
        self.took + self.under_way.values().sum::<f64>() * self.factor()
    }

    /// What becomes of a job of so many inputs that is expected to take so long.
    pub(super) fn fit(&self, budget: &Budget, inputs: usize, seconds: f64) -> Fit {
        let is_first = self.inputs == 0 && self.took == 0.0;
        let has_inputs = self.inputs.saturating_add(inputs) <= budget.inputs;
        let Some(max) = budget.model_seconds else {
            return match (has_inputs, is_first) {
                (true, _) => Fit::Now,
                (false, true) => Fit::Alone,
                (false, false) => Fit::Never,
            };
        };
        let waits = !self.under_way.is_empty();
        if has_inputs && self.seconds() + seconds * self.factor() <= max {
            return match self.under_way.len() < self.reported.max(1) {
                true => Fit::Now,
                false => Fit::Later,
            };
        }
        match (is_first, has_inputs && waits) {
            (true, _) => Fit::Alone,
            (false, true) => Fit::Later,
            (false, false) => Fit::Never,
        }
    }

    pub(super) fn post(&mut self, id: &str, inputs: usize, seconds: f64) {
        self.inputs = self.inputs.saturating_add(inputs);
        self.under_way.insert(id.to_owned(), seconds);
    }

    /// A job has ended, and took so long.
    pub(super) fn end(&mut self, id: &str, took: f64) {
        if let Some(expected) = self.under_way.remove(id) {
            self.reported += 1;
            self.took += took;
            // What was known says nothing of what the others take.
            if took > 0.0 {
                self.expected += expected;
            }
        }
    }

    /// What is left is too little for what comes next.
    pub(super) fn close(&mut self) {
        self.is_over = true;
    }

    pub(super) fn is_spent(&self, budget: &Budget) -> bool {
        let is_out = |max: f64| self.took >= max;
        self.is_over || self.inputs >= budget.inputs || budget.model_seconds.is_some_and(is_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(inputs: usize, model_seconds: Option<f64>) -> Budget {
        Budget {
            inputs,
            model_seconds,
            renewals: usize::MAX,
        }
    }

    #[test]
    fn model_time_is_kept_however_little_was_expected() {
        // Each is taken for a millisecond, and takes seventy.
        let (budget, mut outlay) = (budget(usize::MAX, Some(0.5)), Outlay::default());
        let (mut posted, mut ended, mut spent) = (0, 0, 0.0);
        loop {
            match outlay.fit(&budget, 1, 0.001) {
                Fit::Now => {
                    outlay.post(&posted.to_string(), 1, 0.001);
                    posted += 1;
                }
                Fit::Later => {
                    outlay.end(&ended.to_string(), 0.07);
                    (ended, spent) = (ended + 1, spent + 0.07);
                }
                Fit::Alone | Fit::Never => break,
            }
        }
        assert_eq!(posted, ended);
        assert!((0.4..=0.5).contains(&spent), "{spent}");
        let is_spent = |outlay: &Outlay| outlay.is_spent(&budget);
        assert!(!is_spent(&outlay));
        outlay.close();
        assert!(is_spent(&outlay));
    }

    #[test]
    fn what_costs_nothing_is_subtracted_once_that_is_known() {
        let (budget, mut outlay) = (budget(usize::MAX, Some(0.1)), Outlay::default());
        for number in 0..1_000 {
            let id = number.to_string();
            assert_eq!(outlay.fit(&budget, 1, 0.06), Fit::Now, "{number}");
            outlay.post(&id, 1, 0.06);
            assert_eq!(outlay.fit(&budget, 1, 0.06), Fit::Later);
            outlay.end(&id, 0.0);
        }
    }

    #[test]
    fn who_takes_over_goes_on_with_what_is_spent() {
        let budget = budget(5, Some(0.5));
        let fit = |inputs, took| Outlay::of(inputs, took).fit(&budget, 1, 0.1);
        assert_eq!(fit(0, 0.0), Fit::Now);
        assert_eq!(fit(1, 0.45), Fit::Never);
        assert_eq!(fit(5, 0.0), Fit::Never);
        assert!(Outlay::of(1, 0.6).is_spent(&budget));
    }

    #[test]
    fn what_is_dearer_than_the_whole_budget_goes_alone_at_the_beginning() {
        let (small, mut outlay) = (budget(usize::MAX, Some(0.001)), Outlay::default());
        assert_eq!(outlay.fit(&small, 1, 1.0), Fit::Alone);
        outlay.post("a", 1, 1.0);
        assert_eq!(outlay.fit(&small, 1, 1.0), Fit::Later);
        outlay.end("a", 2.0);
        assert_eq!(outlay.fit(&small, 1, 1.0), Fit::Never);
        let few = budget(3, None);
        assert_eq!(Outlay::default().fit(&few, 4, 1.0), Fit::Alone);
        assert_eq!(Outlay::of(1, 0.0).fit(&few, 4, 1.0), Fit::Never);
    }
}
