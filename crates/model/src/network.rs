//! What an architecture must be: the seam between the runner and the arithmetic.

use std::sync::Arc;

use super::rows::TextRow;
use super::tokens::Tokenizer;

/// The part of a request that one forward pass scores. Its kind and width were checked before.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Batch<'a> {
    /// Numbers, row after row.
    Features(&'a [f32]),
    /// Normalised texts.
    Texts(&'a [TextRow]),
    /// Texts cut into tokens.
    Tokens {
        /// Every text's tokens, one after the other.
        ids: &'a [u32],
        /// Which of the two texts a token belongs to.
        types: &'a [u32],
        /// Tokens a text.
        lengths: &'a [usize],
    },
}

/// How large a network is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// Numbers that were learnt.
    pub parameters: usize,
    /// Bytes that they take in memory.
    pub bytes: usize,
}

/// A built architecture with its weights.
///
/// A row's outputs don't depend on the other rows of its batch: the cache hands one caller's scores to another. On Kiln's own
/// kernels (the backend `cpu`), and wherever rows go through `dense::Tiles` on the processor, they are the same bits in any batch. A graph that
/// pads its rows to one length, as the encoder's does on the other backends, may round the last digits of its sums otherwise
/// beside longer rows; a test bounds by how much.
pub(crate) trait Network: Send + Sync {
    /// What cuts texts into tokens first, if the network reads tokens.
    fn tokenizer(&self) -> Option<&Arc<Tokenizer>> {
        None
    }

    /// The outputs of every row, row after row. Runs on a model thread and may panic; the runner catches it.
    fn forward(&self, batch: Batch<'_>) -> Vec<f32>;

    /// A pass of one of the sizes that need kernels of their own, so that they are compiled before a request needs them: by number from 0,
    /// and false from where there are no more. Called on graphics processors alone, when the network was built.
    fn warm(&self, _pass: usize) -> bool {
        false
    }

    /// Whether it runs on the device that it was built for; else it runs on the processor, wherever it is called.
    fn is_on_device(&self) -> bool {
        false
    }

    /// The minimum of rows for which waking another thread pays; `usize::MAX` if a pass spreads over the threads by
    /// itself.
    fn smallest_share(&self) -> usize;

    /// The number of rows that take less time than handing them to a model thread does: they run on the caller's thread.
    fn quick_rows(&self) -> usize {
        0
    }
}
