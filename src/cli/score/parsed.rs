//! Owns a block whose rows are known. Pure.

use super::{
    block::{Block, Rows},
    item::{Item, Pick, Position},
    lines::items,
    table::Batch,
};
use tokio::sync::OwnedSemaphorePermit;

/// A block whose rows are known.
pub(super) struct Parsed {
    pub bytes: Vec<u8>,
    pub items: Vec<Item>,
    /// What the items are of, where that is a table.
    pub batch: Option<Batch>,
    pub end: Position,
    pub held: Option<OwnedSemaphorePermit>,
}

impl Parsed {
    /// Takes a block's lines apart.
    pub fn new(block: Block, pick: Option<&Pick>) -> Self {
        let (bytes, items, batch) = match block.rows {
            Rows::Lines(bytes, first) => {
                let items = items(&bytes, first, pick);
                (bytes, items, None)
            }
            Rows::Items(items) => (Vec::new(), items, None),
            Rows::Table(batch) => (Vec::new(), batch.items(), Some(batch)),
        };
        Self {
            bytes,
            items,
            batch,
            end: block.end,
            held: block.held,
        }
    }

    /// The first input, as JSON.
    pub fn first_input(&self) -> Option<&str> {
        self.items.iter().find_map(|item| match item {
            Item::Input(input) => Some(input.json.text(&self.bytes)),
            Item::Job { .. } | Item::Bad(_) => None,
        })
    }
}
