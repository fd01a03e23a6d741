//! Owns a block of the file, some thousand rows: what the reading thread cuts.
//!
//! Pure but for the count of bytes that it holds.

use super::{
    item::{Item, Position},
    table,
};
use tokio::sync::OwnedSemaphorePermit;

/// Rows that are read, worked on and written together.
pub(super) struct Block {
    pub rows: Rows,
    pub end: Position,
    /// Its part of the bytes that may be in hand.
    pub held: Option<OwnedSemaphorePermit>,
}

/// A block's rows.
pub(super) enum Rows {
    /// Lines of JSON, the first one's number, and what they hold.
    Lines(Vec<u8>, u64),
    /// Records that were read, and texts that they refer to.
    Items(Vec<Item>),
    /// Rows of a table with types.
    Table(table::Batch),
}
