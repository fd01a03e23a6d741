//! Owns what readers find of a job: its named entries and its ranking.
//!
//! Refuses to write them: the caller does, once the job's row is committed.

use super::{
    context::Context,
    plan::{Plan, PlannedInput, PlannedJob},
    render::FinishedJob,
};
use crate::{cache::Put, clock};
use kiln_contract::key::{self, InputHash};
use kiln_contract::result::{self, RankedItem, Reading};
use std::collections::BTreeMap;

/// Adds the named entries and the ranking of a job, by namespace.
pub(super) fn job<'a>(
    context: &Context,
    plan: &Plan<'_>,
    finished: &FinishedJob<'a>,
    entries: &mut BTreeMap<&'a str, Vec<Put>>,
) {
    let admitted = finished.planned.admitted;
    let job = &admitted.job;
    if !job.named && job.rank.is_none() {
        return;
    }
    let info = admitted.model.info();
    let at = finished.result.finished_at;
    let ttl_seconds = ttl_seconds(context, plan, finished.planned);
    let own = context.settings.namespaces.get(job.namespace());
    let grace_ms = 1_000 * context.settings.cache.grace_of(own);
    let mut rng = rand::rng();
    let entries = entries.entry(job.namespace()).or_default();
    let mut put = |key: &str, value: Vec<u8>| {
        entries.push(Put {
            key: key::named(job.namespace(), key).into_bytes(),
            value,
            ttl_ms: clock::random_ttl_ms(&mut rng, ttl_seconds) + grace_ms,
        });
    };
    let (mut ranked, mut written) = (Vec::new(), Vec::new());
    for (key, row, hash) in keyed(plan, finished.planned) {
        if job.named {
            written.push((key, Some(hash)));
            put(key, result::named_entry(info, row, at));
        }
        if let Some(score) = Reading::of(info, row).score() {
            ranked.push(RankedItem { key, score });
        }
    }
    if let Some(rank) = &job.rank {
        written.push((&rank.key, None));
        let top = rank.top.unwrap_or(ranked.len());
        let best = result::rank(ranked, top);
        put(&rank.key, result::ranking(info, best, at));
    }
    if let Some(heat) = &context.heat {
        heat.readers.written(job.namespace(), written.into_iter());
    }
}

/// TTL of what readers find: what the job asks for, or else that of its first entry.
fn ttl_seconds(context: &Context, plan: &Plan<'_>, planned: &PlannedJob<'_>) -> u64 {
    let first = || plan.slots.get(planned.slots().next()?);
    let asked = planned.admitted.job.ttl_seconds;
    asked
        .or_else(|| Some(first()?.ttl_seconds))
        .unwrap_or(context.settings.cache.ttl_seconds)
}

/// The job's inputs that have a key and a row.
fn keyed<'p>(
    plan: &'p Plan<'_>,
    planned: &PlannedJob<'p>,
) -> impl Iterator<Item = (&'p str, &'p [f32], InputHash)> {
    planned.with_inputs().filter_map(|(input, became)| {
        let PlannedInput::Slot(index) = became else {
            return None;
        };
        let (slot, row) = plan.row(index)?;
        Some((input.key.as_deref()?, row, slot.input))
    })
}
