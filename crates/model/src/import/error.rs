//! Why an import is refused, and reading a folder's JSON files with that.

use std::fs;
use std::path::{Path, PathBuf};

use kiln_contract::redact;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Why a folder can't be imported: the file to blame and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}: {message}", path.display())]
pub struct ImportError {
    /// The file or folder to blame.
    pub path: PathBuf,
    /// What was expected and what was found.
    pub message: String,
}

impl ImportError {
    pub(super) fn new(path: &Path, message: String) -> Self {
        Self {
            path: path.to_owned(),
            message,
        }
    }
}

/// Reads a JSON file; what is wrong with it names the field.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ImportError> {
    let bytes = fs::read(path).map_err(|error| {
        let message = match error.kind() {
            std::io::ErrorKind::NotFound => "is missing".to_owned(),
            _ => format!("cannot be read: {error}"),
        };
        ImportError::new(path, message)
    })?;
    let mut json = serde_json::Deserializer::from_slice(&bytes);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let at = redact::path(error.path());
        let message = redact::json(&error.into_inner());
        match at.as_str() {
            "" => ImportError::new(path, message),
            at => ImportError::new(path, format!("{at}: {message}")),
        }
    })
}
