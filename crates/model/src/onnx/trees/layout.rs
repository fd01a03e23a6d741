//! From lists of nodes to trees, each followed from its first node.

use std::collections::{BTreeSet, HashMap, HashSet};

use kiln_kernels::trees::{Missing, Next, Rule, Side, Split, Tree};

use super::{Leaves, Listed, Nodes};
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
    pub fn of(nodes: &Nodes<'_>, listed: &Listed) -> Result<Self, Fault> {
        let (tree, first) = (listed.number, listed.first);
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
        if seen.len() != listed.nodes {
            let left = listed.nodes.saturating_sub(seen.len());
            let message = format!("{left} nodes of tree {tree} are not reached from its first");
            return Err(Fault::new(message));
        }
        Ok(layout)
    }

    /// How many leaves it has.
    pub fn leaf_count(&self) -> usize {
        self.leaves.len()
    }

    /// What a leaf adds to which sums.
    fn weights<'l>(&self, at: usize, leaves: &'l Leaves, nodes: &Nodes<'_>) -> &'l [(u32, f32)] {
        let id = nodes.ids.get(at).copied().unwrap_or_default();
        leaves.get(&(self.tree, id)).map_or(&[], Vec::as_slice)
    }

    /// The sums that its leaves add to, each once.
    pub fn sums(&self, leaves: &Leaves, nodes: &Nodes<'_>) -> BTreeSet<u32> {
        let of_leaf = |at: &usize| self.weights(*at, leaves, nodes).iter().map(|w| w.0);
        self.leaves.iter().flat_map(of_leaf).collect()
    }

    /// One tree for each of these sums.
    pub fn trees(&self, sums: BTreeSet<u32>, leaves: &Leaves, nodes: &Nodes<'_>) -> Vec<Tree<f32>> {
        let weights = |at: &usize| self.weights(*at, leaves, nodes);
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
    /// The trees, in the order of their first nodes.
    pub fn listed(&self) -> Vec<Listed> {
        let mut listed: Vec<Listed> = Vec::new();
        let mut known: HashMap<i64, usize> = HashMap::new();
        for (first, number) in self.trees.iter().enumerate() {
            let at = *known.entry(*number).or_insert(listed.len());
            match listed.get_mut(at) {
                Some(tree) => tree.nodes += 1,
                None => listed.push(Listed {
                    number: *number,
                    first,
                    nodes: 1,
                }),
            }
        }
        listed
    }

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
