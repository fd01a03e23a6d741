//! Owns that an input which several workers miss at once is scored by one of them.
//!
//! Promises that those who wait are answered whatever becomes of the one who scores: a lease expires, somebody else takes it,
//! and nobody waits for more than two of them before scoring for themselves.

use super::{
    context::Context,
    index::SlotIndex,
    model_call::{ROUND_TRIP_SECONDS, call},
    plan::{Group, Miss},
};
use crate::{
    backoff::Backoff,
    cache::{Fresh, Leases, Lookup, Wanted},
    clock, config,
    telemetry::metrics::LeaseOutcome,
};
use kiln_contract::key;
use kiln_model::ModelError;
use std::time::{Duration, Instant};

/// How soon those who wait look the entry up for the first time; then ever less often.
const FIRST_POLL: Duration = Duration::from_millis(5);
/// Longest time between two look-ups.
const MAX_POLL: Duration = Duration::from_millis(80);

/// Rows by slot.
type SlotRows = Vec<(SlotIndex, Vec<f32>)>;

/// What became of some slots.
#[derive(Default)]
pub(super) struct Guarded {
    /// Scored here.
    pub scored: SlotRows,
    /// Scored by another worker meanwhile.
    pub found: SlotRows,
}

/// What one round of asking for leases came to.
#[derive(Default)]
struct Round<'a> {
    /// To be scored here.
    own: Vec<Miss<'a>>,
    /// Scored by another worker, which isn't done.
    waiting: Vec<Miss<'a>>,
    /// The keys of the leases that are held.
    held: Vec<Vec<u8>>,
}

/// The means to lease these slots, where that costs less than scoring some of them twice.
pub(super) fn leases<'c>(
    context: &'c Context,
    group: &Group,
    own: &[Miss<'_>],
) -> Option<Leases<'c>> {
    let redis = context.cache.server()?;
    let min_seconds = context.settings.cache.lease_from_ms / 1e3;
    let is_worth_it = |miss: &Miss<'_>| {
        let cost = miss.slot.value.expected_seconds(&group.model);
        cost.is_some_and(|cost| cost >= min_seconds.max(ROUND_TRIP_SECONDS))
    };
    (min_seconds <= 0.0 || own.iter().any(is_worth_it))
        .then(|| Leases::new(redis, config::ms(context.settings.cache.lease_ms)))
}

/// Rows for these slots, each scored here or found once another worker has scored it.
pub(super) async fn rows(
    context: &Context,
    group: &Group,
    leases: &Leases<'_>,
    own: &[Miss<'_>],
) -> Result<Guarded, ModelError> {
    let ttl = config::ms(context.settings.cache.lease_ms);
    let mut guarded = Guarded::default();
    let begun = Instant::now();
    let mut backoff = Backoff::new(FIRST_POLL, MAX_POLL);
    let mut open = own.to_vec();
    while !open.is_empty() {
        // The first holder may have died, and the next one needs its time, too.
        let late = begun.elapsed() >= 2 * ttl;
        let round = ask(
            context,
            group,
            (!late).then_some(leases),
            open,
            &mut guarded,
        )
        .await;
        let outcome = if late {
            LeaseOutcome::Late
        } else {
            LeaseOutcome::Won
        };
        context.metrics.leases(outcome, round.own.len());
        let called = score(context, group, &round.own, &mut guarded).await;
        if !round.held.is_empty() {
            leases.give_back(&round.held).await;
        }
        called?;
        if !round.waiting.is_empty() {
            tokio::time::sleep(backoff.next_wait()).await;
        }
        open = round.waiting;
    }
    let found = guarded.found.len();
    context.metrics.leases(LeaseOutcome::Waited, found);
    Ok(guarded)
}

/// Asks for the leases of what is open, and for its entries: one may have come since the last look-up. Without leases, what
/// has no entry is this worker's.
async fn ask<'a>(
    context: &Context,
    group: &Group,
    leases: Option<&Leases<'_>>,
    open: Vec<Miss<'a>>,
    guarded: &mut Guarded,
) -> Round<'a> {
    let (keys, had) = match leases {
        Some(leases) => {
            let inputs = open.iter().map(|miss| &miss.slot.input);
            let keys = inputs.map(|input| key::lease(&group.space.prefix, input));
            let keys: Vec<Vec<u8>> = keys.collect();
            let had = leases.ask(&keys).await;
            (keys, had)
        }
        None => (vec![Vec::new(); open.len()], vec![true; open.len()]),
    };
    let wanted = open.iter().map(|miss| Wanted {
        space: &group.space,
        input: &miss.slot.input,
    });
    let wanted: Vec<Wanted<'_>> = wanted.collect();
    let mut outputs = Vec::new();
    let looked = context.cache.look_up(&wanted, &[], &mut outputs).await;
    let rows = valid_rows(&open, &looked, &outputs, group.width());
    let mut round = Round::default();
    for (((miss, key), had), row) in open.iter().zip(keys).zip(had).zip(rows) {
        if had && leases.is_some() {
            round.held.push(key);
        }
        match row {
            Some(row) => guarded.found.push((miss.index, row.to_vec())),
            None if had => round.own.push(*miss),
            None => round.waiting.push(*miss),
        }
    }
    round
}

/// The row of each slot that was found, where nobody who asks has invalidated it.
fn valid_rows<'o>(
    open: &[Miss<'_>],
    looked: &Lookup,
    outputs: &'o [f32],
    width: usize,
) -> Vec<Option<&'o [f32]>> {
    let there: Vec<bool> = looked.stamps.iter().map(Option::is_some).collect();
    let rows = by_input(&there, outputs, width).into_iter();
    let stamped = rows.zip(&looked.stamps).zip(open);
    stamped
        .map(|((row, stamp), miss)| row.filter(|_| *stamp >= Some(miss.slot.min_stamp)))
        .collect()
}

/// Scores what is this worker's to score.
async fn score(
    context: &Context,
    group: &Group,
    own: &[Miss<'_>],
    guarded: &mut Guarded,
) -> Result<(), ModelError> {
    if own.is_empty() {
        return Ok(());
    }
    let outputs = call(context, &group.model, own).await?;
    put_entries(context, group, own, &outputs).await;
    let scored = own.iter().zip(group.rows(&outputs));
    let scored = scored.map(|(miss, row)| (miss.index, row.to_vec()));
    guarded.scored.extend(scored);
    Ok(())
}

/// Puts rows into the cache at once: others wait for them.
async fn put_entries(context: &Context, group: &Group, misses: &[Miss<'_>], outputs: &[f32]) {
    let fresh: Vec<Fresh<'_>> = {
        let mut rng = rand::rng();
        let rows = misses.iter().zip(group.rows(outputs));
        rows.map(|(miss, row)| Fresh {
            space: &group.space,
            input: &miss.slot.input,
            row,
            ttl_ms: clock::random_ttl_ms(&mut rng, miss.slot.ttl_seconds),
            stamp: miss.slot.stamp,
        })
        .collect()
    };
    context.cache.put(&fresh).await;
}

/// Gives each input its row. `outputs` holds, in order, the rows of those that were there and none of the others.
fn by_input<'a>(there: &[bool], outputs: &'a [f32], width: usize) -> Vec<Option<&'a [f32]>> {
    let mut rows = outputs.chunks_exact(width.max(1));
    let next = |there: &bool| there.then(|| rows.next()).flatten();
    there.iter().map(next).collect()
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
