//! A decoded file, checked before the runtime sees it: what the chosen output needs of it and nothing else.
//!
//! Promises that every tensor has as many bytes as its shape says, that what a node takes was given before it, and that every operator
//! is one that the runtime has and whose results depend on its inputs alone.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};

use super::Fault;
use super::fault::{node_name, shown};
use super::rewrite;
use super::trees;

/// Nodes that a graph may have.
const MAX_NODES: usize = 20_000;
/// Axes that a tensor may have.
const MAX_AXES: usize = 16;
/// Operators that are named where the runtime lacks some.
const MAX_NAMED: usize = 8;
/// Operators that the runtime has and Kiln doesn't take: what they give differs from call to call, or they hold graphs.
const NOT_TAKEN: [&str; 9] = [
    "If",
    "Loop",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Scan",
    "Bernoulli",
];

/// One of the graph's inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GraphInput {
    pub name: String,
    pub kind: Kind,
    /// Its shape; nothing where an axis may have any length.
    pub shape: Vec<Option<u64>>,
}

/// The numbers of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Single,
    Double,
    Int32,
    Int64,
}

/// One of the graph's outputs, as the file declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GraphOutput {
    pub name: String,
    /// Whether it may hold floats: it says so, or says nothing.
    pub is_float: bool,
}

/// What a file says of itself.
#[derive(Debug)]
pub(crate) struct Described {
    pub outputs: Vec<GraphOutput>,
    /// The names of a classifier's classes, where a node lists them.
    pub labels: Vec<String>,
    /// Rows of the table that `input_ids` is looked up in.
    pub vocabulary: Option<usize>,
}

fn graph(model: &pb::ModelProto) -> Result<&pb::GraphProto, Fault> {
    let none = || Fault::new("is no ONNX file: it has no graph");
    model.graph.as_ref().ok_or_else(none)
}

/// What there is to choose from.
pub(super) fn describe(model: &pb::ModelProto) -> Result<Described, Fault> {
    let graph = graph(model)?;
    let outputs = graph.output.iter().map(|output| GraphOutput {
        name: output.name.clone(),
        is_float: match elem_type(output) {
            None => true,
            Some(kind) => {
                kind == DataType::Float as i32
                    || kind == DataType::Double as i32
                    || kind == DataType::Float16 as i32
            }
        },
    });
    let labels = graph.node.iter().map(rewrite::labels);
    let vocabulary = graph.node.iter().find_map(|node| {
        let (table, ids) = (node.input.first()?, node.input.get(1)?);
        let is_lookup = node.op_type == "Gather" && ids == "input_ids";
        let table = graph.initializer.iter().find(|t| t.name == *table)?;
        let rows = table.dims.first().copied().filter(|_| is_lookup)?;
        usize::try_from(rows).ok()
    });
    Ok(Described {
        outputs: outputs.collect(),
        labels: labels.max_by_key(Vec::len).unwrap_or_default(),
        vocabulary,
    })
}

fn elem_type(info: &pb::ValueInfoProto) -> Option<i32> {
    tensor_type(info).map(|tensor| tensor.elem_type)
}

fn tensor_type(info: &pb::ValueInfoProto) -> Option<&pb::type_proto::Tensor> {
    let pb::type_proto::Value::TensorType(tensor) = info.r#type.as_ref()?.value.as_ref()?;
    Some(tensor)
}

/// Leaves in the model what this output needs, in the operators that the runtime has, and says what it takes.
pub(super) fn prepare(
    model: &mut pb::ModelProto,
    output: &str,
    has_operator: impl Fn(&str) -> bool,
) -> Result<Vec<GraphInput>, Fault> {
    // Names and notes that the runtime would only carry along.
    model.metadata_props.clear();
    model.doc_string.clear();
    let opset = opset(model)?;
    let Some(graph) = model.graph.as_mut() else {
        return Err(Fault::new("is no ONNX file: it has no graph"));
    };
    if graph.node.len() > MAX_NODES {
        let found = graph.node.len();
        return Err(Fault::new(format!(
            "has {found} nodes, expected at most {MAX_NODES}"
        )));
    }
    graph.value_info.clear();
    graph.quantization_annotation.clear();
    rewrite::rewrite(graph, opset)?;
    prune(graph, output)?;
    in_order(graph)?;
    for node in &mut graph.node {
        if trees::OPERATORS.contains(&node.op_type.as_str()) {
            trees::Ensemble::of(node)?;
            // The last of its outputs holds numbers, a classifier's first one labels.
            node.output = node.output.pop().into_iter().collect();
        }
    }
    operators(graph, has_operator)?;
    for tensor in &graph.initializer {
        check_tensor(tensor).map_err(|why| within("the tensor", &tensor.name, &why))?;
    }
    for node in &graph.node {
        for attribute in &node.attribute {
            let tensors = attribute.t.iter().chain(&attribute.tensors);
            for tensor in tensors {
                check_tensor(tensor).map_err(|why| within("the node", node_name(node), &why))?;
            }
        }
    }
    let constants: HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    let inputs = graph.input.iter();
    let inputs = inputs.filter(|input| !constants.contains(input.name.as_str()));
    let inputs: Vec<GraphInput> = inputs.map(input).collect::<Result<_, _>>()?;
    // Its own names of axes may be expressions; lengths are given when it is planned.
    for input in &mut graph.input {
        if let Some(pb::type_proto::Value::TensorType(tensor)) =
            input.r#type.as_mut().and_then(|kind| kind.value.as_mut())
        {
            tensor.shape = None;
        }
    }
    Ok(inputs)
}

/// The version of the standard operators.
fn opset(model: &pb::ModelProto) -> Result<i64, Fault> {
    const KNOWN: [&str; 4] = ["", "ai.onnx", "ai.onnx.ml", "com.microsoft"];
    let standard = model.opset_import.iter();
    let mut standard = standard.filter(|set| set.domain.is_empty() || set.domain == "ai.onnx");
    let version = standard.next().map_or(1, |set| set.version);
    let Some(graph) = &model.graph else {
        return Ok(version);
    };
    match graph
        .node
        .iter()
        .find(|node| !KNOWN.contains(&node.domain.as_str()))
    {
        None => Ok(version),
        Some(node) => Err(Fault::new(format!(
            "the node {} has the operator {} of \"{}\", which the runtime lacks",
            shown(node_name(node)),
            shown(&node.op_type),
            shown(&node.domain)
        ))),
    }
}

fn within(what: &str, name: &str, why: &Fault) -> Fault {
    Fault::new(format!("{what} {}: {why}", shown(name)))
}

/// Whether each node takes what was given before it, and nothing is given twice: a circle can't be in order.
fn in_order(graph: &pb::GraphProto) -> Result<(), Fault> {
    let initializers = graph.initializer.iter().map(|tensor| tensor.name.as_str());
    let mut known: HashSet<&str> = HashSet::new();
    for name in initializers {
        if !known.insert(name) {
            let name = shown(name);
            return Err(Fault::new(format!("the tensor {name} is there twice")));
        }
    }
    let mut inputs = HashSet::new();
    for input in &graph.input {
        if !inputs.insert(input.name.as_str()) {
            let name = shown(&input.name);
            return Err(Fault::new(format!("the input {name} is there twice")));
        }
    }
    known.extend(inputs);
    for node in &graph.node {
        let unknown = node
            .input
            .iter()
            .find(|name| !name.is_empty() && !known.contains(name.as_str()));
        if let Some(unknown) = unknown {
            return Err(Fault::new(format!(
                "the node {} takes {}, which nothing before it gives",
                shown(node_name(node)),
                shown(unknown)
            )));
        }
        for output in node.output.iter().filter(|name| !name.is_empty()) {
            if !known.insert(output) {
                let name = shown(output);
                return Err(Fault::new(format!("{name} is given twice")));
            }
        }
    }
    Ok(())
}

/// Leaves what the output needs.
fn prune(graph: &mut pb::GraphProto, output: &str) -> Result<(), Fault> {
    let mut outputs = std::mem::take(&mut graph.output);
    outputs.retain(|declared| declared.name == output);
    outputs.truncate(1);
    let given = |node: &pb::NodeProto| node.output.iter().any(|name| name == output);
    if outputs.is_empty() || !graph.node.iter().any(given) {
        return Err(Fault::new(format!("has no output \"{}\"", shown(output))));
    }
    // What it is said to be is found out anew.
    outputs.iter_mut().for_each(|output| output.r#type = None);
    graph.output = outputs;
    let mut needed: HashSet<String> = HashSet::from([output.to_owned()]);
    let mut kept = Vec::with_capacity(graph.node.len());
    for node in std::mem::take(&mut graph.node).into_iter().rev() {
        if node.output.iter().any(|name| needed.contains(name)) {
            needed.extend(node.input.iter().filter(|name| !name.is_empty()).cloned());
            kept.push(node);
        }
    }
    kept.reverse();
    graph.node = kept;
    graph
        .initializer
        .retain(|tensor| needed.contains(&tensor.name));
    Ok(())
}

/// Whether the runtime has every operator.
fn operators(graph: &pb::GraphProto, has_operator: impl Fn(&str) -> bool) -> Result<(), Fault> {
    let mut lacking: BTreeMap<&str, &str> = BTreeMap::new();
    let mut not_taken: BTreeSet<&str> = BTreeSet::new();
    for node in &graph.node {
        let operator = node.op_type.as_str();
        if NOT_TAKEN.contains(&operator) {
            not_taken.insert(operator);
        } else if !has_operator(operator) {
            lacking.entry(operator).or_insert(node_name(node));
        }
    }
    if let Some(operator) = not_taken.first() {
        return Err(Fault::new(format!("the operator {operator} is not taken")));
    }
    if lacking.is_empty() {
        return Ok(());
    }
    let named = lacking.iter().take(MAX_NAMED);
    let mut named: Vec<String> = named
        .map(|(operator, node)| format!("{} (the node {})", shown(operator), shown(node)))
        .collect();
    let more = lacking.len().saturating_sub(MAX_NAMED);
    if more > 0 {
        named.push(format!("and {more} others"));
    }
    let named = named.join(", ");
    Err(Fault::new(format!(
        "needs operators that the runtime lacks: {named}"
    )))
}

fn input(info: &pb::ValueInfoProto) -> Result<GraphInput, Fault> {
    let refuse = |why: &str| Fault::new(format!("the input {}: {why}", shown(&info.name)));
    let tensor = tensor_type(info).ok_or_else(|| refuse("is no tensor"))?;
    let kind = match DataType::try_from(tensor.elem_type) {
        Ok(DataType::Float) => Kind::Single,
        Ok(DataType::Double) => Kind::Double,
        Ok(DataType::Int32) => Kind::Int32,
        Ok(DataType::Int64) => Kind::Int64,
        Ok(DataType::String) => {
            return Err(refuse("takes strings; encode them before the model"));
        }
        _ => {
            return Err(refuse(
                "takes neither floats nor whole numbers of 32 or 64 bits",
            ));
        }
    };
    let shape = tensor.shape.as_ref();
    let shape = shape.ok_or_else(|| refuse("has no shape"))?;
    if shape.dim.len() > MAX_AXES {
        return Err(refuse("has too many axes"));
    }
    let axes = shape.dim.iter().map(|dim| match &dim.value {
        Some(pb::tensor_shape_proto::dimension::Value::DimValue(length)) => {
            // Some exporters write an open axis as 0 or -1.
            u64::try_from(*length).ok().filter(|length| *length > 0)
        }
        _ => None,
    });
    Ok(GraphInput {
        name: info.name.clone(),
        kind,
        shape: axes.collect(),
    })
}

/// Whether a tensor has the numbers that its shape says, in the file itself.
fn check_tensor(tensor: &pb::TensorProto) -> Result<(), Fault> {
    let is_elsewhere = tensor.data_location == Some(DataLocation::External as i32);
    if is_elsewhere || !tensor.external_data.is_empty() {
        let why = "its numbers are in another file; save the model as one file";
        return Err(Fault::new(why));
    }
    if tensor.segment.is_some() {
        return Err(Fault::new("is a segment of a tensor, which is not taken"));
    }
    if tensor.dims.len() > MAX_AXES {
        return Err(Fault::new("has too many axes"));
    }
    let mut count = 1u64;
    for dim in &tensor.dims {
        let dim = u64::try_from(*dim).map_err(|_| Fault::new("has a negative length"))?;
        count = count.saturating_mul(dim);
    }
    let (width, listed) = match DataType::try_from(tensor.data_type) {
        Ok(DataType::Float) => (4, tensor.float_data.len()),
        Ok(DataType::Double) => (8, tensor.double_data.len()),
        Ok(DataType::Int64) => (8, tensor.int64_data.len()),
        Ok(DataType::Int32) => (4, tensor.int32_data.len()),
        Ok(DataType::Float16 | DataType::Int16 | DataType::Uint16) => (2, tensor.int32_data.len()),
        Ok(DataType::Bool | DataType::Int8 | DataType::Uint8) => (1, tensor.int32_data.len()),
        Ok(DataType::String) => (0, tensor.string_data.len()),
        _ => return Err(Fault::new("is of a type that is not taken")),
    };
    let found = match (tensor.raw_data.len(), width) {
        (0, _) => listed as u64,
        (bytes, 1..) if bytes % width == 0 => (bytes / width) as u64,
        _ => u64::MAX,
    };
    if found != count {
        return Err(Fault::new(
            "has other than as many numbers as its shape says",
        ));
    }
    Ok(())
}
