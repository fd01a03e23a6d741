//! What an import is asked for, and what it reports.

use std::path::PathBuf;

use kiln_contract::model::{ModelInfo, PairRule, Precision, Training};

use crate::error::ImportError;
use crate::manifest::{OutputActivation, Pooling};

/// What to import, and what overrides the folder's own descriptions.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// The Hugging Face folder, the model file of LightGBM or XGBoost, or an ONNX file or a folder with one.
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
    /// Of an ONNX file: the output that is taken, by name.
    pub output: Option<String>,
    /// Of an ONNX file: which of the output's numbers is the score.
    pub column: Option<usize>,
    /// Of an ONNX file: the labels of its output's numbers.
    pub labels: Vec<String>,
    /// Of an ONNX file: whether inputs may lack features, which the graph fills.
    pub missing: bool,
    pub ttl_seconds: Option<u64>,
    /// How the version was trained, for its manifest.
    pub training: Option<Training>,
    /// Which of the folder's prompts stands before texts; `none` for none, and otherwise the folder's own choice.
    pub prompt: Option<String>,
    /// How many of an embedding's numbers are kept.
    pub width: Option<usize>,
    /// What 127 stands for in embeddings of whole numbers.
    pub range: Option<f32>,
    /// How exact embeddings are.
    pub precision: Precision,
}

impl ImportOptions {
    /// Refuses what is for ONNX files alone.
    pub(super) fn has_none_of_onnx(&self) -> Result<(), ImportError> {
        let given = [
            ("--output", self.output.is_some()),
            ("--column", self.column.is_some()),
            ("--labels", !self.labels.is_empty()),
            ("--missing", self.missing),
        ];
        self.has_none_of(&given, "is for ONNX files")
    }

    /// Refuses the first option that is given.
    pub(super) fn has_none_of(&self, given: &[(&str, bool)], why: &str) -> Result<(), ImportError> {
        match given.iter().find(|(_, is_given)| *is_given) {
            None => Ok(()),
            Some((option, _)) => Err(ImportError::new(&self.folder, format!("{option}: {why}"))),
        }
    }
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
