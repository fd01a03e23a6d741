//! Owns reading the heads of Arrow's messages and footers, whose tables may refer to each other.
//!
//! Promises that what they become, read as a tree, is bounded in depth, tables and bytes.

use super::MAX_DEPTH;
use arrow_ipc::{Footer, Message, root_as_footer_with_opts, root_as_message_with_opts};
use flatbuffers::VerifierOptions;

/// Tables of a head: fields, types, buffers' lists. What a schema's become takes some hundred bytes each.
const MAX_TABLES: usize = 1 << 17;
/// Bytes of a head, with whatever is referred to twice counted twice.
const MAX_APPARENT_BYTES: usize = 64 << 20;

fn bounds() -> VerifierOptions {
    VerifierOptions {
        max_depth: MAX_DEPTH,
        max_tables: MAX_TABLES,
        max_apparent_size: MAX_APPARENT_BYTES,
        ..VerifierOptions::default()
    }
}

/// A message's head; nothing where it is damaged or over its bounds.
pub(super) fn message(bytes: &[u8]) -> Option<Message<'_>> {
    root_as_message_with_opts(&bounds(), bytes).ok()
}

/// A file's footer; nothing where it is damaged or over its bounds.
pub(super) fn footer(bytes: &[u8]) -> Option<Footer<'_>> {
    root_as_footer_with_opts(&bounds(), bytes).ok()
}
