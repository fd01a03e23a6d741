//! Files of trees that nobody thought of: bytes of every notation, and trees that are written in all four.

use super::*;
use crate::trees::checked::MAX_CATEGORY_WORDS;
use kiln_fuzz::{Case, Target};
use std::fmt::Write;

/// Words of categories may take what they may, however short the file.
const MEMORY: (usize, usize) = (MAX_CATEGORY_WORDS * 4 * 2 + (1 << 20), 64);

/// Rows of a model with so many features: numbers around its thresholds, and those that are special.
fn rows(case: &mut Case<'_>, ensemble: &Ensemble) -> Vec<f32> {
    let thresholds = ensemble.thresholds();
    let special = [
        0.0,
        -0.0,
        f32::NAN,
        1e-36,
        -1e-35,
        1.0,
        31.0,
        32.5,
        -1.0,
        f32::MAX,
        f32::MIN,
        2_147_483_648.0,
        f32::MIN_POSITIVE / 2.0,
    ];
    let mut rows = Vec::new();
    for _ in 0..7 {
        for of_feature in &thresholds {
            let near = match of_feature.is_empty() {
                true => 0.0,
                false => *case.pick(of_feature),
            };
            rows.push(match case.below(5) {
                0 => near,
                1 => near.next_up(),
                2 => near.next_down(),
                _ => *case.pick(&special),
            });
        }
    }
    rows
}

/// A model that was taken scores the same fast and plainly, in any batch.
fn scores(case: &mut Case<'_>, ensemble: &Ensemble) -> Vec<Vec<f32>> {
    let width = ensemble.features();
    if width > 64 {
        return Vec::new();
    }
    let rows = rows(case, ensemble);
    let plain: Vec<Vec<f32>> = rows
        .chunks(width)
        .map(|row| ensemble.plainly(row))
        .collect();
    let Ok(network) = case.bounded(rows.len() * 4, || TreeNetwork::of(ensemble)) else {
        return plain;
    };
    let bits = |all: &[f32]| all.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
    for size in [1, 3, 7] {
        let fast: Vec<f32> = rows
            .chunks(size * width)
            .flat_map(|rows| network.forward(Batch::Features(rows)))
            .collect();
        assert_eq!(
            bits(&fast),
            bits(&plain.concat()),
            "batches of {size} of {rows:?}"
        );
    }
    plain
}

fn check(case: &mut Case<'_>, bytes: &[u8]) {
    let format = case.bounded(bytes.len(), || format_of(bytes));
    let read = format.and_then(|format| case.bounded(bytes.len(), || read(bytes, format)));
    match read {
        Ok(ensemble) => {
            case.saw("a model");
            scores(case, &ensemble);
        }
        Err(fault) => case.refused(&fault.to_string()),
    }
}

#[test]
fn fuzz_trees_file() {
    Target::new("trees_file")
        .memory(MEMORY.0, MEMORY.1)
        .runs(30_000)
        .words(&[
            "Tree=",
            "num_leaves=",
            "left_child=",
            "cat_boundaries=",
            "end of trees",
            "\"tree_structure\":",
            "\"decision_type\":\"==\"",
            "\"left_child\":{",
            "\"left_children\":",
            "\"tree_param\":",
            "num_nodes",
            "weight_drop",
            "[$d#l",
            "[$U#L",
            "[#U",
            "SL",
            "-1",
            "||",
        ])
        .run(|case| check(case, case.bytes()));
}

/// A node: a leaf's value, or a split.
enum Node {
    Leaf(f32),
    Split {
        feature: usize,
        threshold: f32,
        categories: Option<Vec<u32>>,
        default_left: bool,
        missing: usize,
        ways: Box<[Node; 2]>,
    },
}

const MISSING: [&str; 3] = ["None", "Zero", "NaN"];

fn number(case: &mut Case<'_>) -> f32 {
    let any = match case.below(4) {
        0 => f32::from_bits(case.word() as u32),
        1 => *case.pick(&[0.0, -0.0, 1.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE / 4.0]),
        _ => f32::from(case.byte() as i8) / 4.0,
    };
    if any.is_finite() { any } else { 0.5 }
}

fn node(case: &mut Case<'_>, depth: usize) -> Node {
    if depth == 0 || !case.goes_on() || case.one_in(3) {
        return Node::Leaf(number(case) / 1e6);
    }
    let categories = case.one_in(3).then(|| {
        (0..1 + case.below(4))
            .map(|_| case.below(70) as u32)
            .collect()
    });
    Node::Split {
        feature: case.below(3),
        threshold: number(case),
        categories,
        default_left: case.one_in(2),
        missing: case.below(3),
        ways: Box::new([node(case, depth - 1), node(case, depth - 1)]),
    }
}

/// What one tree's lists are in LightGBM's text.
#[derive(Default)]
struct Lists {
    leaves: Vec<f32>,
    features: Vec<usize>,
    thresholds: Vec<String>,
    kinds: Vec<usize>,
    ways: Vec<[i64; 2]>,
    words: Vec<Vec<u32>>,
}

impl Lists {
    /// Adds a node; gives its number, below zero for a leaf.
    fn add(&mut self, node: &Node) -> i64 {
        match node {
            Node::Leaf(value) => {
                self.leaves.push(*value);
                -(self.leaves.len() as i64)
            }
            Node::Split {
                feature,
                threshold,
                categories,
                default_left,
                missing,
                ways,
            } => {
                let at = self.features.len();
                self.features.push(*feature);
                let kind = usize::from(*default_left) << 1 | missing << 2;
                self.kinds.push(kind | usize::from(categories.is_some()));
                self.thresholds.push(match categories {
                    None => format!("{}", f64::from(*threshold)),
                    Some(_) => self.words.len().to_string(),
                });
                if let Some(categories) = categories {
                    let max = categories.iter().max().copied().unwrap_or_default();
                    let mut words = vec![0_u32; max as usize / 32 + 1];
                    for category in categories {
                        words[*category as usize / 32] |= 1 << (category % 32);
                    }
                    self.words.push(words);
                }
                self.ways.push([0, 0]);
                let (left, right) = (self.add(&ways[0]), self.add(&ways[1]));
                self.ways[at] = [left, right];
                at as i64
            }
        }
    }

    fn text(&self, number: usize) -> String {
        fn list<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
            let all: Vec<String> = all.into_iter().map(|x| x.to_string()).collect();
            all.join(" ")
        }
        let mut ends = vec![0];
        for words in &self.words {
            ends.push(ends.last().copied().unwrap_or_default() + words.len());
        }
        let mut out = format!(
            "Tree={number}\nnum_leaves={}\nnum_cat={}\n",
            self.leaves.len(),
            self.words.len()
        );
        let doubles = self.leaves.iter().map(|x| f64::from(*x));
        let lines = [
            ("leaf_value", list(doubles)),
            ("split_feature", list(&self.features)),
            ("threshold", list(&self.thresholds)),
            ("decision_type", list(&self.kinds)),
            ("left_child", list(self.ways.iter().map(|way| way[0]))),
            ("right_child", list(self.ways.iter().map(|way| way[1]))),
            ("cat_boundaries", list(ends)),
            ("cat_threshold", list(self.words.concat())),
        ];
        for (key, value) in lines {
            let _ = writeln!(out, "{key}={value}");
        }
        out
    }
}

fn lightgbm_text(trees: &[Node], objective: &str) -> String {
    let mut out = format!(
        "tree\nnum_class=1\nnum_tree_per_iteration=1\nmax_feature_idx=2\nobjective={objective}\nfeature_names=a b c\n\n"
    );
    for (number, tree) in trees.iter().enumerate() {
        let mut lists = Lists::default();
        lists.add(tree);
        out.push_str(&lists.text(number));
    }
    out + "end of trees\n"
}

fn lightgbm_node(node: &Node) -> String {
    match node {
        Node::Leaf(value) => format!("{{\"leaf_value\":{}}}", f64::from(*value)),
        Node::Split {
            feature,
            threshold,
            categories,
            default_left,
            missing,
            ways,
        } => {
            let (threshold, kind) = match categories {
                None => (f64::from(*threshold).to_string(), "<="),
                Some(all) => {
                    let all: Vec<String> = all.iter().map(u32::to_string).collect();
                    (format!("\"{}\"", all.join("||")), "==")
                }
            };
            format!(
                "{{\"split_feature\":{feature},\"threshold\":{threshold},\"decision_type\":\"{kind}\",\"default_left\":{default_left},\
                 \"missing_type\":\"{}\",\"left_child\":{},\"right_child\":{}}}",
                MISSING[*missing],
                lightgbm_node(&ways[0]),
                lightgbm_node(&ways[1])
            )
        }
    }
}

fn lightgbm_json(trees: &[Node], objective: &str) -> String {
    let trees: Vec<String> = trees
        .iter()
        .map(|tree| format!("{{\"tree_structure\":{}}}", lightgbm_node(tree)))
        .collect();
    format!(
        "{{\"num_class\":1,\"num_tree_per_iteration\":1,\"max_feature_idx\":2,\"objective\":\"{objective}\",\"average_output\":false,\
         \"feature_names\":[\"a\",\"b\",\"c\"],\"tree_info\":[{}]}}",
        trees.join(",")
    )
}

#[test]
fn fuzz_trees_lightgbm() {
    Target::new("trees_lightgbm")
        .memory(MEMORY.0, MEMORY.1)
        .run(|case| {
            let objective = *case.pick(&["regression", "binary sigmoid:1.5", "poisson", ""]);
            let trees: Vec<Node> = (0..1 + case.below(3)).map(|_| node(case, 6)).collect();
            let (text, json) = (
                lightgbm_text(&trees, objective),
                lightgbm_json(&trees, objective),
            );
            let [text, json] = [text, json].map(|file| {
                let format = format_of(file.as_bytes()).expect("a known format");
                read(file.as_bytes(), format).unwrap_or_else(|fault| panic!("{fault}: {file}"))
            });
            let plain = scores(case, &text);
            scores(case, &json);
            let rows = rows(case, &text);
            let same = |ensemble: &Ensemble| -> Vec<u32> {
                let all = rows.chunks(3).flat_map(|row| ensemble.plainly(row));
                all.map(f32::to_bits).collect()
            };
            assert_eq!(same(&text), same(&json), "of {rows:?}");
            case.saw(&format!("{} {}", trees.len(), plain.len()));
        });
}

/// Writes the same values as JSON and as UBJ.
#[derive(Default)]
struct Both {
    json: String,
    ubj: Vec<u8>,
}

impl Both {
    fn both(&mut self, json: &str, ubj: &[u8]) -> &mut Self {
        self.json.push_str(json);
        self.ubj.extend_from_slice(ubj);
        self
    }

    fn bare(&mut self, text: &str) {
        self.ubj.push(b'L');
        self.ubj.extend((text.len() as i64).to_be_bytes());
        self.ubj.extend(text.as_bytes());
    }

    fn text(&mut self, text: &str) {
        self.json
            .push_str(&serde_json::Value::from(text).to_string());
        self.ubj.push(b'S');
        self.bare(text);
    }

    fn key(&mut self, key: &str) -> &mut Self {
        if !self.json.ends_with('{') {
            self.json.push(',');
        }
        self.json.push_str(&format!("\"{key}\":"));
        self.bare(key);
        self
    }

    /// A list of whole numbers, as UBJ has them in several ways.
    fn wholes(&mut self, all: &[i64], way: usize) {
        let each: Vec<String> = all.iter().map(i64::to_string).collect();
        self.json.push_str(&format!("[{}]", each.join(",")));
        self.list(way, b'l', all.len());
        for x in all {
            if way != 1 {
                self.ubj.push(b'l');
            }
            self.ubj.extend((*x as i32).to_be_bytes());
        }
        self.end_list(way);
    }

    fn floats(&mut self, all: &[f32], way: usize) {
        let each: Vec<String> = all.iter().map(f32::to_string).collect();
        self.json.push_str(&format!("[{}]", each.join(",")));
        self.list(way, b'd', all.len());
        for x in all {
            if way != 1 {
                self.ubj.push(b'd');
            }
            self.ubj.extend(x.to_be_bytes());
        }
        self.end_list(way);
    }

    fn list(&mut self, way: usize, mark: u8, count: usize) {
        self.ubj.push(b'[');
        if way == 1 {
            self.ubj.extend([b'$', mark]);
        }
        if way < 2 {
            self.ubj.extend([b'#', b'L']);
            self.ubj.extend((count as i64).to_be_bytes());
        }
    }

    fn end_list(&mut self, way: usize) {
        if way == 2 {
            self.ubj.push(b']');
        }
    }
}

/// What one tree's lists are in XGBoost's files.
#[derive(Default)]
struct Flat {
    lefts: Vec<i64>,
    rights: Vec<i64>,
    features: Vec<i64>,
    conditions: Vec<f32>,
    defaults: Vec<i64>,
    kinds: Vec<i64>,
    categories: Vec<i64>,
    nodes: Vec<i64>,
    begins: Vec<i64>,
    sizes: Vec<i64>,
}

impl Flat {
    fn of(tree: &Node) -> Self {
        let mut flat = Self::default();
        let mut open = std::collections::VecDeque::from([tree]);
        let mut next = 1;
        while let Some(node) = open.pop_front() {
            let at = flat.lefts.len() as i64;
            match node {
                Node::Leaf(value) => {
                    flat.lefts.push(-1);
                    flat.rights.push(-1);
                    flat.features.push(0);
                    flat.conditions.push(*value);
                    flat.defaults.push(0);
                    flat.kinds.push(0);
                }
                Node::Split {
                    feature,
                    threshold,
                    categories,
                    default_left,
                    ways,
                    ..
                } => {
                    flat.lefts.push(next);
                    flat.rights.push(next + 1);
                    next += 2;
                    flat.features.push(*feature as i64);
                    flat.conditions.push(*threshold);
                    flat.defaults.push(i64::from(*default_left));
                    flat.kinds.push(i64::from(categories.is_some()));
                    if let Some(categories) = categories {
                        flat.nodes.push(at);
                        flat.begins.push(flat.categories.len() as i64);
                        flat.sizes.push(categories.len() as i64);
                        flat.categories
                            .extend(categories.iter().map(|x| i64::from(*x)));
                    }
                    open.extend(ways.iter());
                }
            }
        }
        flat
    }

    fn write(&self, out: &mut Both, case: &mut Case<'_>) {
        out.both("{", b"{");
        out.key("tree_param").both("{", b"{").key("num_nodes");
        out.text(&self.lefts.len().to_string());
        out.both("}", b"}");
        for (key, list) in [
            ("left_children", &self.lefts),
            ("right_children", &self.rights),
            ("split_indices", &self.features),
            ("default_left", &self.defaults),
            ("split_type", &self.kinds),
            ("categories", &self.categories),
            ("categories_nodes", &self.nodes),
            ("categories_segments", &self.begins),
            ("categories_sizes", &self.sizes),
        ] {
            out.key(key).wholes(list, case.below(3));
        }
        out.key("split_conditions")
            .floats(&self.conditions, case.below(3));
        out.both("}", b"}");
    }
}

fn xgboost(case: &mut Case<'_>, trees: &[Node]) -> Both {
    let mut out = Both::default();
    let objective = *case.pick(&["reg:squarederror", "binary:logistic", "count:poisson"]);
    out.both("{", b"{").key("learner").both("{", b"{");
    out.key("learner_model_param").both("{", b"{");
    out.key("base_score").text("5E-1");
    out.key("num_class").text("0");
    out.key("num_feature").text("3");
    out.both("}", b"}");
    out.key("objective").both("{", b"{").key("name");
    out.text(objective);
    out.both("}", b"}");
    out.key("gradient_booster").both("{", b"{");
    out.key("name").text("gbtree");
    out.key("model").both("{", b"{");
    out.key("tree_info")
        .wholes(&vec![0; trees.len()], case.below(3));
    out.key("trees").both("[", b"[#L");
    out.ubj.extend((trees.len() as i64).to_be_bytes());
    for (i, tree) in trees.iter().enumerate() {
        if i > 0 {
            out.json.push(',');
        }
        Flat::of(tree).write(&mut out, case);
    }
    out.json.push(']');
    out.both("}}}}", b"}}}}");
    out
}

#[test]
fn fuzz_trees_xgboost() {
    Target::new("trees_xgboost")
        .memory(MEMORY.0, MEMORY.1)
        .run(|case| {
            let trees: Vec<Node> = (0..1 + case.below(3)).map(|_| node(case, 6)).collect();
            let file = xgboost(case, &trees);
            let [json, ubj] = [file.json.as_bytes(), &file.ubj].map(|bytes| {
                let format = format_of(bytes).expect("a known format");
                read(bytes, format).unwrap_or_else(|fault| panic!("{fault}: {}", file.json))
            });
            assert_eq!(format!("{json:?}"), format!("{ubj:?}"));
            let plain = scores(case, &json);
            case.saw(&format!("{} {}", trees.len(), plain.len()));
            // What is read of a file that was cut, or changed, is a fault.
            let mut bytes = file.ubj;
            let at = case.below(65_536) % bytes.len();
            match case.below(3) {
                0 => bytes.truncate(at),
                1 => bytes[at] = case.byte(),
                _ => bytes[at] ^= 1 << case.below(8),
            }
            check(case, &bytes);
        });
}
