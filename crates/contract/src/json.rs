//! Writing JSON into memory, for the parts that are written field by field.

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
