//! Owns recording what becomes of inputs where two versions of a model share them. Such a model's are few: no handle is kept.

use super::{
    Metrics,
    catalogue::{SPLIT_INPUTS, SPLIT_SHARE},
    labels::SplitOutcome,
};
use kiln_model::ModelInfo;
use std::collections::BTreeSet;

/// A version of a model.
type Version = (String, String);

impl Metrics {
    /// Inputs of jobs that name no version, by the version that they went to.
    pub fn split_inputs(&self, info: &ModelInfo, outcome: SplitOutcome, inputs: u64) {
        let (model, version) = (info.name.clone(), info.version.clone());
        let labels = [model.into(), version.into(), outcome.as_str().into()];
        SPLIT_INPUTS.counter(labels).increment(inputs);
    }

    /// The share that each version has beside the active one; those that had one before and have none now, `before`, have 0.
    pub fn split_shares(&self, now: &[(Version, f64)], before: &mut BTreeSet<Version>) {
        let set = |(model, version): &Version, share: f64| {
            let labels = [model.clone().into(), version.clone().into()];
            SPLIT_SHARE.gauge(labels).set(share);
        };
        before.iter().for_each(|version| set(version, 0.0));
        for (version, share) in now {
            set(version, *share);
            before.insert(version.clone());
        }
    }
}
