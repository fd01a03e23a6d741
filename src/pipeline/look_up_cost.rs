//! Owns the measure of what a look-up costs an input.
//!
//! Promises that it goes on being measured once nothing is looked up any more: now and then it is a batch's turn.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

/// What a look-up leaves of the ones before it in the mean.
const DECAY: f64 = 0.95;

/// One batch in so many looks everything up, so that the measure stays a measure.
const PROBE_EVERY: usize = 64;

/// What look-ups take: seconds an input, a running mean in which large ones count for more.
#[derive(Debug, Default)]
pub struct LookUpCost {
    sums: Mutex<Sums>,
    batches: AtomicUsize,
}

#[derive(Debug, Default, Clone, Copy)]
struct Sums {
    inputs: f64,
    seconds: f64,
}

impl LookUpCost {
    fn sums(&self) -> MutexGuard<'_, Sums> {
        // Sound after a panic elsewhere: what runs under the lock is arithmetic.
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds that a look-up takes for one input; nothing before the first one.
    pub fn seconds(&self) -> Option<f64> {
        let sums = *self.sums();
        (sums.inputs > 0.0).then(|| sums.seconds / sums.inputs)
    }

    /// Records a look-up that was answered.
    pub fn record(&self, inputs: usize, seconds: f64) {
        if inputs == 0 || !seconds.is_finite() {
            return;
        }
        let mut sums = self.sums();
        sums.inputs = DECAY * sums.inputs + inputs as f64;
        sums.seconds = DECAY * sums.seconds + seconds;
    }

    /// Whether a model that takes `seconds` for an input does so in less time than a look-up.
    pub fn is_above(&self, seconds: Option<f64>) -> bool {
        let pair = self.seconds().zip(seconds);
        pair.is_some_and(|(look_up, model)| model < look_up)
    }

    /// Whether it is this batch's turn to be looked up whatever it costs.
    pub fn is_probe(&self) -> bool {
        let number = self.batches.fetch_add(1, Ordering::Relaxed);
        number.is_multiple_of(PROBE_EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_cheaper_than_a_look_up_once_both_are_known() {
        let cost = LookUpCost::default();
        assert!(!cost.is_above(Some(1e-9)), "nothing was looked up yet");
        cost.record(100, 100.0 * 20e-6);
        assert!(cost.is_above(Some(5e-6)));
        assert!(!cost.is_above(Some(50e-6)));
        assert!(!cost.is_above(None), "the model wasn't called yet");
    }

    #[test]
    fn what_many_inputs_cost_outweighs_a_lone_one() {
        let cost = LookUpCost::default();
        cost.record(1, 100e-6);
        for _ in 0..100 {
            cost.record(500, 500.0 * 4e-6);
            cost.record(1, 100e-6);
        }
        let seconds = cost.seconds().expect("measured");
        assert!((4e-6..5e-6).contains(&seconds), "{seconds}");
    }

    #[test]
    fn it_is_measured_again_now_and_then() {
        let cost = LookUpCost::default();
        let probes = (0..4 * PROBE_EVERY).filter(|_| cost.is_probe()).count();
        assert_eq!(probes, 4);
    }
}
