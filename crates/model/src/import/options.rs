//! What an import is asked for, and what it reports.

use std::path::PathBuf;

use kiln_contract::model::{ModelInfo, PairRule, Precision};

use crate::manifest::{OutputActivation, Pooling};

/// What to import, and what overrides the folder's own descriptions.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// The Hugging Face folder, or the model file of LightGBM or XGBoost.
    pub folder: PathBuf,
    /// The models folder.
    pub models_dir: PathBuf,
    pub name: String,
    pub version: String,
    pub pair: Option<PairRule>,
    pub pooling: Option<Pooling>,
    /// Whether an embedding without `modules.json` is scaled to length 1.
    pub normalise: bool,
    pub activation: Option<OutputActivation>,
    pub max_tokens: Option<usize>,
    pub ttl_seconds: Option<u64>,
    /// Which of the folder's prompts stands before texts; `none` for none, and otherwise the folder's own choice.
    pub prompt: Option<String>,
    /// How many of an embedding's numbers are kept.
    pub width: Option<usize>,
    /// What 127 stands for in embeddings of whole numbers.
    pub range: Option<f32>,
    /// How exact embeddings are.
    pub precision: Precision,
}

/// An import that went well.
#[derive(Debug)]
pub struct Imported {
    /// The version's folder.
    pub path: PathBuf,
    pub info: ModelInfo,
    /// What was assumed, for people.
    pub notes: Vec<String>,
}
