//! Owns recording how warming runs ended, and what became of their inputs.

use super::{Metrics, WarmInput, WarmOutcome, add};

impl Metrics {
    /// Counts a warming run that ended.
    pub fn warm_run(&self, outcome: WarmOutcome) {
        add(&self.0.warm_runs, outcome as usize, 1);
    }

    /// Counts inputs of a warming run.
    pub fn warm_inputs(&self, outcome: WarmInput, inputs: i64) {
        let count = inputs.max(0).unsigned_abs();
        add(&self.0.warm_inputs, outcome as usize, count);
    }
}
