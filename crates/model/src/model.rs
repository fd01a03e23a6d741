//! One loaded, checked version of a model, as others see it.
//!
//! Promises that outputs are finite and rounded as the manifest says, and that a version whose memory was released is loaded
//! again before it scores.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use kiln_contract::model::{InputKind, ModelError, ModelInfo, PairRule, Precision};

use super::cost::{self, Cost};
use super::inputs::Inputs;
use super::lazy_network::LazyNetwork;
use super::network::Network;
use super::rows::{Rows, Scored, TextRow};
use super::runner::Queue;
use super::text::TextRules;

/// One loaded, checked version of a model.
pub struct Model {
    info: ModelInfo,
    rules: TextRules,
    network: LazyNetwork,
    queue: Arc<Queue>,
    cost: Cost,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Model({}@{})", self.info.name, self.info.version)
    }
}

impl Model {
    /// A version that is in memory and was checked, at a cost of so many seconds a unit if that is known.
    pub(crate) fn new(
        info: ModelInfo,
        rules: TextRules,
        network: LazyNetwork,
        queue: Arc<Queue>,
        cost: Option<f64>,
    ) -> Self {
        Self {
            info,
            rules,
            network,
            queue,
            cost: Cost::guessed(cost),
        }
    }

    /// What this version is and takes.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Where its network is.
    pub(crate) fn network(&self) -> &LazyNetwork {
        &self.network
    }

    /// The text as the model sees it, by the manifest's rules. Pure and idempotent; borrowed when nothing changes.
    pub fn normalise<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.rules.apply(text)
    }

    /// Scores rows on the model threads; loads the version first if its memory was released, and waits for capacity when too
    /// many rows are queued. Dropping the future abandons what has not begun.
    ///
    /// # Errors
    /// One bad row fails the request: callers that want the others score them apart.
    pub async fn score(&self, rows: Rows) -> Result<Scored, ModelError> {
        fits(&self.info, &rows)?;
        let units = Cost::units(&rows);
        let network = self.network.get().await?;
        let inputs = match (rows, network.tokenizer()) {
            (Rows::Texts(texts), Some(tokenizer)) => {
                let tokenizer = Arc::clone(tokenizer);
                let cut = tokio::task::spawn_blocking(move || tokenizer.tokenize(&texts)).await;
                let tokens = cut.map_err(|failed| ModelError::Panicked {
                    message: format!("in the tokenizer: {failed}"),
                })??;
                Inputs::Tokens(tokens)
            }
            (rows, _) => rows.into(),
        };
        let expected = self.cost.seconds_per_unit().map(|cost| cost * units);
        let mut scored = self.queue.score(&network, inputs, expected).await?;
        self.cost
            .record(units, scored.calls.iter().map(|call| call.seconds).sum());
        round(&self.info, &mut scored.outputs)?;
        Ok(scored)
    }

    /// The same from a thread that may block, while the version is in memory.
    pub(crate) fn score_blocking(&self, rows: Rows) -> Result<Vec<f32>, ModelError> {
        let network = self.network.in_memory().ok_or(ModelError::Stopped)?;
        score_blocking(&self.info, &network, &self.queue, rows)
    }

    /// Seconds of model time that a text, or with none a row of features, is expected to cost; nothing before the first call.
    pub fn expected_seconds(&self, text: Option<(&str, Option<&str>)>) -> Option<f64> {
        let units = text.map_or(1.0, |(text, pair)| cost::text_units(text, pair));
        Some(self.cost.seconds_per_unit()? * units)
    }
}

/// Scores the few rows that are checked while a version is loaded.
pub(crate) fn score_blocking(
    info: &ModelInfo,
    network: &Arc<dyn Network>,
    queue: &Queue,
    rows: Rows,
) -> Result<Vec<f32>, ModelError> {
    fits(info, &rows)?;
    let inputs = match (rows, network.tokenizer()) {
        (Rows::Texts(texts), Some(tokenizer)) => Inputs::Tokens(tokenizer.tokenize(&texts)?),
        (rows, _) => rows.into(),
    };
    let mut outputs = queue.score_blocking(network, inputs)?;
    round(info, &mut outputs)?;
    Ok(outputs)
}

/// Rounds outputs as the manifest says, so that a fresh one is what the cache will give.
fn round(info: &ModelInfo, outputs: &mut [f32]) -> Result<(), ModelError> {
    if info.precision == Precision::Single {
        return Ok(());
    }
    for (i, x) in outputs.iter_mut().enumerate() {
        *x = half::f16::from_f32(*x).to_f32();
        if !x.is_finite() {
            let row = i / info.output_width.max(1);
            return Err(ModelError::NotFinite { row });
        }
    }
    Ok(())
}

fn fits(info: &ModelInfo, rows: &Rows) -> Result<(), ModelError> {
    let message = match (info.input, rows) {
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
                Some(row) if pair == PairRule::Required => format!("row {row} has no second text"),
                Some(row) => format!("row {row} has a second text"),
            }
        }
        (InputKind::Features { .. }, Rows::Texts(_)) => "texts, expected features".to_owned(),
        (InputKind::Text { .. }, Rows::Features { .. }) => "features, expected texts".to_owned(),
    };
    Err(ModelError::Unfit { message })
}
