//! From a checked graph to a plan that scores one row, with the memory that it takes known before it is taken.
//!
//! The runtime works constants out while it finds out shapes, whatever their size: so the shape of each result is looked at first, node by
//! node, and a file whose results are too large, or whose shapes depend on numbers, is refused.

use std::collections::HashMap;
use std::sync::Arc;

use tract_onnx::pb;
use tract_onnx::prelude::{
    DatumType, Framework, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable, Symbol,
    SymbolValues, TDim, TVec, TypedModel, TypedRunnableModel, tvec,
};
use tract_onnx::tract_hir::infer::Factoid;

use super::Fault;
use super::fault::shown;
use super::graph::{GraphInput, Kind};
use super::trees;

/// Bytes of one result.
const MAX_TENSOR_BYTES: u64 = 256 << 20;
/// Bytes of all results that are held at once, and of all constants that were worked out.
const MAX_HELD_BYTES: u64 = 1 << 30;

/// The length of one axis of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Axis {
    Fixed(u64),
    /// As many as the text has tokens.
    Tokens,
}

/// A plan for one row.
pub(super) struct Plan {
    pub model: Arc<TypedRunnableModel>,
    /// The length of each axis of the output.
    pub output: Vec<TDim>,
}

/// The longest text, if there are texts.
struct Lengths {
    tokens: Symbol,
    longest: SymbolValues,
}

/// The runtime with its operators and Kiln's own, which believes no shapes that the file says of results.
pub(super) fn runtime() -> tract_onnx::Onnx {
    let runtime = tract_onnx::onnx().with_ignore_value_info(true);
    let mut runtime = runtime.with_ignore_output_shapes(true);
    trees::register(&mut runtime.op_register);
    runtime
}

/// Plans a graph that was checked.
pub(super) fn plan(
    model: &pb::ModelProto,
    inputs: &[(GraphInput, Vec<Axis>)],
    max_tokens: usize,
) -> Result<Plan, Fault> {
    let failed = |doing: &'static str| move |error| Fault::of_runtime(doing, &error);
    let onnx = runtime();
    let template = InferenceModel::default();
    let tokens = template.symbols.sym("tokens");
    let max_tokens = i64::try_from(max_tokens).unwrap_or(i64::MAX);
    let lengths = Lengths {
        longest: SymbolValues::default().with(&tokens, max_tokens),
        tokens,
    };
    let mut graph = onnx
        .model_for_proto_model_with_model_template(model, template)
        .map_err(failed("read it"))?;
    for (number, (input, axes)) in inputs.iter().enumerate() {
        let shape: TVec<TDim> = axes.iter().map(|axis| lengths.dim(*axis)).collect();
        let fact = InferenceFact::dt_shape(datum_type(input.kind), shape);
        graph
            .set_input_fact(number, fact)
            .map_err(failed("take its inputs"))?;
    }
    analyse(&mut graph, &lengths)?;
    let typed = graph.into_typed().map_err(failed("type it"))?;
    check_results(&typed, &lengths)?;
    let typed = typed.into_decluttered().map_err(failed("simplify it"))?;
    check_results(&typed, &lengths)?;
    let fact = typed.output_fact(0).map_err(failed("say what it gives"))?;
    if fact.datum_type != DatumType::F32 && fact.datum_type != DatumType::F64 {
        let kind = fact.datum_type;
        return Err(Fault::new(format!("its output holds {kind:?}, not floats")));
    }
    let output = fact.shape.iter().cloned().collect();
    let model = typed.into_optimized().map_err(failed("optimise it"))?;
    let model = model.into_runnable().map_err(failed("plan it"))?;
    Ok(Plan { model, output })
}

pub(super) fn datum_type(kind: Kind) -> DatumType {
    match kind {
        Kind::Single => DatumType::F32,
        Kind::Double => DatumType::F64,
        Kind::Int32 => DatumType::I32,
        Kind::Int64 => DatumType::I64,
    }
}

impl Lengths {
    fn dim(&self, axis: Axis) -> TDim {
        match axis {
            Axis::Fixed(length) => TDim::Val(i64::try_from(length).unwrap_or(i64::MAX)),
            Axis::Tokens => TDim::Sym(self.tokens.clone()),
        }
    }

    /// Bytes of a result for the longest text; nothing where its shape isn't known.
    fn bytes<'a>(&self, kind: DatumType, mut shape: impl Iterator<Item = &'a TDim>) -> Option<u64> {
        let width = kind.size_of() as u64;
        shape.try_fold(width, |bytes, dim| {
            let length = dim.eval_to_i64(&self.longest).ok()?;
            let length = u64::try_from(length).ok()?;
            Some(bytes.saturating_mul(length))
        })
    }
}

/// Finds out every shape, from the inputs on, and looks at it before anything of that size is made.
fn analyse(graph: &mut InferenceModel, lengths: &Lengths) -> Result<(), Fault> {
    let order = graph
        .eval_order()
        .map_err(|error| Fault::of_runtime("order its nodes", &error))?;
    let mut constants = 0;
    for id in order {
        let name = shown(&graph.node(id).name);
        let refuse = |error| {
            let doing = format!("take the node {name}");
            Fault::of_runtime(&doing, &error)
        };
        let (inputs, outputs) = graph.node_facts(id).map_err(refuse)?;
        let inputs: TVec<InferenceFact> = inputs.into_iter().cloned().collect();
        let outputs: TVec<InferenceFact> = outputs.into_iter().cloned().collect();
        let (given, wanted) = (inputs.iter().collect(), outputs.iter().collect());
        let mut op = graph.node(id).op.clone();
        let first = op.infer_facts(given, wanted, tvec!()).map_err(refuse)?;
        // What has no inputs is an input, or a constant of the file.
        for fact in first.1.iter().filter(|_| !inputs.is_empty()) {
            check_fact(fact, lengths)
                .map_err(|why| Fault::new(format!("the node {name}: {why}")))?;
        }
        let (given, wanted) = (inputs.iter().collect(), outputs.iter().collect());
        let op = &mut graph.node_mut(id).op;
        let found = op.infer(given, wanted, tvec!()).map_err(refuse)?;
        for (slot, fact) in found.1.into_iter().enumerate() {
            let fact = match outputs.get(slot) {
                Some(known) => known.unify(&fact).map_err(refuse)?,
                None => fact,
            };
            if let Some(value) = fact.value.concretize() {
                constants += (value.len() * value.datum_type().size_of()) as u64;
            }
            graph
                .set_outlet_fact((id, slot).into(), fact)
                .map_err(refuse)?;
        }
        // The constants of the file itself count as well: it has at most half as many bytes.
        if constants > MAX_HELD_BYTES {
            return Err(too_large("its constants take"));
        }
    }
    Ok(())
}

fn check_fact(fact: &InferenceFact, lengths: &Lengths) -> Result<(), Fault> {
    let unknown = || {
        let why = "the shape of what it gives depends on more than the shapes of the inputs";
        Fault::new(why)
    };
    let shape = fact.shape.concretize().ok_or_else(unknown)?;
    // Where the type isn't known yet, none is wider.
    let kind = fact.datum_type.concretize().unwrap_or(DatumType::F64);
    let bytes = lengths.bytes(kind, shape.iter()).ok_or_else(unknown)?;
    if bytes > MAX_TENSOR_BYTES {
        return Err(Fault::new(format!(
            "gives {bytes} bytes, expected at most {MAX_TENSOR_BYTES}"
        )));
    }
    Ok(())
}

fn too_large(what: &str) -> Fault {
    Fault::new(format!("{what} more than {MAX_HELD_BYTES} bytes"))
}

/// Whether no result, and no set of results that is held at once, is too large.
fn check_results(model: &TypedModel, lengths: &Lengths) -> Result<(), Fault> {
    let order = model
        .eval_order()
        .map_err(|error| Fault::of_runtime("order its nodes", &error))?;
    let mut last_use: HashMap<usize, usize> = HashMap::new();
    for (step, id) in order.iter().enumerate() {
        for input in &model.node(*id).inputs {
            last_use.insert(input.node, step);
        }
    }
    let mut sizes: HashMap<usize, u64> = HashMap::new();
    let (mut held, mut constants) = (0u64, 0u64);
    for (step, id) in order.iter().enumerate() {
        let node = model.node(*id);
        let mut bytes = 0u64;
        for output in &node.outputs {
            let shape = output.fact.shape.iter();
            let own = lengths.bytes(output.fact.datum_type, shape);
            let is_constant = output.fact.konst.is_some();
            let own = own.filter(|own| is_constant || *own <= MAX_TENSOR_BYTES);
            let Some(own) = own else {
                let name = shown(&node.name);
                return Err(Fault::new(format!("the node {name}: gives too much")));
            };
            if is_constant {
                constants = constants.saturating_add(own);
            } else {
                bytes = bytes.saturating_add(own);
            }
        }
        held = held.saturating_add(bytes);
        if held > MAX_HELD_BYTES {
            return Err(too_large("a row's results take"));
        }
        if constants > MAX_HELD_BYTES {
            return Err(too_large("its constants take"));
        }
        sizes.insert(*id, bytes);
        for input in &node.inputs {
            if last_use.get(&input.node) == Some(&step) {
                held = held.saturating_sub(sizes.remove(&input.node).unwrap_or(0));
            }
        }
    }
    Ok(())
}
