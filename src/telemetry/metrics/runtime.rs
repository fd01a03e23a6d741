//! Owns recording how the process is: when it began, told once, and its runtime, told when somebody asks, so that no handle is kept.

use super::{Metrics, catalogue::*};
use chrono::{DateTime, Utc};

impl Metrics {
    /// Sets when the worker started.
    pub fn started(&self, at: DateTime<Utc>) {
        STARTED.gauge([]).set(at.timestamp_millis() as f64 / 1000.0);
    }
}

/// Sets how many tasks there are.
pub fn tasks(alive: usize) {
    TASKS.gauge([]).set(alive as f64);
}
