//! Owns the stage that looks every slot of a batch up in the cache, in one round trip.
//!
//! Promises that a slot takes no entry that somebody who asks for it has invalidated.

use super::{
    context::Context,
    index::{SlotIndex, bug},
    plan::{Found, Plan},
};
use crate::{
    cache::{Lookup, Wanted},
    telemetry::metrics::Stage,
};
use std::time::Instant;

/// Looks every slot up.
pub(super) async fn slots(context: &Context, plan: &mut Plan<'_>) {
    if plan.slots.is_empty() {
        return;
    }
    let begun = Instant::now();
    // Slots of one model version stand together, so that its rows do too.
    let mut order: Vec<SlotIndex> = plan.slots.indices().collect();
    if plan.groups.len() > 1 {
        order.sort_by_key(|index| plan.slots.get(*index).map(|slot| slot.group));
    }
    let wanted: Vec<Wanted<'_>> = order
        .iter()
        .filter_map(|index| {
            let slot = plan.slots.get(*index)?;
            Some(Wanted {
                space: &plan.groups.get(slot.group)?.space,
                input: &slot.input,
            })
        })
        .collect();
    let mut outputs = Vec::new();
    let namespaces = plan.namespaces.as_slice();
    let looked = context.cache.look_up(&wanted, namespaces, &mut outputs);
    let looked = looked.await;
    plan.mark(&looked.marks, looked.now);
    take(plan, &order, &looked, &outputs);
    context.metrics.stage(Stage::LookUp, begun.elapsed());
}

/// Gives each slot that was found its row. `outputs` holds, in order, the rows of those that were there.
fn take(plan: &mut Plan<'_>, order: &[SlotIndex], looked: &Lookup, outputs: &[f32]) {
    if looked.seals.len() != order.len() {
        // There is no telling which row belongs to which input: score them all.
        bug("the cache answered for more or fewer inputs than it was asked");
        return;
    }
    let mut rest = outputs;
    for (index, seal) in order.iter().zip(&looked.seals) {
        let Some(seal) = *seal else {
            continue;
        };
        let Some(slot) = plan.slots.get_mut(*index) else {
            return;
        };
        let Some(group) = plan.groups.get_mut(slot.group) else {
            return;
        };
        let Some((row, after)) = rest.split_at_checked(group.width()) else {
            bug("the cache found an entry without a row");
            return;
        };
        rest = after;
        if seal.stamp >= slot.min_stamp {
            slot.found = Found::Cached(group.push_row(row));
            slot.seal = seal;
        }
    }
}
