//! Trees within a graph (TreeEnsembleClassifier, TreeEnsembleRegressor), read by Kiln's own kernel: the runtime has the first of the two
//! alone, and doesn't check where its nodes lead.
//!
//! Promises that what is laid out is trees: each node is reached once from its tree's first, wherever the others of the tree are listed, and
//! every leaf has a class or target that there is. Sums are taken in 32 bits, in the order of the trees.

mod layout;
mod operator;

use std::collections::HashMap;

use kiln_kernels::trees::{Forest, Shape};
use tract_onnx::pb;

use super::Fault;
use super::fault::{node_name, shown};
use layout::Layout;
pub(super) use operator::register;

/// The operators that this file reads.
pub(super) const OPERATORS: [&str; 2] = ["TreeEnsembleClassifier", "TreeEnsembleRegressor"];
/// Features, sums, and leaves of all trees together, a leaf for each of its sums.
const MAX_FEATURE: i64 = 65_535;
const MAX_SUMS: usize = 1_000;
const MAX_LEAVES: usize = 1 << 24;

/// What sums go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    Plain,
    Logistic,
    Softmax,
    /// One sum `p` of two classes, whose numbers are `1 - p` and `p`.
    Share,
    /// One sum of two classes, whose numbers are `-s` and `s`, or the logistic functions of these.
    Sign {
        is_logistic: bool,
    },
    /// The mean of so many trees.
    Mean(usize),
}

/// Trees of one node.
#[derive(Debug)]
pub(super) struct Ensemble {
    forest: Forest<f32>,
    finish: Finish,
}

impl Ensemble {
    /// Reads a node.
    pub fn of(node: &pb::NodeProto) -> Result<Self, Fault> {
        let refuse = |why: Fault| {
            let name = shown(node_name(node));
            Fault::new(format!("the node {name} ({}): {why}", node.op_type))
        };
        Reader::new(node).read().map_err(refuse)
    }

    /// Numbers that a row gets.
    pub fn outputs(&self) -> usize {
        match self.finish {
            Finish::Share | Finish::Sign { .. } => 2,
            _ => self.forest.outputs(),
        }
    }

    /// What rows of so many features give; each has at least as many as the trees look at.
    pub fn forward(&self, rows: &[f32], width: usize) -> Vec<f32> {
        let used = self.forest.features();
        let mut sums = if width == used {
            self.forest.forward(rows)
        } else {
            let rows = rows.chunks_exact(width.max(1));
            let rows = rows.flat_map(|row| row.get(..used).unwrap_or_default());
            self.forest.forward(&rows.copied().collect::<Vec<f32>>())
        };
        let logistic = |x: f32| 1.0 / (1.0 + (-x).exp());
        match self.finish {
            Finish::Plain => sums,
            Finish::Mean(trees) => {
                sums.iter_mut().for_each(|x| *x /= trees as f32);
                sums
            }
            Finish::Logistic => {
                sums.iter_mut().for_each(|x| *x = logistic(*x));
                sums
            }
            Finish::Softmax => {
                let outputs = self.forest.outputs();
                sums.chunks_exact_mut(outputs)
                    .for_each(kiln_kernels::softmax);
                sums
            }
            Finish::Share => sums.into_iter().flat_map(|p| [1.0 - p, p]).collect(),
            Finish::Sign { is_logistic: false } => sums.into_iter().flat_map(|s| [-s, s]).collect(),
            Finish::Sign { is_logistic: true } => {
                let both = sums.into_iter().flat_map(|s| [logistic(-s), logistic(s)]);
                both.collect()
            }
        }
    }
}

/// A node of a tree by its tree's and its own number.
type Key = (i64, i64);
/// What each leaf adds to which sums.
type Leaves = HashMap<Key, Vec<(u32, f32)>>;

struct Reader<'a> {
    node: &'a pb::NodeProto,
    is_classifier: bool,
}

/// The lists that describe nodes, of one length.
struct Nodes<'a> {
    trees: &'a [i64],
    ids: &'a [i64],
    features: &'a [i64],
    modes: Vec<&'a [u8]>,
    values: &'a [f32],
    yes: &'a [i64],
    no: &'a [i64],
    missing: &'a [i64],
    by_key: HashMap<Key, usize>,
}

/// A tree as its nodes are listed.
struct Listed {
    number: i64,
    /// Where its first node is.
    first: usize,
    /// Its nodes, wherever they are.
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn new(node: &'a pb::NodeProto) -> Self {
        let is_classifier = node.op_type == "TreeEnsembleClassifier";
        Self {
            node,
            is_classifier,
        }
    }

    fn attribute(&self, name: &str) -> Option<&'a pb::AttributeProto> {
        self.node.attribute.iter().find(|a| a.name == name)
    }

    fn ints(&self, name: &str) -> &'a [i64] {
        self.attribute(name).map_or(&[], |a| &a.ints)
    }

    fn floats(&self, name: &str) -> &'a [f32] {
        self.attribute(name).map_or(&[], |a| &a.floats)
    }

    fn text(&self, name: &str) -> &'a [u8] {
        self.attribute(name).map_or(b"", |a| &a.s)
    }

    fn read(&self) -> Result<Ensemble, Fault> {
        let wide = self.node.attribute.iter();
        if let Some(wide) = wide.clone().find(|a| a.name.ends_with("_as_tensor")) {
            let name = shown(&wide.name);
            return Err(Fault::new(format!(
                "{name}: numbers of 64 bits are not taken"
            )));
        }
        let nodes = self.nodes()?;
        let leaves = self.leaves(&nodes)?;
        let sums = self.sums(&leaves)?;
        let features = nodes.features.iter().copied().max().unwrap_or(0);
        let listed = nodes.listed();
        let (mut trees, mut leaf_count) = (Vec::new(), 0usize);
        for tree in &listed {
            let layout = Layout::of(&nodes, tree)?;
            let sums = layout.sums(&leaves, &nodes);
            leaf_count = leaf_count.saturating_add(layout.leaf_count().saturating_mul(sums.len()));
            if leaf_count > MAX_LEAVES {
                return Err(Fault::new("has too many leaves"));
            }
            trees.extend(layout.trees(sums, &leaves, &nodes));
        }
        let shape = Shape {
            features: usize::try_from(features).unwrap_or(0) + 1,
            start: self.start(sums)?,
            zero: 0.0,
            truncates: false,
        };
        let finish = self.finish(sums, listed.len(), &leaves)?;
        let forest = Forest::new(shape, &trees);
        let forest = forest.map_err(|_| Fault::new("has too many different thresholds"))?;
        Ok(Ensemble { forest, finish })
    }

    fn nodes(&self) -> Result<Nodes<'a>, Fault> {
        let modes = self
            .attribute("nodes_modes")
            .map_or(&[][..], |a| &a.strings);
        let missing = self.ints("nodes_missing_value_tracks_true");
        let nodes = Nodes {
            trees: self.ints("nodes_treeids"),
            ids: self.ints("nodes_nodeids"),
            features: self.ints("nodes_featureids"),
            modes: modes.iter().map(Vec::as_slice).collect(),
            values: self.floats("nodes_values"),
            yes: self.ints("nodes_truenodeids"),
            no: self.ints("nodes_falsenodeids"),
            missing,
            by_key: HashMap::new(),
        };
        let count = nodes.trees.len();
        let lengths = [
            ("nodes_nodeids", nodes.ids.len()),
            ("nodes_featureids", nodes.features.len()),
            ("nodes_modes", nodes.modes.len()),
            ("nodes_values", nodes.values.len()),
            ("nodes_truenodeids", nodes.yes.len()),
            ("nodes_falsenodeids", nodes.no.len()),
            (
                "nodes_missing_value_tracks_true",
                missing.len().max(usize::from(missing.is_empty()) * count),
            ),
        ];
        if count == 0 {
            return Err(Fault::new("nodes_treeids: is empty"));
        }
        if let Some((name, found)) = lengths.iter().find(|(_, length)| *length != count) {
            return Err(Fault::new(format!(
                "{name}: has {found} elements, expected {count}"
            )));
        }
        if let Some(feature) = nodes
            .features
            .iter()
            .find(|f| !(0..=MAX_FEATURE).contains(*f))
        {
            return Err(Fault::new(format!(
                "nodes_featureids: there is no feature {feature}"
            )));
        }
        let mut by_key = HashMap::with_capacity(count);
        for (at, key) in nodes
            .trees
            .iter()
            .copied()
            .zip(nodes.ids.iter().copied())
            .enumerate()
        {
            if by_key.insert(key, at).is_some() {
                let (tree, id) = key;
                return Err(Fault::new(format!(
                    "nodes_nodeids: {id} of tree {tree} is there twice"
                )));
            }
        }
        Ok(Nodes { by_key, ..nodes })
    }

    /// The values of each leaf: sums and what is added to them.
    fn leaves(&self, nodes: &Nodes<'_>) -> Result<Leaves, Fault> {
        let prefix = if self.is_classifier {
            "class"
        } else {
            "target"
        };
        let name = |part: &str| format!("{prefix}_{part}");
        let (trees, ids) = (self.ints(&name("treeids")), self.ints(&name("nodeids")));
        let (sums, weights) = (self.ints(&name("ids")), self.floats(&name("weights")));
        let count = weights.len();
        if [trees.len(), ids.len(), sums.len()]
            .iter()
            .any(|length| *length != count)
            || count == 0
        {
            let lists = name("treeids, …");
            return Err(Fault::new(format!("{lists}: expected lists of one length")));
        }
        let mut leaves: Leaves = HashMap::new();
        let keys = trees.iter().copied().zip(ids.iter().copied());
        for (key, (sum, weight)) in keys.zip(sums.iter().zip(weights)) {
            let number = u32::try_from(*sum)
                .ok()
                .filter(|n| (*n as usize) < MAX_SUMS);
            let Some(number) = number.filter(|_| nodes.by_key.contains_key(&key)) else {
                let field = name("ids");
                return Err(Fault::new(format!(
                    "{field}: there is no {sum}, or no such leaf"
                )));
            };
            if !weight.is_finite() {
                let field = name("weights");
                return Err(Fault::new(format!(
                    "{field}: has a number that is not finite"
                )));
            }
            leaves.entry(key).or_default().push((number, *weight));
        }
        Ok(leaves)
    }

    /// How many sums there are.
    fn sums(&self, leaves: &Leaves) -> Result<usize, Fault> {
        let highest = leaves
            .values()
            .flatten()
            .map(|(sum, _)| *sum)
            .max()
            .unwrap_or(0) as usize;
        let declared = if self.is_classifier {
            let ints = self.ints("classlabels_int64s").len();
            let strings = self
                .attribute("classlabels_strings")
                .map_or(0, |a| a.strings.len());
            ints.max(strings)
        } else {
            let targets = self.attribute("n_targets").map_or(0, |a| a.i);
            usize::try_from(targets).unwrap_or(0)
        };
        if declared == 0 || declared > MAX_SUMS || highest >= declared {
            let message =
                format!("has {declared} classes or targets, and leaves of number {highest}");
            return Err(Fault::new(message));
        }
        if !self.is_classifier || declared != 2 {
            return Ok(declared);
        }
        // Of two classes one sum is enough.
        let is_of = |wanted: u32| leaves.values().flatten().all(|(sum, _)| *sum == wanted);
        if is_of(1) {
            return Err(Fault::new(
                "class_ids: expected those of the first class, or of both",
            ));
        }
        Ok(if is_of(0) { 1 } else { 2 })
    }

    fn start(&self, sums: usize) -> Result<Vec<f32>, Fault> {
        match self.floats("base_values") {
            [] => Ok(vec![0.0; sums]),
            base if base.len() == sums && base.iter().all(|x| x.is_finite()) => Ok(base.to_vec()),
            base => {
                let found = base.len();
                Err(Fault::new(format!(
                    "base_values: expected {sums} finite numbers, found {found}"
                )))
            }
        }
    }

    fn finish(&self, sums: usize, trees: usize, leaves: &Leaves) -> Result<Finish, Fault> {
        let is_logistic = match self.text("post_transform") {
            b"" | b"NONE" => None,
            b"LOGISTIC" => Some(true),
            b"SOFTMAX" => Some(false),
            _ => {
                return Err(Fault::new(
                    "post_transform: expected NONE, LOGISTIC or SOFTMAX",
                ));
            }
        };
        let is_mean = match self.text("aggregate_function") {
            b"" | b"SUM" => false,
            b"AVERAGE" if !self.is_classifier => true,
            _ => return Err(Fault::new("aggregate_function: expected SUM or AVERAGE")),
        };
        let is_pair = self.is_classifier && sums == 1;
        match (is_mean, is_pair, is_logistic) {
            (true, _, None) => Ok(Finish::Mean(trees)),
            (true, _, Some(_)) => Err(Fault::new("post_transform: expected NONE beside AVERAGE")),
            (false, true, Some(false)) => Err(Fault::new(
                "post_transform: SOFTMAX of one sum is not taken",
            )),
            (false, true, transform) => {
                let mut weights = leaves.values().flatten().map(|(_, weight)| *weight);
                Ok(match weights.all(|weight| weight >= 0.0) {
                    true => Finish::Share,
                    false => Finish::Sign {
                        is_logistic: transform.is_some(),
                    },
                })
            }
            (false, false, None) => Ok(Finish::Plain),
            (false, false, Some(true)) => Ok(Finish::Logistic),
            (false, false, Some(false)) => Ok(Finish::Softmax),
        }
    }
}
