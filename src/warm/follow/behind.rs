//! How far what readers find is behind the tables that this worker follows, by namespace.

use crate::telemetry::metrics::Metrics;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// A namespace, and seconds; nothing where they aren't known.
type Age = (String, Option<f64>);

/// What is known by schedule.
#[derive(Clone, Default)]
pub(in crate::warm) struct Behind(Arc<Mutex<BTreeMap<String, Age>>>);

impl Behind {
    /// Sets how old the oldest change of a schedule's table is that isn't served. `namespace` is one that metrics may name.
    pub(super) fn set(
        &self,
        schedule: &str,
        namespace: &str,
        seconds: Option<f64>,
        metrics: &Metrics,
    ) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(schedule.to_owned(), (namespace.to_owned(), seconds));
        metrics.behind(namespace, oldest(all.values(), namespace));
    }

    /// The table is another worker's, or nobody's.
    pub(super) fn forget(&self, schedule: &str, metrics: &Metrics) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((namespace, _)) = all.remove(schedule) {
            metrics.behind(&namespace, oldest(all.values(), &namespace));
        }
    }
}

/// The highest age of a namespace; nothing where none is known.
fn oldest<'a>(all: impl Iterator<Item = &'a Age>, namespace: &str) -> Option<f64> {
    let of = all.filter(|(name, _)| name == namespace);
    of.filter_map(|(_, seconds)| *seconds).reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_no_age_and_hides_none() {
        let all = [("a", None), ("a", Some(3.0)), ("a", Some(1.0)), ("b", None)];
        let all = all.map(|(name, seconds)| (name.to_owned(), seconds));
        let of = |namespace| oldest(all.iter(), namespace);
        assert_eq!((of("a"), of("b"), of("c")), (Some(3.0), None, None));
    }
}
