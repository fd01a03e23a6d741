//! Writing JSON into memory, for the parts that are written field by field.

use crate::model::Precision;
use serde::Serialize;

/// Appends any value as JSON. Writing to memory can't fail for the types used here.
pub(crate) fn push(buffer: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    // A failed write would leave invalid JSON behind: take back what it wrote.
    let before = buffer.len();
    if serde_json::to_writer(&mut *buffer, value).is_err() {
        buffer.truncate(before);
        buffer.extend_from_slice(b"null");
    }
}

/// Appends an embedding's numbers, whole ones without a point.
pub(crate) fn push_numbers(buffer: &mut Vec<u8>, values: &[f32], precision: Precision) {
    if precision.is_whole() {
        let whole: Vec<i16> = values.iter().map(|value| *value as i16).collect();
        push(buffer, &whole);
    } else {
        push(buffer, values);
    }
}
