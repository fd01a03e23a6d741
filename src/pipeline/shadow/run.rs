//! Scores what waits for a shadow version.
//!
//! Promises that a pass begins only while nothing that somebody waits for is held up, and that one that fails is followed by a rest.

use super::{Shadow, ShadowInput, Trouble, waiting};
use crate::{backoff::Backoff, store::ScorePair};
use kiln_contract::result::Reading;
use kiln_model::{InputKind, Model, ModelInfo, Registry, Task};
use std::{mem::discriminant, sync::Arc, time::Duration};

/// How often it is looked whether the version is there, where nothing comes.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is looked whether something else is held up.
const STAND_BACK: Duration = Duration::from_millis(10);
/// The rests after passes that fail.
const FIRST_REST: Duration = Duration::from_secs(1);
const MAX_REST: Duration = Duration::from_secs(60);

/// Scores for as long as it is polled; no pass begins while `is_busy`.
pub(in crate::pipeline) async fn run(
    shadow: Arc<Shadow>,
    registry: &Registry,
    is_busy: impl Fn() -> bool,
) {
    let mut rests = Backoff::new(FIRST_REST, MAX_REST);
    loop {
        shadow.arrival().await;
        let (model, against) = match shadow.versions(registry) {
            Ok(versions) => versions,
            Err(trouble) => {
                shadow.close(trouble);
                tokio::time::sleep(LOOK).await;
                continue;
            }
        };
        while shadow.has_waiting() {
            while is_busy() {
                tokio::time::sleep(STAND_BACK).await;
            }
            match shadow.pass(&model, &against.info().version).await {
                Ok(()) => rests.reset(),
                Err(trouble) => {
                    shadow.say(&trouble.0, trouble.1);
                    tokio::time::sleep(rests.next_wait()).await;
                    break;
                }
            }
            if shadow.has_changed(registry, &model, &against) {
                break;
            }
        }
    }
}

impl Shadow {
    /// Waits until something has come, or for a while.
    async fn arrival(&self) {
        if !self.has_waiting() {
            let _either = tokio::time::timeout(LOOK, self.arrived.notified()).await;
        }
    }

    fn has_waiting(&self) -> bool {
        !self.state().waiting.is_empty()
    }

    /// Its version, and the active one.
    fn versions(&self, registry: &Registry) -> Result<(Arc<Model>, Arc<Model>), Trouble> {
        let reference = format!("{}@{}", self.model, self.version);
        let missing = |_| Trouble::Missing;
        let model = registry.resolve(&reference).map_err(missing)?;
        let active = registry.resolve(&self.model).map_err(missing)?;
        if let Some(trouble) = unfit(active.info(), model.info()) {
            return Err(trouble);
        }
        self.state().compared.compare_with(&active.info().version);
        Ok((model, active))
    }

    fn has_changed(&self, registry: &Registry, model: &Arc<Model>, active: &Arc<Model>) -> bool {
        let now = self.versions(registry);
        !now.is_ok_and(|now| Arc::ptr_eq(&now.0, model) && Arc::ptr_eq(&now.1, active))
    }

    /// Scores nothing until that has passed.
    fn close(&self, trouble: Trouble) {
        self.say(&trouble, 0);
        let mut state = self.state();
        let dropped = state.waiting.clear();
        state.compared.drop_inputs(dropped);
    }

    fn say(&self, trouble: &Trouble, failed: usize) {
        if !self.state().compared.trouble(trouble.clone(), failed) {
            return;
        }
        let (model, version, reason) = (&self.model, &self.version, trouble.reason());
        if *trouble == Trouble::Active {
            tracing::info!(model, version, reason, "a shadow version scores nothing");
        } else {
            tracing::warn!(model, version, reason, "a shadow version scores nothing");
        }
    }

    /// Scores one pass; an error is what is wrong, and how many inputs that cost.
    async fn pass(&self, model: &Model, against: &str) -> Result<(), (Trouble, usize)> {
        let inputs = {
            let mut state = self.state();
            let (inputs, unfit) = state.waiting.pass(model, against);
            state.compared.drop_inputs(unfit);
            inputs
        };
        if inputs.is_empty() {
            return Ok(());
        }
        let count = inputs.len();
        let scored = model.score_unawaited(waiting::rows(model, &inputs)).await;
        let scored = scored.map_err(|error| (Trouble::Fails(error.to_string()), count))?;
        let width = model.info().output_width.max(1);
        if scored.outputs.len() != count * width {
            let reason = format!("{} values for {count} rows", scored.outputs.len());
            return Err((Trouble::Fails(reason), count));
        }
        let rows = scored.outputs.chunks_exact(width);
        let pairs = inputs.into_iter().zip(rows);
        let pairs = pairs.filter_map(|(input, row)| pair(input, model.info(), row));
        let seconds = scored.calls.iter().map(|call| call.seconds).sum();
        self.state().compared.score(pairs, seconds);
        Ok(())
    }
}

fn pair(input: ShadowInput, info: &ModelInfo, row: &[f32]) -> Option<ScorePair> {
    let reading = Reading::of(info, row);
    Some(ScorePair {
        old: input.score,
        new: reading.score()?,
        old_label: input.label,
        new_label: reading.label().map(str::to_owned),
    })
}

/// Why a version can't be compared with the active one.
fn unfit(active: &ModelInfo, shadow: &ModelInfo) -> Option<Trouble> {
    if active.version == shadow.version {
        return Some(Trouble::Active);
    }
    if active.task == Task::Embedding || shadow.task == Task::Embedding {
        return Some(Trouble::Unfit("embeddings have no score to compare"));
    }
    if discriminant(&active.task) != discriminant(&shadow.task) {
        return Some(Trouble::Unfit(
            "it gives other outputs than the active version",
        ));
    }
    let (ours, theirs) = (&active.feature_names, &shadow.feature_names);
    let is_named_alike = ours == theirs || ours.is_empty() || theirs.is_empty();
    let is_alike = match (active.input, shadow.input) {
        (InputKind::Text { .. }, InputKind::Text { .. }) => true,
        (one, other) => one == other && is_named_alike,
    };
    (!is_alike).then_some(Trouble::Unfit(
        "it takes other inputs than the active version",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_model::{PairRule, Precision, WeightPrecision};

    fn info(version: &str, task: Task, input: InputKind, names: &[&str]) -> ModelInfo {
        ModelInfo {
            name: "m".to_owned(),
            version: version.to_owned(),
            architecture: "mlp".to_owned(),
            task,
            input,
            feature_names: names.iter().map(|name| (*name).to_owned()).collect(),
            takes_missing: false,
            output_width: 1,
            precision: Precision::Single,
            max_text_bytes: 0,
            ttl_seconds: None,
            parameters: 1,
            weights: WeightPrecision::Single,
            golden: 1,
        }
    }

    #[test]
    fn versions_are_compared_that_take_and_give_the_same() {
        let features = InputKind::Features { count: 2 };
        let text = InputKind::Text {
            pair: PairRule::None,
        };
        let active = info("1", Task::Scalar, features, &["a", "b"]);
        let says = |version: &str, task, input, names: &[&str]| {
            let other = info(version, task, input, names);
            unfit(&active, &other).map(|trouble| trouble.reason())
        };
        assert_eq!(says("2", Task::Scalar, features, &["a", "b"]), None);
        assert_eq!(says("2", Task::Scalar, features, &[]), None);
        let inputs = Some("it takes other inputs than the active version".to_owned());
        assert_eq!(says("2", Task::Scalar, features, &["b", "a"]), inputs);
        assert_eq!(
            says("2", Task::Scalar, InputKind::Features { count: 3 }, &[]),
            inputs
        );
        assert_eq!(says("2", Task::Scalar, text, &[]), inputs);
        let labels = vec!["x".to_owned()];
        let outputs = Some("it gives other outputs than the active version".to_owned());
        assert_eq!(
            says("2", Task::Classification { labels }, features, &[]),
            outputs
        );
        let none = Some("embeddings have no score to compare".to_owned());
        assert_eq!(says("2", Task::Embedding, features, &[]), none);
        let same = Some("it is the active version".to_owned());
        assert_eq!(says("1", Task::Scalar, features, &[]), same);
    }
}
