//! Brings a Hugging Face folder into the models folder: weights under Kiln's names, the tokenizer, and a manifest with
//! golden inputs.
//!
//! Promises that nothing appears in the models folder before the whole version was written, loaded and checked there,
//! and that what can't be taken is refused with the file and the field or tensor to blame.

mod config;
mod draft;
mod error;
mod limits;
mod names;
mod options;
mod plan;
mod sentence;
mod source;
mod tensors;
mod tokenizer;

use std::fs;

use super::error::ImportError;
use super::naming::{is_model_name, is_version};
use super::trial::{Scratch, Trial, unwritable};
use draft::Draft;
pub(crate) use draft::{GoldenDraft, golden};
pub use options::{ImportOptions, Imported};
use tensors::{WEIGHTS_FILE, serialise, tensors};
use tokenizer::{TOKENIZER_FILE, read_tokenizer};

/// Imports a folder. Blocks on the disk and runs the model on the golden inputs.
///
/// # Errors
/// Names the file and what was expected; the models folder is then as it was before.
pub fn import(options: &ImportOptions) -> Result<Imported, ImportError> {
    check_names(options)?;
    let home = options.models_dir.join(&options.name);
    let target = home.join(&options.version);
    if target.exists() {
        return Err(ImportError::new(
            &target,
            "is there already; choose another version".to_owned(),
        ));
    }
    let plan = plan::plan(options)?;
    let tensors = tensors(&plan)?;
    let tokenizer = read_tokenizer(&plan)?;

    // A name with a dot is none that the models folder is searched for.
    let scratch = Scratch::create(home.join(format!(
        ".import-{}-{}",
        options.version,
        std::process::id()
    )))?;
    let weights = serialise(&tensors)
        .map_err(|message| ImportError::new(&scratch.0.join(WEIGHTS_FILE), message))?;
    scratch.write(WEIGHTS_FILE, &weights)?;
    scratch.write(TOKENIZER_FILE, &tokenizer)?;
    let mut draft = Draft::of(options, &plan, &weights, &tokenizer);
    scratch.write_manifest(&draft)?;

    let trial = Trial::start(&options.name, &options.version, &scratch.0)?;
    let model = trial.load()?;
    draft.golden = golden(&model, plan.purpose.pair)
        .map_err(|message| ImportError::new(&options.folder, message))?;
    scratch.write_manifest(&draft)?;
    let model = trial.load()?;
    fs::rename(&scratch.0, &target).map_err(|error| unwritable(&target, &error))?;
    Ok(Imported {
        path: target,
        info: model.info().clone(),
        notes: plan.notes,
    })
}

fn check_names(options: &ImportOptions) -> Result<(), ImportError> {
    let refuse = |message: &str| Err(ImportError::new(&options.models_dir, message.to_owned()));
    if !is_model_name(&options.name) {
        return refuse("--name: expected 1 to 64 of a-z, 0-9, _ and -");
    }
    if !is_version(&options.version) || options.version.starts_with('.') {
        return refuse(
            "--version: expected 1 to 32 of A-Z, a-z, 0-9, ., _ and -, not beginning with a dot",
        );
    }
    if !options.folder.is_dir() {
        return Err(ImportError::new(
            &options.folder,
            "is not a folder".to_owned(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
