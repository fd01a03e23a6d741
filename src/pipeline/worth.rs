//! Owns which inputs are worth a look-up: a model that takes less time for an input than a look-up does is faster without the cache.
//!
//! Promises that nothing is judged where nobody asks for it. An input that several jobs ask for is kept where one of them wants it kept.

use super::{context::Context, index::Index, plan::Plan, retention::Retention};
use crate::clock;
use crate::config::{CacheMode, StoredScores};

/// Says of each input of a batch what is kept of its score.
pub(super) fn judge(context: &Context, plan: &mut Plan<'_>) {
    let rows = context.settings.store.scores;
    let modes: Vec<CacheMode> = plan
        .jobs
        .iter()
        .map(|job| {
            let namespaces = &context.settings.namespaces;
            let own = namespaces.get(job.admitted.job.namespace());
            let model = &job.admitted.serving.model.info().name;
            context.settings.cache.mode_of(own, model)
        })
        .collect();
    if rows != StoredScores::Dear && modes.iter().all(|mode| *mode == CacheMode::Always) {
        return;
    }
    let is_probe = context.look_up_cost.is_probe(clock::instant());
    let mut kept = vec![None::<Retention>; plan.slots.len()];
    for (job, mode) in plan.jobs.iter().zip(modes) {
        for index in job.slots() {
            let Some(slot) = plan.slots.get(index) else {
                continue;
            };
            let is_cheap = context.look_up_cost.is_above(slot.cost);
            let entry = mode == CacheMode::Always || !is_cheap;
            let row = match rows {
                StoredScores::All => entry,
                StoredScores::Dear => entry && !is_cheap,
                StoredScores::None => false,
            };
            let mine = Retention { entry, row };
            if let Some(all) = kept.get_mut(index.number()) {
                *all = Some(all.map_or(mine, |before| before.or(mine)));
            }
        }
    }
    for (slot, keeps) in plan.slots.iter_mut().zip(kept) {
        slot.keeps = keeps.unwrap_or_default();
        slot.is_looked_up = slot.keeps.entry || is_probe;
    }
}
