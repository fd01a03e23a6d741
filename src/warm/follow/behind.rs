//! How far what readers find is behind the tables that this worker follows, by namespace.

use crate::telemetry::metrics::Metrics;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Seconds by schedule, with its namespace.
#[derive(Clone, Default)]
pub(in crate::warm) struct Behind(Arc<Mutex<BTreeMap<String, (String, f64)>>>);

impl Behind {
    /// Sets how old the oldest change of a schedule's table is that isn't served. `namespace` is one that metrics may name.
    pub(super) fn set(&self, schedule: &str, namespace: &str, seconds: f64, metrics: &Metrics) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(schedule.to_owned(), (namespace.to_owned(), seconds));
        show(&all, namespace, metrics);
    }

    /// The table is another worker's, or nobody's.
    pub(super) fn forget(&self, schedule: &str, metrics: &Metrics) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((namespace, _)) = all.remove(schedule) {
            show(&all, &namespace, metrics);
        }
    }
}

fn show(all: &BTreeMap<String, (String, f64)>, namespace: &str, metrics: &Metrics) {
    let of = all.values().filter(|(name, _)| name == namespace);
    let oldest = of.map(|(_, seconds)| *seconds).fold(0.0, f64::max);
    metrics.behind(namespace, oldest);
}
