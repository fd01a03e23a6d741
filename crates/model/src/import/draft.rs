//! The manifest as it is written, with its golden inputs.

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::config::PlannedTask;
use super::options::ImportOptions;
use super::plan::Plan;
use super::tensors::WEIGHTS_FILE;
use super::tokenizer::tokenizer_file;
use crate::manifest::{EncoderShape, Head, OutputActivation, TokenizerFile};
use crate::model::Model;
use crate::rows::{Rows, TextRow};
use kiln_contract::model::{PairRule, Precision, Training};

/// Inputs whose scores the manifest keeps: later loads, other backends and other machines must give them again.
const GOLDEN_TEXTS: [(&str, &str); 4] = [
    ("A short text.", "Another one."),
    (
        "It was the best of times, it was the worst of times.",
        "Καλημέρα κόσμε",
    ),
    ("今日は天気がいいですね 🙂", "x"),
    (
        "numbers 1234567890 and (punctuation)!?",
        "a second text that is a good deal longer than the first one was",
    ),
];

/// The manifest as it is written.
#[derive(Serialize)]
pub(super) struct Draft<'a> {
    architecture: &'static str,
    description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_seconds: Option<u64>,
    text: TextDraft,
    output: OutputDraft<'a>,
    tokenizer: TokenizerFile,
    encoder: &'a EncoderShape,
    head: &'a Head,
    weights: WeightsDraft,
    #[serde(skip_serializing_if = "Option::is_none")]
    training: Option<&'a Training>,
    pub golden: Vec<GoldenDraft>,
}

#[derive(Serialize)]
struct TextDraft {
    max_bytes: usize,
    lowercase: bool,
    pair: PairRule,
}

#[derive(Serialize)]
struct OutputDraft<'a> {
    task: &'static str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    labels: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<usize>,
    activation: OutputActivation,
    precision: Precision,
    #[serde(skip_serializing_if = "Option::is_none")]
    range: Option<f32>,
}

#[derive(Default, Serialize)]
pub(super) struct WeightsDraft {
    pub file: &'static str,
    pub sha256: String,
}

#[derive(Serialize)]
pub(crate) struct GoldenDraft {
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    text_pair: Option<String>,
    expect: Vec<f32>,
}

impl GoldenDraft {
    /// An input and what the model answers to it.
    pub fn new(text: String, text_pair: Option<String>, expect: Vec<f32>) -> Self {
        Self {
            text,
            text_pair,
            expect,
        }
    }
}

/// Bytes of text that one token stands for at most: a longer text is truncated in any case.
pub(super) const BYTES_PER_TOKEN: usize = 64;

impl<'a> Draft<'a> {
    /// The manifest of such a plan, without golden inputs.
    pub fn of(
        options: &'a ImportOptions,
        plan: &'a Plan,
        weights: &[u8],
        tokenizer: &[u8],
    ) -> Self {
        let (task, labels, width): (_, &[String], _) = match &plan.purpose.task {
            PlannedTask::Classification(labels) => ("classification", labels, None),
            PlannedTask::Scalar => ("scalar", &[], None),
            PlannedTask::Embedding { width } => ("embedding", &[], Some(*width)),
        };
        let source = options
            .folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        Self {
            architecture: "encoder",
            description: format!("Imported from {source}"),
            ttl_seconds: options.ttl_seconds,
            text: TextDraft {
                max_bytes: (plan.max_tokens * BYTES_PER_TOKEN).clamp(8192, 1 << 20),
                // Where the folder asks for it, the tokenizer does it.
                lowercase: false,
                pair: plan.purpose.pair,
            },
            output: OutputDraft {
                task,
                labels,
                width,
                activation: plan.purpose.activation,
                precision: options.precision,
                range: options.range,
            },
            tokenizer: tokenizer_file(plan, tokenizer),
            encoder: &plan.shape,
            head: &plan.purpose.head,
            weights: WeightsDraft {
                file: WEIGHTS_FILE,
                sha256: hex::encode(Sha256::digest(weights)),
            },
            training: options.training.as_ref(),
            golden: Vec::new(),
        }
    }
}

/// What the model answers to the golden inputs.
pub(crate) fn golden(model: &Model, pair: PairRule) -> Result<Vec<GoldenDraft>, String> {
    let mut golden = Vec::new();
    for (text, second) in GOLDEN_TEXTS {
        let text_pair = (pair != PairRule::None).then(|| second.to_owned());
        let row = TextRow {
            text: model.normalise(text).into_owned(),
            text_pair: text_pair
                .as_deref()
                .map(|pair| model.normalise(pair).into_owned()),
        };
        let expect = model
            .score_blocking(Rows::Texts(vec![row]))
            .map_err(|error| format!("the golden input {text:?}: {error}"))?;
        golden.push(GoldenDraft {
            text: text.to_owned(),
            text_pair,
            expect,
        });
    }
    Ok(golden)
}
