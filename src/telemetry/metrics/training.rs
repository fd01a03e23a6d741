//! Owns recording how model versions were trained, as their manifests say, and when one was taken into use. Told once for each version and look at the
//! folder, so that no handle is kept.

use super::{Metrics, TrainingStep, catalogue::*};
use chrono::{DateTime, Utc};
use kiln_contract::time::parse_rfc3339;
use kiln_model::ModelInfo;

impl Metrics {
    /// Sets when a version was taken into use because another one was chosen.
    pub fn activated(&self, model: &str, version: &str, at: DateTime<Utc>) {
        MODEL_ACTIVATED
            .gauge([model.to_owned().into(), version.to_owned().into()])
            .set(at.timestamp_millis() as f64 / 1000.0);
    }

    /// Sets the figures of a version's training; nothing where its manifest has none.
    pub fn trained(&self, info: &ModelInfo) {
        let Some(training) = &info.training else {
            return;
        };
        let version = || (info.name.clone().into(), info.version.clone().into());
        for step in TrainingStep::ALL {
            let seconds = match step {
                TrainingStep::Training => training.training_seconds,
                TrainingStep::Evaluation => training.evaluation_seconds,
            };
            let (name, version) = version();
            MODEL_TRAINING_DURATION
                .gauge([name, version, step.as_str().into()])
                .set(seconds);
        }
        MODEL_TRAINING_ROWS
            .gauge(version().into())
            .set(training.rows as f64);
        if let Some(until) = parse_rfc3339(&training.to) {
            MODEL_TRAINED_UNTIL
                .gauge(version().into())
                .set(until.timestamp_millis() as f64 / 1000.0);
        }
        for (figure, value) in &training.metrics {
            let (name, version) = version();
            MODEL_EVALUATION
                .gauge([name, version, figure.clone().into()])
                .set(*value);
        }
    }
}
