//! Reading a folder's JSON files, and why they are refused.

use std::fs;
use std::path::Path;

use kiln_contract::redact;
use serde::de::DeserializeOwned;

pub(super) use crate::error::ImportError;

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
