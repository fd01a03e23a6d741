//! One tree of an XGBoost file: lists that have an element for each node.

use kiln_kernels::trees::{Missing, Next, Rule, Side, Split, Tree};

use super::checked::{self, count, length};
use super::fault::{Fault, Within};
use super::pull::{Pull, fields, number};

/// Categories from here on are none to XGBoost.
const MAX_CATEGORY: i64 = 1 << 24;

#[derive(Debug, Default)]
struct Lists {
    nodes: Option<i64>,
    leaf_size: i64,
    lefts: Vec<i64>,
    rights: Vec<i64>,
    features: Vec<i64>,
    conditions: Vec<f32>,
    defaults: Vec<i64>,
    kinds: Vec<i64>,
    categories: Vec<i64>,
    category_nodes: Vec<i64>,
    category_begins: Vec<i64>,
    category_counts: Vec<i64>,
}

/// Reads a tree; `words` are those of categories in the trees before it.
pub(super) fn read<P: Pull>(pull: &mut P, words: &mut usize) -> Result<Tree<f32>, Fault> {
    let mut lists = Lists::default();
    fields(pull, |pull, key| {
        match key {
            "tree_param" => fields(pull, |pull, key| {
                match key {
                    "num_nodes" => lists.nodes = Some(number(pull)?),
                    "size_leaf_vector" => lists.leaf_size = number(pull)?,
                    _ => pull.skip()?,
                }
                Ok(())
            })?,
            "left_children" => lists.lefts = pull.wholes()?,
            "right_children" => lists.rights = pull.wholes()?,
            "split_indices" => lists.features = pull.wholes()?,
            "split_conditions" => lists.conditions = pull.floats()?,
            "default_left" => lists.defaults = pull.wholes()?,
            "split_type" => lists.kinds = pull.wholes()?,
            "categories" => lists.categories = pull.wholes()?,
            "categories_nodes" => lists.category_nodes = pull.wholes()?,
            "categories_segments" => lists.category_begins = pull.wholes()?,
            "categories_sizes" => lists.category_counts = pull.wholes()?,
            _ => pull.skip()?,
        }
        Ok(())
    })?;
    lists.check()?;
    lists.tree(words)
}

impl Lists {
    fn check(&self) -> Result<(), Fault> {
        if self.leaf_size > 1 {
            let message = "leaves of several numbers are not taken";
            return Err(Fault::new("tree_param.size_leaf_vector", message));
        }
        let nodes = self
            .nodes
            .ok_or_else(|| Fault::new("tree_param.num_nodes", "is missing"))?;
        let nodes = count("tree_param.num_nodes", nodes, 1, 2 * checked::MAX_LEAVES)?;
        length("left_children", self.lefts.len(), nodes)?;
        length("right_children", self.rights.len(), nodes)?;
        length("split_indices", self.features.len(), nodes)?;
        length("split_conditions", self.conditions.len(), nodes)?;
        length("default_left", self.defaults.len(), nodes)?;
        if !self.kinds.is_empty() {
            length("split_type", self.kinds.len(), nodes)?;
        }
        let with_categories = self.category_nodes.len();
        length(
            "categories_segments",
            self.category_begins.len(),
            with_categories,
        )?;
        length(
            "categories_sizes",
            self.category_counts.len(),
            with_categories,
        )?;
        // Otherwise few categories could stand for any number of them.
        let listed = |sum: i64, count: &i64| sum.saturating_add((*count).max(0));
        let listed = self.category_counts.iter().fold(0, listed);
        count("categories_sizes", listed, 0, self.categories.len()).map(|_| ())
    }

    /// The nodes that the first one leads to; others were deleted by XGBoost.
    fn tree(&self, words: &mut usize) -> Result<Tree<f32>, Fault> {
        let mut tree = Tree {
            splits: Vec::new(),
            leaves: Vec::new(),
            words: Vec::new(),
            output: 0,
        };
        let mut seen = vec![false; self.lefts.len()];
        // A node, the split that leads there, and on which way.
        let mut ways: Vec<(usize, Option<(usize, Side)>)> = vec![(0, None)];
        while let Some((node, parent)) = ways.pop() {
            match seen.get_mut(node) {
                Some(seen) if !*seen => *seen = true,
                Some(_) => {
                    let message = format!("node {node} is reached twice");
                    return Err(Fault::new("left_children", message));
                }
                None => {
                    return Err(Fault::new(
                        "left_children",
                        format!("there is no node {node}"),
                    ));
                }
            }
            let at = |list: &[i64]| list.get(node).copied().unwrap_or_default();
            let (left, right) = (at(&self.lefts), at(&self.rights));
            let next = if left == -1 {
                tree.leaves
                    .push(self.conditions.get(node).copied().unwrap_or_default());
                Next::Leaf(tree.leaves.len() as u32 - 1)
            } else {
                // XGBoost itself takes the node after the left one to be the right one.
                if right != left.saturating_add(1) {
                    let message = format!("expected the node after left_children[{node}]");
                    return Err(Fault::new(format!("right_children[{node}]"), message));
                }
                let left = count(
                    &format!("left_children[{node}]"),
                    left,
                    1,
                    self.lefts.len() - 1,
                )?;
                let split = tree.splits.len();
                let feature = count(
                    &format!("split_indices[{node}]"),
                    at(&self.features),
                    0,
                    checked::MAX_FEATURES - 1,
                )?;
                let rule = self.rule(node, &mut tree.words, words)?;
                tree.splits.push(Split {
                    feature: feature as u32,
                    rule,
                    left: Next::Leaf(0),
                    right: Next::Leaf(0),
                });
                ways.push((left + 1, Some((split, Side::Right))));
                ways.push((left, Some((split, Side::Left))));
                Next::Split(split as u32)
            };
            if let Some((parent, side)) = parent
                && let Some(parent) = tree.splits.get_mut(parent)
            {
                match side {
                    Side::Left => parent.left = next,
                    Side::Right => parent.right = next,
                }
            }
        }
        checked::is_tree(&tree, ["left_children", "right_children"])?;
        Ok(tree)
    }

    fn rule(&self, node: usize, of_tree: &mut Vec<u32>, words: &mut usize) -> Result<Rule, Fault> {
        let default = self.defaults.get(node).copied().unwrap_or_default();
        let missing = Side::left_if(default != 0);
        match self.kinds.get(node).copied().unwrap_or_default() {
            0 => {
                let condition = self.conditions.get(node).copied().unwrap_or_default();
                if condition.is_nan() {
                    let field = format!("split_conditions[{node}]");
                    return Err(Fault::new(field, "expected a number, found NaN"));
                }
                // What is less than a number is at most the one before it.
                Ok(Rule::Number {
                    max: condition.next_down(),
                    missing: Missing::Goes(missing),
                    zero: None,
                })
            }
            1 => {
                let from = of_tree.len();
                self.categories(node, of_tree, words)?;
                Ok(Rule::Category {
                    words: from as u32..of_tree.len() as u32,
                    members: Side::Right,
                    missing,
                })
            }
            _ => Err(Fault::new(format!("split_type[{node}]"), "expected 0 or 1")),
        }
    }

    /// Adds the bits of a node's categories.
    fn categories(&self, node: usize, into: &mut Vec<u32>, words: &mut usize) -> Result<(), Fault> {
        let index = self.category_nodes.binary_search(&(node as i64));
        let index =
            index.map_err(|_| Fault::new("categories_nodes", format!("lacks node {node}")))?;
        let at = |list: &[i64]| list.get(index).copied().unwrap_or(-1);
        let begin = usize::try_from(at(&self.category_begins)).ok();
        let count_of = usize::try_from(at(&self.category_counts)).ok();
        let listed = begin.zip(count_of).and_then(|(begin, count)| {
            let rest = self.categories.get(begin..)?;
            rest.get(..count)
        });
        let Some(listed) = listed else {
            let field = format!("categories_segments[{index}]");
            return Err(Fault::new(
                field,
                "expected a part of the tree's categories",
            ));
        };
        let from = into.len();
        for category in listed {
            if !(0..MAX_CATEGORY).contains(category) {
                let message = format!("expected 0 to {}, found {category}", MAX_CATEGORY - 1);
                return Err(Fault::new("categories", message));
            }
            let word = from + *category as usize / 32;
            if word >= into.len() {
                *words += word + 1 - into.len();
                count("categories", *words as i64, 0, checked::MAX_CATEGORY_WORDS)
                    .within("words of 32")?;
                into.resize(word + 1, 0);
            }
            if let Some(word) = into.get_mut(word) {
                *word |= 1 << (category % 32);
            }
        }
        Ok(())
    }
}
