//! What sentence-transformers' `modules.json` says: where the transformer is, and the head on it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::config::torch_class;
use super::error::{ImportError, read_json};
use super::options::ImportOptions;
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
    activation_function: Option<String>,
    #[serde(default)]
    use_residual: bool,
}

/// What a module reads and writes, where it says so.
#[derive(Deserialize)]
struct Ends {
    module_input_name: Option<String>,
    module_output_name: Option<String>,
}

/// What modules after the pooling read and write if they don't say.
const EMBEDDING: &str = "sentence_embedding";

/// The modules in the one order that is taken.
const ORDER: [&str; 4] = ["Transformer", "Pooling", "Dense", "Normalize"];

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
        self.check_order()?;
        let mut dense_folder = None;
        for entry in &self.entries {
            let path = self.folder_of(entry)?;
            let file = path.join("config.json");
            match last_segment(&entry.kind) {
                "Pooling" => (head.pooling, head.include_prompt) = pooling(&file)?,
                "Dense" => {
                    check_ends(&file)?;
                    head.dense = Some(dense(&file, shape)?);
                    dense_folder = Some(path);
                }
                "Normalize" => {
                    // Without options it has no file, and in older folders no folder.
                    if file.exists() {
                        check_ends(&file)?;
                    }
                    head.normalise = true;
                }
                _ => {}
            }
        }
        Ok((head, dense_folder))
    }

    /// Refuses options that say something else than the modules.
    pub fn check_options(&self, options: &ImportOptions) -> Result<(), ImportError> {
        let has = |kind: &str| {
            self.entries
                .iter()
                .any(|entry| last_segment(&entry.kind) == kind)
        };
        let normalise = [("--normalise", options.normalise && !has("Normalize"))];
        options.has_none_of(&normalise, "modules.json has no Normalize module")?;
        let Some(asked) = options.pooling else {
            return Ok(());
        };
        for entry in &self.entries {
            if last_segment(&entry.kind) == "Pooling" {
                let file = self.folder_of(entry)?.join("config.json");
                let (found, _) = pooling(&file)?;
                let message = format!("modules.json says {found:?}");
                options.has_none_of(&[("--pooling", found != asked)], &message)?;
            }
        }
        Ok(())
    }

    /// Refuses modules in any other order: another one is another arithmetic.
    fn check_order(&self) -> Result<(), ImportError> {
        let refuse = |message: String| Err(ImportError::new(&self.file, message));
        let mut kinds = Vec::new();
        for entry in &self.entries {
            let kind = last_segment(&entry.kind);
            let rank = ORDER.iter().position(|known| *known == kind);
            // What is scaled to length 1 stays as it is if it is scaled again.
            let is_again = rank == kinds.last().copied() && kind == "Normalize";
            match rank {
                Some(rank) if kinds.last().is_none_or(|last| rank > *last) => kinds.push(rank),
                Some(_) if is_again => {}
                _ => {
                    return refuse(format!(
                        "has the module {kind:?} there, expected Transformer, Pooling, at most one Dense, and Normalize, in this order"
                    ));
                }
            }
        }
        if !kinds.starts_with(&[0, 1]) {
            return refuse("names no Pooling module after the Transformer".to_owned());
        }
        Ok(())
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

/// The class of a Python path.
fn last_segment(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// Refuses a module that reads or writes anything but the pooled embedding.
fn check_ends(file: &Path) -> Result<(), ImportError> {
    let ends: Ends = read_json(file)?;
    for (field, name) in [
        ("module_input_name", ends.module_input_name),
        ("module_output_name", ends.module_output_name),
    ] {
        if let Some(name) = name
            && name != EMBEDDING
        {
            let message = format!("{field}: found {name:?}, expected {EMBEDDING}");
            return Err(ImportError::new(file, message));
        }
    }
    Ok(())
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
    if config.use_residual {
        return refuse("use_residual: found true, expected false".to_owned());
    }
    let path = config.activation_function.as_deref();
    let activation = match path.map(torch_class) {
        None | Some(Some("Tanh")) => DenseActivation::Tanh,
        Some(Some("Identity")) => DenseActivation::Identity,
        Some(Some("ReLU")) => DenseActivation::Relu,
        _ => {
            return refuse(format!(
                "activation_function: found {:?}, expected Tanh, ReLU or Identity of torch.nn",
                path.unwrap_or_default()
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
