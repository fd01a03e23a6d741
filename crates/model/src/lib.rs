//! The model room: finds models on disk, checks them, and runs them on threads of their own.
//!
//! Owns the models folder's layout, the manifest's format and the model threads. Promises that a version serves only
//! after its manifest, weights and golden inputs were checked, that an input's outputs are the same bits whatever
//! else is in its batch, that outputs are finite, and that a model that panics costs one request and no thread.
//! Runs nothing on the async runtime's threads but passes that are shorter than a hand-over, and knows nothing of jobs,
//! caches or servers.

#![forbid(unsafe_code)]

mod cost;
mod dense;
mod directory;
mod encoder;
mod error;
#[cfg(feature = "faults")]
mod fault;
#[cfg(test)]
mod fixtures;
mod hardware;
mod import;
mod load;
mod manifest;
mod mlp;
mod network;
mod ngram;
mod registry;
mod residence;
mod runner;
mod settings;
mod text;
mod tokens;
mod weights;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

pub use error::{OpenError, Problem, UnknownModel};
pub use import::{ImportError, ImportOptions, Imported, import};
pub use kiln_contract::model::{InputKind, ModelError, ModelInfo, PairRule, Precision, Task};
pub use manifest::{NgramShape, OutputActivation, Pooling};
pub use ngram::Featuriser;
pub use registry::{ChoiceReport, ListedModel, Registry, RescanReport};
pub use settings::{Backend, ModelSettings};
pub use text::{TextRules, UnicodeForm};
pub use tokens::Tokens;

use cost::Cost;
use residence::Residence;
use runner::Queue;

/// Inputs to score, all of one kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Rows {
    /// Numbers, row after row.
    Features {
        /// Numbers per row.
        width: usize,
        /// `width` numbers per row, one row after the other.
        data: Vec<f32>,
    },
    /// Texts that went through [`Model::normalise`].
    Texts(Vec<TextRow>),
    /// Texts that the model's own tokenizer cut: [`Model::score`] makes them of texts.
    Tokens(Tokens),
}

impl Rows {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        match self {
            Rows::Features { width: 0, .. } => 0,
            Rows::Features { width, data } => data.len() / width,
            Rows::Texts(texts) => texts.len(),
            Rows::Tokens(tokens) => tokens.len(),
        }
    }

    /// Whether there is nothing to score.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One text input, already normalised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextRow {
    /// The text.
    pub text: String,
    /// The second text, for models that take two.
    pub text_pair: Option<String>,
}

/// What came out of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// `output_width` finite numbers per row, in the rows' order. Classifiers: every label's probability.
    pub outputs: Vec<f32>,
    /// One entry per forward pass.
    pub calls: Vec<ModelCall>,
    /// Texts that were cut short because they have more tokens than the model takes.
    pub truncated: usize,
}

/// One forward pass, for metrics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelCall {
    /// How many rows it scored.
    pub rows: usize,
    /// How many tokens they had; 0 where the model doesn't read tokens.
    pub tokens: usize,
    /// How long it took on the model thread.
    pub seconds: f64,
}

/// One loaded, checked version of a model.
pub struct Model {
    info: ModelInfo,
    rules: TextRules,
    residence: Residence,
    cost: Cost,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Model({}@{})", self.info.name, self.info.version)
    }
}

impl Model {
    /// What this version is and takes.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The text as the model sees it, by the manifest's rules. Pure and idempotent; borrowed when nothing changes.
    pub fn normalise<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.rules.apply(text)
    }

    /// Scores rows on the model threads; loads the version first where its memory was given back, and waits for room when too many rows are queued. Dropping the future abandons
    /// what has not begun.
    ///
    /// # Errors
    /// One bad row fails the request: callers that want the others score them apart.
    pub async fn score(&self, rows: Rows) -> Result<Scored, ModelError> {
        self.fits(&rows)?;
        let units = Cost::units(&rows);
        let network = self.residence.network().await?;
        let rows = match (rows, network.cutter()) {
            (Rows::Texts(texts), Some(cutter)) => {
                let cutter = Arc::clone(cutter);
                let cut = tokio::task::spawn_blocking(move || cutter.cut(&texts)).await;
                let tokens = cut.map_err(|failed| ModelError::Panicked {
                    message: format!("in the tokenizer: {failed}"),
                })??;
                Rows::Tokens(tokens)
            }
            (rows, _) => rows,
        };
        let mut scored = self.queue().score(&network, rows).await?;
        self.cost
            .note(units, scored.calls.iter().map(|call| call.seconds).sum());
        self.round(&mut scored.outputs)?;
        Ok(scored)
    }

    /// Seconds of model time that a text, or with none a row of features, is expected to cost; nothing before the first call.
    pub fn expected_seconds(&self, text: Option<(&str, Option<&str>)>) -> Option<f64> {
        let units = text.map_or(1.0, |(text, pair)| cost::text_units(text, pair));
        Some(self.cost.seconds_per_unit()? * units)
    }

    /// Rounds outputs as the manifest says, so that a fresh one is what the cache will give.
    fn round(&self, outputs: &mut [f32]) -> Result<(), ModelError> {
        if self.info.precision == Precision::Single {
            return Ok(());
        }
        for (i, x) in outputs.iter_mut().enumerate() {
            *x = half::f16::from_f32(*x).to_f32();
            if !x.is_finite() {
                let row = i / self.info.output_width.max(1);
                return Err(ModelError::NotFinite { row });
            }
        }
        Ok(())
    }

    /// The same from a thread that may block, for the few rows that are checked while a version is loaded.
    fn score_blocking(&self, rows: Rows) -> Result<Vec<f32>, ModelError> {
        self.fits(&rows)?;
        let network = self.residence.here().ok_or(ModelError::Stopped)?;
        let rows = match (rows, network.cutter()) {
            (Rows::Texts(texts), Some(cutter)) => Rows::Tokens(cutter.cut(&texts)?),
            (rows, _) => rows,
        };
        let mut outputs = self.queue().score_blocking(&network, rows)?;
        self.round(&mut outputs)?;
        Ok(outputs)
    }

    fn queue(&self) -> &Queue {
        &self.residence.origin().queue
    }

    fn fits(&self, rows: &Rows) -> Result<(), ModelError> {
        let message = match (self.info.input, rows) {
            (InputKind::Features { count }, Rows::Features { width, data }) => {
                if *width == count && data.len() % count == 0 {
                    return Ok(());
                }
                format!(
                    "{} numbers in rows of {width}, expected rows of {count}",
                    data.len()
                )
            }
            (InputKind::Text { pair }, Rows::Texts(texts)) => {
                let unfit = |row: &TextRow| !pair.admits(row.text_pair.is_some());
                match texts.iter().position(unfit) {
                    None => return Ok(()),
                    Some(row) if pair == PairRule::Required => {
                        format!("row {row} has no second text")
                    }
                    Some(row) => format!("row {row} has a second text"),
                }
            }
            (InputKind::Features { .. }, Rows::Texts(_)) => "texts, expected features".to_owned(),
            (InputKind::Text { .. }, Rows::Features { .. }) => {
                "features, expected texts".to_owned()
            }
            (_, Rows::Tokens(_)) => "tokens, expected texts or features".to_owned(),
        };
        Err(ModelError::Unfit { message })
    }
}
