//! What becomes of a folder: everything that its descriptions say, put together.

use std::path::PathBuf;

use kiln_contract::model::PairRule;

use super::config::{self, HfConfig, PlannedTask, Purpose};
use super::error::{ImportError, read_json};
use super::limits::limits;
use super::names::Family;
use super::options::ImportOptions;
use super::sentence::Modules;
use crate::manifest::{EncoderShape, Head, OutputActivation, Pooling, TruncationSide};

/// What becomes of a folder.
pub(super) struct Plan {
    pub family: Family,
    pub shape: EncoderShape,
    pub purpose: Purpose,
    pub lowercase: bool,
    pub max_tokens: usize,
    pub truncate: TruncationSide,
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
    let config: HfConfig = read_json(&config_file)?;
    let refuse = |message: String| ImportError::new(&config_file, message);
    let (family, is_classifier) = config::architecture(&config).map_err(refuse)?;
    let sentence_file = folder.join("config_sentence_transformers.json");
    let sentence = if sentence_file.exists() {
        Some(read_json(&sentence_file)?)
    } else {
        None
    };
    let shape = config::shape(&config, family).map_err(refuse)?;
    let mut notes = Vec::new();
    let purpose = if is_classifier {
        let purpose = config::classification(&config, sentence.as_ref(), family, &shape, options);
        note_assumptions(&purpose, options, &mut notes);
        purpose
    } else {
        embedding(modules.as_ref(), &shape, options, &mut notes)?
    };
    let (max_tokens, truncate, lowercase) =
        limits(folder, &transformer, &shape, options.max_tokens)?;
    Ok(Plan {
        family,
        shape,
        purpose,
        lowercase,
        max_tokens,
        truncate,
        transformer,
        notes,
    })
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
            };
            (head, None)
        }
    };
    Ok(Purpose {
        task: PlannedTask::Embedding {
            width: head.dense.map_or(shape.hidden, |dense| dense.width),
        },
        head,
        activation: OutputActivation::Identity,
        pair: options.pair.unwrap_or(PairRule::None),
        dense_folder,
    })
}
