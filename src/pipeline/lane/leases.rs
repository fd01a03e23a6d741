//! Owns that an input which several workers miss at once is scored by one of them.
//!
//! Promises that those who wait are answered whatever becomes of the one who scores: a lease expires, somebody else takes it,
//! and nobody waits for more than two of them before scoring for themselves.

use super::{one::Lane, slot::Taken};
use crate::{
    cache::{Fresh, Leases, Lookup, Space, Wanted},
    clock, config,
    pipeline::{
        context::Context,
        model_call::{Called, ROUND_TRIP_SECONDS, call},
    },
    telemetry::metrics::LeaseOutcome,
};
use kiln_contract::entry::Seal;
use kiln_contract::key;
use kiln_model::{Model, ModelError, Rows};
use rand::Rng;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Shortest and longest time between two looks for the entries of those who wait.
const POLL_MS: (u64, u64) = (5, 80);

/// What inputs are scored with: their model, and what workers share of it.
pub(super) trait Means: Sync {
    /// Values of one row.
    fn width(&self) -> usize;

    /// Notes how so many inputs got to be scored.
    fn note(&self, outcome: LeaseOutcome, inputs: usize);

    /// Calls the model.
    fn call(
        &self,
        lane: &Lane,
        taken: &[Taken],
        rows: Rows,
    ) -> impl Future<Output = Result<Called, ModelError>> + Send;

    /// Asks for a lease of each input, and says for each whether it was granted.
    fn lease(&self, open: &[Taken]) -> impl Future<Output = Vec<bool>> + Send;

    /// Looks for the row of each input.
    fn find(&self, open: &[Taken]) -> impl Future<Output = Vec<Option<Vec<f32>>>> + Send;

    /// Puts rows where other workers look for them. Says whether any do.
    fn put(&self, taken: &[Taken], outputs: &[f32]) -> impl Future<Output = bool> + Send;

    /// Gives leases back.
    fn give_back(&self, held: &[Taken]) -> impl Future<Output = ()> + Send;

    /// Waits for a moment, and says whether that was long enough by now.
    fn rest(&mut self) -> impl Future<Output = bool> + Send;
}

/// What one round of asking for leases came to.
#[derive(Default)]
pub(super) struct Round {
    /// To be scored here.
    pub own: Vec<Taken>,
    /// Being scored by another worker.
    pub waiting: Vec<Taken>,
    /// Scored by another worker meanwhile, with their rows.
    pub found: Vec<(Taken, Vec<f32>)>,
    /// Those whose leases are held.
    pub held: Vec<Taken>,
}

/// Asks for the leases of what is open, and then for its entries: one may have come since the last look-up. Where nobody is waited for, what has
/// no entry is this worker's.
pub(super) async fn ask(means: &impl Means, may_wait: bool, open: Vec<Taken>) -> Round {
    let had = match may_wait {
        true => means.lease(&open).await,
        false => vec![true; open.len()],
    };
    let rows = means.find(&open).await;
    let mut round = Round::default();
    for ((one, had), row) in open.into_iter().zip(had).zip(rows) {
        if had && may_wait {
            round.held.push(one.clone());
        }
        match row {
            Some(row) => round.found.push((one, row)),
            None if had => round.own.push(one),
            None => round.waiting.push(one),
        }
    }
    round
}

/// Whether leases of these inputs cost less than scoring some of them twice.
pub(super) fn are_worth_it(context: &Context, taken: &[Taken]) -> bool {
    let min_seconds = context.settings.cache.lease_from_ms / 1e3;
    let min_seconds = if min_seconds <= 0.0 {
        0.0
    } else {
        min_seconds.max(ROUND_TRIP_SECONDS)
    };
    // What isn't kept isn't found by whoever would wait for it.
    let is_worth_it = |one: &Taken| one.keeps.entry && one.seconds >= min_seconds;
    context.cache.server().is_some() && taken.iter().any(is_worth_it)
}

/// A model by itself, or with leases and entries of its inputs.
pub(super) struct Scorer<'c> {
    context: &'c Context,
    model: Arc<Model>,
    shared: Option<(Space, Leases<'c>)>,
    patience: Patience,
}

impl<'c> Scorer<'c> {
    /// Without leases: nobody else is heard of.
    pub fn alone(context: &'c Context, model: &Arc<Model>) -> Self {
        Self {
            context,
            model: model.clone(),
            shared: None,
            patience: Patience::new(config::ms(context.settings.cache.lease_ms)),
        }
    }

    /// With leases as far as there is a server for them.
    pub fn leased(context: &'c Context, model: &Arc<Model>) -> Self {
        let life = config::ms(context.settings.cache.lease_ms);
        let leases = context.cache.server();
        let leases = leases.map(|redis| Leases::new(redis, life));
        Self {
            shared: leases.map(|leases| (Space::new(model.info()), leases)),
            ..Self::alone(context, model)
        }
    }
}

fn keys(space: &Space, taken: &[Taken]) -> Vec<Vec<u8>> {
    let inputs = taken.iter().map(|one| &one.input);
    let keys = inputs.map(|input| key::lease(&space.prefix, input));
    keys.collect()
}

impl Means for Scorer<'_> {
    fn width(&self) -> usize {
        self.model.info().output_width
    }

    fn note(&self, outcome: LeaseOutcome, inputs: usize) {
        self.context.metrics.leases(outcome, inputs);
    }

    async fn call(&self, lane: &Lane, taken: &[Taken], rows: Rows) -> Result<Called, ModelError> {
        let called = call(self.context, &self.model, rows).await?;
        lane.note_cost(taken.len(), called.seconds);
        if lane.note_success() {
            self.context.health.lane_works(&lane.name);
        }
        lane.state().work.charge(taken, called.seconds);
        Ok(called)
    }

    async fn lease(&self, open: &[Taken]) -> Vec<bool> {
        match &self.shared {
            Some((space, leases)) => leases.ask(&keys(space, open)).await,
            None => vec![true; open.len()],
        }
    }

    async fn find(&self, open: &[Taken]) -> Vec<Option<Vec<f32>>> {
        let Some((space, _)) = &self.shared else {
            return vec![None; open.len()];
        };
        let wanted = open.iter().map(|one| Wanted {
            space,
            input: &one.input,
        });
        let wanted: Vec<Wanted<'_>> = wanted.collect();
        let mut outputs = Vec::new();
        let cache = &self.context.cache;
        let looked = cache.look_up(&wanted, &[], &mut outputs).await;
        valid_rows(open, &looked, &outputs, self.width())
    }

    /// At once: others wait for them. They are pending until their jobs' rows are committed.
    async fn put(&self, taken: &[Taken], outputs: &[f32]) -> bool {
        let Some((space, _)) = &self.shared else {
            return false;
        };
        let fresh: Vec<Fresh<'_>> = {
            let mut rng = clock::rng();
            let rows = outputs.chunks_exact(self.width().max(1));
            let kept = taken.iter().zip(rows).filter(|(one, _)| one.keeps.entry);
            kept.map(|(one, row)| Fresh {
                space,
                input: &one.input,
                row,
                ttl_ms: clock::random_ttl_ms(&mut rng, one.ttl_seconds),
                seal: Seal {
                    stamp: one.stamp,
                    is_pending: one.keeps.row,
                },
            })
            .collect()
        };
        self.context.cache.put(&fresh).await;
        true
    }

    async fn give_back(&self, held: &[Taken]) {
        if let Some((space, leases)) = &self.shared
            && !held.is_empty()
        {
            leases.give_back(&keys(space, held)).await;
        }
    }

    async fn rest(&mut self) -> bool {
        self.patience.rest().await;
        self.patience.is_over()
    }
}

/// The row of each slot that was found, where nobody who asks has invalidated it.
fn valid_rows(
    open: &[Taken],
    looked: &Lookup,
    outputs: &[f32],
    width: usize,
) -> Vec<Option<Vec<f32>>> {
    let there: Vec<bool> = looked.seals.iter().map(Option::is_some).collect();
    let rows = by_input(&there, outputs, width).into_iter();
    let sealed = rows.zip(&looked.seals).zip(open);
    let valid = |((row, seal), one): ((Option<&[f32]>, &Option<Seal>), &Taken)| {
        row.filter(|_| seal.is_some_and(|seal| seal.stamp >= one.min_stamp))
            .map(<[f32]>::to_vec)
    };
    sealed.map(valid).collect()
}

/// Gives each input its row. `outputs` holds, in order, the rows of those that were there and none of the others.
fn by_input<'a>(there: &[bool], outputs: &'a [f32], width: usize) -> Vec<Option<&'a [f32]>> {
    let mut rows = outputs.chunks_exact(width.max(1));
    let next = |there: &bool| there.then(|| rows.next()).flatten();
    there.iter().map(next).collect()
}

/// The waits of those whose inputs another worker scores: longer and longer ones, and none the same as another worker's.
#[derive(Debug)]
struct Patience {
    begun: Instant,
    max: Duration,
    poll_ms: u64,
}

impl Patience {
    /// Waits for two leases at most: the first holder may have died, and the next one needs its time, too.
    fn new(lease: Duration) -> Self {
        Self {
            begun: clock::instant(),
            max: 2 * lease,
            poll_ms: POLL_MS.0,
        }
    }

    /// Whether it has waited for long enough.
    fn is_over(&self) -> bool {
        clock::since(self.begun) >= self.max
    }

    /// Waits for a moment.
    async fn rest(&mut self) {
        let wait_ms = clock::rng().random_range(self.poll_ms..=self.poll_ms * 3 / 2);
        self.poll_ms = (self.poll_ms * 2).min(POLL_MS.1);
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_takes_nobody_elses_row() {
        let (there, outputs) = ([false, true, false, true], [1.0, 2.0, 3.0, 4.0]);
        let rows = by_input(&there, &outputs, 2);
        assert_eq!(rows, [None, Some(&outputs[..2]), None, Some(&outputs[2..])]);
    }
}
