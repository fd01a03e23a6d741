//! Owns beginning to work on a block: on which model, and how many rows the next ones have.

use super::{
    block::Block,
    model::choose,
    parsed::Parsed,
    scorer::Scorer,
    work::{Done, Shared, work},
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::runtime::Handle;

/// Bytes of outputs that a block may take on its way, by which blocks of models with wide outputs are smaller.
const OUTPUT_BYTES: usize = 8 << 20;
/// What a value of an output takes on its way: as a number twice, and as text twice.
const BYTES_PER_OUTPUT: usize = 44;

/// Smaller blocks for wide outputs.
pub(super) fn fit_rows(scorer: &Scorer, model: &str, max_rows: &AtomicUsize) {
    if let Ok(model) = scorer.registry().resolve(model) {
        let row = BYTES_PER_OUTPUT * model.info().output_width.max(1);
        max_rows.store(
            (OUTPUT_BYTES / row).clamp(64, scorer.max_rows().max(64)),
            Ordering::Relaxed,
        );
    }
}

type Begun = (
    Option<String>,
    tokio::task::JoinHandle<anyhow::Result<Done>>,
);

/// Begins to work on a block. The first one with inputs says which model is meant, where none was named.
pub(super) fn start(
    number: usize,
    block: Block,
    model: &mut Option<String>,
    shared: &Arc<Shared>,
    runtime: &Handle,
    max_rows: &AtomicUsize,
) -> anyhow::Result<Begun> {
    let shared = shared.clone();
    let turn = shared.scorer.turn();
    if let Some(known) = model.clone() {
        let named = Some(known.clone());
        let work = runtime.spawn(async move {
            let parsed = Parsed::new(block, shared.pick.as_ref());
            work(parsed, number, known, (shared, turn)).await
        });
        return Ok((named, work));
    }
    let parsed = Parsed::new(block, shared.pick.as_ref());
    if let Some(input) = parsed.first_input() {
        let chosen = choose(shared.scorer.registry(), input)?;
        fit_rows(&shared.scorer, &chosen, max_rows);
        *model = Some(chosen);
    }
    let named = model.clone();
    let known = named.clone().unwrap_or_default();
    let work = work(parsed, number, known, (shared, turn));
    Ok((named, runtime.spawn(work)))
}
