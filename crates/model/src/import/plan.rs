//! What becomes of a folder: everything that its descriptions say, put together.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use kiln_contract::model::PairRule;

use super::config::{self, Form, HfConfig, Lacking, NomicHubConfig, PlannedTask, Purpose};
use super::error::{ImportError, read_json};
use super::limits::limits;
use super::names::Family;
use super::options::ImportOptions;
use super::prompt::{PromptsConfig, prompt};
use super::sentence::Modules;
use crate::manifest::{EncoderShape, Head, OutputActivation, Pooling, TruncationSide};

/// What becomes of a folder.
pub(super) struct Plan {
    pub family: Family,
    pub shape: EncoderShape,
    pub lacking: Lacking,
    pub purpose: Purpose,
    pub lowercase: bool,
    pub max_tokens: usize,
    pub truncate: TruncationSide,
    /// What stands before texts; mostly empty.
    pub prompt: String,
    /// The folder with the transformer's own files.
    pub transformer: PathBuf,
    /// What was assumed, for people.
    pub notes: Vec<String>,
}

/// Reads every description in the folder.
pub(super) fn plan(options: &ImportOptions) -> Result<Plan, ImportError> {
    let folder = &options.folder;
    let modules = Modules::read(folder)?;
    let transformer = match &modules {
        None => folder.clone(),
        Some(modules) => modules.transformer()?,
    };
    let config_file = transformer.join("config.json");
    let refuse = |message: String| ImportError::new(&config_file, message);
    let (config, hub) = read_config(&config_file)?;
    let (family, is_classifier) = config::architecture(&config).map_err(refuse)?;
    let Form {
        shape,
        head,
        lacking,
    } = match hub {
        Some(form) => form,
        None => config::form(&config, family, &config_file)?,
    };
    shape.check().map_err(|error| refuse(error.message))?;
    let sentence_file = folder.join("config_sentence_transformers.json");
    let has_sentence = sentence_file.exists();
    let sentence = has_sentence
        .then(|| read_json(&sentence_file))
        .transpose()?;
    let prompts: PromptsConfig = match has_sentence && !is_classifier {
        true => read_json(&sentence_file)?,
        false => PromptsConfig::default(),
    };
    let mut notes = Vec::new();
    if is_classifier && (options.prompt.is_some() || options.width.is_some()) {
        let message = "is a classifier's; --prompt and --width are for embeddings".to_owned();
        return Err(refuse(message));
    }
    let purpose = if is_classifier {
        let purpose = config::classification(&config, sentence.as_ref(), &head, options);
        note_assumptions(&purpose, options, &mut notes);
        purpose
    } else {
        embedding(modules.as_ref(), &shape, options, &mut notes)?
    };
    let (max_tokens, truncate, lowercase) =
        limits(folder, &transformer, &shape, options.max_tokens)?;
    let mut prompt = prompt(&prompts, &sentence_file, options, &mut notes)?;
    if lowercase {
        prompt = prompt.to_lowercase();
    }
    let mut purpose = purpose;
    // Without a prompt, or of the first token's vector, there is nothing to leave out.
    purpose.head.include_prompt |= prompt.is_empty() || purpose.head.pooling != Pooling::Mean;
    Ok(Plan {
        family,
        shape,
        lacking,
        purpose,
        lowercase,
        max_tokens,
        truncate,
        prompt,
        transformer,
        notes,
    })
}

/// A configuration, and its form where it is Nomic's own.
fn read_config(file: &Path) -> Result<(HfConfig, Option<Form>), ImportError> {
    #[derive(Deserialize)]
    struct Probe {
        n_embd: Option<serde_json::Value>,
        rotary_emb_base: Option<serde_json::Value>,
    }
    let probe: Probe = read_json(file)?;
    if probe.n_embd.and(probe.rotary_emb_base).is_none() {
        return Ok((read_json(file)?, None));
    }
    let hub: NomicHubConfig = read_json(file)?;
    let (config, form) = hub
        .form()
        .map_err(|message| ImportError::new(file, message))?;
    Ok((config, Some(form)))
}

fn note_assumptions(purpose: &Purpose, options: &ImportOptions, notes: &mut Vec<String>) {
    if purpose.task == PlannedTask::Scalar && options.activation.is_none() {
        notes.push(format!(
            "one label: scores go through {}; `--activation` chooses otherwise",
            if purpose.activation == OutputActivation::Sigmoid {
                "a sigmoid"
            } else {
                "no activation"
            }
        ));
    }
    notes.push(format!(
        "a second text is {}; `--pair` chooses otherwise",
        match purpose.pair {
            PairRule::None => "not taken",
            PairRule::Optional => "taken where a job has one",
            PairRule::Required => "expected on every input",
        }
    ));
}

fn embedding(
    modules: Option<&Modules>,
    shape: &EncoderShape,
    options: &ImportOptions,
    notes: &mut Vec<String>,
) -> Result<Purpose, ImportError> {
    let (head, dense_folder) = match modules {
        Some(modules) => modules.head(shape)?,
        None => {
            if options.pooling.is_none() {
                notes.push("no modules.json: an input's embedding is the mean of its tokens' vectors; `--pooling` chooses otherwise".to_owned());
            }
            let head = Head {
                pooling: options.pooling.unwrap_or(Pooling::Mean),
                dense: None,
                normalise: options.normalise,
                include_prompt: true,
            };
            (head, None)
        }
    };
    let whole = head.dense.map_or(shape.hidden, |dense| dense.width);
    let width = options.width.unwrap_or(whole);
    if !(1..=whole).contains(&width) {
        let message = format!("--width: found {width}, expected 1 to {whole}");
        return Err(ImportError::new(&options.folder, message));
    }
    Ok(Purpose {
        task: PlannedTask::Embedding { width },
        head,
        activation: OutputActivation::Identity,
        pair: options.pair.unwrap_or(PairRule::None),
        dense_folder,
    })
}
