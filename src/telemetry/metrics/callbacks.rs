//! Owns recording callbacks.

use super::{
    Metrics, add,
    catalogue::{CALLBACK_AGE, CALLBACKS_WAITING},
    labels::CallbackOutcome,
};

impl Metrics {
    /// What became of tries of callbacks.
    pub fn callbacks(&self, outcome: CallbackOutcome, tries: u64) {
        add(&self.0.callbacks, outcome as usize, tries);
    }

    /// How many callbacks wait, of all workers, and for how long the oldest has; where that isn't known, no number, so that no alert takes an old one for it.
    pub fn callbacks_waiting(&self, found: Option<(f64, f64)>) {
        let (waiting, oldest_seconds) = found.unwrap_or((f64::NAN, f64::NAN));
        CALLBACKS_WAITING.gauge([]).set(waiting);
        CALLBACK_AGE.gauge([]).set(oldest_seconds);
    }
}
