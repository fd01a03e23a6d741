//! One forward pass, with what it may cost: its request and nothing else.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use kiln_contract::{model::ModelError, redact};

use crate::inputs::Inputs;
use crate::network::{Batch, Network};
use crate::rows::ModelCall;

/// Outputs, row after row, and what the pass took.
pub(super) type Answer = Result<(Vec<f32>, ModelCall), ModelError>;

/// One forward pass over the rows of that range.
pub(super) fn pass(network: &dyn Network, inputs: &Inputs, range: Range<usize>) -> Answer {
    let count = range.len();
    let began = Instant::now();
    let outputs = catch_unwind(AssertUnwindSafe(|| forward(network, inputs, range.clone())))
        .map_err(|panic| ModelError::Panicked {
            message: panic_message(panic.as_ref()),
        })?;
    let seconds = began.elapsed().as_secs_f64();
    let width = (outputs.len() / count.max(1)).max(1);
    if let Some(at) = outputs.iter().position(|x| !x.is_finite()) {
        return Err(ModelError::NotFinite {
            row: range.start + at / width,
        });
    }
    let call = ModelCall {
        rows: count,
        tokens: inputs.tokens(&range),
        seconds,
    };
    Ok((outputs, call))
}

#[allow(
    clippy::indexing_slicing,
    reason = "passes are cut from these rows; a bug there is a panic, which costs its request"
)]
fn forward(network: &dyn Network, inputs: &Inputs, range: Range<usize>) -> Vec<f32> {
    match inputs {
        Inputs::Features { width, data } => network.forward(Batch::Features(
            &data[range.start * width..range.end * width],
        )),
        Inputs::Texts(texts) => network.forward(Batch::Texts(&texts[range])),
        Inputs::Tokens(tokens) => {
            let span = tokens.span(&range);
            network.forward(Batch::Tokens {
                ids: &tokens.ids[span.clone()],
                types: &tokens.types[span],
                lengths: &tokens.lengths(range),
            })
        }
    }
}

/// What a panic said. A model holds numbers only, and what its libraries say of a device is needed; they quote names at the utmost.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    match panic.downcast_ref::<String>() {
        Some(message) => redact::names_only(message),
        None => redact::panic(panic).to_owned(),
    }
}
