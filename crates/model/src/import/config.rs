//! What `config.json` says of a model, in the words of Kiln's manifest.

mod deberta;
mod modern;
mod shape;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::{ImportError, read_json};
use super::names::Family;
use super::options::ImportOptions;
use crate::manifest::{Head, OutputActivation};
use kiln_contract::model::PairRule;
pub(super) use modern::NomicHubConfig;
pub(super) use shape::{Form, Lacking};

/// Architectures that are taken, for messages.
const KNOWN: &str = "BertModel, BertForSequenceClassification, DistilBertModel, \
    DistilBertForSequenceClassification, RobertaModel, RobertaForSequenceClassification, XLMRobertaModel, \
    XLMRobertaForSequenceClassification, MPNetModel, MPNetForSequenceClassification, ModernBertModel, \
    ModernBertForSequenceClassification, NomicBertModel, DebertaV2Model, DebertaV2ForSequenceClassification";

#[derive(Default, Deserialize)]
pub(super) struct HfConfig {
    #[serde(default)]
    architectures: Vec<String>,
    vocab_size: usize,
    #[serde(alias = "dim")]
    hidden_size: usize,
    #[serde(alias = "n_layers")]
    num_hidden_layers: usize,
    #[serde(alias = "n_heads")]
    num_attention_heads: usize,
    #[serde(alias = "hidden_dim")]
    intermediate_size: usize,
    max_position_embeddings: usize,
    #[serde(default)]
    type_vocab_size: usize,
    #[serde(alias = "activation", alias = "hidden_activation")]
    hidden_act: String,
    #[serde(default = "bert_eps")]
    layer_norm_eps: f32,
    pad_token_id: Option<usize>,
    relative_attention_num_buckets: Option<usize>,
    #[serde(default)]
    id2label: BTreeMap<String, String>,
    num_labels: Option<usize>,
    problem_type: Option<String>,
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
    #[serde(default)]
    sinusoidal_pos_embds: bool,
    sentence_transformers: Option<CrossEncoderConfig>,
    sbert_ce_default_activation_function: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct CrossEncoderConfig {
    activation_fn: Option<String>,
}

fn bert_eps() -> f32 {
    1e-12
}

/// What the model's outputs mean.
#[derive(Debug, PartialEq)]
pub(super) enum PlannedTask {
    Classification(Vec<String>),
    Scalar,
    Embedding { width: usize },
}

/// What a model is used for: the head on the encoder, and what goes in and comes out.
pub(super) struct Purpose {
    pub head: Head,
    pub task: PlannedTask,
    pub activation: OutputActivation,
    pub pair: PairRule,
    /// The folder of a sentence-transformers Dense module.
    pub dense_folder: Option<PathBuf>,
}

/// The family, and whether a classifier sits on the encoder; or what isn't taken.
pub(super) fn architecture(config: &HfConfig) -> Result<(Family, bool), String> {
    let name = config
        .architectures
        .first()
        .map(String::as_str)
        .unwrap_or_default();
    let known = match name {
        "BertModel" | "BertForMaskedLM" | "BertForPreTraining" => (Family::Bert, false),
        "BertForSequenceClassification" => (Family::Bert, true),
        "DistilBertModel" | "DistilBertForMaskedLM" => (Family::DistilBert, false),
        "DistilBertForSequenceClassification" => (Family::DistilBert, true),
        "RobertaModel" | "XLMRobertaModel" | "RobertaForMaskedLM" | "XLMRobertaForMaskedLM" => {
            (Family::Roberta, false)
        }
        "RobertaForSequenceClassification" | "XLMRobertaForSequenceClassification" => {
            (Family::Roberta, true)
        }
        "MPNetModel" | "MPNetForMaskedLM" => (Family::Mpnet, false),
        "MPNetForSequenceClassification" => (Family::Mpnet, true),
        "ModernBertModel" | "ModernBertForMaskedLM" => (Family::ModernBert, false),
        "ModernBertForSequenceClassification" => (Family::ModernBert, true),
        "NomicBertModel" | "NomicBertForMaskedLM" | "NomicBertForPreTraining" => {
            (Family::Nomic, false)
        }
        "DebertaV2Model" | "DebertaV2ForMaskedLM" => (Family::Deberta, false),
        "DebertaV2ForSequenceClassification" => (Family::Deberta, true),
        other => {
            return Err(format!(
                "architectures: found {other:?}, expected one of {KNOWN}"
            ));
        }
    };
    if config.is_decoder {
        return Err("is_decoder: found true, expected an encoder".to_owned());
    }
    if config.sinusoidal_pos_embds {
        // The table is in the weights all the same; nothing else differs.
        return Ok(known);
    }
    match config.position_embedding_type.as_deref() {
        None | Some("absolute") => Ok(known),
        Some(other) => Err(format!(
            "position_embedding_type: found {other:?}, expected \"absolute\""
        )),
    }
}

/// The configuration in `file` once more, with what only its family has.
pub(super) fn form(config: &HfConfig, family: Family, file: &Path) -> Result<Form, ImportError> {
    let form = match family {
        Family::ModernBert => modern::modern(config, &read_json(file)?),
        Family::Nomic => modern::nomic(config, &read_json(file)?),
        Family::Deberta => deberta::deberta(config, &read_json(file)?),
        Family::Bert | Family::DistilBert | Family::Roberta | Family::Mpnet => {
            shape::usual(config, family)
        }
    };
    form.map_err(|message| ImportError::new(file, message))
}

/// A classifier's.
pub(super) fn classification(
    config: &HfConfig,
    sentence: Option<&CrossEncoderConfig>,
    head: &Head,
    options: &ImportOptions,
) -> Purpose {
    let head = head.clone();
    let count = config.num_labels.unwrap_or(match config.id2label.len() {
        0 => 2,
        named => named,
    });
    let regression = config.problem_type.as_deref() == Some("regression");
    if count == 1 {
        let named = [sentence, config.sentence_transformers.as_ref()]
            .into_iter()
            .flatten()
            .find_map(|config| config.activation_fn.as_deref())
            .or(config.sbert_ce_default_activation_function.as_deref())
            .map(last_segment);
        let activation = options.activation.unwrap_or(match named {
            Some("Identity") => OutputActivation::Identity,
            Some(_) => OutputActivation::Sigmoid,
            None if regression => OutputActivation::Identity,
            None => OutputActivation::Sigmoid,
        });
        let pair = if regression {
            PairRule::Optional
        } else {
            PairRule::Required
        };
        return Purpose {
            head,
            task: PlannedTask::Scalar,
            activation,
            pair: options.pair.unwrap_or(pair),
            dense_folder: None,
        };
    }
    let labels = (0..count)
        .map(|i| {
            let named = config.id2label.get(&i.to_string()).cloned();
            named.unwrap_or_else(|| format!("LABEL_{i}"))
        })
        .collect();
    let many = config.problem_type.as_deref() == Some("multi_label_classification");
    let activation = options.activation.unwrap_or(if many {
        OutputActivation::Sigmoid
    } else {
        OutputActivation::Softmax
    });
    Purpose {
        head,
        task: PlannedTask::Classification(labels),
        activation,
        pair: options.pair.unwrap_or(PairRule::Optional),
        dense_folder: None,
    }
}

/// The class of a Python path.
pub(super) fn last_segment(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}
