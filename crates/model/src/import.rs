//! Brings a Hugging Face folder into the models folder: weights under Kiln's names, the tokenizer, and a manifest with
//! golden inputs; and a file of trees or of ONNX, as it is.
//!
//! Promises that nothing appears in the models folder before the whole version was written, loaded and checked there,
//! and that what can't be taken is refused with the file and the field or tensor to blame.

mod config;
mod draft;
mod error;
mod limits;
mod names;
mod onnx;
mod options;
mod plan;
mod prompt;
mod sentence;
mod source;
mod tensors;
mod tokenizer;
mod training;
mod trees;

use std::fs;
use std::path::PathBuf;

use super::error::ImportError;
use super::naming::{is_model_name, is_version};
use super::trial::{IMPORTING, Scratch, Trial, scratch, unwritable};
use draft::Draft;
pub(crate) use draft::{GoldenDraft, golden};
pub use options::{ImportOptions, Imported};
use tensors::{WEIGHTS_FILE, serialise, tensors};
use tokenizer::{TOKENIZER_FILE, read_tokenizer};
pub use training::read_training;

/// Imports a folder, or a file of trees or of ONNX. Blocks on the disk and runs the model on the golden inputs.
///
/// # Errors
/// Names the file and what was expected; the models folder is then as it was before.
pub fn import(options: &ImportOptions) -> Result<Imported, ImportError> {
    check_names(options)?;
    let (scratch, target) = places(options);
    if target.exists() {
        return Err(ImportError::new(
            &target,
            "is there already; choose another version".to_owned(),
        ));
    }
    if let Some(file) = onnx::file_of(&options.folder) {
        return onnx::import(options, &file);
    }
    options.has_none_of_onnx()?;
    if options.folder.is_file() {
        return trees::import(options);
    }
    let plan = plan::plan(options)?;
    let tensors = tensors(&plan)?;
    let tokenizer = read_tokenizer(&plan)?;

    let scratch = Scratch::create(scratch)?;
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

/// Where a version is written, and where it is once it was checked.
fn places(options: &ImportOptions) -> (PathBuf, PathBuf) {
    let home = options.models_dir.join(&options.name);
    let scratch = scratch(&home, IMPORTING, &options.version);
    (scratch, home.join(&options.version))
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
    if !options.folder.is_dir() && !options.folder.is_file() {
        return Err(ImportError::new(
            &options.folder,
            "is neither a folder nor a file".to_owned(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
