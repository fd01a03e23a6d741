//! A version that isn't there yet: written beside the models folder's versions, loaded and checked, and gone if that fails.

use std::fs;
use std::io;
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

/// Files that a scratch folder gets, at most, and so the tries to remove it.
const TRIES: usize = 8;

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
    /// Makes it, empty, with the folders above it. One of the same name is what a process that was killed has left: its number comes back, in
    /// containers soon.
    pub fn create(folder: PathBuf) -> Result<Self, ImportError> {
        let made = folder
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| removed(&folder))
            .and_then(|()| fs::create_dir(&folder));
        made.map_err(|error| unwritable(&folder, &error))?;
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

/// What a version is written in before it is there, by who makes it.
pub(crate) const IMPORTING: &str = "import";
pub(crate) const QUANTISING: &str = "quantise";

/// The scratch folder of a version in its model's folder. A name with a dot is none that the models folder is searched for.
pub(crate) fn scratch(home: &Path, who: &str, version: &str) -> PathBuf {
    home.join(format!(".{who}-{version}-{}", std::process::id()))
}

/// Removes what this process has begun to write of a version, which it doesn't go on with: a thread that still writes there fails. Whether
/// the version is there: it was finished a moment before, and stays.
///
/// # Errors
/// If it can't be removed.
pub fn give_up_version(models_dir: &Path, name: &str, version: &str) -> io::Result<bool> {
    let home = models_dir.join(name);
    let mut is_begun = false;
    for who in [IMPORTING, QUANTISING] {
        let written = scratch(&home, who, version);
        let folder = home.join(format!(".given-up-{version}-{}", std::process::id()));
        // From here on, nobody can make it the version: what is removed below is a folder that only this process knows.
        match fs::rename(&written, &folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            moved => moved?,
        }
        is_begun = true;
        // A file may come between the look into the folder and its removal.
        let tries = std::iter::repeat_with(|| removed(&folder)).take(TRIES);
        tries
            .reduce(|before, now| before.or(now))
            .unwrap_or(Ok(()))?;
    }
    // A model without versions is none; one with others stays.
    let _ = fs::remove_dir(&home);
    Ok(!is_begun && home.join(version).is_dir())
}

/// Removes a folder with what is in it; one that isn't there is removed.
fn removed(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
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
        // A model without versions is none; one with others stays.
        if let Some(home) = self.0.parent() {
            let _ = fs::remove_dir(home);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_folder_is_empty_and_goes_with_who_gives_it_up() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("a");
        for who in [IMPORTING, QUANTISING] {
            let folder = scratch(&home, who, "1");
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("tokenizer.json"), "another model's").unwrap();
            let made = Scratch::create(folder.clone()).unwrap();
            assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
            made.write("model.safetensors", b"x").unwrap();
            let other = scratch(&home, who, "2");
            fs::create_dir(&other).unwrap();
            give_up_version(dir.path(), "a", "1").unwrap();
            assert!(!folder.exists() && other.exists());
            assert!(made.write("model.safetensors", b"x").is_err());
            // Nobody's any more.
            assert!(!give_up_version(dir.path(), "a", "1").unwrap());
        }
    }

    #[test]
    fn a_version_that_was_finished_a_moment_before_stays() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("a");
        let made = Scratch::create(scratch(&home, IMPORTING, "1")).unwrap();
        made.write("model.safetensors", b"x").unwrap();
        fs::rename(&made.0, home.join("1")).unwrap();
        assert!(give_up_version(dir.path(), "a", "1").unwrap());
        assert!(home.join("1").join("model.safetensors").exists());
        assert!(!give_up_version(dir.path(), "a", "2").unwrap());
        // Of a model that has no other version, nothing is left.
        let _other = Scratch::create(scratch(&dir.path().join("b"), QUANTISING, "1")).unwrap();
        assert!(!give_up_version(dir.path(), "b", "1").unwrap());
        assert!(!dir.path().join("b").exists());
    }
}
