//! Ensembles of decision trees: the leaf that each row reaches in each tree, and the sums of their values.
//!
//! Owns what a tree is ([`Tree`]), how it is read plainly ([`Tree::leaf`]) and how many of them are read fast ([`Forest`]). Promises that
//! a row's sums are taken in the order of the trees, in the numbers' own arithmetic, so that they are the same bits alone and in any
//! batch, with any instructions. Knows no file formats and no objectives.
//!
//! Numbers become ranks first (`columns`): thresholds are sorted for each feature, and a row's number is replaced by how many of them
//! it exceeds, so that later comparisons are of bytes and still exact. Few rows then walk the trees, several trees at a time
//! (`walk`). Blocks of rows don't walk at all: every split that fails removes its left leaves from a row's bits, and the first
//! leaf that is left is the row's (`bits`).

mod bits;
mod build;
mod bytes;
mod columns;
mod walk;

use columns::Columns;
use std::ops::{AddAssign, Range};

/// Rows for which blocks of bits are quicker than walks.
const BLOCK_FROM: usize = 5;
/// Leaves of a tree up to which blocks of bits are used: a leaf's number is a byte.
const MAX_BLOCK_LEAVES: usize = 256;
/// Numbers from here on have no category: they leave the whole numbers of 32 bits.
const MAX_CATEGORY: f32 = 2_147_483_648.0;

/// Where a split leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// To another split of the tree.
    Split(u32),
    /// To a leaf of the tree.
    Leaf(u32),
}

/// One of a split's two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The way of what a rule holds for.
    Left,
    /// The other one.
    Right,
}

impl Side {
    /// Left where something holds.
    pub fn left_if(holds: bool) -> Self {
        if holds { Self::Left } else { Self::Right }
    }
}

/// What becomes of a number that is missing (NaN) at a split of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Missing {
    /// It goes this way.
    Goes(Side),
    /// It counts as zero.
    IsZero,
}

/// How a split decides.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// Left where the number is at most `max`.
    Number {
        /// The threshold; never NaN.
        max: f32,
        /// What a missing number does.
        missing: Missing,
        /// Where zero goes, if not by the threshold.
        zero: Option<Side>,
    },
    /// By whether the number's whole part is one of some categories.
    Category {
        /// Which of the tree's words hold a bit for each category.
        words: Range<u32>,
        /// Where the categories with a bit go; all others go the other way.
        members: Side,
        /// Where a missing one goes.
        missing: Side,
    },
}

/// An inner node of a tree.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// The feature that it looks at.
    pub feature: u32,
    /// How it decides.
    pub rule: Rule,
    /// Where the left way leads.
    pub left: Next,
    /// Where the right way leads.
    pub right: Next,
}

/// A decision tree. Without a split it is its first leaf; otherwise it begins at the first split.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree<N> {
    /// The inner nodes.
    pub splits: Vec<Split>,
    /// The leaves' values.
    pub leaves: Vec<N>,
    /// Bits of categories, 32 in a word.
    pub words: Vec<u32>,
    /// Which of the ensemble's sums it adds to.
    pub output: u32,
}

/// What all trees of an ensemble share.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape<N> {
    /// Numbers in a row.
    pub features: usize,
    /// What each sum begins with: as many as there are outputs.
    pub start: Vec<N>,
    /// Numbers up to so far from zero count as zero.
    pub zero: f32,
    /// Whether the category of a number between -1 and 0 is 0, and not none.
    pub truncates: bool,
}

/// Numbers that leaves hold and sums are taken in.
pub trait Number: Copy + AddAssign + Send + Sync + std::fmt::Debug {}
impl Number for f32 {}
impl Number for f64 {}

/// The category of a number, if it has one.
fn category(x: f32, truncates: bool) -> Option<u32> {
    let is_one = if truncates { x > -1.0 } else { x >= 0.0 };
    (is_one && x < MAX_CATEGORY).then_some(x.max(0.0) as u32)
}

impl<N: Number> Tree<N> {
    /// The leaf that a row reaches, split by split: what everything faster is tested against.
    ///
    /// # Panics
    /// If the row is too short, or the tree refers to what it doesn't have.
    pub fn leaf(&self, row: &[f32], zero: f32, truncates: bool) -> usize {
        let mut next = match self.splits.is_empty() {
            true => Next::Leaf(0),
            false => Next::Split(0),
        };
        loop {
            let at = match next {
                Next::Leaf(leaf) => return leaf as usize,
                Next::Split(at) => at as usize,
            };
            let split = &self.splits[at];
            let x = row[split.feature as usize];
            let x = if x.abs() <= zero { 0.0 } else { x };
            let side = match &split.rule {
                Rule::Number { max, missing, zero } => match (x.is_nan(), missing) {
                    (true, Missing::Goes(side)) => *side,
                    (is_nan, _) => {
                        let x = if is_nan { 0.0 } else { x };
                        let plain = Side::left_if(x <= *max);
                        zero.filter(|_| x == 0.0).unwrap_or(plain)
                    }
                },
                Rule::Category { missing, .. } if x.is_nan() => *missing,
                Rule::Category { words, members, .. } => {
                    let words = &self.words[words.start as usize..words.end as usize];
                    let is_member = category(x, truncates).is_some_and(|c| has_bit(words, c));
                    Side::left_if(is_member == (*members == Side::Left))
                }
            };
            next = match side {
                Side::Left => split.left,
                Side::Right => split.right,
            };
        }
    }
}

fn has_bit(words: &[u32], bit: u32) -> bool {
    let word = words.get(bit as usize / 32).copied().unwrap_or(0);
    word >> (bit % 32) & 1 == 1
}

/// Many trees, laid out to be read fast.
#[derive(Debug)]
pub struct Forest<N> {
    shape: Shape<N>,
    columns: Columns,
    trees: Vec<Placed>,
    /// The nodes of all trees, children side by side.
    nodes: Vec<walk::Node>,
    /// For each node its leaf, if it is one.
    leaf_of: Vec<u32>,
    /// The values of all trees' leaves, from left to right.
    leaves: Vec<N>,
    sets: walk::Sets,
    /// What blocks of rows read; empty if they walk as well.
    bits: bits::Bits,
}

/// A tree's place in its forest.
#[derive(Debug, Clone, Copy)]
struct Placed {
    /// Its first node.
    root: u32,
    /// Splits on its longest way.
    depth: u32,
    /// Its first leaf.
    leaf: u32,
    output: u32,
}

/// More columns than a forest has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyColumns;

impl<N: Number> Forest<N> {
    /// Lays trees out.
    ///
    /// # Errors
    /// If the trees have too many different thresholds: about sixteen million over all features, or fewer if many features have few.
    ///
    /// # Panics
    /// If a tree isn't one, or refers to features, leaves, words or outputs that aren't there.
    pub fn new(shape: Shape<N>, trees: &[Tree<N>]) -> Result<Self, TooManyColumns> {
        build::forest(shape, trees)
    }

    /// Numbers in a row.
    pub fn features(&self) -> usize {
        self.shape.features
    }

    /// Sums that a row gets.
    pub fn outputs(&self) -> usize {
        self.shape.start.len()
    }

    /// Splits on the longest ways of all trees together: what a row costs at most.
    pub fn depth(&self) -> usize {
        self.trees.iter().map(|tree| tree.depth as usize).sum()
    }

    /// Bytes that it keeps in memory, about.
    pub fn bytes(&self) -> usize {
        size_of_val(self.trees.as_slice())
            + size_of_val(self.nodes.as_slice())
            + size_of_val(self.leaf_of.as_slice())
            + size_of_val(self.leaves.as_slice())
            + self.columns.bytes()
            + self.sets.bytes()
            + self.bits.bytes()
    }

    /// Every row's sums, row after row: `[rows, outputs]`. Runs on this thread.
    ///
    /// # Panics
    /// If the numbers aren't whole rows.
    pub fn forward(&self, rows: &[f32]) -> Vec<N> {
        let width = self.shape.features;
        assert!(rows.len().is_multiple_of(width), "numbers are no rows");
        let count = rows.len() / width;
        let mut sums = Vec::with_capacity(count * self.outputs());
        for _ in 0..count {
            sums.extend_from_slice(&self.shape.start);
        }
        let pieces = rows.chunks(bits::WIDE * width);
        for (rows, sums) in pieces.zip(sums.chunks_mut(bits::WIDE * self.outputs())) {
            self.piece(rows, sums);
        }
        sums
    }

    /// Rows that fill a block at most.
    fn piece(&self, rows: &[f32], sums: &mut [N]) {
        let count = rows.len() / self.shape.features;
        if self.bits.is_empty() || count < BLOCK_FROM {
            self.walk(rows, sums);
        } else if count <= bits::NARROW {
            self.block::<1>(rows, sums);
        } else {
            self.block::<{ bits::GROUPS }>(rows, sums);
        }
    }
}

#[cfg(test)]
mod tests;
