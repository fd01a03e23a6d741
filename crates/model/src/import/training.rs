//! Reads what whoever trained a version says of its training, for the manifest that an import writes.

use std::fs;
use std::io::Read;
use std::path::Path;

use kiln_contract::model::Training;

use super::error::ImportError;
use crate::manifest::parse_training;

/// The fields take less than a thousand bytes; comments have room.
const MAX_BYTES: u64 = 64 << 10;

/// Reads and checks a file with the fields of a manifest's `[training]`, in TOML. Blocks on the disk.
///
/// # Errors
/// Names the file and the field.
pub fn read_training(file: &Path) -> Result<Training, ImportError> {
    let refuse = |message: String| ImportError::new(file, message);
    let unreadable = |error: std::io::Error| refuse(format!("cannot be read: {error}"));
    let mut text = Vec::new();
    let opened = fs::File::open(file).map_err(unreadable)?;
    let mut limited = opened.take(MAX_BYTES + 1);
    limited.read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(refuse("has more than 65536 bytes".to_owned()));
    }
    let text = std::str::from_utf8(&text).map_err(|_| refuse("is not UTF-8".to_owned()))?;
    parse_training(text).map_err(|error| refuse(error.message))
}
