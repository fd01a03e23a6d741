//! Owns recording what models do, by their names: those of manifests, so that a pass looks its series up and no handle is kept.

use super::{Metrics, catalogue::*};
use kiln_model::ModelInfo;

impl Metrics {
    /// Records one forward pass.
    pub fn model_call(&self, info: &ModelInfo, rows: usize, tokens: usize, seconds: f64) {
        let model = || [info.name.clone().into()];
        if tokens > 0 {
            MODEL_TOKENS.counter(model()).increment(tokens as u64);
        }
        MODEL_BATCH_ROWS.histogram(model()).record(rows as f64);
        MODEL_BATCH_DURATION.histogram(model()).record(seconds);
    }

    /// Counts texts that were cut short because they have more tokens than their model takes.
    pub fn truncated_texts(&self, info: &ModelInfo, count: usize) {
        if count > 0 {
            let model = info.name.clone().into();
            TEXTS_TRUNCATED.counter([model]).increment(count as u64);
        }
    }

    /// Has a model's failures counted from nothing on: the first one is a change then.
    pub fn model_serves(&self, info: &ModelInfo) {
        MODEL_FAILURES
            .counter([info.name.clone().into()])
            .increment(0);
    }

    /// Counts a model call that failed.
    pub fn model_failure(&self, info: &ModelInfo) {
        MODEL_FAILURES
            .counter([info.name.clone().into()])
            .increment(1);
    }

    /// Counts predictions of one of the labels that the manifest lists.
    pub fn predictions(&self, info: &ModelInfo, label: &str, count: u64) {
        let labels = [info.name.clone().into(), label.to_owned().into()];
        PREDICTIONS.counter(labels).increment(count);
    }
}
