//! From lists of nodes to trees, each followed from its first node.

use std::collections::HashSet;

use kiln_kernels::trees::{Missing, Next, Rule, Side, Split, Tree};

use super::{Leaves, Nodes};
use crate::onnx::Fault;
use crate::onnx::fault::shown;

/// A tree's splits, and the nodes that are its leaves.
pub(super) struct Layout {
    tree: i64,
    splits: Vec<Split>,
    leaves: Vec<usize>,
}

impl Layout {
    /// Follows a tree from its first node, which no other leads to.
    pub fn of(nodes: &Nodes<'_>, tree: i64, first: usize) -> Result<Self, Fault> {
        let mut layout = Self {
            tree,
            splits: Vec::new(),
            leaves: Vec::new(),
        };
        let mut seen = HashSet::from([first]);
        // Nodes whose place is known: of which split, on which side.
        let mut open = vec![(first, None)];
        while let Some((at, parent)) = open.pop() {
            let next = match nodes.rule(at)? {
                None => {
                    layout.leaves.push(at);
                    Next::Leaf(layout.leaves.len() as u32 - 1)
                }
                Some((rule, is_turned)) => {
                    let number = layout.splits.len();
                    let (yes, no) = (
                        nodes.child(tree, nodes.yes, at)?,
                        nodes.child(tree, nodes.no, at)?,
                    );
                    let (left, right) = if is_turned { (no, yes) } else { (yes, no) };
                    for child in [left, right] {
                        if !seen.insert(child) {
                            let id = nodes.ids.get(child).copied().unwrap_or_default();
                            return Err(Fault::new(format!(
                                "the node {id} of tree {tree} is reached twice"
                            )));
                        }
                    }
                    let feature = nodes.features.get(at).copied().unwrap_or_default();
                    layout.splits.push(Split {
                        feature: feature as u32,
                        rule,
                        left: Next::Leaf(0),
                        right: Next::Leaf(0),
                    });
                    open.push((right, Some((number, Side::Right))));
                    open.push((left, Some((number, Side::Left))));
                    Next::Split(number as u32)
                }
            };
            if let Some((parent, side)) = parent
                && let Some(split) = layout.splits.get_mut(parent)
            {
                match side {
                    Side::Left => split.left = next,
                    Side::Right => split.right = next,
                }
            }
        }
        Ok(layout)
    }

    /// One tree for each of the sums that its leaves add to.
    pub fn trees(&self, leaves: &Leaves, nodes: &Nodes<'_>) -> Vec<Tree<f32>> {
        let weights = |at: &usize| {
            let id = nodes.ids.get(*at).copied().unwrap_or_default();
            leaves.get(&(self.tree, id)).map_or(&[][..], Vec::as_slice)
        };
        let mut sums: Vec<u32> = self
            .leaves
            .iter()
            .flat_map(|at| weights(at).iter().map(|w| w.0))
            .collect();
        sums.sort_unstable();
        sums.dedup();
        let tree = |sum: u32| Tree {
            splits: self.splits.clone(),
            leaves: self
                .leaves
                .iter()
                .map(|at| weights(at).iter().filter(|w| w.0 == sum).map(|w| w.1).sum())
                .collect(),
            words: Vec::new(),
            output: sum,
        };
        sums.into_iter().map(tree).collect()
    }
}

impl Nodes<'_> {
    fn child(&self, tree: i64, children: &[i64], at: usize) -> Result<usize, Fault> {
        let id = children.get(at).copied().unwrap_or_default();
        let child = self.by_key.get(&(tree, id)).copied();
        child.ok_or_else(|| Fault::new(format!("there is no node {id} in tree {tree}")))
    }

    /// The rule of a split, whose left way is of what is at most a number, and whether that is where it doesn't hold; nothing of a leaf.
    fn rule(&self, at: usize) -> Result<Option<(Rule, bool)>, Fault> {
        let value = self.values.get(at).copied().unwrap_or_default();
        let mode = self.modes.get(at).copied().unwrap_or_default();
        let (max, is_turned) = match mode {
            b"LEAF" => return Ok(None),
            b"BRANCH_LEQ" => (value, false),
            b"BRANCH_GT" => (value, true),
            b"BRANCH_LT" => (value.next_down(), false),
            b"BRANCH_GTE" => (value.next_down(), true),
            _ => {
                let mode = shown(&String::from_utf8_lossy(mode));
                return Err(Fault::new(format!("nodes_modes: {mode} is not taken")));
            }
        };
        if value.is_nan() {
            return Err(Fault::new("nodes_values: expected numbers, found NaN"));
        }
        let holds = self.missing.get(at).is_some_and(|missing| *missing != 0);
        let missing = Missing::Goes(Side::left_if(holds != is_turned));
        let rule = Rule::Number {
            max,
            missing,
            zero: None,
        };
        Ok(Some((rule, is_turned)))
    }
}
