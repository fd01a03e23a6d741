//! Owns what a batch adds to heat: what producers ask for, and what a hit on it saves.
//!
//! Refuses to count what warming asks for itself: that says nothing of readers.

use super::{
    context::Context,
    index::SlotIndex,
    model_call::ROUND_TRIP_SECONDS,
    plan::{InputValue, Plan},
};
use kiln_model::Model;
use std::{collections::BTreeMap, sync::Arc};

/// The slots that jobs of one namespace and model ask for.
type AskedSlots<'a> = Vec<(&'a Arc<Model>, SlotIndex)>;

/// Counts what producers ask for.
pub(super) fn batch(context: &Context, plan: &Plan<'_>) {
    let Some(heat) = &context.heat else {
        return;
    };
    let mut asked: BTreeMap<(&str, &str), AskedSlots<'_>> = BTreeMap::new();
    for planned in plan.jobs.iter() {
        let admitted = planned.admitted;
        if admitted.source.refresh_ttl {
            continue;
        }
        asked
            .entry((admitted.job.namespace(), admitted.job.model_name()))
            .or_default()
            .extend(planned.slots().map(|slot| (&admitted.model, slot)));
    }
    for ((namespace, name), asked) in asked {
        heat.asked(namespace, name, &asked, |(model, slot)| {
            let slot = plan.slots.get(*slot)?;
            Some((slot.input, saving(model, &slot.value)))
        });
    }
}

/// What a hit on an input saves, in seconds of waiting for a second of model time.
fn saving(model: &Model, value: &InputValue<'_>) -> f32 {
    let cost = value.expected_seconds(model).unwrap_or(ROUND_TRIP_SECONDS);
    (1.0 + ROUND_TRIP_SECONDS / cost.max(1e-6)) as f32
}
