//! Owns that an input which several workers miss at once is scored by one of them.
//!
//! Promises that those who wait are answered whatever becomes of the one who scores: a lease expires, somebody else takes it,
//! and nobody waits for more than two of them before scoring for themselves.

use super::slot::Taken;
use crate::{
    cache::{Fresh, Leases, Lookup, Space, Wanted},
    clock, config,
    pipeline::{context::Context, model_call::ROUND_TRIP_SECONDS},
};
use kiln_contract::entry::Seal;
use kiln_contract::key;
use rand::Rng;
use std::time::{Duration, Instant};

/// Shortest and longest time between two looks for the entries of those who wait.
const POLL_MS: (u64, u64) = (5, 80);

/// What one round of asking for leases came to.
#[derive(Default)]
pub(super) struct Round {
    /// To be scored here.
    pub own: Vec<Taken>,
    /// Being scored by another worker.
    pub waiting: Vec<Taken>,
    /// Scored by another worker meanwhile, with their rows.
    pub found: Vec<(Taken, Vec<f32>)>,
    /// The keys of the leases that are held.
    pub held: Vec<Vec<u8>>,
}

/// The means to lease these slots, where that costs less than scoring some of them twice.
pub(super) fn leases<'c>(context: &'c Context, taken: &[Taken]) -> Option<Leases<'c>> {
    let redis = context.cache.server()?;
    let min_seconds = context.settings.cache.lease_from_ms / 1e3;
    let min_seconds = if min_seconds <= 0.0 {
        0.0
    } else {
        min_seconds.max(ROUND_TRIP_SECONDS)
    };
    // What isn't kept isn't found by whoever would wait for it.
    let is_worth_it = |one: &Taken| one.keeps.entry && one.seconds >= min_seconds;
    taken
        .iter()
        .any(is_worth_it)
        .then(|| Leases::new(redis, config::ms(context.settings.cache.lease_ms)))
}

/// Asks for the leases of what is open, and for its entries: one may have come since the last look-up. Without leases, what has no
/// entry is this worker's.
pub(super) async fn ask(
    context: &Context,
    space: &Space,
    width: usize,
    leases: Option<&Leases<'_>>,
    open: Vec<Taken>,
) -> Round {
    let (keys, had) = match leases {
        Some(leases) => {
            let inputs = open.iter().map(|one| &one.input);
            let keys = inputs.map(|input| key::lease(&space.prefix, input));
            let keys: Vec<Vec<u8>> = keys.collect();
            let had = leases.ask(&keys).await;
            (keys, had)
        }
        None => (vec![Vec::new(); open.len()], vec![true; open.len()]),
    };
    let wanted = open.iter().map(|one| Wanted {
        space,
        input: &one.input,
    });
    let wanted: Vec<Wanted<'_>> = wanted.collect();
    let mut outputs = Vec::new();
    let looked = context.cache.look_up(&wanted, &[], &mut outputs).await;
    let rows = valid_rows(&open, &looked, &outputs, width);
    let mut round = Round::default();
    for (((one, key), had), row) in open.into_iter().zip(keys).zip(had).zip(rows) {
        if had && leases.is_some() {
            round.held.push(key);
        }
        match row {
            Some(row) => round.found.push((one, row)),
            None if had => round.own.push(one),
            None => round.waiting.push(one),
        }
    }
    round
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

/// Puts rows into the cache at once: others wait for them. They are pending until their jobs' rows are committed.
pub(super) async fn put_entries(
    context: &Context,
    space: &Space,
    width: usize,
    taken: &[Taken],
    outputs: &[f32],
) {
    let fresh: Vec<Fresh<'_>> = {
        let mut rng = clock::rng();
        let rows = taken.iter().zip(outputs.chunks_exact(width.max(1)));
        let kept = rows.filter(|(one, _)| one.keeps.entry);
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
    context.cache.put(&fresh).await;
}

/// The waits of those whose inputs another worker scores: longer and longer ones, and none the same as another worker's.
#[derive(Debug)]
pub(super) struct Patience {
    begun: Instant,
    max: Duration,
    poll_ms: u64,
}

impl Patience {
    /// Waits for two leases at most: the first holder may have died, and the next one needs its time, too.
    pub fn new(lease: Duration) -> Self {
        Self {
            begun: clock::instant(),
            max: 2 * lease,
            poll_ms: POLL_MS.0,
        }
    }

    /// Whether it has waited for long enough.
    pub fn is_over(&self) -> bool {
        clock::since(self.begun) >= self.max
    }

    /// Waits for a moment.
    pub async fn rest(&mut self) {
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
