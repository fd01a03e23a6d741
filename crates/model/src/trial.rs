//! A version that isn't there yet: written beside the models folder's versions, loaded and checked, and gone if that fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_contract::redact;
use kiln_kernels::ThreadPool;
use serde::Serialize;

use super::error::ImportError;
use super::hardware::Hardware;
use super::load::{self, ModelSource};
use super::model::Model;
use super::naming::MANIFEST_FILE;
use super::runner::{Limits, Runner};
use super::settings::Backend;

/// Callers score a few inputs at a time.
const LIMITS: Limits = Limits {
    batch_rows: 32,
    batch_tokens: 4096,
    queued_rows: 64,
};

/// What the version is loaded with before it is there.
pub(crate) struct Trial {
    source: ModelSource,
    /// Its threads make the passes.
    _runner: Runner,
}

impl Trial {
    /// Starts the threads.
    pub fn start(name: &str, version: &str, folder: &Path) -> Result<Self, ImportError> {
        let failed = |error: &dyn std::fmt::Display| ImportError::new(folder, error.to_string());
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let pool =
            ThreadPool::start("kiln-kernel", threads, || ()).map_err(|error| failed(&error))?;
        let hardware =
            Hardware::open(Backend::Cpu, Arc::new(pool)).map_err(|error| failed(&error))?;
        let runner = Runner::start(1, LIMITS).map_err(|error| failed(&error))?;
        Ok(Self {
            source: ModelSource {
                name: name.to_owned(),
                version: version.to_owned(),
                folder: folder.to_owned(),
                hardware: Arc::new(hardware),
                queue: Arc::clone(runner.queue()),
            },
            _runner: runner,
        })
    }

    /// Loads the version and checks it.
    pub fn load(&self) -> Result<Model, ImportError> {
        load::load(&self.source)
            .map(|loaded| loaded.model)
            .map_err(|error| ImportError::new(&self.source.folder.join(error.file), error.message))
    }
}

/// A folder that is gone when it is dropped, unless it was renamed.
pub(crate) struct Scratch(pub PathBuf);

impl Scratch {
    /// Makes it, with the folders above it.
    pub fn create(folder: PathBuf) -> Result<Self, ImportError> {
        fs::create_dir_all(&folder).map_err(|error| unwritable(&folder, &error))?;
        Ok(Self(folder))
    }

    /// Writes a file in it.
    pub fn write(&self, file: &str, bytes: &[u8]) -> Result<(), ImportError> {
        let path = self.0.join(file);
        fs::write(&path, bytes).map_err(|error| unwritable(&path, &error))
    }

    /// Writes the manifest.
    pub fn write_manifest(&self, draft: &impl Serialize) -> Result<(), ImportError> {
        let text = toml::to_string(draft).map_err(|error| {
            let message = redact::names_only(&error.to_string());
            ImportError::new(&self.0.join(MANIFEST_FILE), message)
        })?;
        self.write(MANIFEST_FILE, text.as_bytes())
    }
}

/// That a path can't be written.
pub(crate) fn unwritable(path: &Path, error: &std::io::Error) -> ImportError {
    ImportError::new(path, format!("cannot be written: {error}"))
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove; a scratch folder that stays does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}
