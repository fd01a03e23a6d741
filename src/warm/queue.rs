//! Owns what becomes of runs that wait: this worker keeps those of schedules that it knows, and ends those of which nobody knows the schedule.
//!
//! Promises that of a schedule which no worker knows nothing waits for ever, and that nothing is ended that another worker knows.

use super::schedule::Schedule;
use crate::{
    store::{PostgresStore, StoreError},
    telemetry::metrics::{Metrics, WarmOutcome},
};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// How often it is looked after what waits.
const LOOK: Duration = Duration::from_secs(30);

/// When it was looked last.
#[derive(Default)]
pub(super) struct WaitingRuns {
    looked: Option<Instant>,
}

impl WaitingRuns {
    /// Looks after what waits, where that is due; `schedules` are all that this worker knows.
    pub(super) async fn tend(
        &mut self,
        store: &PostgresStore,
        metrics: &Metrics,
        schedules: &[Arc<Schedule>],
    ) -> Result<(), StoreError> {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK) {
            return Ok(());
        }
        let name = |schedule: &'_ Arc<Schedule>| schedule.name.clone();
        let known: Vec<String> = schedules.iter().map(name).collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        store.keep_queued(&known).await?;
        let unknown = store.end_unknown(&known).await?;
        report(metrics, unknown);
        self.looked = Some(Instant::now());
        Ok(())
    }
}

/// Says what was left out, in a line for each schedule.
fn report(metrics: &Metrics, ended: Vec<String>) {
    let mut counts = BTreeMap::<String, usize>::new();
    for schedule in ended {
        metrics.warm_run(&schedule, WarmOutcome::Skipped);
        *counts.entry(schedule).or_default() += 1;
    }
    for (schedule, runs) in counts {
        tracing::warn!(
            schedule,
            runs,
            "runs that waited are left out: no worker knows their schedule any more"
        );
    }
}
