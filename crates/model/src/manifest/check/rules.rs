//! What the checks of several tables share.

use crate::error::LoadError;
use crate::manifest::tables::{Output, TaskName};
use crate::rounding::BITS;
use kiln_contract::model::Precision;

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

/// What outputs are rounded to; vectors of length 1 need no range of their own.
pub(super) fn check_precision(output: &Output, is_unit: bool) -> Result<(), LoadError> {
    let refuse = |field: &str, message: &str| Err(LoadError::field(field, message));
    if output.precision != Precision::Single && output.task != TaskName::Embedding {
        let message = "only an embedding is kept in halves, whole numbers or bits";
        return refuse("output.precision", message);
    }
    if output.precision == Precision::Binary
        && !output.width.is_some_and(|width| width.is_multiple_of(BITS))
    {
        let message = "must be a multiple of 8 where output.precision is \"binary\"";
        return refuse("output.width", message);
    }
    match output.range {
        Some(_) if output.precision != Precision::Int8 => {
            refuse("output.range", "is for output.precision \"int8\" alone")
        }
        Some(range) if !(range > 1e-6 && range < 1e6) => {
            refuse("output.range", "must be above 0.000001 and below 1000000")
        }
        None if output.precision == Precision::Int8 && !is_unit => refuse(
            "output.range",
            "is missing: what 127 stands for, where embeddings aren't scaled to length 1",
        ),
        _ => Ok(()),
    }
}
