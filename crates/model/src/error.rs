//! What can go wrong with models: while scoring, while finding one by name, while loading one.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::naming::MANIFEST_FILE;

/// A reference that no loaded model answers to. Its text says what is known, or why the version was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct UnknownModel {
    /// The reference as it was asked for.
    pub reference: String,
    /// What a producer can act on.
    pub message: String,
}

/// Why a registry could not be opened at all. A broken model is a [`Problem`], not this.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A setting has a value that cannot work.
    #[error("models.{field}: {message}")]
    Setting {
        /// The field in the `[models]` table.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// A model thread could not be started.
    #[error("a model thread could not be started: {0}")]
    Thread(#[source] std::io::Error),
}

/// Something under the models folder that does not serve, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The model's name, if one model is concerned.
    pub model: Option<String>,
    /// The version, if one version is concerned.
    pub version: Option<String>,
    /// The folder concerned.
    pub path: PathBuf,
    /// The file in that folder, if one is to blame.
    pub file: Option<String>,
    /// What is wrong, with what was expected and what was found.
    pub message: String,
    /// Whether an earlier, checked load of the same version goes on serving.
    pub still_serving: bool,
    /// Whether the reason may pass though no file changes, so that it is tried again now and then.
    pub may_pass: bool,
}

impl Problem {
    /// Whether whoever knows this one learns nothing from the other. What may pass is tried again, and the system's words may differ each time.
    pub(crate) fn says(&self, other: &Self) -> bool {
        let both_may_pass = self.may_pass && other.may_pass;
        self == other
            || both_may_pass
                && (&self.model, &self.version, &self.path, &self.file)
                    == (&other.model, &other.version, &other.path, &other.file)
                && self.still_serving == other.still_serving
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}: {}", self.path.join(file).display(), self.message)?,
            None => write!(f, "{}: {}", self.path.display(), self.message)?,
        }
        if self.may_pass {
            write!(f, " (which may pass: workers try it again)")?;
        }
        if self.still_serving {
            write!(f, " (the version loaded before keeps serving)")?;
        }
        Ok(())
    }
}

/// Why one version was refused: the file to blame, in the version's folder, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{file}: {message}")]
pub(crate) struct LoadError {
    pub file: String,
    pub message: String,
    /// Whether the reason may pass though no file changes: of the system or of a device, not of what the files say.
    pub may_pass: bool,
}

impl LoadError {
    pub fn file(file: &str, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            message: message.into(),
            may_pass: false,
        }
    }

    /// A file that can't be read. One that isn't there is seen when it comes; any other reason may pass unseen.
    pub fn unreadable(file: &str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::file(file, "is missing"),
            _ => Self::file(file, format!("cannot be read: {error}")).passing(),
        }
    }

    /// The same, for a reason that may pass.
    pub fn passing(self) -> Self {
        Self {
            may_pass: true,
            ..self
        }
    }

    /// The manifest as a whole is wrong.
    pub fn manifest(message: &str) -> Self {
        Self::file(MANIFEST_FILE, message)
    }

    /// One field of the manifest is wrong.
    pub fn field(field: &str, message: &str) -> Self {
        Self::file(MANIFEST_FILE, format!("{field}: {message}"))
    }
}

/// Why a version can't be made of a folder or of another version: the file to blame and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}: {message}", path.display())]
pub struct ImportError {
    /// The file or folder to blame.
    pub path: PathBuf,
    /// What was expected and what was found.
    pub message: String,
}

impl ImportError {
    pub(crate) fn new(path: &Path, message: String) -> Self {
        Self {
            path: path.to_owned(),
            message,
        }
    }
}
