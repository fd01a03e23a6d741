//! What an architecture must be: the seam between the runner and the arithmetic.

use std::ops::Range;

use super::{Rows, TextRow};

/// The part of a request that one forward pass scores. Its kind and width were checked before.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Batch<'a> {
    /// Numbers, row after row.
    Features(&'a [f32]),
    /// Normalised texts.
    Texts(&'a [TextRow]),
}

impl<'a> Batch<'a> {
    /// The rows of that range.
    pub fn of(rows: &'a Rows, range: Range<usize>) -> Self {
        match rows {
            Rows::Features { width, data } => {
                Batch::Features(&data[range.start * width..range.end * width])
            }
            Rows::Texts(texts) => Batch::Texts(&texts[range]),
        }
    }
}

/// A built architecture with its weights.
///
/// An implementation promises that a row's outputs are the same bits whatever other rows are in the batch: the cache
/// hands one caller's scores to another.
pub(crate) trait Network: Send + Sync {
    /// The outputs of every row, row after row. Runs on a model thread and may panic; the runner catches it.
    fn forward(&self, batch: Batch<'_>) -> Vec<f32>;

    /// The fewest rows for which waking another thread pays.
    fn smallest_share(&self) -> usize;
}
