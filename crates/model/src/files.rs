//! Reads a version's files, none of them before it has the SHA-256 that the manifest says.

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::error::LoadError;

/// The bytes of a file beside the manifest, whose table `table` gives its name and SHA-256.
pub(crate) fn read_verified(
    folder: &Path,
    file: &str,
    sha256: &str,
    table: &str,
) -> Result<Vec<u8>, LoadError> {
    let refuse = |message: String| LoadError::file(file, message);
    let bytes = fs::read(folder.join(file)).map_err(|error| LoadError::unreadable(file, &error))?;
    let found = hex::encode(Sha256::digest(&bytes));
    if !found.eq_ignore_ascii_case(sha256) {
        return Err(refuse(format!(
            "has SHA-256 {found} ({} bytes), expected {} by the manifest's {table}.sha256",
            bytes.len(),
            sha256.to_ascii_lowercase()
        )));
    }
    Ok(bytes)
}
