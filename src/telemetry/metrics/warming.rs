//! Owns recording how warming runs ended, what is hot, and how soon what readers find follows the tables that schedules follow. Most is told once a run
//! or a few times a second, so that no handle is kept for that.

use super::{HeatOf, Metrics, WarmInput, WarmOutcome, add, catalogue::*};
use crate::clock;

impl Metrics {
    /// Counts a warming run that ended.
    pub fn warm_run(&self, schedule: &str, outcome: WarmOutcome) {
        add(&self.0.warm_runs, outcome as usize, 1);
        let label = self.0.schedules.label(schedule);
        if outcome == WarmOutcome::Done {
            let now = clock::now().timestamp_millis() as f64 / 1000.0;
            SCHEDULE_DONE.gauge([label.clone()]).set(now);
        }
        let labels = [label, outcome.as_str().into()];
        SCHEDULE_RUNS.counter(labels).increment(1);
    }

    /// Counts inputs of a warming run.
    pub fn warm_inputs(&self, schedule: &str, outcome: WarmInput, inputs: i64) {
        let count = inputs.max(0).unsigned_abs();
        add(&self.0.warm_inputs, outcome as usize, count);
        let labels = [self.0.schedules.label(schedule), outcome.as_str().into()];
        SCHEDULE_INPUTS.counter(labels).increment(count);
    }

    /// Sets how much is asked for in a namespace, and what share of it goes to the hottest. The caller bounds the
    /// namespaces to those that the settings or models name.
    pub fn heat(&self, of: HeatOf, namespace: &str, rate: f64, top_share: f64) {
        let labels = || [of.as_str().into(), namespace.to_owned().into()];
        HEAT_REQUESTS.gauge(labels()).set(rate);
        HEAT_TOP_SHARE.gauge(labels()).set(top_share);
    }

    /// Records how long after its row's change a job had ended. The caller bounds the namespaces to those that the settings or models name.
    pub fn staleness(&self, namespace: &str, seconds: f64) {
        STALENESS
            .histogram([namespace.to_owned().into()])
            .record(seconds);
    }

    /// Sets the age of the oldest change that isn't served; no number where nobody knows.
    pub fn behind(&self, namespace: &str, seconds: Option<f64>) {
        UNSERVED_AGE
            .gauge([namespace.to_owned().into()])
            .set(seconds.unwrap_or(f64::NAN));
    }

    /// Sets the time within which what readers find is to follow a change.
    pub fn max_staleness(&self, namespace: &str, seconds: u64) {
        MAX_STALENESS
            .gauge([namespace.to_owned().into()])
            .set(seconds as f64);
    }
}
