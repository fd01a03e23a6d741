//! Answers of ONNX Runtime, kept beside the files: the same numbers, and the same bits in any batch.

mod hostile;
mod trees;

use std::fs;
use std::path::PathBuf;

use super::*;

/// How far from ONNX Runtime's numbers: absolute below 1, relative above.
const TOLERANCE: f32 = 1e-5;

/// What `tests/parity/onnx_files.py` wrote.
fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/onnx/fixtures")
}

fn floats(file: &str) -> Vec<f32> {
    let bytes = fs::read(fixtures().join(file)).unwrap();
    let each = bytes.as_chunks::<4>().0.iter();
    each.map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn planned(file: &str, output: &str) -> Result<Graph, Fault> {
    let bytes = fs::read(fixtures().join(file)).unwrap();
    graph(decode(&bytes)?, output, 64)
}

fn network(graph: Graph) -> OnnxNetwork {
    OnnxNetwork {
        graph,
        tokenizer: None,
        column: None,
        activation: OutputActivation::Identity,
        row_seconds: SHARE_SECONDS,
    }
}

/// Each file with the output that is compared, and its numbers.
const FILES: [(&str, &str, usize); 7] = [
    ("logistic", "output_probability", 2),
    ("imputed", "probabilities", 3),
    ("perceptron", "variable", 1),
    ("forest", "variable", 1),
    ("forest-classes", "probabilities", 3),
    ("boosted", "probabilities", 2),
    ("columns", "variable", 1),
];

#[test]
fn graphs_give_the_numbers_of_onnx_runtime_and_the_same_bits_in_any_batch() {
    for (name, output, width) in FILES {
        let graph = planned(&format!("{name}.onnx"), output);
        let network = network(graph.unwrap_or_else(|fault| panic!("{name}: {fault}")));
        assert_eq!(
            (network.graph.features, network.graph.width),
            (Some(5), width),
            "{name}"
        );
        let rows = floats(&format!("{name}.in"));
        let expected = floats(&format!("{name}.out"));
        let alone: Vec<f32> = rows
            .chunks(5)
            .flat_map(|row| network.forward(Batch::Features(row)))
            .collect();
        assert_eq!(alone.len(), expected.len(), "{name}");
        for (i, (found, expected)) in alone.iter().zip(&expected).enumerate() {
            let allowed = TOLERANCE * expected.abs().max(1.0);
            assert!(
                (found - expected).abs() <= allowed,
                "{name}[{i}]: {found} for {expected}"
            );
        }
        let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
        for size in [3, 7, 40] {
            let batches = rows.chunks(size * 5);
            let found: Vec<f32> = batches
                .flat_map(|rows| network.forward(Batch::Features(rows)))
                .collect();
            assert_eq!(bits(&found), bits(&alone), "{name} in batches of {size}");
        }
    }
}

#[test]
fn a_file_says_what_it_takes_and_gives() {
    let bytes = fs::read(fixtures().join("logistic.onnx")).unwrap();
    let described = describe(&decode(&bytes).unwrap()).unwrap();
    assert_eq!(described.labels, ["0", "1"]);
    let outputs: Vec<_> = described
        .outputs
        .iter()
        .map(|o| (o.name.as_str(), o.is_float))
        .collect();
    assert_eq!(
        outputs,
        [("output_label", false), ("output_probability", true)]
    );
    let columns = planned("columns.onnx", "variable").unwrap();
    assert_eq!(columns.names, ["kind", "a", "b", "c", "d"]);
    assert!(columns.size.parameters > 5);
    assert!(columns.size.bytes >= 4 * columns.size.parameters);
    let missing = planned("logistic.onnx", "probability").err().unwrap();
    assert_eq!(missing.to_string(), "has no output \"probability\"");
}

#[test]
fn numbers_for_each_token_are_no_row() {
    let refused = planned("texts/model.onnx", "last_hidden_state")
        .err()
        .unwrap();
    assert_eq!(
        refused.to_string(),
        "the output \"last_hidden_state\" gives numbers for each token, expected one row for a text"
    );
}
