//! Owns the stage that looks every slot of a batch up in the cache, in one round trip. Beside it, it asks when jobs with something for
//! readers were first accepted, and has entries live longer for jobs that ask for that.
//!
//! Promises that a slot takes no entry that somebody who asks for it has invalidated, and that a job which comes again is no newer.

use super::{
    context::Context,
    index::{SlotIndex, bug},
    plan::{Found, Plan},
    source::{AdmittedJob, JobSource},
};
use crate::{
    cache::{Lookup, Wanted},
    clock,
    simulated::{Mutation, is_mutated},
    telemetry::metrics::Stage,
};
use kiln_contract::{key, order::Moment};

/// How often a job may be held for as long as may be, and come again, and still be known by its first acceptance.
const HOLDS: u32 = 4;

/// Looks every slot up.
pub(super) async fn slots(context: &Context, plan: &mut Plan<'_>) {
    let accepted = Accepted::of(plan);
    let is_wanted = plan.slots.iter().any(|slot| slot.is_looked_up);
    if !is_wanted && accepted.jobs.is_empty() {
        return;
    }
    let begun = clock::instant();
    // Slots of one model version stand together, so that its rows do too.
    let slots = plan.slots.enumerate();
    let mut order: Vec<SlotIndex> = slots
        .filter_map(|(index, slot)| slot.is_looked_up.then_some(index))
        .collect();
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
    let looked = async {
        let begun = clock::instant();
        let looked = context
            .cache
            .look_up(&wanted, namespaces, &mut outputs)
            .await;
        (looked, clock::since(begun).as_secs_f64())
    };
    let lives = lives(plan);
    // At the same time: it is no second wait.
    let prolonged = context.cache.prolong(&lives);
    let ((looked, seconds), (), ()) = tokio::join!(looked, accepted.ask(context), prolonged);
    plan.mark(&looked.marks, looked.now);
    take(plan, &order, &looked, &outputs);
    context.metrics.stage(Stage::LookUp, clock::since(begun));
    let server = context.cache.server();
    if server.is_none_or(|redis| !redis.is_failing()) {
        context.look_up_cost.record(order.len(), seconds);
    }
}

/// Jobs that have something for readers.
struct Accepted<'a> {
    sources: Vec<&'a JobSource>,
    jobs: Vec<(Vec<u8>, Moment)>,
}

impl<'a> Accepted<'a> {
    fn of(plan: &Plan<'a>) -> Self {
        let admitted = plan.jobs.iter().map(|planned| planned.admitted);
        let for_readers = admitted.filter(|admitted| admitted.job.is_for_readers());
        let one = |admitted: &'a AdmittedJob<'a>| {
            let source = admitted.source;
            let key = key::accepted(&admitted.job.job_id);
            (source, (key, source.accepted()))
        };
        let (sources, jobs) = for_readers.map(one).unzip();
        Self { sources, jobs }
    }

    /// Finds out when each was first accepted, by this worker or another.
    async fn ask(&self, context: &Context) {
        if self.jobs.is_empty() {
            return;
        }
        let life = HOLDS * context.settings.max_hold;
        let known = context.cache.accept(&self.jobs, life).await;
        for ((source, (_, here)), known) in self.sources.iter().zip(&self.jobs).zip(known) {
            source.note_accepted(known.unwrap_or(*here));
        }
    }
}

/// The entries that jobs ask to live longer than usual, whether or not they are there, and for how long.
fn lives(plan: &Plan<'_>) -> Vec<(Vec<u8>, u64)> {
    let mut rng = clock::rng();
    let outliving = plan.jobs.iter().filter(|one| one.admitted.outlives);
    let slots = outliving.flat_map(|one| one.slots().map(move |slot| (one.admitted, slot)));
    let life = slots.filter_map(|(admitted, index)| {
        let slot = plan.slots.get(index)?;
        if !slot.keeps.entry {
            return None;
        }
        let entry = plan.groups.get(slot.group)?.space.prefix.key(&slot.input);
        Some((entry, clock::random_ttl_ms(&mut rng, admitted.ttl_seconds)))
    });
    life.collect()
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
        if !is_mutated(Mutation::SwapsRows) {
            rest = after;
        }
        if seal.stamp >= slot.min_stamp && slot.keeps.entry {
            slot.found = Found::Cached(group.push_row(row));
            slot.seal = seal;
        }
    }
}
