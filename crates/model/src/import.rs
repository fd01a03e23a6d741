//! Brings a Hugging Face folder into the models folder: weights under Kiln's names, the tokenizer, and a manifest with
//! golden inputs; and a file of trees, as it is.
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
mod trees;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_contract::redact;
use kiln_kernels::ThreadPool;
use serde::Serialize;

use super::hardware::Hardware;
use super::load::{self, ModelSource};
use super::model::Model;
use super::naming::{MANIFEST_FILE, is_model_name, is_version};
use super::runner::{Limits, Runner};
use super::settings::Backend;
use draft::{Draft, golden};
pub use error::ImportError;
pub use options::{ImportOptions, Imported};
use tensors::{WEIGHTS_FILE, serialise, tensors};
use tokenizer::{TOKENIZER_FILE, read_tokenizer};

/// Golden inputs are scored one at a time.
const LIMITS: Limits = Limits {
    batch_rows: 1,
    batch_tokens: 1,
    queued_rows: 1,
};

/// Imports a folder, or a file of trees. Blocks on the disk and runs the model on the golden inputs.
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

    let trial = Trial::start(options, &scratch.0)?;
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
    // A name with a dot is none that the models folder is searched for.
    let scratch = format!(".import-{}-{}", options.version, std::process::id());
    (home.join(scratch), home.join(&options.version))
}

/// What the version is loaded with before it is there.
struct Trial {
    source: ModelSource,
    /// Its threads make the passes.
    _runner: Runner,
}

impl Trial {
    fn start(options: &ImportOptions, folder: &Path) -> Result<Self, ImportError> {
        let failed =
            |error: &dyn std::fmt::Display| ImportError::new(&options.folder, error.to_string());
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let pool =
            ThreadPool::start("kiln-kernel", threads, || ()).map_err(|error| failed(&error))?;
        let hardware =
            Hardware::open(Backend::Cpu, Arc::new(pool)).map_err(|error| failed(&error))?;
        let runner = Runner::start(1, LIMITS).map_err(|error| failed(&error))?;
        Ok(Self {
            source: ModelSource {
                name: options.name.clone(),
                version: options.version.clone(),
                folder: folder.to_owned(),
                hardware: Arc::new(hardware),
                queue: Arc::clone(runner.queue()),
            },
            _runner: runner,
        })
    }

    fn load(&self) -> Result<Model, ImportError> {
        load::load(&self.source)
            .map(|loaded| loaded.model)
            .map_err(|error| ImportError::new(&self.source.folder.join(error.file), error.message))
    }
}

/// A folder that is gone when it is dropped, unless it was renamed.
struct Scratch(PathBuf);

impl Scratch {
    fn create(folder: PathBuf) -> Result<Self, ImportError> {
        fs::create_dir_all(&folder).map_err(|error| unwritable(&folder, &error))?;
        Ok(Self(folder))
    }

    fn write(&self, file: &str, bytes: &[u8]) -> Result<(), ImportError> {
        let path = self.0.join(file);
        fs::write(&path, bytes).map_err(|error| unwritable(&path, &error))
    }

    fn write_manifest(&self, draft: &impl Serialize) -> Result<(), ImportError> {
        let text = toml::to_string(draft).map_err(|error| {
            let message = redact::names_only(&error.to_string());
            ImportError::new(&self.0.join(MANIFEST_FILE), message)
        })?;
        self.write(MANIFEST_FILE, text.as_bytes())
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> ImportError {
    ImportError::new(path, format!("cannot be written: {error}"))
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove; a scratch folder that stays does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
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
