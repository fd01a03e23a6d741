//! What the checks of several tables share.

use crate::error::LoadError;

/// The maximum of a layer's inputs and outputs.
pub(super) const MAX_LAYER_WIDTH: usize = 1 << 20;

/// A file beside the manifest with its SHA-256, in the table named.
pub(super) fn check_file(table: &str, file: &str, sha256: &str) -> Result<(), LoadError> {
    if file.is_empty() || file.starts_with('.') || file.contains(['/', '\\', '\0']) {
        return Err(LoadError::field(
            &format!("{table}.file"),
            "must be the plain name of a file beside the manifest",
        ));
    }
    if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(LoadError::field(
            &format!("{table}.sha256"),
            "must be 64 hexadecimal digits",
        ));
    }
    Ok(())
}
