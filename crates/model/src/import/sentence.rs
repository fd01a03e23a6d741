//! What sentence-transformers' `modules.json` says: where the transformer is, and the head on it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::config::last_segment;
use super::error::{ImportError, read_json};
use crate::manifest::{DenseActivation, EncoderShape, Head, HeadDense, Pooling};

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

/// The modules of a folder.
pub(super) struct Modules {
    folder: PathBuf,
    file: PathBuf,
    entries: Vec<ModuleEntry>,
}

impl Modules {
    /// Reads them; nothing if the folder has none.
    pub fn read(folder: &Path) -> Result<Option<Self>, ImportError> {
        let file = folder.join("modules.json");
        if !file.exists() {
            return Ok(None);
        }
        Ok(Some(Self {
            folder: folder.to_owned(),
            entries: read_json(&file)?,
            file,
        }))
    }

    /// The folder with the transformer's own files.
    pub fn transformer(&self) -> Result<PathBuf, ImportError> {
        let is_transformer = |entry: &&ModuleEntry| last_segment(&entry.kind) == "Transformer";
        let first = self.entries.iter().find(is_transformer).ok_or_else(|| {
            ImportError::new(&self.file, "names no Transformer module".to_owned())
        })?;
        self.folder_of(first)
    }

    /// The head that the modules describe, and the folder of its Dense module.
    pub fn head(&self, shape: &EncoderShape) -> Result<(Head, Option<PathBuf>), ImportError> {
        let mut head = Head {
            pooling: Pooling::Mean,
            dense: None,
            normalise: false,
            include_prompt: true,
        };
        let mut dense_folder = None;
        let mut pooled = false;
        for entry in &self.entries {
            let path = self.folder_of(entry)?;
            match last_segment(&entry.kind) {
                "Transformer" => {}
                "Pooling" => {
                    (head.pooling, head.include_prompt) = pooling(&path.join("config.json"))?;
                    pooled = true;
                }
                "Dense" if head.dense.is_none() && !head.normalise => {
                    head.dense = Some(dense(&path.join("config.json"), shape)?);
                    dense_folder = Some(path);
                }
                "Normalize" => head.normalise = true,
                other => {
                    return Err(ImportError::new(
                        &self.file,
                        format!(
                            "has the module {other:?} there, expected Transformer, Pooling, at most one Dense, and Normalize, in this order"
                        ),
                    ));
                }
            }
        }
        if !pooled {
            return Err(ImportError::new(
                &self.file,
                "names no Pooling module".to_owned(),
            ));
        }
        Ok((head, dense_folder))
    }

    fn folder_of(&self, entry: &ModuleEntry) -> Result<PathBuf, ImportError> {
        let plain = !entry.path.starts_with(['/', '.'])
            && !entry.path.contains(['\\', '\0'])
            && !entry.path.contains("..");
        if plain {
            Ok(self.folder.join(&entry.path))
        } else {
            Err(ImportError::new(
                &self.file,
                format!(
                    "names the folder {:?}, expected one inside this one",
                    entry.path
                ),
            ))
        }
    }
}

/// The layer that such a module describes.
fn dense(file: &Path, shape: &EncoderShape) -> Result<HeadDense, ImportError> {
    let refuse = |message: String| Err(ImportError::new(file, message));
    let config: DenseConfig = read_json(file)?;
    if config.in_features != shape.hidden {
        return refuse(format!(
            "in_features: found {}, expected {}",
            config.in_features, shape.hidden
        ));
    }
    let activation = match last_segment(&config.activation_function) {
        "Tanh" | "" => DenseActivation::Tanh,
        "Identity" => DenseActivation::Identity,
        "ReLU" => DenseActivation::Relu,
        other => {
            return refuse(format!(
                "activation_function: found {other:?}, expected Tanh, ReLU or Identity"
            ));
        }
    };
    Ok(HeadDense {
        width: config.out_features,
        activation,
        bias: config.bias,
        norm_eps: None,
    })
}

/// How tokens' vectors become one, and whether a prompt's are among them.
fn pooling(file: &Path) -> Result<(Pooling, bool), ImportError> {
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
    let includes = config.get("include_prompt") != Some(&serde_json::Value::Bool(false));
    let pooling = match modes
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["mean_tokens" | "mean"] => Pooling::Mean,
        ["cls_token" | "cls"] => Pooling::Cls,
        _ => {
            return Err(ImportError::new(
                file,
                format!("pools by {modes:?}, expected mean_tokens or cls_token alone"),
            ));
        }
    };
    Ok((pooling, includes))
}
