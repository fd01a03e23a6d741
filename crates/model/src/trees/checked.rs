//! The one form that all files are read into, and what must hold of it whoever wrote it.
//!
//! Promises of an ensemble that every tree is one: each split and leaf is reached once, from the first split on, at most
//! [`MAX_DEPTH`] deep; that features, outputs and categories exist; that thresholds are numbers and leaves finite ones.

use std::collections::BTreeSet;

use kiln_kernels::trees::{Next, Number, Rule, Shape, Tree};

use super::fault::Fault;
use super::objective::Objective;

/// Bytes of a model file.
pub(super) const MAX_FILE_BYTES: usize = 1 << 30;
pub(super) const MAX_TREES: usize = 100_000;
pub(super) const MAX_FEATURES: usize = 65_536;
pub(super) const MAX_OUTPUTS: usize = 1_000;
/// Leaves of one tree.
pub(super) const MAX_LEAVES: usize = 1 << 20;
/// Splits from a tree's first to a leaf.
pub(super) const MAX_DEPTH: usize = 4_096;
/// Words of 32 categories, in all trees together: 64 MiB.
pub(super) const MAX_CATEGORY_WORDS: usize = 1 << 24;
/// Bytes of a feature's name.
const MAX_NAME_BYTES: usize = 256;

/// A model file, read and checked.
#[derive(Debug)]
pub(crate) struct Ensemble {
    pub trees: Trees,
    /// The features' names, or none where the file has none.
    pub names: Vec<String>,
    pub objective: Objective,
    /// How many trees each sum is the mean of, for forests that vote.
    pub mean_of: Option<usize>,
    /// What people should know.
    pub notes: Vec<String>,
}

/// The trees, in the arithmetic of the library that made them.
#[derive(Debug)]
pub(crate) enum Trees {
    /// LightGBM's.
    Double(Shape<f64>, Vec<Tree<f64>>),
    /// XGBoost's.
    Single(Shape<f32>, Vec<Tree<f32>>),
}

impl Ensemble {
    pub fn features(&self) -> usize {
        match &self.trees {
            Trees::Double(shape, _) => shape.features,
            Trees::Single(shape, _) => shape.features,
        }
    }

    pub fn outputs(&self) -> usize {
        match &self.trees {
            Trees::Double(shape, _) => shape.start.len(),
            Trees::Single(shape, _) => shape.start.len(),
        }
    }

    /// A row's outputs by the plain reading of its trees: what the fast one is checked against.
    pub fn plainly(&self, row: &[f32]) -> Vec<f32> {
        match &self.trees {
            Trees::Double(shape, trees) => {
                let mut sums = plain_sums(shape, trees, row);
                self.objective.finish_doubles(&mut sums, self.mean_of);
                sums.into_iter().map(|x| x as f32).collect()
            }
            Trees::Single(shape, trees) => {
                let mut sums = plain_sums(shape, trees, row);
                self.objective.transform.singles(&mut sums);
                sums
            }
        }
    }

    /// Each feature's thresholds, in order.
    pub fn thresholds(&self) -> Vec<Vec<f32>> {
        fn gather<N>(trees: &[Tree<N>], into: &mut [Vec<f32>]) {
            for split in trees.iter().flat_map(|tree| &tree.splits) {
                if let (Rule::Number { max, .. }, Some(into)) =
                    (&split.rule, into.get_mut(split.feature as usize))
                    && max.is_finite()
                {
                    into.push(*max);
                }
            }
        }
        let mut all = vec![Vec::new(); self.features()];
        match &self.trees {
            Trees::Double(_, trees) => gather(trees, &mut all),
            Trees::Single(_, trees) => gather(trees, &mut all),
        }
        for thresholds in &mut all {
            thresholds.sort_unstable_by(f32::total_cmp);
            thresholds.dedup();
        }
        all
    }

    /// Numbers that its trees hold: thresholds and leaves.
    pub fn parameters(&self) -> usize {
        fn count<N>(trees: &[Tree<N>]) -> usize {
            let each = trees.iter().map(|t| t.splits.len() + t.leaves.len());
            each.sum()
        }
        match &self.trees {
            Trees::Double(_, trees) => count(trees),
            Trees::Single(_, trees) => count(trees),
        }
    }
}

fn plain_sums<N: Number>(shape: &Shape<N>, trees: &[Tree<N>], row: &[f32]) -> Vec<N> {
    let mut sums = shape.start.clone();
    for tree in trees {
        let leaf = tree.leaf(row, shape.zero, shape.truncates);
        if let (Some(sum), Some(leaf)) = (sums.get_mut(tree.output as usize), tree.leaves.get(leaf))
        {
            *sum += *leaf;
        }
    }
    sums
}

/// Whether a count lies within bounds.
pub(super) fn count(field: &str, found: i64, min: usize, max: usize) -> Result<usize, Fault> {
    usize::try_from(found)
        .ok()
        .filter(|count| (min..=max).contains(count))
        .ok_or_else(|| Fault::new(field, format!("expected {min} to {max}, found {found}")))
}

/// Whether as many elements are there as others say.
pub(super) fn length(field: &str, found: usize, expected: usize) -> Result<(), Fault> {
    if found == expected {
        return Ok(());
    }
    let message = format!("has {found} elements, expected {expected}");
    Err(Fault::new(field, message))
}

/// Whether names can be told apart: not empty, not too long, none twice.
pub(super) fn names(field: &str, names: &[String]) -> Result<(), Fault> {
    let mut known = BTreeSet::new();
    for (i, name) in names.iter().enumerate() {
        let at = format!("{field}[{i}]");
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
            let message =
                format!("expected 1 to {MAX_NAME_BYTES} bytes without control characters");
            return Err(Fault::new(at, message));
        }
        if !known.insert(name) {
            return Err(Fault::new(at, "is there twice"));
        }
    }
    Ok(())
}

/// Whether splits and leaves are one tree; `fields` are what the file calls a split's left and right way.
pub(super) fn is_tree<N>(tree: &Tree<N>, fields: [&str; 2]) -> Result<(), Fault> {
    if tree.splits.is_empty() {
        return length("leaves", tree.leaves.len(), 1);
    }
    let mut splits = vec![false; tree.splits.len()];
    let mut leaves = vec![false; tree.leaves.len()];
    let mut ways = vec![(Next::Split(0), 0, String::new())];
    while let Some((next, depth, field)) = ways.pop() {
        let (seen, at, what) = match next {
            Next::Split(at) => (&mut splits, at as usize, "split"),
            Next::Leaf(at) => (&mut leaves, at as usize, "leaf"),
        };
        match seen.get_mut(at) {
            None => return Err(Fault::new(field, format!("there is no {what} {at}"))),
            Some(true) => {
                return Err(Fault::new(field, format!("{what} {at} is reached twice")));
            }
            Some(seen) => *seen = true,
        }
        if depth > MAX_DEPTH {
            return Err(Fault::new(field, format!("lies deeper than {MAX_DEPTH}")));
        }
        if let Next::Split(number) = next
            && let Some(split) = tree.splits.get(number as usize)
        {
            for (next, field) in [split.right, split.left]
                .into_iter()
                .zip([fields[1], fields[0]])
            {
                ways.push((next, depth + 1, format!("{field}[{number}]")));
            }
        }
    }
    for (seen, what) in [(splits, "split"), (leaves, "leaf")] {
        if let Some(at) = seen.iter().position(|seen| !seen) {
            let message = format!("no way leads to {what} {at}");
            return Err(Fault::new(fields[0], message));
        }
    }
    Ok(())
}
