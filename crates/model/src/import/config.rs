//! What `config.json` says of a model, in the words of Kiln's manifest.

mod classifier;
mod deberta;
mod fields;
mod modern;
mod shape;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};

use super::error::{ImportError, read_json};
use super::names::Family;
use crate::manifest::{Head, OutputActivation};
pub(super) use classifier::{Described, classification};
pub(super) use fields::in_its_words;
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
    #[serde(default, deserialize_with = "or_default")]
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
    #[serde(default, deserialize_with = "or_default")]
    type_vocab_size: usize,
    #[serde(alias = "activation", alias = "hidden_activation")]
    hidden_act: String,
    #[serde(default = "bert_eps")]
    layer_norm_eps: f32,
    pad_token_id: Option<usize>,
    relative_attention_num_buckets: Option<usize>,
    #[serde(default, deserialize_with = "or_default")]
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

/// A field that is null says as little as one that isn't there.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    value: D,
) -> Result<T, D::Error> {
    Option::deserialize(value).map(Option::unwrap_or_default)
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
        // Its reference ignores the field, which repositories carry.
        Some(_) if known.0 == Family::ModernBert => Ok(known),
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

/// The class that a Python path names, if it is one of `torch.nn`.
pub(super) fn torch_class(path: &str) -> Option<&str> {
    path.strip_prefix("torch.nn.")?.rsplit('.').next()
}
