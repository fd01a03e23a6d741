//! Files that are cut, that lie about themselves or that mean harm: one clear line, and bounded memory.

use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};

use super::*;

fn file(name: &str) -> Vec<u8> {
    fs::read(fixtures().join(name)).unwrap()
}

/// Reads a file as a load does; whatever is wrong must be a refusal.
fn read(bytes: &[u8], output: &str) -> Result<Graph, Fault> {
    let model = decode(bytes)?;
    describe(&model)?;
    graph(model, output, 64)
}

#[test]
fn a_file_that_is_cut_or_changed_anywhere_is_refused_or_scores() {
    for (name, output) in [
        ("logistic.onnx", "output_probability"),
        ("forest.onnx", "variable"),
    ] {
        let whole = file(name);
        for end in (0..whole.len()).step_by(41) {
            assert!(
                read(&whole[..end], output).is_err(),
                "{name} cut to {end} bytes"
            );
        }
        for at in (0..whole.len()).step_by(23) {
            for bits in [0x01, 0x80, 0xff] {
                let mut changed = whole.clone();
                changed[at] ^= bits;
                if let Ok(graph) = read(&changed, output) {
                    let row = vec![0.5; graph.features.unwrap_or(0)];
                    let _ = tried(&graph, &row);
                }
            }
        }
    }
}

#[test]
fn what_is_no_onnx_file_is_said_so() {
    for bytes in [&b"not an onnx file"[..], b"", &[0xff; 64], &[0x3a, 0x80]] {
        let refused = read(bytes, "y").err().unwrap().to_string();
        assert!(refused.starts_with("is no ONNX file"), "{refused}");
    }
}

#[test]
fn a_small_file_that_would_fill_the_memory_is_refused_before_it_is_decoded() {
    // A graph of as many empty nodes as bytes allow.
    let nodes: Vec<u8> = [0x0a, 0x00].repeat(4 << 20);
    let mut model = vec![0x3a];
    prost::encoding::encode_varint(nodes.len() as u64, &mut model);
    model.extend(nodes);
    let refused = decode(&model).err().unwrap().to_string();
    assert_eq!(refused, "would take many times its size in memory");
}

fn tensor(name: &str, dims: &[i64], numbers: &[f32]) -> pb::TensorProto {
    pb::TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: DataType::Float as i32,
        float_data: numbers.to_vec(),
        ..Default::default()
    }
}

fn whole(name: &str, numbers: &[i64]) -> pb::TensorProto {
    pb::TensorProto {
        name: name.to_owned(),
        dims: vec![numbers.len() as i64],
        data_type: DataType::Int64 as i32,
        int64_data: numbers.to_vec(),
        ..Default::default()
    }
}

fn node(operator: &str, input: &[&str], output: &str) -> pb::NodeProto {
    pb::NodeProto {
        name: format!("the-{output}"),
        op_type: operator.to_owned(),
        input: input.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.to_owned()],
        ..Default::default()
    }
}

fn integer(name: &str, i: i64) -> pb::AttributeProto {
    pb::AttributeProto {
        name: name.to_owned(),
        r#type: pb::attribute_proto::AttributeType::Int as i32,
        i,
        ..Default::default()
    }
}

/// A float tensor `x` of so many rows and features.
fn input(rows: i64, features: i64) -> pb::ValueInfoProto {
    use pb::tensor_shape_proto::{Dimension, dimension::Value::DimValue};
    let dim = |length| Dimension {
        value: (length > 0).then_some(DimValue(length)),
        ..Default::default()
    };
    let tensor = pb::type_proto::Tensor {
        elem_type: DataType::Float as i32,
        shape: Some(pb::TensorShapeProto {
            dim: vec![dim(rows), dim(features)],
        }),
    };
    pb::ValueInfoProto {
        name: "x".to_owned(),
        r#type: Some(pb::TypeProto {
            value: Some(pb::type_proto::Value::TensorType(tensor)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn model(nodes: Vec<pb::NodeProto>, initializer: Vec<pb::TensorProto>) -> pb::ModelProto {
    pb::ModelProto {
        ir_version: 8,
        opset_import: vec![pb::OperatorSetIdProto {
            domain: String::new(),
            version: 18,
        }],
        graph: Some(pb::GraphProto {
            node: nodes,
            initializer,
            input: vec![input(0, 4)],
            output: vec![pb::ValueInfoProto {
                name: "y".to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn refusal(model: &pb::ModelProto) -> String {
    match read(&model.encode_to_vec(), "y") {
        Ok(_) => panic!("was taken"),
        Err(fault) => fault.to_string(),
    }
}

#[test]
fn what_the_runtime_lacks_is_named() {
    let lacking = model(
        vec![
            node("Tokenizer", &["x"], "a"),
            node("SVMRegressor", &["a"], "y"),
        ],
        Vec::new(),
    );
    assert_eq!(
        refusal(&lacking),
        "needs operators that the runtime lacks: SVMRegressor (the node the-y), Tokenizer (the node the-a)"
    );
    let mut elsewhere = model(vec![node("Add", &["x", "x"], "y")], Vec::new());
    elsewhere.graph.as_mut().unwrap().node[0].domain = "my.company".to_owned();
    assert_eq!(
        refusal(&elsewhere),
        "the node the-y has the operator Add of \"my.company\", which the runtime lacks"
    );
    // What the output doesn't need may be anything.
    let mut unused = model(
        vec![node("Relu", &["x"], "y"), node("SVMRegressor", &["x"], "z")],
        Vec::new(),
    );
    assert!(read(&unused.encode_to_vec(), "y").is_ok());
    unused.graph.as_mut().unwrap().node[0].op_type = "RandomNormalLike".to_owned();
    assert_eq!(
        refusal(&unused),
        "the operator RandomNormalLike is not taken"
    );
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table of refusals")]
fn what_lies_or_means_harm_is_refused_in_one_line() {
    let external = pb::TensorProto {
        data_location: Some(DataLocation::External as i32),
        external_data: vec![pb::StringStringEntryProto {
            key: "location".to_owned(),
            value: "../../etc/passwd".to_owned(),
        }],
        ..tensor("w", &[4], &[])
    };
    let mut doubling = vec![node("Concat", &["x", "x"], "c0")];
    for i in 1..40 {
        let before = format!("c{}", i - 1);
        doubling.push(node("Concat", &[&before, &before], &format!("c{i}")));
    }
    doubling.push(node("Relu", &["c39"], "y"));
    for node in &mut doubling {
        if node.op_type == "Concat" {
            node.attribute.push(integer("axis", 1));
        }
    }
    let mut cast = node("Cast", &["z"], "y");
    cast.attribute.push(integer("to", DataType::Float as i64));
    let holding = pb::AttributeProto {
        g: Some(pb::GraphProto::default()),
        ..Default::default()
    };
    let mut branch = node("If", &["x"], "y");
    branch.attribute.push(holding);
    let huge = whole("shape", &[1_000_000_000, 1_000]);
    let cases = [
        (
            model(
                vec![node("Add", &["x", "z"], "y"), node("Relu", &["y"], "z")],
                vec![],
            ),
            "the node the-y takes z, which nothing before it gives",
        ),
        (
            model(
                vec![node("Relu", &["x"], "y"), node("Relu", &["x"], "y")],
                vec![],
            ),
            "y is given twice",
        ),
        (
            model(vec![node("Add", &["x", "w"], "y")], vec![external]),
            "the tensor w: its numbers are in another file; save the model as one file",
        ),
        (
            model(
                vec![node("Add", &["x", "w"], "y")],
                vec![tensor("w", &[1_000_000_000], &[1.0])],
            ),
            "the tensor w: has other than as many numbers as its shape says",
        ),
        (
            model(
                vec![node("Add", &["x", "w"], "y")],
                vec![tensor("w", &[-4], &[1.0])],
            ),
            "the tensor w: has a negative length",
        ),
        (
            model(
                vec![node("Add", &["x", "w"], "y")],
                vec![tensor("w", &[1 << 62, 1 << 62], &[])],
            ),
            "the tensor w: has other than as many numbers as its shape says",
        ),
        (
            model(
                vec![
                    node("ConstantOfShape", &["shape"], "w"),
                    node("Relu", &["w"], "y"),
                ],
                vec![huge.clone()],
            ),
            "the node the-w: gives 8000000000000 bytes, expected at most 268435456",
        ),
        (
            model(
                vec![node("Expand", &["x", "shape"], "y")],
                vec![whole("shape", &[100_000_000, 4])],
            ),
            "the node the-y: gives 1600000000 bytes, expected at most 268435456",
        ),
        (
            model(vec![node("Tile", &["x", "shape"], "y")], vec![huge]),
            "the node the-y: gives 16000000000000 bytes, expected at most 268435456",
        ),
        (
            model(doubling, vec![]),
            "the node the-c24: gives 536870912 bytes, expected at most 268435456",
        ),
        (
            model(vec![node("NonZero", &["x"], "z"), cast], vec![]),
            "the node the-z: the shape of what it gives depends on more than the shapes of the inputs",
        ),
        (
            model(vec![branch], vec![]),
            "holds a graph within a graph (If, Loop or Scan), which is not taken",
        ),
        (
            model(vec![node("Shape", &["x"], "y")], vec![]),
            "its output holds",
        ),
        (
            model(
                vec![node("MatMul", &["x", "w"], "y")],
                vec![tensor("w", &[3, 1], &[1.0; 3])],
            ),
            "the runtime can't take the node the-y: ",
        ),
        (
            model(vec![node("Relu", &["x"], "y"); 20_001], vec![]),
            "has 20001 nodes, expected at most 20000",
        ),
    ];
    for (model, expected) in cases {
        let refused = refusal(&model);
        assert!(
            refused.starts_with(expected),
            "expected {expected:?}, found {refused:?}"
        );
        assert!(!refused.contains('\n') && refused.len() < 700, "{refused}");
    }
}

#[test]
fn inputs_that_no_row_fits_are_refused() {
    let with = |x: pb::ValueInfoProto| {
        let mut model = model(vec![node("Relu", &["x"], "y")], Vec::new());
        model.graph.as_mut().unwrap().input = vec![x];
        model
    };
    let strings = {
        let mut x = input(0, 4);
        if let Some(pb::type_proto::Value::TensorType(tensor)) =
            &mut x.r#type.as_mut().unwrap().value
        {
            tensor.elem_type = DataType::String as i32;
        }
        x
    };
    let cases = [
        (
            input(0, 0),
            "the input x: expected rows of a known number of features",
        ),
        (
            input(32, 4),
            "the input x: has a fixed number of rows; export it with an open one",
        ),
        (
            input(0, 1 << 40),
            "the input x: has more than 65536 features",
        ),
        (
            strings,
            "the input x: takes strings; encode them before the model",
        ),
        (
            pb::ValueInfoProto {
                name: "x".to_owned(),
                ..Default::default()
            },
            "the input x: is no tensor",
        ),
    ];
    for (x, expected) in cases {
        assert_eq!(refusal(&with(x)), expected);
    }
}

#[test]
fn a_long_chain_costs_no_stack() {
    let name = |i: usize| {
        if i == 3_000 {
            "y".to_owned()
        } else {
            format!("c{i}")
        }
    };
    let mut nodes = vec![node("Sigmoid", &["x"], "c0")];
    nodes.extend((1..=3_000).map(|i| node("Sigmoid", &[&name(i - 1)], &name(i))));
    assert!(read(&model(nodes, Vec::new()).encode_to_vec(), "y").is_ok());
}
