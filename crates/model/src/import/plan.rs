//! What becomes of a folder: everything that its descriptions say, put together.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use kiln_contract::model::PairRule;

use super::config::{
    self, Described, Form, HfConfig, Lacking, NomicHubConfig, PlannedTask, Purpose,
};
use super::error::{ImportError, read_json};
use super::limits::limits;
use super::names::Family;
use super::options::ImportOptions;
use super::prompt::{EmbeddingConfig, prompt};
use super::sentence::Modules;
use crate::manifest::{EncoderShape, Head, OutputActivation, Pooling, TruncationSide};

/// What becomes of a folder.
pub(super) struct Plan {
    pub family: Family,
    pub shape: EncoderShape,
    pub lacking: Lacking,
    pub purpose: Purpose,
    /// Whether texts are lowercased before all else, by the tokenizer.
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
    shape
        .check()
        .map_err(|error| refuse(config::in_its_words(&error.message, &config_file)))?;
    let sentence_file = folder.join("config_sentence_transformers.json");
    let has_sentence = sentence_file.exists();
    let sentence = has_sentence
        .then(|| read_json(&sentence_file))
        .transpose()?;
    let of_embedding: EmbeddingConfig = match has_sentence && !is_classifier {
        true => read_json(&sentence_file)?,
        false => EmbeddingConfig::default(),
    };
    check_options(options, is_classifier, modules.as_ref())?;
    let mut notes = Vec::new();
    let mut purpose = if is_classifier {
        let described = Described {
            config: (&config, &config_file),
            sentence: (sentence.as_ref(), &sentence_file),
        };
        let purpose = config::classification(&described, &head, options, &mut notes)?;
        note_assumptions(&purpose, options, &mut notes);
        purpose
    } else {
        let asked = (&of_embedding, sentence_file.as_path());
        embedding(modules.as_ref(), &shape, asked, options, &mut notes)?
    };
    let (max_tokens, truncate, lowercase) =
        limits(folder, &transformer, &shape, options.max_tokens)?;
    let prompt = prompt(&of_embedding, &sentence_file, options, &mut notes)?;
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

/// Refuses options that such a folder has no use for.
fn check_options(
    options: &ImportOptions,
    is_classifier: bool,
    modules: Option<&Modules>,
) -> Result<(), ImportError> {
    let of_embeddings = [
        ("--prompt", options.prompt.is_some()),
        ("--width", options.width.is_some()),
        ("--pooling", options.pooling.is_some()),
        ("--normalise", options.normalise),
    ];
    if is_classifier {
        return options.has_none_of(&of_embeddings, "is for embeddings; this is a classifier");
    }
    let activation = [("--activation", options.activation.is_some())];
    options.has_none_of(&activation, "is for classifiers; this is an embedding")?;
    match modules {
        Some(modules) => modules.check_options(options),
        None => Ok(()),
    }
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
    asked: (&EmbeddingConfig, &Path),
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
    let width = width(&head, shape, asked, options, notes)?;
    Ok(Purpose {
        task: PlannedTask::Embedding { width },
        head,
        activation: OutputActivation::Identity,
        pair: options.pair.unwrap_or(PairRule::None),
        dense_folder,
    })
}

/// How many of an embedding's numbers are kept.
fn width(
    head: &Head,
    shape: &EncoderShape,
    (config, file): (&EmbeddingConfig, &Path),
    options: &ImportOptions,
    notes: &mut Vec<String>,
) -> Result<usize, ImportError> {
    let whole = head.dense.map_or(shape.hidden, |dense| dense.width);
    if let Some(width) = options.width {
        if !(1..=whole).contains(&width) {
            let message = format!("--width: found {width}, expected 1 to {whole}");
            return Err(ImportError::new(&options.folder, message));
        }
        return Ok(width);
    }
    let refuse = |message: String| Err(ImportError::new(file, message));
    match config.truncate_dim {
        None => Ok(whole),
        Some(0) => refuse("truncate_dim: found 0, expected 1 or more".to_owned()),
        Some(width) if width >= whole => Ok(whole),
        // The reference cuts after it scaled, and leaves what is left shorter.
        Some(width) if head.normalise => refuse(format!(
            "truncate_dim: found {width}, expected none beside a Normalize module; `--width {width}` keeps as many, scaled to length 1 after the cut"
        )),
        Some(width) => {
            notes.push(format!(
                "the first {width} numbers are kept, which truncate_dim says; `--width` chooses otherwise"
            ));
            Ok(width)
        }
    }
}
