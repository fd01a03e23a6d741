//! The manifest as it is written, and the rows of its golden inputs.

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::output::Chosen;
use super::texts::Texts;
use super::{FILE, ImportOptions};
use crate::import::GoldenDraft;
use crate::import::draft::WeightsDraft;
use crate::manifest::{OnnxShape, OutputActivation, TokenizerFile};
use crate::onnx::Graph;
use kiln_contract::model::{PairRule, Precision, Training};

/// Features beyond which golden inputs are few, to keep the manifest small.
const MANY_FEATURES: usize = 1_000;

/// The manifest as it is written.
#[derive(Serialize)]
pub(super) struct Draft {
    architecture: &'static str,
    description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    features: Option<Features>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<Text>,
    output: Output,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokenizer: Option<TokenizerFile>,
    onnx: OnnxShape,
    weights: WeightsDraft,
    #[serde(skip_serializing_if = "Option::is_none")]
    training: Option<Training>,
    pub golden: Vec<Golden>,
}

#[derive(Serialize)]
struct Features {
    count: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    names: Vec<String>,
}

#[derive(Serialize)]
struct Text {
    max_bytes: usize,
    pair: PairRule,
}

#[derive(Serialize)]
struct Output {
    task: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    labels: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<usize>,
    activation: OutputActivation,
    precision: Precision,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Golden {
    Features {
        features: Vec<f32>,
        expect: Vec<f32>,
    },
    Text(GoldenDraft),
}

impl Draft {
    /// The manifest of such a graph, without golden inputs.
    pub fn of(
        options: &ImportOptions,
        graph: &Graph,
        chosen: &Chosen,
        texts: Option<&Texts>,
        bytes: &[u8],
    ) -> Self {
        let source = options.folder.file_name().unwrap_or_default();
        Self {
            architecture: "onnx",
            description: format!("Imported from {}", source.to_string_lossy()),
            ttl_seconds: options.ttl_seconds,
            features: graph.features.map(|count| Features {
                count,
                names: graph.names.clone(),
            }),
            text: texts.map(|texts| Text {
                max_bytes: texts.max_bytes(),
                pair: texts.pair,
            }),
            output: Output {
                task: chosen.task,
                labels: chosen.labels.clone(),
                width: chosen.embedding,
                activation: chosen.activation,
                precision: options.precision,
            },
            tokenizer: texts.map(Texts::declared),
            onnx: chosen.shape.clone(),
            weights: WeightsDraft {
                file: FILE,
                sha256: hex::encode(Sha256::digest(bytes)),
            },
            training: options.training.clone(),
            golden: Vec::new(),
        }
    }
}

/// Rows of zeros and small numbers, whole ones as well, and where features may be missing, one that lacks every second and one that lacks all.
pub(super) fn golden_rows(features: usize, missing: bool) -> Vec<Vec<f32>> {
    let row = |number: &dyn Fn(usize) -> f32| (0..features).map(number).collect::<Vec<f32>>();
    let mut rows = vec![row(&|_| 0.0)];
    if features <= MANY_FEATURES {
        rows.push(row(&|_| 1.0));
        rows.push(row(&|i| (i % 3) as f32));
        rows.push(row(&|i| (i % 7) as f32 * 0.75 - 2.25));
    }
    if missing {
        rows.push(row(&|i| if i % 2 == 0 { f32::NAN } else { 1.0 }));
        rows.push(row(&|_| f32::NAN));
    }
    rows
}
