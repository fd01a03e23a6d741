//! Kiln within a program of one's own, without servers: the models of a folder, the pipeline that the worker runs, and a file in which
//! scores are found again.
//!
//! Promises what `kiln score` promises: the same numbers, a result for each input in its order, and that what is scored is in the file
//! once [`Embedded::flush`] has returned. One process has a file at a time.
//!
//! ```no_run
//! # async fn example() -> Result<(), kiln::embedded::Error> {
//! use kiln::embedded::{Embedded, Input};
//!
//! let kiln = Embedded::open("models", "kiln.db").await?;
//! let inputs = [Input::text("I love this!").key("r1"), Input::text("Not again.")];
//! for scored in kiln.score("sentiment", &inputs).await? {
//!     println!("{:?} {:?} {:?}", scored.key, scored.label, scored.score);
//! }
//! kiln.flush().await?;
//! # Ok(())
//! # }
//! ```

use crate::{
    config::Settings,
    parts,
    pipeline::{Engine, JobSource, Outcome, outcome_of},
    store::StoreError,
};
use kiln_contract::{failure::Rejection, job::MAX_INPUTS};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

/// Models and a file of scores, opened.
pub struct Embedded {
    engine: Engine,
    parts: parts::Embedded,
    /// What jobs of this process are called.
    run: String,
    jobs: AtomicU64,
}

/// What a model scores: a text, a pair of texts, or features, as the model has it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Input {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text_pair: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    features: Option<Vec<f32>>,
}

/// What came of an input.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Scored {
    /// The input's own.
    pub key: Option<String>,
    /// Of a classifier: the most probable label.
    pub label: Option<String>,
    /// That label's probability, or a scalar model's number.
    pub score: Option<f32>,
    /// Of a classifier: each label's probability.
    pub scores: Option<BTreeMap<String, f32>>,
    /// An embedding model's vector, of the model's width.
    pub embedding: Option<Vec<f32>>,
    /// Whether it was scored before, and found.
    #[serde(default)]
    pub cached: bool,
    /// Why it wasn't scored.
    pub error: Option<InputProblem>,
}

/// What is wrong with one input.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct InputProblem {
    /// The field, such as `inputs[3].text`.
    pub field: String,
    /// What was expected.
    pub message: String,
}

/// Why nothing could be opened, or scored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The models or the file can't be opened.
    #[error("{0}")]
    Open(String),
    /// No such model, or inputs that can't be meant for it.
    #[error("{0}")]
    Rejected(Rejection),
    /// The model, or the file, has failed.
    #[error("{0}")]
    Failed(String),
    /// The file takes no more.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Input {
    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            text: Some(text.into()),
            ..Self::default()
        }
    }

    /// A pair of texts, for cross-encoders and the like.
    pub fn pair(text: impl Into<String>, text_pair: impl Into<String>) -> Self {
        Self {
            text_pair: Some(text_pair.into()),
            ..Self::text(text)
        }
    }

    /// Features, in the model's order; each must be finite.
    pub fn features(features: impl Into<Vec<f32>>) -> Self {
        Self {
            features: Some(features.into()),
            ..Self::default()
        }
    }

    /// The same with a key, which its result has as well.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }
}

impl Embedded {
    /// Opens the models of a folder, and a file of scores, which is made where it isn't there.
    ///
    /// # Errors
    /// [`Error::Open`] where either can't be opened. A model version that is broken is left out: naming it is [`Error::Rejected`].
    pub async fn open(models: impl AsRef<Path>, file: impl AsRef<Path>) -> Result<Self, Error> {
        let mut settings = Settings::default();
        settings.models.dir = models.as_ref().to_owned();
        settings.embedded.path = file.as_ref().to_owned();
        Self::with(&settings).await
    }

    /// The same with settings of one's own: [`crate::config::load`] reads them from a file and the environment, as the command does.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub async fn with(settings: &Settings) -> Result<Self, Error> {
        let open = |error: anyhow::Error| Error::Open(format!("{error:#}"));
        let parts = parts::embedded(settings, |_, _| {}).await.map_err(open)?;
        let engine = parts.engine(settings).map_err(open)?;
        Ok(Self {
            engine,
            parts,
            run: format!("embedded-{:016x}", rand::random::<u64>()),
            jobs: AtomicU64::new(0),
        })
    }

    /// Scores inputs with a model, `name` or `name@version`: a result for each, in their order. Inputs of several calls at the same time
    /// are scored in batches together.
    ///
    /// # Errors
    /// [`Error::Rejected`] where the model isn't known, [`Error::Failed`] where it fails, [`Error::Store`] where the file takes no more.
    /// An input that the model can't take is no error: its result says what is wrong with it.
    pub async fn score(&self, model: &str, inputs: &[Input]) -> Result<Vec<Scored>, Error> {
        let mut all = Vec::with_capacity(inputs.len());
        for inputs in inputs.chunks(MAX_INPUTS) {
            self.parts.store.check()?;
            all.extend(self.job(model, inputs).await?);
        }
        Ok(all)
    }

    async fn job(&self, model: &str, inputs: &[Input]) -> Result<Vec<Scored>, Error> {
        let number = self.jobs.fetch_add(1, Ordering::Relaxed);
        let job = serde_json::json!({
            "job_id": format!("{}-{number}", self.run),
            "model": model,
            "inputs": inputs,
            "detail": true,
            "on_error": "skip",
        });
        let run = self
            .engine
            .run(job.to_string(), None, JobSource::without_retry);
        match outcome_of(run.await) {
            Outcome::Done { result, .. } => serde_json::from_str(&result.results)
                .map_err(|_| Error::Failed("the results can't be read".to_owned())),
            Outcome::Rejected { rejection, .. } => Err(Error::Rejected(rejection)),
            Outcome::Retry { reason, .. } => Err(Error::Failed(reason)),
            Outcome::Postponed { .. } | Outcome::Moved(_) | Outcome::Abandoned => {
                Err(Error::Failed("the model's threads have stopped".to_owned()))
            }
        }
    }

    /// Waits until everything that was scored is in the file.
    ///
    /// # Errors
    /// Where the file takes no more.
    pub async fn flush(&self) -> Result<(), Error> {
        Ok(self.parts.store.flush().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models");

    #[tokio::test]
    async fn what_a_program_scores_is_what_the_model_says_and_is_found_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("kiln.db");
        let inputs: Vec<Input> = (0..2 * MAX_INPUTS + 7)
            .map(|n| Input::text(format!("nice text {n}")).key(n.to_string()))
            .collect();
        let kiln = Embedded::open(MODELS, &file).await.expect("both are there");
        let first = kiln.score("sentiment", &inputs).await.expect("a model");
        assert_eq!(first.len(), inputs.len());
        for (number, scored) in first.iter().enumerate() {
            assert_eq!(scored.key, Some(number.to_string()));
            let of_label = scored.scores.as_ref().zip(scored.label.as_ref());
            let probability = of_label.and_then(|(scores, label)| scores.get(label));
            assert!(probability.is_some() && probability == scored.score.as_ref());
            assert!(scored.error.is_none() && !scored.cached);
        }
        kiln.flush().await.expect("a file that takes it");
        drop(kiln);
        let kiln = Embedded::open(MODELS, &file).await.expect("both are there");
        let second = kiln.score("sentiment", &inputs).await.expect("a model");
        let scores = |all: &[Scored]| all.iter().map(|one| one.score).collect::<Vec<_>>();
        assert_eq!(scores(&first), scores(&second));
        assert!(second.iter().all(|scored| scored.cached));
    }

    #[tokio::test]
    async fn a_bad_input_costs_itself_and_a_model_that_there_isnt_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("kiln.db");
        let kiln = Embedded::open(MODELS, &file).await.expect("both are there");
        let inputs = [Input::text("good"), Input::features([1.0, 2.0])];
        let scored = kiln.score("sentiment", &inputs).await.expect("a model");
        let problems: Vec<bool> = scored.iter().map(|one| one.error.is_some()).collect();
        assert_eq!(problems, [false, true], "{scored:?}");
        let none = kiln.score("nobody", &inputs).await.err();
        let said = none.map(|error| error.to_string()).unwrap_or_default();
        assert!(said.contains("nobody"), "{said}");
        let nowhere = Embedded::open(MODELS, folder.path()).await.err();
        assert!(matches!(nowhere, Some(Error::Open(_))));
    }
}
