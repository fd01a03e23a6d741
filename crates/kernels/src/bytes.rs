//! Products of bytes, exactly: rows of unsigned bytes with a panel of signed ones, summed up in 32 bits.
//!
//! Four neighbouring numbers of a row meet four of each column at a time, which is what the processors' own instructions for it
//! take (`vpdpbusd`); where there are none, bytes are widened to 16 bits (`vpmaddwd`). Neither saturates, and sums of whole numbers
//! have no order: all kernels give the same sums.

use super::panels::PANEL;

/// Numbers of a row that meet a column at a time.
pub(super) const GROUP: usize = 4;
/// Rows of a block: those that the widest registers hold sums for.
pub(super) const BLOCK: usize = 12;
/// A weight up to this size is small: with two of them AVX2 needs fewer steps.
pub(super) const SMALL: i8 = 64;
/// Longest row: its sum still fits 32 bits.
pub(super) const MAX_INPUTS: usize = 65_536;

/// A panel's weights for one group of a row's numbers.
pub(super) type Weights = [[i8; GROUP]; PANEL];
/// A block's sums, a row of a panel's columns each.
pub(super) type Sums = [[i32; PANEL]; BLOCK];

/// Rows of bytes and a panel of weights.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    /// `[rows][groups]`, at most [`BLOCK`] rows, as many groups each as there are weights.
    pub rows: &'a [[u8; GROUP]],
    pub weights: &'a [Weights],
    /// Whether no weight is below -64 or above 64.
    pub small: bool,
}

impl<'a> Block<'a> {
    /// Its rows.
    #[inline(always)]
    pub fn each_row(self) -> impl Iterator<Item = &'a [[u8; GROUP]]> {
        self.rows.chunks_exact(self.weights.len())
    }

    /// `ROWS` of its rows from this one on.
    #[inline(always)]
    pub fn rows<const ROWS: usize>(self, first: usize) -> [&'a [[u8; GROUP]]; ROWS] {
        let groups = self.weights.len();
        std::array::from_fn(|i| &self.rows[(first + i) * groups..(first + i + 1) * groups])
    }

    /// The sums of every row, into the first rows of `sums`, without any instructions of a processor's own.
    pub fn multiply_portably(self, sums: &mut Sums) {
        for (row, sums) in self.each_row().zip(sums) {
            *sums = [0; PANEL];
            for (x, weights) in row.iter().zip(self.weights) {
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    for (x, weight) in x.iter().zip(weights) {
                        *sum = sum.wrapping_add(i32::from(*x) * i32::from(*weight));
                    }
                }
            }
        }
    }
}
