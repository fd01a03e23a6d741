//! LightGBM's model files: the text of `save_model`, and what both of its notations share.
//!
//! Thresholds of 64 bits become the greatest 32-bit ones that aren't above them: for inputs of 32 bits, all comparisons stay as they are.

use std::collections::BTreeMap;

use kiln_kernels::trees::{Missing, Next, Rule, Shape, Side, Split, Tree};

use super::checked::{self, Ensemble, Trees, count, length};
use super::fault::{Fault, Within};
use super::objective;

/// Numbers so near to zero are zero to LightGBM (`kZeroThreshold`).
const ZERO: f32 = 1e-35;
/// Bits of a split's `decision_type`.
const CATEGORICAL: i64 = 1;
const DEFAULT_LEFT: i64 = 2;

/// What a file says of all its trees.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub num_class: Option<i64>,
    pub num_tree_per_iteration: Option<i64>,
    pub max_feature_idx: Option<i64>,
    pub objective: Option<String>,
    pub average_output: bool,
    pub feature_names: Vec<String>,
}

/// Puts together what was read; `per_tree` is what the file calls its trees.
pub(super) fn ensemble(
    header: Header,
    mut trees: Vec<Tree<f64>>,
    per_tree: &str,
) -> Result<Ensemble, Fault> {
    let missing = |field: &str| Fault::new(field, "is missing");
    let last = header
        .max_feature_idx
        .ok_or_else(|| missing("max_feature_idx"))?;
    let last = count("max_feature_idx", last, 0, checked::MAX_FEATURES - 1)?;
    let sums = header.num_tree_per_iteration.or(header.num_class);
    let sums = sums.ok_or_else(|| missing("num_class"))?;
    let outputs = count("num_tree_per_iteration", sums, 1, checked::MAX_OUTPUTS)?;
    length("feature_names", header.feature_names.len(), last + 1)?;
    checked::names("feature_names", &header.feature_names)?;
    if trees.is_empty() || !trees.len().is_multiple_of(outputs) {
        let message = format!("{} trees, expected a multiple of {outputs}", trees.len());
        return Err(Fault::new(per_tree, message));
    }
    for (i, tree) in trees.iter_mut().enumerate() {
        tree.output = (i % outputs) as u32;
        let feature = |split: &Split| split.feature as usize > last;
        if let Some(split) = tree.splits.iter().position(feature) {
            let field = format!("{per_tree}{i}.split_feature[{split}]");
            return Err(Fault::new(field, format!("expected 0 to {last}")));
        }
    }
    let words: usize = trees.iter().map(|tree| tree.words.len()).sum();
    count(
        "cat_threshold",
        words as i64,
        0,
        checked::MAX_CATEGORY_WORDS,
    )?;
    let objective = objective::of_lightgbm(header.objective.as_deref(), outputs)?;
    let shape = Shape {
        features: last + 1,
        start: vec![0.0; outputs],
        zero: ZERO,
        truncates: true,
    };
    Ok(Ensemble {
        mean_of: header.average_output.then_some(trees.len() / outputs),
        trees: Trees::Double(shape, trees),
        names: header.feature_names,
        objective,
        notes: Vec::new(),
    })
}

/// What is missing at a split.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum MissingType {
    /// Nothing: NaN is zero.
    #[default]
    None,
    /// Zero, and NaN with it.
    Zero,
    Nan,
}

/// The rule of a split of numbers, by what its `decision_type` says of missing ones.
pub(super) fn number_rule(
    threshold: f64,
    missing: MissingType,
    default_left: bool,
) -> Result<Rule, &'static str> {
    if threshold.is_nan() {
        return Err("expected numbers, found NaN");
    }
    let narrow = threshold as f32;
    let max = if f64::from(narrow) > threshold {
        narrow.next_down()
    } else {
        narrow
    };
    let default = Side::left_if(default_left);
    let (missing, zero) = match missing {
        MissingType::None => (Missing::IsZero, None),
        MissingType::Zero => (Missing::IsZero, Some(default)),
        MissingType::Nan => (Missing::Goes(default), None),
    };
    Ok(Rule::Number { max, missing, zero })
}

/// The values of one tree, by their keys.
type Values<'a> = BTreeMap<&'a str, &'a str>;

/// Reads the text of a model.
pub(super) fn text(bytes: &[u8]) -> Result<Ensemble, Fault> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| Fault::new("", format!("is not UTF-8 at byte {}", error.valid_up_to())))?;
    let mut lines = text.lines();
    if lines.next().map(str::trim_end) != Some("tree") {
        return Err(Fault::new("", "does not begin with the line \"tree\""));
    }
    let mut header = Header::default();
    let mut announced = None;
    let mut trees = Vec::new();
    let mut values: Option<Values<'_>> = None;
    let mut is_whole = false;
    for line in lines {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        let is_end = line == "end of trees";
        if key == "Tree" || is_end {
            if let Some(values) = values.take() {
                let number = trees.len();
                trees.push(tree(&values).within(&format!("Tree={number}"))?);
            }
            is_whole = is_end;
            if is_end {
                break;
            }
            count("Tree", trees.len() as i64, 0, checked::MAX_TREES - 1)?;
            values = Some(Values::new());
        } else if let Some(values) = &mut values {
            if !key.is_empty() && values.insert(key, value).is_some() {
                let twice = Err(Fault::new("", "is there twice")).within(key);
                return twice.within(&format!("Tree={}", trees.len()));
            }
        } else if key == "tree_sizes" {
            announced = Some(value.split_ascii_whitespace().count());
        } else {
            header_line(&mut header, key, value)?;
        }
    }
    if !is_whole {
        let message =
            "the line \"end of trees\" is missing: the file is cut, or of a version before 3";
        return Err(Fault::new("", message));
    }
    if let Some(announced) = announced {
        length("tree_sizes", announced, trees.len())?;
    }
    ensemble(header, trees, "Tree=")
}

fn header_line(header: &mut Header, key: &str, value: &str) -> Result<(), Fault> {
    let whole = || parsed::<i64>(value).within(key).map(Some);
    match key {
        "num_class" => header.num_class = whole()?,
        "num_tree_per_iteration" => header.num_tree_per_iteration = whole()?,
        "max_feature_idx" => header.max_feature_idx = whole()?,
        "objective" => header.objective = Some(value.to_owned()),
        "average_output" => header.average_output = true,
        "feature_names" => {
            header.feature_names = value.split(' ').map(str::to_owned).collect();
        }
        _ => {}
    }
    Ok(())
}

fn parsed<T: std::str::FromStr>(text: &str) -> Result<T, Fault> {
    let parsed = text.trim_ascii().parse();
    parsed.map_err(|_| Fault::new("", "expected a number that fits"))
}

/// A list of numbers that must have so many elements.
fn list<T: std::str::FromStr>(
    values: &Values<'_>,
    key: &str,
    expected: usize,
) -> Result<Vec<T>, Fault> {
    let text = values
        .get(key)
        .ok_or_else(|| Fault::new(key, "is missing"))?;
    let mut list = Vec::new();
    for word in text.split_ascii_whitespace() {
        list.push(parsed(word).within(&format!("{key}[{}]", list.len()))?);
        if list.len() > expected {
            break;
        }
    }
    length(key, list.len(), expected)?;
    Ok(list)
}

fn tree(values: &Values<'_>) -> Result<Tree<f64>, Fault> {
    let one = |key: &str| match values.get(key) {
        Some(text) => parsed::<i64>(text).within(key),
        None => Err(Fault::new(key, "is missing")),
    };
    if values.contains_key("is_linear") && one("is_linear")? != 0 {
        let message = "linear trees are not taken; train without linear_tree";
        return Err(Fault::new("is_linear", message));
    }
    let leaves = count("num_leaves", one("num_leaves")?, 1, checked::MAX_LEAVES)?;
    let mut tree = Tree {
        splits: Vec::new(),
        leaves: list::<f64>(values, "leaf_value", leaves)?,
        words: Vec::new(),
        output: 0,
    };
    if let Some(at) = tree.leaves.iter().position(|leaf| !leaf.is_finite()) {
        return Err(Fault::new(
            format!("leaf_value[{at}]"),
            "expected finite numbers",
        ));
    }
    if leaves == 1 {
        return Ok(tree);
    }
    let splits = leaves - 1;
    let mut ends = Vec::new();
    let categories = count("num_cat", one("num_cat")?, 0, splits)?;
    if categories > 0 {
        ends = list::<u32>(values, "cat_boundaries", categories + 1)?;
        let words = ends.last().copied().unwrap_or_default() as usize;
        tree.words = list(values, "cat_threshold", words)?;
    }
    let features = list::<u32>(values, "split_feature", splits)?;
    let thresholds = list::<f64>(values, "threshold", splits)?;
    let lefts = list::<i32>(values, "left_child", splits)?;
    let rights = list::<i32>(values, "right_child", splits)?;
    let kinds = match values.contains_key("decision_type") {
        true => list::<i64>(values, "decision_type", splits)?,
        false => vec![0; splits],
    };
    let numbers = features.into_iter().zip(thresholds).zip(kinds);
    let ways = lefts.into_iter().zip(rights);
    for (i, (((feature, threshold), kind), (left, right))) in numbers.zip(ways).enumerate() {
        tree.splits.push(Split {
            feature,
            rule: rule(threshold, kind, &ends)
                .map_err(|(field, message)| Fault::new(format!("{field}[{i}]"), message))?,
            left: next(left),
            right: next(right),
        });
    }
    checked::is_tree(&tree, ["left_child", "right_child"])?;
    Ok(tree)
}

/// Below zero are leaves.
fn next(child: i32) -> Next {
    match u32::try_from(child) {
        Ok(split) => Next::Split(split),
        Err(_) => Next::Leaf(!child as u32),
    }
}

/// The rule of a split, where its categories' words end as `ends` says.
fn rule(threshold: f64, kind: i64, ends: &[u32]) -> Result<Rule, (&'static str, &'static str)> {
    if kind & CATEGORICAL == 0 {
        let default_left = kind & DEFAULT_LEFT != 0;
        let missing = match kind >> 2 & 3 {
            0 => MissingType::None,
            1 => MissingType::Zero,
            2 => MissingType::Nan,
            _ => {
                let message = "expected missing values to be none, zero or NaN";
                return Err(("decision_type", message));
            }
        };
        return number_rule(threshold, missing, default_left)
            .map_err(|message| ("threshold", message));
    }
    let index = threshold as usize;
    let is_place = threshold >= 0.0 && threshold == index as f64;
    match (ends.get(index), ends.get(index.saturating_add(1))) {
        (Some(from), Some(to)) if is_place && from <= to && Some(to) <= ends.last() => {
            Ok(category_rule(*from..*to))
        }
        (Some(_), Some(_)) if is_place => Err(("cat_boundaries", "expected them in order")),
        _ => {
            let message = "expected the number of one of the tree's cat_boundaries";
            Err(("threshold", message))
        }
    }
}

/// What is one of the categories goes left; all else, and what is missing, right.
pub(super) fn category_rule(words: std::ops::Range<u32>) -> Rule {
    Rule::Category {
        words,
        members: Side::Left,
        missing: Side::Right,
    }
}
