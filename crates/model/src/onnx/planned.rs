//! A graph that is planned, and how rows of features or a text's tokens become its inputs.

use std::ops::Range;
use std::sync::Arc;

use tract_onnx::pb;
use tract_onnx::prelude::{
    Datum, IntoTValue, TValue, TVec, Tensor, TractResult, TypedRunnableModel,
};

use super::Fault;
use super::fault::{caught, shown};
use super::graph::{self, GraphInput, Kind};
use super::plan::{self, Axis};
use super::size;
use crate::network::Size;

/// Numbers of an output.
const MAX_WIDTH: u64 = 1 << 20;
/// Features of a row.
const MAX_FEATURES: u64 = 65_536;
/// Stack for the runtime's own reading of a file, which goes into depth.
const STACK_BYTES: usize = 64 << 20;

/// The inputs of models of texts, as Hugging Face exports them.
const IDS: &str = "input_ids";
const MASK: &str = "attention_mask";
const TYPES: &str = "token_type_ids";

/// What one of the graph's inputs is given.
enum Given {
    /// These numbers of the row.
    Features(Range<usize>),
    Ids,
    Mask,
    Types,
}

/// A planned graph.
pub(crate) struct Graph {
    plan: Arc<TypedRunnableModel>,
    inputs: Vec<(Given, Kind)>,
    /// The features' names where each is an input of its own.
    pub names: Vec<String>,
    /// Numbers that a row has; none for texts.
    pub features: Option<usize>,
    /// Numbers of the output.
    pub width: usize,
    pub size: Size,
}

/// Plans what gives this output. Texts have at most so many tokens.
pub(crate) fn graph(
    mut model: pb::ModelProto,
    output: &str,
    max_tokens: usize,
) -> Result<Graph, Fault> {
    let inputs = {
        let known = plan::runtime().op_register.0;
        graph::prepare(&mut model, output, |operator| known.contains_key(operator))?
    };
    let size = size::size(&model);
    let given = match inputs.iter().any(|input| input.name == IDS) {
        true => texts(&inputs)?,
        false => features(&inputs)?,
    };
    let axes: Vec<(GraphInput, Vec<Axis>)> = inputs
        .iter()
        .cloned()
        .zip(given.iter().map(|(_, axes)| axes.clone()))
        .collect();
    let planned = on_a_deep_stack(|| caught("read it", || plan::plan(&model, &axes, max_tokens)))?;
    drop(model);
    let mut width = 1u64;
    for dim in &planned.output {
        let dim = dim.to_i64().ok().and_then(|dim| u64::try_from(dim).ok());
        let dim = dim.ok_or_else(|| {
            let why = "gives numbers for each token, expected one row for a text";
            Fault::new(format!("the output \"{}\" {why}", shown(output)))
        })?;
        width = width.saturating_mul(dim);
    }
    if !(1..=MAX_WIDTH).contains(&width) {
        let output = shown(output);
        let why = format!("the output \"{output}\" has {width} numbers, expected 1 to {MAX_WIDTH}");
        return Err(Fault::new(why));
    }
    let names: Vec<String> = match inputs.len() {
        1 => Vec::new(),
        _ => inputs.iter().map(|input| input.name.clone()).collect(),
    };
    let ends = given.iter().filter_map(|(given, _)| match given {
        Given::Features(range) => Some(range.end),
        _ => None,
    });
    let features = ends.max();
    let each_is_one = features == Some(inputs.len());
    let kinds = inputs.iter().map(|input| input.kind);
    Ok(Graph {
        plan: planned.model,
        names: if each_is_one { names } else { Vec::new() },
        features,
        width: usize::try_from(width).unwrap_or(usize::MAX),
        size,
        inputs: given
            .into_iter()
            .map(|(given, _)| given)
            .zip(kinds)
            .collect(),
    })
}

/// The inputs of a model of features, each of which takes its columns of the row.
fn features(inputs: &[GraphInput]) -> Result<Vec<(Given, Vec<Axis>)>, Fault> {
    let mut start = 0u64;
    let mut given = Vec::with_capacity(inputs.len());
    for input in inputs {
        let refuse = |why: &str| Fault::new(format!("the input {}: {why}", shown(&input.name)));
        let [batch, Some(count)] = input.shape.as_slice() else {
            return Err(refuse("expected rows of a known number of features"));
        };
        if batch.is_some_and(|rows| rows != 1) {
            return Err(refuse(
                "has a fixed number of rows; export it with an open one",
            ));
        }
        let end = start.saturating_add(*count);
        if end > MAX_FEATURES {
            return Err(refuse("has more than 65536 features"));
        }
        let range = usize::try_from(start).unwrap_or(0)..usize::try_from(end).unwrap_or(0);
        given.push((
            Given::Features(range),
            vec![Axis::Fixed(1), Axis::Fixed(*count)],
        ));
        start = end;
    }
    if start == 0 {
        return Err(Fault::new("has no inputs that its output depends on"));
    }
    Ok(given)
}

/// The inputs of a model of texts.
fn texts(inputs: &[GraphInput]) -> Result<Vec<(Given, Vec<Axis>)>, Fault> {
    let given = inputs.iter().map(|input| {
        let refuse = |why: &str| Fault::new(format!("the input {}: {why}", shown(&input.name)));
        let given = match input.name.as_str() {
            IDS => Given::Ids,
            MASK => Given::Mask,
            TYPES => Given::Types,
            _ => {
                let why = "is none of input_ids, attention_mask and token_type_ids";
                return Err(refuse(why));
            }
        };
        match input.shape.as_slice() {
            [None | Some(1), None] => Ok((given, vec![Axis::Fixed(1), Axis::Tokens])),
            [_, _] => Err(refuse(
                "has a fixed length; export it with open axes (dynamic_axes)",
            )),
            _ => Err(refuse("expected rows of tokens")),
        }
    });
    given.collect()
}

/// Runs on a thread whose stack is deep enough for graphs of as many nodes as are taken.
fn on_a_deep_stack<T: Send>(run: impl FnOnce() -> Result<T, Fault> + Send) -> Result<T, Fault> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("kiln-onnx".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, run);
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Fault::new("the runtime can't read it")),
            Err(error) => Err(Fault::new(format!("no thread could be started: {error}"))),
        }
    })
}

/// A text's tokens.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    pub ids: &'a [u32],
    /// Which of the two texts each token belongs to.
    pub types: &'a [u32],
}

impl Graph {
    /// What a row of features gives.
    pub fn features(&self, row: &[f32]) -> TractResult<Vec<f32>> {
        let inputs = self.inputs.iter().map(|(given, kind)| {
            let columns = match given {
                Given::Features(range) => row.get(range.clone()).unwrap_or_default(),
                _ => &[],
            };
            let shape = [1, columns.len()];
            Ok(match kind {
                Kind::Single => Tensor::from_shape(&shape, columns)?,
                Kind::Double => made(&shape, columns.iter().map(|x| f64::from(*x)))?,
                Kind::Int32 => made(&shape, columns.iter().map(|x| *x as i32))?,
                Kind::Int64 => made(&shape, columns.iter().map(|x| *x as i64))?,
            })
        });
        self.run(inputs)
    }

    /// What a text gives.
    pub(super) fn text(&self, text: Text<'_>) -> TractResult<Vec<f32>> {
        let shape = [1, text.ids.len()];
        let inputs = self.inputs.iter().map(|(given, kind)| {
            let numbers = |i: usize| match given {
                Given::Ids => text.ids.get(i).copied().unwrap_or(0),
                Given::Types => text.types.get(i).copied().unwrap_or(0),
                Given::Mask | Given::Features(_) => 1,
            };
            let numbers = (0..text.ids.len()).map(numbers);
            match kind {
                Kind::Int32 => made(&shape, numbers.map(|x| x as i32)),
                Kind::Single => made(&shape, numbers.map(|x| x as f32)),
                Kind::Double => made(&shape, numbers.map(f64::from)),
                Kind::Int64 => made(&shape, numbers.map(i64::from)),
            }
        });
        self.run(inputs)
    }

    fn run(&self, inputs: impl Iterator<Item = TractResult<Tensor>>) -> TractResult<Vec<f32>> {
        let inputs = inputs.map(|tensor| Ok(tensor?.into_tvalue()));
        let inputs: TVec<TValue> = inputs.collect::<TractResult<_>>()?;
        let outputs = self.plan.run(inputs)?;
        let Some(output) = outputs.first() else {
            return Ok(Vec::new());
        };
        let output = output.cast_to::<f32>()?;
        Ok(output
            .to_plain_array_view::<f32>()?
            .iter()
            .copied()
            .collect())
    }
}

fn made<T: Datum + Copy>(shape: &[usize], numbers: impl Iterator<Item = T>) -> TractResult<Tensor> {
    let numbers: Vec<T> = numbers.collect();
    Tensor::from_shape(shape, &numbers)
}

/// What a row of features gives, whatever the runtime does.
pub(crate) fn tried(graph: &Graph, row: &[f32]) -> Result<Vec<f32>, Fault> {
    const DOING: &str = "score a row";
    caught(DOING, || {
        let scored = graph.features(row);
        scored.map_err(|error| Fault::of_runtime(DOING, &error))
    })
}
