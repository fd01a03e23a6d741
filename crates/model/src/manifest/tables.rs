//! The manifest's tables, as written.

use std::collections::BTreeMap;

use kiln_contract::model::{InputKind, PairRule, Precision, Task, Training, WeightPrecision};
use serde::{Deserialize, Serialize};

use crate::error::LoadError;
use crate::quantise::QuantisationCost;
use crate::rounding::BITS;
use crate::text::{TextRules, UnicodeForm};

use super::encoder::{EncoderShape, Head};
pub(crate) use super::onnx::OnnxShape;
pub(crate) use super::trees::{TreesFormat, TreesShape};

/// A manifest as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub architecture: Architecture,
    /// For people.
    #[serde(default, rename = "description")]
    _description: Option<String>,
    pub ttl_seconds: Option<u64>,
    pub features: Option<FeatureInput>,
    pub text: Option<TextInput>,
    pub output: Output,
    pub weights: Option<WeightsFile>,
    /// What rounding the weights to bytes cost, as it was measured then.
    pub quantised: Option<QuantisationCost>,
    /// How the version was trained, as whoever trained it says.
    pub training: Option<Training>,
    pub mlp: Option<MlpShape>,
    pub ngram: Option<NgramShape>,
    pub tokenizer: Option<TokenizerFile>,
    pub encoder: Option<EncoderShape>,
    pub head: Option<Head>,
    pub trees: Option<TreesShape>,
    pub onnx: Option<OnnxShape>,
    #[serde(default)]
    pub golden: Vec<Golden>,
}

/// The architectures that this build knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum Architecture {
    /// Dense features through fully connected layers.
    #[serde(rename = "mlp")]
    Mlp,
    /// Hashed words and character n-grams, averaged, then one linear layer.
    #[serde(rename = "ngram-text")]
    NgramText,
    /// A transformer encoder of BERT's kind with a head.
    #[serde(rename = "encoder")]
    Encoder,
    /// Boosted trees and random forests, from their libraries' own files.
    #[serde(rename = "trees")]
    Trees,
    /// A graph that another library exported; in builds with the cargo feature of that name.
    #[serde(rename = "onnx")]
    Onnx,
    /// Misbehaves on request, for tests.
    #[cfg(feature = "faults")]
    #[serde(rename = "fault")]
    Fault,
}

impl Architecture {
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Mlp => "mlp",
            Architecture::NgramText => "ngram-text",
            Architecture::Encoder => "encoder",
            Architecture::Trees => "trees",
            Architecture::Onnx => "onnx",
            #[cfg(feature = "faults")]
            Architecture::Fault => "fault",
        }
    }
}

/// `[features]`: the model takes this many numbers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FeatureInput {
    pub count: usize,
    /// One per feature, where inputs may give them by name.
    #[serde(default)]
    pub names: Vec<String>,
    /// Subtracted from the features, one per feature; with `std`.
    pub mean: Option<Vec<f32>>,
    /// Divides the features after `mean`, one per feature.
    pub std: Option<Vec<f32>>,
}

/// `[text]`: the model takes a text.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TextInput {
    #[serde(default = "default_max_bytes")]
    pub max_bytes: usize,
    #[serde(default)]
    pub unicode: UnicodeForm,
    #[serde(default)]
    pub lowercase: bool,
    #[serde(default)]
    pub collapse_whitespace: bool,
    /// Whether a second text is taken.
    #[serde(default)]
    pub pair: PairRule,
}

fn default_max_bytes() -> usize {
    8192
}

/// `[output]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Output {
    pub task: TaskName,
    /// The labels of a classification, in the order of the last layer's rows.
    #[serde(default)]
    pub labels: Vec<String>,
    /// The width of an embedding. An encoder may give more: the first numbers are kept.
    pub width: Option<usize>,
    #[serde(default)]
    pub activation: OutputActivation,
    #[serde(default)]
    pub precision: Precision,
    /// What the whole number 127 stands for, in embeddings of whole numbers.
    pub range: Option<f32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TaskName {
    Classification,
    Scalar,
    Embedding,
}

/// What the last layer's sums go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputActivation {
    Sigmoid,
    Softmax,
    #[default]
    Identity,
}

/// `[weights]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WeightsFile {
    #[serde(default = "default_weights_file")]
    pub file: String,
    /// Of the whole file, in hexadecimal.
    pub sha256: String,
    /// Stands before every tensor's name in the file.
    #[serde(default)]
    pub prefix: String,
    /// Our tensor name to the file's, without the prefix.
    #[serde(default)]
    pub rename: BTreeMap<String, String>,
    /// What the encoder's layers are kept and multiplied in.
    #[serde(default)]
    pub precision: WeightPrecision,
}

fn default_weights_file() -> String {
    "model.safetensors".to_owned()
}

/// `[mlp]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MlpShape {
    /// The hidden layers' widths, first to last; may be empty.
    pub hidden: Vec<usize>,
    pub activation: HiddenActivation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum HiddenActivation {
    Relu,
    /// The exact one, by the error function.
    Gelu,
    Tanh,
}

/// `[ngram]`: how texts become buckets, and how wide a bucket's vector is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NgramShape {
    /// How many vectors the hashes are spread over.
    pub buckets: u32,
    /// Numbers per vector.
    pub dim: usize,
    /// The longest run of words that gets a bucket; 1 is words alone.
    pub word_ngrams: usize,
    /// The shortest run of characters within a word, its boundary marks included; 0 with `max_chars` 0 for none.
    pub min_chars: usize,
    /// The longest run of characters.
    pub max_chars: usize,
}

/// `[tokenizer]`: how texts become tokens.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenizerFile {
    /// A `tokenizer.json` of Hugging Face's `tokenizers` library, beside the manifest.
    #[serde(default = "default_tokenizer_file")]
    pub file: String,
    /// Of the whole file, in hexadecimal.
    pub sha256: String,
    /// Longer texts are cut to so many tokens, special ones included.
    pub max_tokens: usize,
    /// Where they are cut.
    #[serde(default)]
    pub truncate: TruncationSide,
    /// Stands before every text, as the model was trained with: "query: ". It isn't part of what a score is kept under, and counts in `max_tokens`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prompt: String,
}

/// The end at which a text that is too long loses tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TruncationSide {
    #[default]
    Right,
    Left,
}

fn default_tokenizer_file() -> String {
    "tokenizer.json".to_owned()
}

/// `[[golden]]`: an input and what the model must answer.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Golden {
    pub text: Option<String>,
    pub text_pair: Option<String>,
    pub features: Option<Vec<f32>>,
    pub expect: Vec<f32>,
}

impl Manifest {
    /// What the model takes, as others see it.
    pub fn input_kind(&self) -> InputKind {
        match &self.features {
            Some(features) => InputKind::Features {
                count: features.count,
            },
            None => InputKind::Text {
                pair: self
                    .text
                    .as_ref()
                    .map_or_else(PairRule::default, |text| text.pair),
            },
        }
    }

    /// The features' names; none where inputs have them by place alone.
    pub fn feature_names(&self) -> Vec<String> {
        let features = self.features.as_ref();
        features.map_or_else(Vec::new, |features| features.names.clone())
    }

    /// Whether inputs may lack features.
    pub fn takes_missing(&self) -> bool {
        let of_graph = self.onnx.as_ref().is_some_and(|onnx| onnx.missing);
        self.architecture == Architecture::Trees || of_graph
    }

    /// The rules for texts; nothing is changed if the model takes features.
    pub fn text_rules(&self) -> TextRules {
        self.text
            .as_ref()
            .map(|text| TextRules {
                unicode: text.unicode,
                lowercase: text.lowercase,
                collapse_whitespace: text.collapse_whitespace,
            })
            .unwrap_or_default()
    }

    /// What the outputs mean, as others see it.
    pub fn task(&self) -> Task {
        match self.output.task {
            TaskName::Classification => Task::Classification {
                labels: self.output.labels.clone(),
            },
            TaskName::Scalar => Task::Scalar,
            TaskName::Embedding => Task::Embedding,
        }
    }

    /// Numbers per row of what is given: bits share bytes.
    pub fn result_width(&self) -> usize {
        match self.output.precision {
            Precision::Binary => self.output_width() / BITS,
            _ => self.output_width(),
        }
    }

    /// Numbers per row that come out of the network.
    pub fn output_width(&self) -> usize {
        match self.output.task {
            TaskName::Classification => self.output.labels.len(),
            TaskName::Scalar => 1,
            TaskName::Embedding => self.output.width.unwrap_or(0),
        }
    }

    /// What the large layers are kept and multiplied in.
    pub fn weight_precision(&self) -> WeightPrecision {
        self.weights
            .as_ref()
            .map_or_else(WeightPrecision::default, |weights| weights.precision)
    }

    /// The architecture's own table and the weights, or which of them is missing.
    pub fn weights_file(&self) -> Result<&WeightsFile, LoadError> {
        self.weights
            .as_ref()
            .ok_or_else(|| LoadError::field("weights", "this table is missing"))
    }
}
