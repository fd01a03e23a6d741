//! One loaded, checked version of a model, as others see it.
//!
//! Promises that outputs are finite and rounded as the manifest says, and that a version whose memory was released is loaded
//! again before it scores.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use kiln_contract::model::{InputKind, ModelError, ModelInfo, PairRule};

use super::cost::{self, Cost, LengthCost};
use super::inputs::Inputs;
use super::lazy_network::LazyNetwork;
use super::network::Network;
use super::pass_times::{PassCounts, PassFigures, PassTimes};
use super::rounding::Rounding;
use super::rows::{Rows, Scored, TextRow};
use super::runner::Queue;
use super::text::TextRules;

/// One loaded, checked version of a model.
pub struct Model {
    info: ModelInfo,
    rules: TextRules,
    rounding: Rounding,
    network: LazyNetwork,
    queue: Arc<Queue>,
    /// The kind of machine that its costs are of.
    machine: String,
    cost: Cost,
    passes: PassTimes,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Model({}@{})", self.info.name, self.info.version)
    }
}

impl Model {
    /// A version that is in memory and was checked, with golden inputs of so many units that took so many seconds.
    pub(crate) fn new(
        info: ModelInfo,
        (rules, rounding): (TextRules, Rounding),
        network: LazyNetwork,
        queue: Arc<Queue>,
        machine: String,
        goldens: &[(f64, f64)],
    ) -> Self {
        Self {
            info,
            rules,
            rounding,
            network,
            queue,
            machine,
            cost: Cost::of_goldens(goldens),
            passes: PassTimes::new(),
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
        let (count, units) = (rows.len(), Cost::units(&rows));
        let (network, inputs) = self.prepare(rows).await?;
        let each = units / count.max(1) as f64;
        let expected = self.cost.expected_seconds(each);
        let expected = expected.map(|each| each * count as f64);
        let mut scored = self.queue.score(&network, inputs, expected).await?;
        for call in &scored.calls {
            self.passes.record(call.rows, call.seconds);
        }
        let seconds = scored.calls.iter().map(|call| call.seconds).sum();
        self.cost.record(count, units, seconds);
        scored.outputs = self.rounding.apply(scored.outputs)?;
        Ok(scored)
    }

    /// Scores rows in one pass where nobody waits for them: on one thread, after whatever else there is to do. What that takes says nothing
    /// of what the model costs, and isn't taken for it.
    ///
    /// # Errors
    /// Those of [`Model::score`].
    pub async fn score_unawaited(&self, rows: Rows) -> Result<Scored, ModelError> {
        let (network, inputs) = self.prepare(rows).await?;
        let mut scored = self.queue.score_unawaited(&network, inputs).await?;
        scored.outputs = self.rounding.apply(scored.outputs)?;
        Ok(scored)
    }

    /// Checks rows, loads the version if its memory was released, and cuts texts into tokens.
    async fn prepare(&self, rows: Rows) -> Result<(Arc<dyn Network>, Inputs), ModelError> {
        fits(&self.info, &rows)?;
        let network = self.network.get().await?;
        let inputs = match (rows, network.tokenizer()) {
            (Rows::Texts(texts), Some(tokenizer)) => {
                let tokenizer = Arc::clone(tokenizer);
                let cut = tokio::task::spawn_blocking(move || tokenizer.tokenize(&texts)).await;
                // What a panic says may quote a text.
                let tokens = cut.map_err(|_failed| ModelError::Panicked {
                    message: "in the tokenizer".to_owned(),
                })??;
                Inputs::Tokens(tokens)
            }
            (rows, _) => rows.into(),
        };
        Ok((network, inputs))
    }

    /// What golden inputs have: before outputs become whole numbers. From a thread that may block, while the version is in memory.
    pub(crate) fn score_blocking(&self, rows: Rows) -> Result<Vec<f32>, ModelError> {
        let network = self.network.in_memory().ok_or(ModelError::Stopped)?;
        score_blocking(&self.info, self.rounding, &network, &self.queue, rows)
    }

    /// Seconds of model time that a text, or with none a row of features, is expected to cost; nothing where neither calls nor golden inputs,
    /// nor others, have said.
    pub fn expected_seconds(&self, text: Option<(&str, Option<&str>)>) -> Option<f64> {
        let units = text.map_or(1.0, |(text, pair)| cost::text_units(text, pair));
        self.cost.expected_seconds(units)
    }

    /// The kind of machine that it runs on: its backend, its processor, and how many of that.
    pub fn machine(&self) -> &str {
        &self.machine
    }

    /// Bytes of its weights, laid out as its arithmetic reads them, without what a tokenizer or a pass takes; none while its memory is released.
    /// Of ONNX, those of the file's tensors.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.network.bytes_in_memory()
    }

    /// How long its passes took within the last ten minutes; none where there were none. Those that nobody waits for aren't among them.
    pub fn passes(&self) -> Option<PassFigures> {
        self.passes.figures()
    }

    /// The same as counts, for figures over several workers.
    pub fn pass_counts(&self) -> Option<PassCounts> {
        self.passes.counts()
    }

    /// Whether calls have measured what its inputs cost, its own or, as it was told, others' on the same kind of machine.
    pub fn has_measured(&self) -> bool {
        self.cost.is_measured()
    }

    /// What its own calls and golden inputs say of what inputs cost, by their length.
    pub fn costs(&self) -> Vec<LengthCost> {
        self.cost.own()
    }

    /// Takes what others know of its costs for what its own calls haven't measured.
    pub fn adopt_costs(&self, costs: &[LengthCost]) {
        self.cost.adopt(costs);
    }
}

/// Scores the few rows that are checked while a version is loaded; they aren't made whole numbers.
pub(crate) fn score_blocking(
    info: &ModelInfo,
    rounding: Rounding,
    network: &Arc<dyn Network>,
    queue: &Queue,
    rows: Rows,
) -> Result<Vec<f32>, ModelError> {
    fits(info, &rows)?;
    let inputs = match (rows, network.tokenizer()) {
        (Rows::Texts(texts), Some(tokenizer)) => Inputs::Tokens(tokenizer.tokenize(&texts)?),
        (rows, _) => rows.into(),
    };
    let outputs = queue.score_blocking(network, inputs)?;
    rounding.apply_floats(outputs)
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
