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

    /// How many callbacks wait, of all workers, and for how long the oldest has.
    pub fn callbacks_waiting(&self, waiting: f64, oldest_seconds: f64) {
        CALLBACKS_WAITING.gauge([]).set(waiting);
        CALLBACK_AGE.gauge([]).set(oldest_seconds);
    }
}
