//! Files that are cut, that lie about themselves or that mean harm: one clear error that names the field, and no more memory than the file.

use super::*;

fn file(name: &str) -> Vec<u8> {
    fs::read(fixtures().join(name)).unwrap()
}

fn refusal(bytes: &[u8]) -> String {
    let read = format_of(bytes).and_then(|format| read(bytes, format));
    match read {
        Err(fault) => fault.to_string(),
        Ok(ensemble) => match TreeNetwork::of(&ensemble) {
            Err(fault) => fault.to_string(),
            Ok(_) => panic!("was taken"),
        },
    }
}

/// The refusal of a file in which the first line that begins so is another one.
fn with_line(name: &str, begins: &str, line: &str) -> String {
    let text = String::from_utf8(file(name)).unwrap();
    let old = text.lines().find(|line| line.starts_with(begins)).unwrap();
    refusal(text.replacen(old, line, 1).as_bytes())
}

/// How a line begins, what stands there instead, and how the refusal begins.
const TEXTS: &[(&str, &str, &str)] = &[
    (
        "tree",
        "tre",
        "is no model of LightGBM (text or JSON) or XGBoost (JSON or UBJ)",
    ),
    (
        "end of trees",
        "",
        "the line \"end of trees\" is missing: the file is cut, or of a version before 3",
    ),
    (
        "num_leaves",
        "num_leaves=1000000000",
        "Tree=0.num_leaves: expected 1 to 1048576, found 1000000000",
    ),
    (
        "num_leaves",
        "num_leaves=-1",
        "Tree=0.num_leaves: expected 1 to 1048576, found -1",
    ),
    (
        "num_leaves",
        "num_leaves=7",
        "Tree=0.leaf_value: has 6 elements, expected 7",
    ),
    (
        "left_child",
        "left_child=0 2 3 -1 -3",
        "Tree=0.left_child[0]: split 0 is reached twice",
    ),
    (
        "left_child",
        "left_child=99 2 3 -1 -3",
        "Tree=0.left_child[0]: there is no split 99",
    ),
    (
        "left_child",
        "left_child=x",
        "Tree=0.left_child[0]: expected a number that fits",
    ),
    (
        "threshold",
        "threshold=nan 1 1 1 1",
        "Tree=0.threshold[0]: expected numbers, found NaN",
    ),
    (
        "split_feature",
        "split_feature=5 1 1 1 1",
        "Tree=0.split_feature[0]: expected 0 to 4",
    ),
    (
        "is_linear",
        "is_linear=1",
        "Tree=0.is_linear: linear trees are not taken; train without linear_tree",
    ),
    (
        "decision_type",
        "decision_type=12 1 2 2 2",
        "Tree=0.decision_type[0]: expected missing values to be none, zero or NaN",
    ),
    (
        "max_feature_idx",
        "max_feature_idx=1000000000",
        "max_feature_idx: expected 0 to 65535, found 1000000000",
    ),
    (
        "feature_names",
        "feature_names=a a b c d",
        "feature_names[1]: is there twice",
    ),
    (
        "objective",
        "objective=magic",
        "objective: is none that Kiln knows of LightGBM's",
    ),
    (
        "objective",
        "objective=multiclass num_class:1",
        "objective: \"multiclass\" does not fit 1 sums a row",
    ),
    (
        "num_tree_per_iteration",
        "num_tree_per_iteration=3",
        "Tree=: 4 trees, expected a multiple of 3",
    ),
    (
        "tree_sizes",
        "tree_sizes=1 2 3",
        "tree_sizes: has 3 elements, expected 4",
    ),
    (
        "leaf_value",
        "leaf_value=inf 1 1 1 1 1",
        "Tree=0.leaf_value[0]: expected finite numbers",
    ),
];

#[test]
fn a_text_that_lies_is_refused_by_field() {
    for (begins, line, expected) in TEXTS {
        let found = with_line("lightgbm-forest.txt", begins, line);
        assert!(found.starts_with(expected), "{line}: {found}");
    }
    let categories = "lightgbm-multiclass.txt";
    for (begins, line, expected) in [
        ("cat_boundaries", "cat_boundaries=9 0 4", "cat_boundaries["),
        (
            "cat_boundaries",
            "cat_boundaries=0 1 1000000000",
            "cat_threshold: has",
        ),
        (
            "cat_boundaries",
            "cat_boundaries=0",
            "cat_boundaries: has 1 elements, expected 3",
        ),
        (
            "cat_threshold",
            "cat_threshold=99999999999",
            "cat_threshold[0]: expected a number that fits",
        ),
    ] {
        let found = with_line(categories, begins, line);
        assert!(found.contains(expected), "{line}: {found}");
    }
}

/// The refusal of a JSON file in which one text is replaced once.
fn with_text(name: &str, old: &str, new: &str) -> String {
    let text = String::from_utf8(file(name)).unwrap();
    assert!(text.contains(old), "{old}");
    refusal(text.replacen(old, new, 1).as_bytes())
}

/// A text, what stands there instead, and how the refusal begins.
const JSONS: &[(&str, &str, &str)] = &[
    (
        "\"left_children\":[1,",
        "\"left_children\":[0,",
        "learner.gradient_booster.gbtree.model.trees[0].right_children[0]: expected the node after",
    ),
    (
        "\"left_children\":[1,",
        "\"left_children\":[1000000000,",
        "learner.gradient_booster.gbtree.model.trees[0].right_children[0]: expected the node after",
    ),
    (
        "\"left_children\":[1,",
        "\"left_children\":[\"1\",",
        "learner.gradient_booster.gbtree.model.trees[0].left_children[0]: expected a whole number at byte",
    ),
    (
        "\"num_nodes\":\"",
        "\"num_nodes\":\"9999999",
        "learner.gradient_booster.gbtree.model.trees[0].tree_param.num_nodes: expected 1 to",
    ),
    (
        "\"split_conditions\":[",
        "\"split_conditions\":[NaN,",
        "learner.gradient_booster.gbtree.model.trees[0].split_conditions: has",
    ),
    (
        "\"name\":\"dart\"",
        "\"name\":\"gblinear\"",
        "learner.gradient_booster.name: expected \"gbtree\" or \"dart\"",
    ),
    (
        "\"num_target\":\"1\"",
        "\"num_target\":\"2\"",
        "learner.learner_model_param.num_target: several targets",
    ),
    (
        "\"num_class\":\"0\",\"num_feature\":\"5\"",
        "\"num_class\":\"0\",\"num_feature\":\"1\"",
        "learner.gradient_booster.model.trees[",
    ),
    (
        "\"base_score\":\"[",
        "\"base_score\":\"[x,",
        "learner.learner_model_param.base_score: expected finite numbers",
    ),
    (
        "\"weight_drop\":[",
        "\"weight_drop\":[1,",
        "learner.gradient_booster.weight_drop: has 9 elements, expected 8",
    ),
    (
        "binary:logistic",
        "binary:magic",
        "learner.objective.name: is none that Kiln knows of XGBoost's",
    ),
];

#[test]
fn a_json_that_lies_is_refused_by_field() {
    for (old, new, expected) in JSONS {
        let found = with_text("xgboost-dart.json", old, new);
        assert!(found.starts_with(expected), "{new}: {found}");
    }
    let dump = "lightgbm-multiclass.dump.json";
    for (old, new, expected) in [
        (
            "\"decision_type\": \"<=\"",
            "\"decision_type\": \"<\"",
            "decision_type: expected",
        ),
        (
            "\"left_child\": {",
            "\"left_child\": 7, \"x\": {",
            "left_child: expected an object at byte",
        ),
        (
            "\"split_feature\": ",
            "\"split_feature\": -",
            "split_feature: expected 0 to 65535",
        ),
    ] {
        let found = with_text(dump, old, new);
        assert!(found.contains(expected), "{new}: {found}");
    }
}

#[test]
fn a_node_that_is_reached_twice_or_whose_threshold_is_nan() {
    let text = String::from_utf8(file("xgboost-dart.json")).unwrap();
    let first = |key: &str| {
        let from = text.find(&format!("\"{key}\":[")).unwrap();
        let to = text[from..].find(']').unwrap() + from + 1;
        text[from..to].to_owned()
    };
    let lefts = first("left_children");
    let nodes = lefts.matches(',').count() + 1;
    let all = |key: &str, number: &dyn Fn(usize) -> String| {
        let list: Vec<String> = (0..nodes).map(number).collect();
        format!("\"{key}\":[{}]", list.join(","))
    };
    let twice = text
        .replacen(&lefts, &all("left_children", &|_| "1".to_owned()), 1)
        .replacen(
            &first("right_children"),
            &all("right_children", &|_| "2".to_owned()),
            1,
        );
    assert!(refusal(twice.as_bytes()).ends_with("left_children: node 1 is reached twice"));
    let old = first("split_conditions");
    let nan = text
        .replacen(&old, &all("split_conditions", &|_| "NaN".to_owned()), 1)
        .replacen(
            &first("split_type"),
            &all("split_type", &|_| "0".to_owned()),
            1,
        );
    let found = refusal(nan.as_bytes());
    assert!(
        found.ends_with("split_conditions[0]: expected a number, found NaN"),
        "{found}"
    );
}

#[test]
fn what_lies_deep_costs_no_stack() {
    for (open, begins) in [
        ("[", "{\"learner\":"),
        ("{\"a\":", "{\"version\":"),
        ("{\"left_child\":", "{\"tree_info\":[{\"tree_structure\":"),
    ] {
        let deep = format!("{begins}{}", open.repeat(200_000));
        let found = refusal(deep.as_bytes());
        assert!(
            found.contains("expected an object at byte") || found.contains("lies deeper than"),
            "{found}"
        );
    }
    let mut deep = b"{L\0\0\0\0\0\0\0\x01x".to_vec();
    deep.extend(b"[".repeat(200_000));
    let found = refusal(&deep);
    assert!(found.contains("lies deeper than"), "{found}");
}

#[test]
fn a_binary_file_that_announces_more_than_it_holds_is_refused() {
    let announced = i64::MAX.to_be_bytes();
    let begin = |rest: &[u8]| [b"{L\0\0\0\0\0\0\0\x01x", rest, &announced].concat();
    for (rest, expected) in [
        (&b"[$d#L"[..], "x: expected more bytes at byte"),
        (b"[$Z#L", "x: expected an array of numbers at byte"),
        (b"[#L", "x: expected a number at byte"),
        (b"SL", "x: expected a text that the file holds at byte"),
    ] {
        let found = refusal(&begin(rest));
        assert!(found.starts_with(expected), "{found}");
    }
}

#[test]
fn a_file_that_is_cut_or_changed_anywhere_never_panics() {
    for name in [
        "xgboost-dart.ubj",
        "xgboost-dart.json",
        "lightgbm-multiclass.dump.json",
        "lightgbm-forest.txt",
    ] {
        let whole = file(name);
        for length in (0..whole.len() - 2).step_by(if cfg!(debug_assertions) { 61 } else { 1 }) {
            refusal(&whole[..length]);
        }
        let mut number = 1u32;
        for _ in 0..300 {
            let mut changed = whole.clone();
            for _ in 0..3 {
                number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = (number >> 8) as usize % changed.len();
                changed[at] = (number >> 3) as u8;
            }
            if let Ok(format) = format_of(&changed)
                && let Ok(ensemble) = read(&changed, format)
            {
                let _ = TreeNetwork::of(&ensemble).map(|network| {
                    network.forward(Batch::Features(&vec![0.5; ensemble.features()]))
                });
            }
        }
    }
}

#[test]
fn a_category_is_a_whole_number_that_a_bit_is_kept_for() {
    for number in ["-1", "2.5", "1e300", "16777216"] {
        let file = format!(
            r#"{{"num_class":1,"max_feature_idx":0,"feature_names":["a"],"tree_info":[{{"tree_structure":{{"split_feature":0,
            "threshold":{number},"decision_type":"==","left_child":{{"leaf_value":1}},"right_child":{{"leaf_value":2}}}}}}]}}"#
        );
        assert_eq!(
            refusal(file.as_bytes()),
            "tree_info[0].tree_structure.threshold: expected categories below 16777216",
            "{number}"
        );
    }
}

#[test]
fn a_field_of_the_files_own_making_is_shown_only_where_it_is_a_name() {
    let odd = "x\n".repeat(500);
    let json = serde_json::json!({"learner": {odd: 1, "attributes": 2}}).to_string();
    let long = format!("{{\"learner\":{{\"{}\":[}}", "y".repeat(5_000));
    let twice = format!("tree\nTree=0\n{0}=1\n{0}=2\n", "z".repeat(5_000));
    for file in [json, long, twice] {
        let said = refusal(file.as_bytes());
        assert!(said.len() < 200 && !said.contains('\n'), "{said}");
    }
}
