//! Trees whose nodes are listed in any order, and such as are none.

use prost::Message as _;
use tract_onnx::pb;

use super::*;

/// The forest's graph, with the node of its trees changed.
fn changed(change: impl FnOnce(&mut pb::NodeProto)) -> Result<Graph, Fault> {
    let bytes = fs::read(fixtures().join("forest.onnx")).unwrap();
    let mut model = decode(&bytes).unwrap();
    let graph = model.graph.as_mut().unwrap();
    let mut nodes = graph.node.iter_mut();
    let trees = nodes.find(|node| node.op_type.starts_with("TreeEnsemble"));
    change(trees.unwrap());
    super::graph(decode(&model.encode_to_vec())?, "variable", 64)
}

fn refusal(change: impl FnOnce(&mut pb::NodeProto)) -> String {
    match changed(change) {
        Ok(_) => panic!("was taken"),
        Err(fault) => fault.to_string(),
    }
}

fn ints(node: &mut pb::NodeProto, name: &str, values: Vec<i64>) {
    if let Some(attribute) = node.attribute.iter_mut().find(|a| a.name == name) {
        attribute.ints = values;
    }
}

/// Lists what is said of nodes in another order.
fn reorder(node: &mut pb::NodeProto, order: impl Fn(usize) -> Vec<usize>) {
    for attribute in &mut node.attribute {
        if !attribute.name.starts_with("nodes_") {
            continue;
        }
        let count = attribute.ints.len() + attribute.floats.len() + attribute.strings.len();
        let order = order(count);
        if !attribute.ints.is_empty() {
            attribute.ints = order.iter().map(|at| attribute.ints[*at]).collect();
        } else if !attribute.floats.is_empty() {
            attribute.floats = order.iter().map(|at| attribute.floats[*at]).collect();
        } else if !attribute.strings.is_empty() {
            attribute.strings = order
                .iter()
                .map(|at| attribute.strings[*at].clone())
                .collect();
        }
    }
}

fn scores(graph: Graph) -> Vec<f32> {
    network(graph).forward(Batch::Features(&floats("forest.in")))
}

#[test]
fn trees_whose_nodes_are_listed_apart_are_each_scored_once() {
    let plain = scores(changed(|_| {}).unwrap());
    let mixed = changed(|node| {
        // The first nodes of all trees, then the second ones.
        let ids = node.attribute.iter().find(|a| a.name == "nodes_nodeids");
        let ids = ids.unwrap().ints.clone();
        reorder(node, |count| {
            let mut order: Vec<usize> = (0..count).collect();
            order.sort_by_key(|at| ids.get(*at));
            order
        });
    });
    assert_eq!(scores(mixed.unwrap()), plain);
}

#[test]
fn a_node_that_nothing_leads_to_is_refused() {
    let refused = refusal(|node| reorder(node, |count| (0..count).rev().collect()));
    assert!(
        refused.contains("are not reached from its first"),
        "{refused}"
    );
}

#[test]
fn few_leaves_of_many_sums_are_counted_before_they_are_laid_out() {
    // A chain of splits, one of whose leaves adds to every sum there may be.
    let splits = 20_000i64;
    let refused = refusal(|node| {
        let nodes = 2 * splits + 1;
        let is_leaf = |id: i64| id % 2 == 1 || id == 2 * splits;
        let all = |value: fn(i64) -> i64| (0..nodes).map(value).collect::<Vec<i64>>();
        ints(node, "nodes_treeids", all(|_| 0));
        ints(node, "nodes_nodeids", all(|id| id));
        ints(node, "nodes_featureids", all(|_| 0));
        ints(node, "nodes_missing_value_tracks_true", all(|_| 0));
        ints(node, "nodes_truenodeids", all(|id| id + 1));
        ints(node, "nodes_falsenodeids", all(|id| id + 2));
        ints(node, "target_treeids", vec![0; 1_000]);
        ints(node, "target_nodeids", vec![1; 1_000]);
        ints(node, "target_ids", (0..1_000).collect());
        for attribute in &mut node.attribute {
            match attribute.name.as_str() {
                "nodes_modes" => {
                    let mode = |id| if is_leaf(id) { "LEAF" } else { "BRANCH_LEQ" };
                    attribute.strings = (0..nodes).map(|id| mode(id).into()).collect();
                }
                "nodes_values" => attribute.floats = vec![0.0; nodes as usize],
                "target_weights" => attribute.floats = vec![1.0; 1_000],
                "n_targets" => attribute.i = 1_000,
                _ => {}
            }
        }
    });
    assert!(refused.ends_with("has too many leaves"), "{refused}");
}

#[test]
fn trees_that_are_none_are_refused() {
    type Change = fn(&mut pb::AttributeProto);
    let cases: [(&str, Change, &str); 6] = [
        (
            "nodes_truenodeids",
            |a| a.ints[0] = 0,
            "the node 0 of tree 0 is reached twice",
        ),
        (
            "nodes_falsenodeids",
            |a| a.ints[0] = 1_000_000_000,
            "there is no node 1000000000 in tree 0",
        ),
        (
            "nodes_featureids",
            |a| a.ints[0] = -1,
            "nodes_featureids: there is no feature -1",
        ),
        (
            "nodes_values",
            |a| a.floats[0] = f32::NAN,
            "nodes_values: expected numbers, found NaN",
        ),
        (
            "nodes_modes",
            |a| a.strings[0] = b"BRANCH_EQ".to_vec(),
            "nodes_modes: BRANCH_EQ is not taken",
        ),
        (
            "target_ids",
            |a| a.ints[0] = 7,
            "has 1 classes or targets, and leaves of number 7",
        ),
    ];
    for (name, change, expected) in cases {
        let refused = refusal(|node| {
            let attribute = node.attribute.iter_mut().find(|a| a.name == name);
            change(attribute.unwrap());
        });
        assert!(refused.ends_with(expected), "{name}: {refused}");
    }
}
