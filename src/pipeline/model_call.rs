//! Owns a call of a model: what it is asked, what is counted of it, and that its answer has a row for each input.

use super::{
    context::Context,
    index::bug,
    plan::{InputValue, Miss},
};
use kiln_model::{Model, ModelError, Rows, TextRow};

/// What a job takes beside its model, in seconds: the least that a reader who misses an entry waits.
pub const ROUND_TRIP_SECONDS: f64 = 0.003;

/// One model call; its outputs are as many rows as `misses`.
pub(super) async fn call(
    context: &Context,
    model: &Model,
    misses: &[Miss<'_>],
) -> Result<Vec<f32>, ModelError> {
    let info = model.info();
    let result = model.score(rows(misses)).await;
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
            tracing::warn!(model = info.name, version = info.version, %error, rows = misses.len(), "a model call failed");
        }
    }
    let outputs = result?.outputs;
    if outputs.len() == misses.len() * info.output_width {
        Ok(outputs)
    } else {
        Err(ModelError::Unfit {
            message: format!("{} values for {} rows", outputs.len(), misses.len()),
        })
    }
}

/// The rows that a model is given. All are of one kind, the one that it takes: admission has checked that.
fn rows(misses: &[Miss<'_>]) -> Rows {
    let values = misses.iter().map(|miss| &miss.slot.value);
    match misses.first().map(|miss| &miss.slot.value) {
        Some(InputValue::Features(first)) => {
            let width = first.len();
            let mut data = Vec::with_capacity(width * misses.len());
            for value in values {
                match value {
                    InputValue::Features(numbers) => data.extend_from_slice(numbers),
                    InputValue::Text { .. } => bug("a text among the features of one model"),
                }
            }
            Rows::Features { width, data }
        }
        Some(InputValue::Text { .. }) | None => {
            let mut texts = Vec::with_capacity(misses.len());
            for value in values {
                match value {
                    InputValue::Text { text, pair } => texts.push(TextRow {
                        text: text.clone().into_owned(),
                        text_pair: pair.as_ref().map(|pair| pair.clone().into_owned()),
                    }),
                    InputValue::Features(_) => bug("features among the texts of one model"),
                }
            }
            Rows::Texts(texts)
        }
    }
}
