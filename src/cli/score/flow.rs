//! Owns what the reading thread shares with the rest: where blocks go, and how much of them may be in hand.
//!
//! Promises that what is in hand is bounded in bytes, whatever the file holds.

use super::{
    block::{Block, Rows},
    item::Position,
    table::{Batch, Taker},
};
use indicatif::ProgressBar;
use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};
use tokio::{runtime::Handle, sync::Semaphore, sync::mpsc};

/// Bytes that a block takes on its way for each of its rows, and for each of its own bytes: as a job, as results.
const BYTES_PER_ROW: usize = 1_400;
const BYTES_PER_BYTE: usize = 4;
/// What one permit stands for.
const PERMIT_BYTES: usize = 1 << 10;

/// What the reading thread shares with the rest.
pub(super) struct Flow {
    pub bar: ProgressBar,
    pub sender: mpsc::Sender<Block>,
    /// Rows of one block at most.
    pub max_rows: Arc<AtomicUsize>,
    in_hand: Arc<Semaphore>,
    /// Bytes that may be in hand of all blocks from their reading to their writing, with what is made of them.
    max_in_hand: usize,
    /// Which file is read, and the bytes of those before it.
    file: AtomicUsize,
    before: AtomicU64,
}

impl Flow {
    /// Where blocks go, `max_in_hand` bytes of them at once.
    pub fn new(
        bar: ProgressBar,
        sender: mpsc::Sender<Block>,
        max_rows: Arc<AtomicUsize>,
        max_in_hand: usize,
    ) -> Self {
        let in_hand = Arc::new(Semaphore::new(max_in_hand / PERMIT_BYTES));
        Self {
            max_in_hand,
            bar,
            sender,
            max_rows,
            in_hand,
            file: AtomicUsize::new(0),
            before: AtomicU64::new(0),
        }
    }

    /// Begins a file, before which others have so many bytes. Says whether anybody wants it.
    pub fn enter(&self, file: usize, before: u64) -> bool {
        self.file.store(file, Ordering::Relaxed);
        self.before.store(before, Ordering::Relaxed);
        self.note(0);
        !self.sender.is_closed()
    }

    /// Hands a block over once there is room for it; says whether anybody takes it.
    pub fn send(&self, rows: Rows, count: usize, bytes: usize, mut end: Position) -> bool {
        end.file = self.file.load(Ordering::Relaxed);
        if count == 0 {
            return true;
        }
        let size = BYTES_PER_BYTE * bytes + BYTES_PER_ROW * count;
        let permits = (size.min(self.max_in_hand) / PERMIT_BYTES).max(1);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        let held = Handle::current().block_on(self.in_hand.clone().acquire_many_owned(permits));
        let held = held.ok();
        self.sender.blocking_send(Block { rows, end, held }).is_ok()
    }
}

impl Taker for Flow {
    fn max_rows(&self) -> usize {
        self.max_rows.load(Ordering::Relaxed).max(1)
    }

    fn take(&self, batch: Batch, rows: usize, bytes: usize, end: Position) -> bool {
        self.send(Rows::Table(batch), rows, bytes, end)
    }

    fn note(&self, bytes: u64) {
        let before = self.before.load(Ordering::Relaxed);
        self.bar.set_position(before.saturating_add(bytes));
    }
}
