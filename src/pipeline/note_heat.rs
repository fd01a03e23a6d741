//! Owns what a batch adds to heat: what producers ask for, and what a hit on it saves.
//!
//! Refuses to count what warming asks for itself: that says nothing of readers.

use super::{context::Context, index::SlotIndex, model_call::ROUND_TRIP_SECONDS, plan::Plan};
use std::collections::BTreeMap;

/// The slots that jobs of one namespace and model ask for.
type AskedSlots = Vec<SlotIndex>;

/// Counts what producers ask for.
pub(super) fn batch(context: &Context, plan: &Plan<'_>) {
    let Some(heat) = &context.heat else {
        return;
    };
    let mut asked: BTreeMap<(&str, &str), AskedSlots> = BTreeMap::new();
    for planned in plan.jobs.iter() {
        let admitted = planned.admitted;
        if admitted.source.refreshes_ttl() {
            continue;
        }
        asked
            .entry((admitted.job.namespace(), admitted.job.model_name()))
            .or_default()
            .extend(planned.slots());
    }
    for ((namespace, name), asked) in asked {
        heat.asked(namespace, name, &asked, |slot| {
            let slot = plan.slots.get(*slot)?;
            Some((slot.input, saving(slot.cost)))
        });
    }
}

/// What a hit on an input saves, in seconds of waiting for a second of model time.
fn saving(cost: Option<f64>) -> f32 {
    let cost = cost.unwrap_or(ROUND_TRIP_SECONDS);
    (1.0 + ROUND_TRIP_SECONDS / cost.max(1e-6)) as f32
}
