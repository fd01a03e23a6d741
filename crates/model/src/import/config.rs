//! What a Hugging Face folder says of its model, in the words of Kiln's manifest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::names::Family;
use super::{ImportError, ImportOptions, read_json};
use crate::PairRule;
use crate::manifest::{
    DenseActivation, EncoderActivation, EncoderShape, Head, HeadDense, OutputActivation, Pooling,
    TruncationSide,
};

/// Architectures that are taken, for messages.
const KNOWN: &str = "BertModel, BertForSequenceClassification, DistilBertModel, \
    DistilBertForSequenceClassification, RobertaModel, RobertaForSequenceClassification, XLMRobertaModel, \
    XLMRobertaForSequenceClassification";

#[derive(Deserialize)]
struct HfConfig {
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
    #[serde(alias = "activation")]
    hidden_act: String,
    #[serde(default = "bert_eps")]
    layer_norm_eps: f32,
    pad_token_id: Option<usize>,
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
struct CrossEncoderConfig {
    activation_fn: Option<String>,
}

fn bert_eps() -> f32 {
    1e-12
}

/// One entry of `modules.json`.
#[derive(Deserialize)]
struct ModuleEntry {
    #[serde(default)]
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct DenseConfig {
    in_features: usize,
    out_features: usize,
    #[serde(default = "yes")]
    bias: bool,
    #[serde(default)]
    activation_function: String,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct TokenizerConfig {
    model_max_length: Option<f64>,
    truncation_side: Option<TruncationSide>,
}

/// What `tokenizer.json` remembers of its last use.
#[derive(Deserialize)]
struct TokenizerState {
    truncation: Option<TokenizerTruncation>,
}

#[derive(Deserialize)]
struct TokenizerTruncation {
    #[serde(default)]
    direction: String,
}

#[derive(Deserialize)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

/// What becomes of a folder.
#[derive(Debug)]
pub(super) struct Plan {
    pub family: Family,
    pub shape: EncoderShape,
    pub head: Head,
    pub task: PlannedTask,
    pub activation: OutputActivation,
    pub pair: PairRule,
    pub lowercase: bool,
    pub max_tokens: usize,
    pub truncate: TruncationSide,
    /// The folder with the transformer's own files.
    pub transformer: PathBuf,
    /// The folder of a sentence-transformers Dense module.
    pub dense_folder: Option<PathBuf>,
    /// What was assumed, for people.
    pub notes: Vec<String>,
}

#[derive(Debug, PartialEq)]
pub(super) enum PlannedTask {
    Classification(Vec<String>),
    Scalar,
    Embedding { width: usize },
}

/// Reads every description in the folder.
pub(super) fn plan(options: &ImportOptions) -> Result<Plan, ImportError> {
    let folder = &options.folder;
    let modules_file = folder.join("modules.json");
    let modules: Option<Vec<ModuleEntry>> = if modules_file.exists() {
        Some(read_json(&modules_file)?)
    } else {
        None
    };
    let transformer = match &modules {
        None => folder.clone(),
        Some(entries) => {
            let first = entries
                .iter()
                .find(|entry| last_segment(&entry.kind) == "Transformer")
                .ok_or_else(|| {
                    ImportError::new(&modules_file, "names no Transformer module".to_owned())
                })?;
            module_folder(folder, &modules_file, first)?
        }
    };
    let config_file = transformer.join("config.json");
    let config: HfConfig = read_json(&config_file)?;
    let refuse = |message: String| ImportError::new(&config_file, message);
    let (family, classifier) = architecture(&config).map_err(refuse)?;
    let sentence_file = folder.join("config_sentence_transformers.json");
    let sentence: Option<CrossEncoderConfig> = if sentence_file.exists() {
        Some(read_json(&sentence_file)?)
    } else {
        None
    };
    let shape = shape(&config, family).map_err(refuse)?;
    let mut notes = Vec::new();
    let mut dense_folder = None;
    let (head, task, activation, pair);
    if classifier {
        (head, task, activation, pair) =
            classification(&config, sentence.as_ref(), family, &shape, options);
        if let (PlannedTask::Scalar, None) = (&task, options.activation) {
            notes.push(format!(
                "one label: scores go through {}; `--activation` chooses otherwise",
                if activation == OutputActivation::Sigmoid {
                    "a sigmoid"
                } else {
                    "no activation"
                }
            ));
        }
        notes.push(format!(
            "a second text is {}; `--pair` chooses otherwise",
            match pair {
                PairRule::None => "not taken",
                PairRule::Optional => "taken where a job has one",
                PairRule::Required => "expected on every input",
            }
        ));
    } else {
        let found;
        (found, dense_folder) = match &modules {
            Some(entries) => sentence_head(folder, &modules_file, entries, &shape)?,
            None => {
                let pooling = options.pooling.unwrap_or(Pooling::Mean);
                if options.pooling.is_none() {
                    notes.push("no modules.json: an input's embedding is the mean of its tokens' vectors; `--pooling` chooses otherwise".to_owned());
                }
                let head = Head {
                    pooling,
                    dense: None,
                    normalise: options.normalise,
                };
                (head, None)
            }
        };
        let width = found.dense.map_or(shape.hidden, |dense| dense.width);
        head = found;
        task = PlannedTask::Embedding { width };
        activation = OutputActivation::Identity;
        pair = options.pair.unwrap_or(PairRule::None);
    }
    let (max_tokens, truncate, lowercase) =
        limits(folder, &transformer, &shape, options.max_tokens)?;
    Ok(Plan {
        family,
        shape,
        head,
        task,
        activation,
        pair,
        lowercase,
        max_tokens,
        truncate,
        transformer,
        dense_folder,
        notes,
    })
}

fn architecture(config: &HfConfig) -> Result<(Family, bool), String> {
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

fn shape(config: &HfConfig, family: Family) -> Result<EncoderShape, String> {
    let activation = match config.hidden_act.as_str() {
        "gelu" => EncoderActivation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => EncoderActivation::GeluTanh,
        "relu" => EncoderActivation::Relu,
        other => {
            return Err(format!(
                "hidden_act: found {other:?}, expected gelu, gelu_new, gelu_pytorch_tanh, gelu_fast or relu"
            ));
        }
    };
    Ok(EncoderShape {
        layers: config.num_hidden_layers,
        hidden: config.hidden_size,
        heads: config.num_attention_heads,
        intermediate: config.intermediate_size,
        vocabulary: config.vocab_size,
        positions: config.max_position_embeddings,
        position_offset: match family {
            Family::Roberta => config.pad_token_id.unwrap_or(1) + 1,
            Family::Bert | Family::DistilBert => 0,
        },
        token_types: match family {
            Family::DistilBert => 0,
            Family::Bert | Family::Roberta => config.type_vocab_size,
        },
        activation,
        norm_eps: match family {
            // Fixed in the reference implementation.
            Family::DistilBert => 1e-12,
            Family::Bert | Family::Roberta => config.layer_norm_eps,
        },
    })
}

fn classification(
    config: &HfConfig,
    sentence: Option<&CrossEncoderConfig>,
    family: Family,
    shape: &EncoderShape,
    options: &ImportOptions,
) -> (Head, PlannedTask, OutputActivation, PairRule) {
    let head = Head {
        pooling: Pooling::Cls,
        dense: Some(HeadDense {
            width: shape.hidden,
            activation: match family {
                Family::DistilBert => DenseActivation::Relu,
                Family::Bert | Family::Roberta => DenseActivation::Tanh,
            },
            bias: true,
        }),
        normalise: false,
    };
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
        return (
            head,
            PlannedTask::Scalar,
            activation,
            options.pair.unwrap_or(pair),
        );
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
    let pair = options.pair.unwrap_or(PairRule::Optional);
    (head, PlannedTask::Classification(labels), activation, pair)
}

/// The head that sentence-transformers' modules describe, and the folder of its Dense module.
fn sentence_head(
    folder: &Path,
    modules_file: &Path,
    entries: &[ModuleEntry],
    shape: &EncoderShape,
) -> Result<(Head, Option<PathBuf>), ImportError> {
    let mut head = Head {
        pooling: Pooling::Mean,
        dense: None,
        normalise: false,
    };
    let mut dense_folder = None;
    let mut pooled = false;
    for entry in entries {
        let path = module_folder(folder, modules_file, entry)?;
        match last_segment(&entry.kind) {
            "Transformer" => {}
            "Pooling" => {
                head.pooling = pooling(&path.join("config.json"))?;
                pooled = true;
            }
            "Dense" if head.dense.is_none() && !head.normalise => {
                let file = path.join("config.json");
                let config: DenseConfig = read_json(&file)?;
                if config.in_features != shape.hidden {
                    return Err(ImportError::new(
                        &file,
                        format!(
                            "in_features: found {}, expected {}",
                            config.in_features, shape.hidden
                        ),
                    ));
                }
                let activation = match last_segment(&config.activation_function) {
                    "Tanh" | "" => DenseActivation::Tanh,
                    "Identity" => DenseActivation::Identity,
                    "ReLU" => DenseActivation::Relu,
                    other => {
                        return Err(ImportError::new(
                            &file,
                            format!(
                                "activation_function: found {other:?}, expected Tanh, ReLU or Identity"
                            ),
                        ));
                    }
                };
                head.dense = Some(HeadDense {
                    width: config.out_features,
                    activation,
                    bias: config.bias,
                });
                dense_folder = Some(path);
            }
            "Normalize" => head.normalise = true,
            other => {
                return Err(ImportError::new(
                    modules_file,
                    format!(
                        "has the module {other:?} there, expected Transformer, Pooling, at most one Dense, and Normalize, in this order"
                    ),
                ));
            }
        }
    }
    if !pooled {
        return Err(ImportError::new(
            modules_file,
            "names no Pooling module".to_owned(),
        ));
    }
    Ok((head, dense_folder))
}

fn pooling(file: &Path) -> Result<Pooling, ImportError> {
    let config: BTreeMap<String, serde_json::Value> = read_json(file)?;
    let mut modes: Vec<String> = config
        .iter()
        .filter(|(name, value)| {
            name.starts_with("pooling_mode_") && **value == serde_json::Value::Bool(true)
        })
        .map(|(name, _)| name.trim_start_matches("pooling_mode_").to_owned())
        .collect();
    if let Some(serde_json::Value::String(mode)) = config.get("pooling_mode") {
        modes.push(mode.clone());
    }
    match modes.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
        ["cls_token" | "cls"] => Ok(Pooling::Cls),
        _ => Err(ImportError::new(
            file,
            format!("pools by {modes:?}, expected mean_tokens or cls_token alone"),
        )),
    }
}

/// The most tokens of a text, where longer ones are cut, and whether texts are made lower case before they are cut.
fn limits(
    folder: &Path,
    transformer: &Path,
    shape: &EncoderShape,
    asked: Option<usize>,
) -> Result<(usize, TruncationSide, bool), ImportError> {
    let usable = shape.positions.saturating_sub(shape.position_offset);
    let mut sentence = None;
    for place in [transformer, folder] {
        let file = place.join("sentence_bert_config.json");
        if sentence.is_none() && file.exists() {
            sentence = Some(read_json::<SentenceConfig>(&file)?);
        }
    }
    let tokenizer_file = transformer.join("tokenizer_config.json");
    let tokenizer: Option<TokenizerConfig> = if tokenizer_file.exists() {
        Some(read_json(&tokenizer_file)?)
    } else {
        None
    };
    let side = tokenizer.as_ref().and_then(|config| config.truncation_side);
    let truncate = match side {
        Some(side) => side,
        None => remembered_side(&transformer.join("tokenizer.json")),
    };
    let stated = tokenizer
        .and_then(|config| config.model_max_length)
        // "No limit" is written as 1e30.
        .filter(|most| *most >= 1.0 && *most < 1e9)
        .map(|most| most as usize);
    let lowercase = sentence.as_ref().is_some_and(|config| config.do_lower_case);
    let most = asked
        .or(sentence.and_then(|config| config.max_seq_length))
        .or(stated)
        .unwrap_or(usable);
    Ok((most.min(usable), truncate, lowercase))
}

/// The side that `tokenizer.json` was last cut at. What is wrong with that file is told when it is loaded.
fn remembered_side(file: &Path) -> TruncationSide {
    let state = read_json::<TokenizerState>(file).ok();
    match state.and_then(|state| state.truncation) {
        Some(truncation) if truncation.direction == "Left" => TruncationSide::Left,
        _ => TruncationSide::Right,
    }
}

fn module_folder(
    folder: &Path,
    modules_file: &Path,
    entry: &ModuleEntry,
) -> Result<PathBuf, ImportError> {
    let plain = !entry.path.starts_with(['/', '.'])
        && !entry.path.contains(['\\', '\0'])
        && !entry.path.contains("..");
    if plain {
        Ok(folder.join(&entry.path))
    } else {
        Err(ImportError::new(
            modules_file,
            format!(
                "names the folder {:?}, expected one inside this one",
                entry.path
            ),
        ))
    }
}

fn last_segment(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}
