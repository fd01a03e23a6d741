//! What scikit-learn's exports hold and the runtime lacks, said in operators that it has.
//!
//! Follows the definitions of the `ai.onnx.ml` operators: Scaler, Imputer, OneHotEncoder of numbers, and ZipMap, whose list of maps is
//! the tensor that it is made of.

use std::collections::HashSet;

use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;

use super::Fault;
use super::fault::{node_name, shown};

/// The opset since which Unsqueeze takes its axes as an input.
const AXES_ARE_INPUTS: i64 = 13;

/// The names of a classifier's classes; none of other nodes.
pub(super) fn labels(node: &pb::NodeProto) -> Vec<String> {
    let of = |names: [&str; 2]| attributes(node).find(move |a| names.contains(&a.name.as_str()));
    if let Some(strings) = attribute(node, "classlabels_strings") {
        let texts = strings.strings.iter();
        return texts
            .map(|text| String::from_utf8_lossy(text).into_owned())
            .collect();
    }
    match of(["classlabels_ints", "classlabels_int64s"]) {
        Some(numbers) => numbers.ints.iter().map(ToString::to_string).collect(),
        None => Vec::new(),
    }
}

fn attributes(node: &pb::NodeProto) -> impl Iterator<Item = &pb::AttributeProto> {
    node.attribute.iter()
}

fn attribute<'a>(node: &'a pb::NodeProto, name: &str) -> Option<&'a pb::AttributeProto> {
    attributes(node).find(|attribute| attribute.name == name)
}

fn floats(node: &pb::NodeProto, name: &str) -> Vec<f32> {
    attribute(node, name).map_or_else(Vec::new, |attribute| attribute.floats.clone())
}

fn ints(node: &pb::NodeProto, name: &str) -> Vec<i64> {
    attribute(node, name).map_or_else(Vec::new, |attribute| attribute.ints.clone())
}

/// Replaces those nodes.
pub(super) fn rewrite(graph: &mut pb::GraphProto, opset: i64) -> Result<(), Fault> {
    let mut rewriter = Rewriter::of(graph, opset);
    for node in std::mem::take(&mut graph.node) {
        match node.op_type.as_str() {
            "ZipMap" => rewriter.zip_map(node)?,
            "Scaler" => rewriter.scaler(&node)?,
            "Imputer" => rewriter.imputer(&node)?,
            "OneHotEncoder" => rewriter.one_hot(&node)?,
            "LinearClassifier" => rewriter.linear_classifier(node),
            _ => rewriter.nodes.push(node),
        }
    }
    graph.node = rewriter.nodes;
    graph.initializer.extend(rewriter.constants);
    Ok(())
}

struct Rewriter {
    opset: i64,
    names: HashSet<String>,
    nodes: Vec<pb::NodeProto>,
    constants: Vec<pb::TensorProto>,
}

impl Rewriter {
    fn of(graph: &pb::GraphProto, opset: i64) -> Self {
        let tensors = graph.initializer.iter().map(|tensor| &tensor.name);
        let given = graph.node.iter().flat_map(|node| &node.output);
        let inputs = graph.input.iter().map(|input| &input.name);
        Self {
            opset,
            names: tensors.chain(given).chain(inputs).cloned().collect(),
            nodes: Vec::with_capacity(graph.node.len()),
            constants: Vec::new(),
        }
    }

    /// A name that nothing has yet.
    fn name(&mut self, of: &str, part: &str) -> String {
        let mut name = format!("{of}.{part}");
        while !self.names.insert(name.clone()) {
            name.push('_');
        }
        name
    }

    fn constant(&mut self, of: &str, part: &str, dims: &[usize], numbers: Numbers) -> String {
        let name = self.name(of, part);
        let (data_type, float_data, int64_data) = match numbers {
            Numbers::Floats(floats) => (DataType::Float, floats, Vec::new()),
            Numbers::Ints(ints) => (DataType::Int64, Vec::new(), ints),
        };
        self.constants.push(pb::TensorProto {
            name: name.clone(),
            dims: dims.iter().map(|dim| *dim as i64).collect(),
            data_type: data_type as i32,
            float_data,
            int64_data,
            ..Default::default()
        });
        name
    }

    /// Adds a node; its output is `output`, or else a new name.
    fn node(
        &mut self,
        operator: &str,
        input: &[&str],
        output: Option<&str>,
        attribute: Vec<pb::AttributeProto>,
    ) -> String {
        let of = input.first().copied().unwrap_or_default().to_owned();
        let output = match output {
            Some(output) => output.to_owned(),
            None => self.name(&of, operator),
        };
        self.nodes.push(pb::NodeProto {
            name: output.clone(),
            op_type: operator.to_owned(),
            input: input.iter().map(|name| (*name).to_owned()).collect(),
            output: vec![output.clone()],
            attribute,
            ..Default::default()
        });
        output
    }

    fn cast(&mut self, input: &str, to: DataType, output: Option<&str>) -> String {
        self.node("Cast", &[input], output, vec![int("to", to as i64)])
    }

    fn zip_map(&mut self, mut node: pb::NodeProto) -> Result<(), Fault> {
        one_in_one_out(&node)?;
        node.op_type = "Identity".to_owned();
        node.domain.clear();
        node.attribute.clear();
        self.nodes.push(node);
        Ok(())
    }

    /// The runtime knows labels as numbers alone. Nobody is given them: they are in the manifest.
    fn linear_classifier(&mut self, mut node: pb::NodeProto) {
        let is_text = |attribute: &pb::AttributeProto| attribute.name == "classlabels_strings";
        if let Some(labels) = node.attribute.iter_mut().find(|a| is_text(a)) {
            let count = i64::try_from(labels.strings.len()).unwrap_or(i64::MAX);
            *labels = pb::AttributeProto {
                name: "classlabels_ints".to_owned(),
                r#type: AttributeType::Ints as i32,
                ints: (0..count).collect(),
                ..Default::default()
            };
            if let Some(given) = node.output.first_mut() {
                *given = self.name(given, "number");
            }
        }
        self.nodes.push(node);
    }

    /// `(x - offset) * scale`
    fn scaler(&mut self, node: &pb::NodeProto) -> Result<(), Fault> {
        let (input, output) = one_in_one_out(node)?;
        let (offset, scale) = (floats(node, "offset"), floats(node, "scale"));
        if offset.is_empty() || scale.is_empty() {
            return Err(refuse(node, "has no offset or no scale"));
        }
        let x = self.cast(input, DataType::Float, None);
        let (offsets, scales) = (offset.len(), scale.len());
        let offset = self.constant(output, "offset", &[1, offsets], Numbers::Floats(offset));
        let scale = self.constant(output, "scale", &[1, scales], Numbers::Floats(scale));
        let moved = self.node("Sub", &[&x, &offset], None, Vec::new());
        self.node("Mul", &[&moved, &scale], Some(output), Vec::new());
        Ok(())
    }

    /// What equals the replaced value, NaN as a rule, is another one.
    fn imputer(&mut self, node: &pb::NodeProto) -> Result<(), Fault> {
        let (input, output) = one_in_one_out(node)?;
        let (values, whole) = (
            floats(node, "imputed_value_floats"),
            ints(node, "imputed_value_int64s"),
        );
        let (count, values, replaced) = match (values.len(), whole.len()) {
            (0, 0) => return Err(refuse(node, "has no imputed values")),
            (0, count) => {
                let replaced = attribute(node, "replaced_value_int64").map_or(0, |a| a.i);
                (count, Numbers::Ints(whole), Replaced::Int(replaced))
            }
            (count, _) => {
                let replaced = attribute(node, "replaced_value_float").map_or(0.0, |a| a.f);
                (count, Numbers::Floats(values), Replaced::Float(replaced))
            }
        };
        let values = self.constant(output, "values", &[1, count], values);
        let is_lacking = match replaced {
            Replaced::Float(replaced) if replaced.is_nan() => {
                self.node("IsNaN", &[input], None, Vec::new())
            }
            Replaced::Float(replaced) => {
                let replaced = Numbers::Floats(vec![replaced]);
                let replaced = self.constant(output, "replaced", &[1, 1], replaced);
                self.node("Equal", &[input, &replaced], None, Vec::new())
            }
            Replaced::Int(replaced) => {
                let replaced = Numbers::Ints(vec![replaced]);
                let replaced = self.constant(output, "replaced", &[1, 1], replaced);
                self.node("Equal", &[input, &replaced], None, Vec::new())
            }
        };
        self.node(
            "Where",
            &[&is_lacking, &values, input],
            Some(output),
            Vec::new(),
        );
        Ok(())
    }

    /// A column for each category, on a new last axis; a number that is no category gives zeros alone.
    fn one_hot(&mut self, node: &pb::NodeProto) -> Result<(), Fault> {
        let (input, output) = one_in_one_out(node)?;
        let categories = ints(node, "cats_int64s");
        if categories.is_empty() {
            return Err(refuse(node, "has categories that are strings"));
        }
        if attribute(node, "zeros").is_some_and(|zeros| zeros.i == 0) {
            let why = "refuses unknown categories; export it with handle_unknown=\"ignore\"";
            return Err(refuse(node, why));
        }
        let x = self.cast(input, DataType::Float, None);
        let x = if self.opset < AXES_ARE_INPUTS {
            let axes = pb::AttributeProto {
                name: "axes".to_owned(),
                r#type: AttributeType::Ints as i32,
                ints: vec![2],
                ..Default::default()
            };
            self.node("Unsqueeze", &[&x], None, vec![axes])
        } else {
            let axes = self.constant(output, "axes", &[1], Numbers::Ints(vec![2]));
            self.node("Unsqueeze", &[&x, &axes], None, Vec::new())
        };
        let count = categories.len();
        let categories = categories.iter().map(|category| *category as f32).collect();
        let categories = Numbers::Floats(categories);
        let categories = self.constant(output, "categories", &[1, 1, count], categories);
        let is_it = self.node("Equal", &[&x, &categories], None, Vec::new());
        self.cast(&is_it, DataType::Float, Some(output));
        Ok(())
    }
}

enum Numbers {
    Floats(Vec<f32>),
    Ints(Vec<i64>),
}

enum Replaced {
    Float(f32),
    Int(i64),
}

fn int(name: &str, value: i64) -> pb::AttributeProto {
    pb::AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Int as i32,
        i: value,
        ..Default::default()
    }
}

fn one_in_one_out(node: &pb::NodeProto) -> Result<(&str, &str), Fault> {
    match (node.input.as_slice(), node.output.as_slice()) {
        ([input], [output]) => Ok((input, output)),
        _ => Err(refuse(node, "has other than one input and one output")),
    }
}

fn refuse(node: &pb::NodeProto, why: &str) -> Fault {
    let name = shown(node_name(node));
    Fault::new(format!("the node {name} ({}) {why}", node.op_type))
}
