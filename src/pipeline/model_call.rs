//! Owns a call of a model: what is counted of it, and that its answer has a row for each input.

use super::context::Context;
use kiln_model::{Model, ModelError, Rows, Scored};

/// What a job takes beside its model, in seconds: the least that a reader who misses an entry waits.
pub const ROUND_TRIP_SECONDS: f64 = 0.003;

/// What a model's call gave.
pub(super) struct Called {
    /// A row for each input, one after the other.
    pub outputs: Vec<f32>,
    /// Model time.
    pub seconds: f64,
}

/// One model call.
pub(super) async fn call(
    context: &Context,
    model: &Model,
    rows: Rows,
) -> Result<Called, ModelError> {
    let (info, inputs) = (model.info(), rows.len());
    let result = score(model, rows).await;
    match &result {
        Ok(scored) => {
            let metrics = &context.metrics;
            for call in &scored.calls {
                metrics.model_call(info, call.rows, call.tokens, call.seconds);
            }
            metrics.truncated_texts(info, scored.truncated);
        }
        Err(error) => {
            context.metrics.model_failure(info);
            tracing::warn!(model = info.name, version = info.version, %error, rows = inputs, "a model call failed");
        }
    }
    let scored = result?;
    if scored.outputs.len() == inputs * info.output_width {
        Ok(Called {
            seconds: scored.calls.iter().map(|call| call.seconds).sum(),
            outputs: scored.outputs,
        })
    } else {
        Err(ModelError::Unfit {
            message: format!("{} values for {inputs} rows", scored.outputs.len()),
        })
    }
}

/// The model's own threads would have a say in a simulation: it has a model without any.
async fn score(model: &Model, rows: Rows) -> Result<Scored, ModelError> {
    #[cfg(all(test, feature = "faults"))]
    if let Some(scored) = crate::simulated::score(model.info(), &rows).await {
        return scored;
    }
    model.score(rows).await
}
