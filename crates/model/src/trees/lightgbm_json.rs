//! LightGBM's JSON: what `dump_model` gives.
//!
//! A tree's splits lie in each other there; they are read with a stack of their own.

use kiln_kernels::trees::{Next, Split, Tree};

use super::checked::{self, Ensemble, count};
use super::fault::{Fault, Within};
use super::lightgbm::{Header, MissingType, category_rule, ensemble, number_rule};
use super::pull::{Pull, fields};

/// The highest category that a bit is kept for.
const MAX_CATEGORY: u32 = 1 << 24;

/// Reads a dump.
pub(super) fn read<P: Pull>(mut pull: P) -> Result<Ensemble, Fault> {
    let mut header = Header::default();
    let mut trees = Vec::new();
    fields(&mut pull, |pull, key| {
        match key {
            "num_class" => header.num_class = Some(pull.whole()?),
            "num_tree_per_iteration" => header.num_tree_per_iteration = Some(pull.whole()?),
            "max_feature_idx" => header.max_feature_idx = Some(pull.whole()?),
            "objective" => header.objective = Some(pull.text()?),
            "average_output" => header.average_output = pull.whole()? != 0,
            "feature_names" => header.feature_names = pull.texts()?,
            "tree_info" => trees = all_trees(pull)?,
            _ => pull.skip()?,
        }
        Ok(())
    })?;
    pull.end()?;
    ensemble(header, trees, "tree_info")
}

fn all_trees<P: Pull>(pull: &mut P) -> Result<Vec<Tree<f64>>, Fault> {
    let mut trees = Vec::new();
    let mut words = 0;
    pull.array()?;
    while pull.element()? {
        count("", trees.len() as i64, 0, checked::MAX_TREES - 1)?;
        let read = tree(pull, &mut words);
        trees.push(read.within(&format!("[{}]", trees.len()))?);
    }
    Ok(trees)
}

fn tree<P: Pull>(pull: &mut P, words: &mut usize) -> Result<Tree<f64>, Fault> {
    let mut found = None;
    fields(pull, |pull, key| {
        match key {
            "tree_structure" => found = Some(structure(pull, words)?),
            _ => pull.skip()?,
        }
        Ok(())
    })?;
    let tree = found.ok_or_else(|| Fault::new("tree_structure", "is missing"))?;
    checked::is_tree(&tree, ["left_child", "right_child"]).within("tree_structure")?;
    Ok(tree)
}

/// A node whose end wasn't read yet.
#[derive(Default)]
struct Open {
    /// Its place among the splits, once it is known to be one.
    split: Option<usize>,
    /// Whether it is its parent's left child.
    is_left: bool,
    feature: Option<i64>,
    threshold: Option<f64>,
    categories: Option<Vec<u32>>,
    is_category: bool,
    default_left: bool,
    missing: MissingType,
    left: Option<Next>,
    right: Option<Next>,
    leaf: Option<f64>,
}

fn structure<P: Pull>(pull: &mut P, words: &mut usize) -> Result<Tree<f64>, Fault> {
    let mut tree = Tree {
        splits: Vec::new(),
        leaves: Vec::new(),
        words: Vec::new(),
        output: 0,
    };
    let mut places: Vec<Option<Split>> = Vec::new();
    pull.object()?;
    let mut open = vec![Open::default()];
    while let Some(node) = open.last_mut() {
        let Some(key) = pull.key()? else {
            let node = open.pop().unwrap_or_default();
            let next = close(&node, &mut tree, &mut places, words)?;
            if let Some(parent) = open.last_mut() {
                let way = if node.is_left {
                    &mut parent.left
                } else {
                    &mut parent.right
                };
                if way.replace(next).is_some() {
                    return Err(Fault::new("", "a split has a child twice"));
                }
            }
            continue;
        };
        let is_left = key == "left_child";
        if is_left || key == "right_child" {
            if node.split.is_none() {
                node.split = Some(places.len());
                places.push(None);
            }
            pull.object().within(&key)?;
            open.push(Open {
                is_left,
                ..Open::default()
            });
        } else {
            value(node, pull, &key).within(&key)?;
        }
    }
    tree.splits = places.into_iter().flatten().collect();
    Ok(tree)
}

fn value<P: Pull>(node: &mut Open, pull: &mut P, key: &str) -> Result<(), Fault> {
    match key {
        "split_feature" => node.feature = Some(pull.whole()?),
        "threshold" if pull.is_text() => node.categories = Some(categories(&pull.text()?)?),
        "threshold" => node.threshold = Some(pull.double()?),
        "decision_type" => {
            node.is_category = match pull.text()?.as_str() {
                "==" => true,
                "<=" => false,
                _ => return Err(Fault::new("", "expected \"<=\" or \"==\"")),
            }
        }
        "default_left" => node.default_left = pull.whole()? != 0,
        "missing_type" => {
            node.missing = match pull.text()?.as_str() {
                "None" => MissingType::None,
                "Zero" => MissingType::Zero,
                "NaN" => MissingType::Nan,
                _ => return Err(Fault::new("", "expected \"None\", \"Zero\" or \"NaN\"")),
            }
        }
        "leaf_value" => {
            let value = pull.double()?;
            if !value.is_finite() {
                return Err(Fault::new("", "expected finite numbers"));
            }
            node.leaf = Some(value);
        }
        "leaf_const" | "leaf_coeff" => {
            let message = "linear trees are not taken; train without linear_tree";
            return Err(Fault::new("", message));
        }
        _ => pull.skip()?,
    }
    Ok(())
}

/// Categories as a dump lists them.
fn categories(text: &str) -> Result<Vec<u32>, Fault> {
    let each = text.split("||").filter(|word| !word.is_empty());
    each.map(|word| match word.parse() {
        Ok(category) if category < MAX_CATEGORY => Ok(category),
        _ => Err(Fault::new(
            "",
            format!("expected categories below {MAX_CATEGORY}"),
        )),
    })
    .collect()
}

/// A category by itself, as a number.
fn category(number: f64) -> Result<u32, Fault> {
    let whole = number as u32;
    if f64::from(whole) != number || whole >= MAX_CATEGORY {
        let message = format!("expected categories below {MAX_CATEGORY}");
        return Err(Fault::new("threshold", message));
    }
    Ok(whole)
}

/// What a node is, now that all of it was read.
fn close(
    node: &Open,
    tree: &mut Tree<f64>,
    places: &mut [Option<Split>],
    words: &mut usize,
) -> Result<Next, Fault> {
    let missing = |field: &str| Fault::new(field, "is missing");
    let Some(number) = node.split else {
        let leaf = node.leaf.ok_or_else(|| missing("leaf_value"))?;
        tree.leaves.push(leaf);
        return Ok(Next::Leaf(tree.leaves.len() as u32 - 1));
    };
    let feature = node.feature.ok_or_else(|| missing("split_feature"))?;
    let feature = count("split_feature", feature, 0, checked::MAX_FEATURES - 1)?;
    let rule = if node.is_category {
        let categories = match (&node.categories, node.threshold) {
            (Some(categories), _) => categories.clone(),
            (None, Some(one)) => vec![category(one)?],
            (None, None) => return Err(missing("threshold")),
        };
        let from = tree.words.len();
        let length = categories
            .iter()
            .max()
            .map_or(0, |max| *max as usize / 32 + 1);
        *words += length;
        count("threshold", *words as i64, 0, checked::MAX_CATEGORY_WORDS)?;
        tree.words.resize(from + length, 0);
        for category in categories {
            if let Some(word) = tree.words.get_mut(from + category as usize / 32) {
                *word |= 1 << (category % 32);
            }
        }
        category_rule(from as u32..tree.words.len() as u32)
    } else {
        let threshold = node.threshold.ok_or_else(|| missing("threshold"))?;
        number_rule(threshold, node.missing, node.default_left)
            .map_err(|message| Fault::new("threshold", message))?
    };
    let split = Split {
        feature: feature as u32,
        rule,
        left: node.left.ok_or_else(|| missing("left_child"))?,
        right: node.right.ok_or_else(|| missing("right_child"))?,
    };
    if let Some(slot) = places.get_mut(number) {
        *slot = Some(split);
    }
    Ok(Next::Split(number as u32))
}
