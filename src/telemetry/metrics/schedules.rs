//! Owns which schedules have series of their own. Promises that their number is bounded, however many files come and go.

use super::metric::{Label, Values};
use metrics::SharedString;
use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

/// Schedules that have series of their own on a worker.
const MAX_SCHEDULES: usize = 64;
/// What all others are together.
const OTHER: &str = "other";

/// By their schedule.
pub(super) const SCHEDULE: Label = Label {
    name: "schedule",
    values: Values::Named(
        "a schedule, by its file's name: the first 64 that this worker runs; `other` for all others",
    ),
};

/// The schedules that have series of their own.
#[derive(Default)]
pub(super) struct Schedules(Mutex<BTreeSet<String>>);

impl Schedules {
    /// What a schedule's series are called.
    pub(super) fn label(&self, schedule: &str) -> SharedString {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = known.contains(schedule)
            || known.len() < MAX_SCHEDULES && known.insert(schedule.to_owned());
        match is_known {
            true => schedule.to_owned().into(),
            false => OTHER.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_schedules_than_have_series_are_one_together() {
        let schedules = Schedules::default();
        let names: Vec<String> = (0..20_000).map(|n| format!("schedule-{n}")).collect();
        let labels: BTreeSet<String> = names
            .iter()
            .chain(&names)
            .map(|name| schedules.label(name).to_string())
            .collect();
        assert_eq!(labels.len(), MAX_SCHEDULES + 1);
        assert_eq!(&*schedules.label("schedule-63"), "schedule-63");
        assert_eq!(&*schedules.label("schedule-64"), OTHER);
    }
}
