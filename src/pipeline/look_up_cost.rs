//! Owns the measure of what a look-up costs an input.
//!
//! Promises that it goes on being measured once nothing is looked up any more: now and then it is a batch's turn; and that a server which is
//! slow for a while never makes an expensive model seem cheap.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};
use std::time::{Duration, Instant};

/// What a look-up leaves of the ones before it in the mean.
const DECAY: f64 = 0.95;

/// One batch in so many looks everything up, so that the measure stays a measure.
const PROBE_EVERY: usize = 64;

/// A batch that comes so long after the last such one does, too.
const PROBE_AFTER: Duration = Duration::from_secs(1);

/// Look-ups before their cost is known: the first one waits for a connection.
const MIN_LOOK_UPS: usize = 3;

/// What a look-up is taken to cost an input at most, in seconds: what a model takes longer for is worth keeping however slow Redis is today.
const MAX_SECONDS: f64 = 1e-3;

/// What look-ups take: seconds an input, a running mean in which large ones count for more.
#[derive(Debug, Default)]
pub struct LookUpCost {
    sums: Mutex<Sums>,
    batches: AtomicUsize,
}

#[derive(Debug, Default, Clone, Copy)]
struct Sums {
    look_ups: usize,
    inputs: f64,
    seconds: f64,
    probed: Option<Instant>,
}

impl LookUpCost {
    fn sums(&self) -> MutexGuard<'_, Sums> {
        // Sound after a panic elsewhere: what runs under the lock is arithmetic.
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A measure that takes the first look-up for good: for who makes few of them, and on a connection that is there.
    pub fn from_the_first() -> Self {
        let sums = Sums {
            look_ups: MIN_LOOK_UPS,
            ..Sums::default()
        };
        Self {
            sums: Mutex::new(sums),
            batches: AtomicUsize::default(),
        }
    }

    /// Seconds that a look-up takes for one input; nothing before it is known.
    pub fn seconds(&self) -> Option<f64> {
        let sums = *self.sums();
        let is_known = sums.look_ups >= MIN_LOOK_UPS && sums.inputs > 0.0;
        is_known.then(|| sums.seconds / sums.inputs)
    }

    /// Records a look-up that was answered.
    pub fn record(&self, inputs: usize, seconds: f64) {
        if inputs == 0 || !seconds.is_finite() {
            return;
        }
        let mut sums = self.sums();
        sums.look_ups += 1;
        if sums.look_ups == 1 {
            return;
        }
        let seconds = seconds.min(MAX_SECONDS * inputs as f64);
        sums.inputs = DECAY * sums.inputs + inputs as f64;
        sums.seconds = DECAY * sums.seconds + seconds;
    }

    /// Whether a model that takes `seconds` for an input does so in less time than a look-up.
    pub fn is_above(&self, seconds: Option<f64>) -> bool {
        let pair = self.seconds().zip(seconds);
        pair.is_some_and(|(look_up, model)| model < look_up)
    }

    /// Whether it is this batch's turn to be looked up whatever it costs.
    pub fn is_probe(&self, now: Instant) -> bool {
        let number = self.batches.fetch_add(1, Ordering::Relaxed);
        let mut sums = self.sums();
        let is_due = |last: Instant| now.saturating_duration_since(last) >= PROBE_AFTER;
        let is_probe = number.is_multiple_of(PROBE_EVERY) || sums.probed.is_none_or(is_due);
        if is_probe {
            sums.probed = Some(now);
        }
        is_probe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Look-ups of so many inputs that take so long for each.
    fn record(cost: &LookUpCost, look_ups: usize, inputs: usize, seconds: f64) {
        for _ in 0..look_ups {
            cost.record(inputs, seconds * inputs as f64);
        }
    }

    #[test]
    fn a_model_is_cheaper_than_a_look_up_once_both_are_known() {
        let cost = LookUpCost::default();
        assert!(!cost.is_above(Some(1e-9)), "nothing was looked up yet");
        record(&cost, MIN_LOOK_UPS, 100, 20e-6);
        assert!(cost.is_above(Some(5e-6)));
        assert!(!cost.is_above(Some(50e-6)));
        assert!(!cost.is_above(None), "the model wasn't called yet");
    }

    #[test]
    fn what_many_inputs_cost_outweighs_a_lone_one() {
        let cost = LookUpCost::default();
        for _ in 0..100 {
            record(&cost, 1, 500, 4e-6);
            record(&cost, 1, 1, 100e-6);
        }
        let seconds = cost.seconds().expect("measured");
        assert!((4e-6..5e-6).contains(&seconds), "{seconds}");
    }

    #[test]
    fn who_looks_up_once_knows_what_that_took() {
        let cost = LookUpCost::from_the_first();
        assert_eq!(cost.seconds(), None);
        record(&cost, 1, 64, 20e-6);
        assert!(cost.is_above(Some(5e-6)) && !cost.is_above(Some(50e-6)));
    }

    #[test]
    fn a_slow_server_makes_no_expensive_model_cheap() {
        let cost = LookUpCost::default();
        // The first one waits for a connection.
        record(&cost, 1, 1, 0.08);
        record(&cost, 60, 1, 0.05);
        assert!(!cost.is_above(Some(5e-3)));
        record(&cost, 40, 1, 3e-4);
        assert!(!cost.is_above(Some(5e-4)), "it is forgotten soon");
    }

    #[test]
    fn it_is_measured_again_now_and_then() {
        let cost = LookUpCost::default();
        let now = Instant::now();
        let probes = (0..4 * PROBE_EVERY).filter(|_| cost.is_probe(now)).count();
        assert_eq!(probes, 4);
        let _turn = cost.is_probe(now);
        assert!(!cost.is_probe(now + PROBE_AFTER / 2), "not yet");
        assert!(cost.is_probe(now + PROBE_AFTER), "after a while");
        assert!(!cost.is_probe(now + PROBE_AFTER), "once");
    }
}
