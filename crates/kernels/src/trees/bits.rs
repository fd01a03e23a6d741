//! Blocks of rows: a bit for each leaf of a tree, and one pass over the tree's splits, whichever way a row goes.
//!
//! After "QuickScorer" (Lucchese and others, SIGIR 2015): a split whose rule fails for a row removes the leaves left of it, and of
//! what remains the leftmost leaf is the row's. As in "RapidScorer" (Ye and others, KDD 2018) bits lie byte by byte and rows
//! beside each other, so that one instruction compares the ranks of many rows; unlike there, splits are grouped by the
//! byte that they remove from, which stays in a register, and every split is looked at.

use super::bytes::{Bytes, Compare, Plain, ROWS};
use super::{Forest, Number};
use pulp::NullaryFnOnce;
#[cfg(target_arch = "x86_64")]
use pulp::x86::V3;
use std::ops::Range;

/// Groups of rows in a block.
pub(super) const GROUPS: usize = 2;
/// Rows of a block.
pub(super) const WIDE: usize = GROUPS * ROWS;
/// Rows of a block where they are fewer.
pub(super) const NARROW: usize = ROWS;

/// What a split removes from one byte of leaves.
#[derive(Debug, Clone, Copy)]
struct Removal {
    column: u16,
    threshold: u8,
    leaves: u8,
}

/// The removals of all trees, tree by tree and byte by byte.
#[derive(Debug, Default)]
pub(super) struct Bits {
    removals: Vec<Removal>,
    /// Where each byte's removals end.
    ends: Vec<u32>,
    /// How many bytes a tree has.
    bytes: Vec<u8>,
    /// Of the tree that is being built.
    open: Vec<(u8, Removal)>,
}

impl Bits {
    pub fn begin(&mut self) {
        self.open.clear();
    }

    /// These leaves are removed where a rank exceeds the threshold.
    pub fn remove(&mut self, leaves: Range<usize>, column: u16, threshold: u8) {
        for byte in leaves.start / 8..leaves.end.div_ceil(8) {
            let from = leaves.start.max(byte * 8) - byte * 8;
            let to = leaves.end.min(byte * 8 + 8) - byte * 8;
            let bits = (0xffu16 << from) & !(0xffffu16 << to);
            let removal = Removal {
                column,
                threshold,
                leaves: bits as u8,
            };
            self.open.push((byte as u8, removal));
        }
    }

    /// Ends a tree of so many leaves.
    pub fn end(&mut self, leaves: usize) {
        self.open
            .sort_by_key(|(byte, removal)| (*byte, removal.column));
        let bytes = leaves.div_ceil(8);
        for byte in 0..bytes {
            let of_byte = self.open.iter().filter(|(at, _)| usize::from(*at) == byte);
            self.removals.extend(of_byte.map(|(_, removal)| *removal));
            self.ends.push(self.removals.len() as u32);
        }
        self.bytes.push(bytes as u8);
    }

    pub fn shrink(&mut self) {
        self.open = Vec::new();
        self.removals.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.bytes.shrink_to_fit();
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn bytes(&self) -> usize {
        size_of_val(self.removals.as_slice())
            + size_of_val(self.ends.as_slice())
            + size_of_val(self.bytes.as_slice())
    }
}

impl<N: Number> Forest<N> {
    /// Adds to the sums of at most `GROUPS` groups of rows.
    pub(super) fn block<const GROUPS: usize>(&self, rows: &[f32], sums: &mut [N]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = V3::try_new() {
            let block = Block::<N, V3, GROUPS> {
                forest: self,
                compare: simd,
                rows,
                sums,
            };
            return simd.vectorize(block);
        }
        self.plain_block::<GROUPS>(rows, sums);
    }

    /// The same without any instructions in particular.
    pub(super) fn plain_block<const GROUPS: usize>(&self, rows: &[f32], sums: &mut [N]) {
        let block = Block::<N, Plain, GROUPS> {
            forest: self,
            compare: Plain,
            rows,
            sums,
        };
        block.call();
    }
}

struct Block<'a, N, C, const GROUPS: usize> {
    forest: &'a Forest<N>,
    compare: C,
    rows: &'a [f32],
    sums: &'a mut [N],
}

impl<N: Number, C: Compare, const GROUPS: usize> NullaryFnOnce for Block<'_, N, C, GROUPS> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (forest, bits) = (self.forest, &self.forest.bits);
        let width = forest.shape.features;
        let outputs = forest.shape.start.len();
        let mut ranks = vec![[[0u8; ROWS]; GROUPS]; forest.columns.count()];
        forest.columns.rank(self.rows, width, |column, row, rank| {
            ranks[column][row / ROWS][row % ROWS] = rank;
        });
        let (mut from, mut byte) = (0, 0);
        for (tree, bytes) in forest.trees.iter().zip(&bits.bytes) {
            let ends = &bits.ends[byte..byte + usize::from(*bytes)];
            byte += ends.len();
            let found = first_leaves(self.compare, &ranks, &bits.removals, from, ends);
            from = ends.last().map_or(from, |end| *end as usize);
            let leaves = &forest.leaves[tree.leaf as usize..];
            let sums = self.sums.iter_mut().skip(tree.output as usize);
            for (sum, leaf) in sums.step_by(outputs).zip(found.as_flattened()) {
                *sum += leaves[usize::from(*leaf)];
            }
        }
    }
}

/// Each row's leaf in one tree, whose removals begin at `from` and end, byte by byte, at `ends`.
#[inline(always)]
fn first_leaves<C: Compare, const GROUPS: usize>(
    compare: C,
    ranks: &[[Bytes; GROUPS]],
    removals: &[Removal],
    mut from: usize,
    ends: &[u32],
) -> [Bytes; GROUPS] {
    // The first byte with a leaf, and which one it is.
    let (mut first, mut position) = ([compare.all(0); GROUPS], [compare.all(0); GROUPS]);
    for (byte, end) in ends.iter().enumerate() {
        let end = *end as usize;
        let mut removed = [compare.all(0); GROUPS];
        for removal in &removals[from..end] {
            let ranks = &ranks[usize::from(removal.column)];
            for (removed, ranks) in removed.iter_mut().zip(ranks) {
                compare.remove(removed, ranks, removal.threshold, removal.leaves);
            }
        }
        from = end;
        let found = first.iter_mut().zip(&mut position).zip(removed);
        for ((first, position), removed) in found {
            compare.find(first, position, removed, (byte * 8) as u8);
        }
    }
    let mut leaves = [[0u8; ROWS]; GROUPS];
    for ((leaves, first), position) in leaves.iter_mut().zip(first).zip(position) {
        *leaves = compare.leaves(first, position);
    }
    leaves
}
