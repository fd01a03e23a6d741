//! Owns recording how shadow versions are: set once every few seconds, so that no handle is kept.

use super::{DifferenceKind, Metrics, ShadowOutcome, catalogue::*};

/// How a shadow version is. Counts are since the start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShadowGauges {
    pub scored: u64,
    pub dropped: u64,
    pub failed: u64,
    pub milliseconds: u64,
    /// Mean, mean absolute and largest difference.
    pub differences: [f64; 3],
    pub rank_correlation: f64,
    pub flips: f64,
}

impl Metrics {
    /// Sets how a shadow version is. Models and versions are those that the settings name.
    pub fn shadow(&self, model: &str, version: &str, now: ShadowGauges) {
        let (model, version) = (model.to_owned(), version.to_owned());
        let labels = || [model.clone().into(), version.clone().into()];
        let with =
            |value: &'static str| [model.clone().into(), version.clone().into(), value.into()];
        let inputs = [now.scored, now.dropped, now.failed];
        for (outcome, inputs) in ShadowOutcome::ALL.iter().zip(inputs) {
            let counter = SHADOW_INPUTS.counter(with(outcome.as_str()));
            counter.absolute(inputs);
        }
        let seconds = now.milliseconds / 1_000;
        SHADOW_SECONDS.counter(labels()).absolute(seconds);
        for (kind, difference) in DifferenceKind::ALL.iter().zip(now.differences) {
            SHADOW_DIFFERENCE.gauge(with(kind.as_str())).set(difference);
        }
        SHADOW_CORRELATION.gauge(labels()).set(now.rank_correlation);
        SHADOW_FLIPS.gauge(labels()).set(now.flips);
    }
}
