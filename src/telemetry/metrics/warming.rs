//! Owns recording how warming runs ended. What became of their inputs is told once a run or twice, so that no handle is kept for that.

use super::{Metrics, WarmInput, WarmOutcome, add, catalogue::*};

impl Metrics {
    /// Counts a warming run that ended.
    pub fn warm_run(&self, outcome: WarmOutcome) {
        add(&self.0.warm_runs, outcome as usize, 1);
    }

    /// Counts inputs of a warming run.
    pub fn warm_inputs(&self, outcome: WarmInput, inputs: i64) {
        let count = inputs.max(0).unsigned_abs();
        WARM_INPUTS
            .counter([outcome.as_str().into()])
            .increment(count);
    }
}
