//! The operators as the runtime calls them.

use std::sync::Arc;

use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb;
use tract_onnx::tract_hir::internal::*;

use super::{Ensemble, OPERATORS};

/// Puts them in the place of the runtime's own.
pub(in crate::onnx) fn register(register: &mut OnnxOpRegister) {
    for operator in OPERATORS {
        register.insert(operator, build);
    }
}

fn build(
    _: &ParsingContext,
    node: &pb::NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let ensemble = Ensemble::of(node).map_err(|fault| format_err!("{fault}"))?;
    Ok((expand(Trees(Arc::new(ensemble))), Vec::new()))
}

#[derive(Debug, Clone)]
struct Trees(Arc<Ensemble>);

impl PartialEq for Trees {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Trees {}

impl Expansion for Trees {
    fn name(&self) -> StaticName {
        "TreeEnsemble".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        let [input] = inputs else { return Ok(()) };
        let [output] = outputs else { return Ok(()) };
        solver.equals(&output.datum_type, DatumType::F32)?;
        solver.equals(&input.rank, 2)?;
        solver.equals(&output.rank, 2)?;
        solver.equals(&output.shape[0], &input.shape[0])?;
        solver.equals(&output.shape[1], self.0.outputs().to_dim())?;
        Ok(())
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }
}

impl Op for Trees {
    fn name(&self) -> StaticName {
        "TreeEnsemble".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Trees {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let rows = args_1!(inputs).cast_to::<f32>()?.into_owned();
        let &[count, width] = rows.shape() else {
            bail!("trees take rows of numbers");
        };
        ensure!(
            self.0.forest.features() <= width,
            "trees look at more features than there are"
        );
        let rows = rows.to_plain_array_view::<f32>()?;
        let rows: Vec<f32> = rows.iter().copied().collect();
        let scored = self.0.forward(&rows, width);
        let scored = Tensor::from_shape(&[count, self.0.outputs()], &scored)?;
        Ok(tvec!(scored.into_tvalue()))
    }
}

impl TypedOp for Trees {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let count = inputs.first().and_then(|fact| fact.shape.iter().next());
        let count = count.cloned().unwrap_or_else(|| 1.to_dim());
        Ok(tvec!(f32::fact(&[count, self.0.outputs().into()])))
    }
}
