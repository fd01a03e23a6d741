//! Owns that an input which several workers miss at once is scored by one of them.
//!
//! Promises that those who wait are answered whatever becomes of the one who scores: a lease ends, somebody else takes it,
//! and nobody waits for more than two of them before scoring for themselves.

use super::{
    coalesce::{Group, Slot, Source},
    run::{Engine, ROUND_TRIP_SECONDS},
    score::call,
};
use crate::{
    cache::{Fresh, Leases, Wanted},
    clock, config, key,
    model::ModelError,
    telemetry::metrics::LeaseOutcome,
};
use std::time::{Duration, Instant};

/// How often those who wait look for the entry.
const LOOK: Duration = Duration::from_millis(5);

/// Rows by slot.
type Rows = Vec<(usize, Vec<f32>)>;

/// What became of some slots.
pub(super) struct Guarded {
    /// Scored here.
    pub scored: Rows,
    /// Scored by another worker meanwhile.
    pub found: Rows,
}

/// Whether a lease costs less than scoring some of these twice.
pub(super) fn is_worth_it(
    engine: &Engine,
    group: &Group,
    slots: &[Slot<'_>],
    own: &[usize],
) -> bool {
    if engine.parts.cache.server().is_none() {
        return false;
    }
    let least = engine.settings.cache.lease_from_ms / 1e3;
    if least <= 0.0 {
        return true;
    }
    own.iter()
        .filter_map(|index| slots.get(*index))
        .any(|slot| {
            let text = match &slot.source {
                Source::Features(_) => None,
                Source::Text { text, pair } => Some((text.as_ref(), pair.as_deref())),
            };
            let cost = group.model.expected_seconds(text);
            cost.is_some_and(|cost| cost >= least.max(ROUND_TRIP_SECONDS))
        })
}

/// Rows for these slots, each scored here or found once another worker has scored it.
pub(super) async fn rows(
    engine: &Engine,
    group: &Group,
    slots: &[Slot<'_>],
    own: &[usize],
) -> Result<Guarded, ModelError> {
    let mut guarded = Guarded {
        scored: Vec::new(),
        found: Vec::new(),
    };
    let Some(redis) = engine.parts.cache.server() else {
        return Ok(guarded);
    };
    let life = config::ms(engine.settings.cache.lease_ms);
    let leases = Leases::new(redis, life);
    let begun = Instant::now();
    let mut open: Vec<usize> = own.to_vec();
    while !open.is_empty() {
        let keys: Vec<Vec<u8>> = open
            .iter()
            .filter_map(|index| slots.get(*index))
            .map(|slot| key::lease(&group.space.prefix, &slot.input))
            .collect();
        // The first holder may have died, and the next one needs its time, too.
        let late = begun.elapsed() >= 2 * life;
        let had = if late {
            vec![true; keys.len()]
        } else {
            leases.ask(&keys).await
        };
        // An entry may have come between the look-up and the lease.
        let wanted: Vec<Wanted<'_>> = open
            .iter()
            .filter_map(|index| slots.get(*index))
            .map(|slot| Wanted {
                space: &group.space,
                input: &slot.input,
            })
            .collect();
        let mut outputs = Vec::new();
        let looked = engine.parts.cache.look_up(&wanted, &[], &mut outputs).await;
        let there: Vec<bool> = looked.stamps.iter().map(Option::is_some).collect();
        let rows = by_place(&there, &outputs, group.width());
        let least = |index: &usize| slots.get(*index).map_or(0, |slot| slot.least_stamp);
        let good: Vec<bool> = open
            .iter()
            .zip(&looked.stamps)
            .map(|(index, stamp)| stamp.is_some_and(|stamp| stamp >= least(index)))
            .collect();
        let rows: Vec<Option<&[f32]>> = rows
            .into_iter()
            .zip(good)
            .map(|(row, good)| row.filter(|_| good))
            .collect();
        let (mut mine, mut waiting, mut held) = (Vec::new(), Vec::new(), Vec::new());
        for (((index, key), had), row) in open.into_iter().zip(keys).zip(had).zip(rows) {
            if had && !late {
                held.push(key);
            }
            match row {
                Some(row) => guarded.found.push((index, row.to_vec())),
                None if had => mine.push(index),
                None => waiting.push(index),
            }
        }
        engine
            .parts
            .metrics
            .leases(LeaseOutcome::Late, if late { mine.len() } else { 0 });
        engine
            .parts
            .metrics
            .leases(LeaseOutcome::Won, if late { 0 } else { mine.len() });
        if !mine.is_empty() {
            let called = call(engine, &group.model, slots, &mine).await;
            if let Ok(outputs) = &called {
                keep(engine, group, slots, &mine, outputs).await;
                let scored = mine
                    .iter()
                    .copied()
                    .zip(outputs.chunks(group.width().max(1)));
                guarded
                    .scored
                    .extend(scored.map(|(index, row)| (index, row.to_vec())));
            }
            leases.give_back(&held).await;
            called?;
        } else if !held.is_empty() {
            leases.give_back(&held).await;
        }
        if !waiting.is_empty() {
            tokio::time::sleep(LOOK).await;
        }
        open = waiting;
    }
    engine
        .parts
        .metrics
        .leases(LeaseOutcome::Waited, guarded.found.len());
    Ok(guarded)
}

/// Keeps rows at once: others wait for them.
async fn keep(
    engine: &Engine,
    group: &Group,
    slots: &[Slot<'_>],
    indices: &[usize],
    outputs: &[f32],
) {
    let fresh: Vec<Fresh<'_>> = {
        let mut rng = rand::rng();
        indices
            .iter()
            .filter_map(|index| slots.get(*index))
            .zip(outputs.chunks(group.width().max(1)))
            .map(|(slot, row)| Fresh {
                space: &group.space,
                input: &slot.input,
                row,
                ttl_ms: clock::random_ttl_ms(&mut rng, slot.ttl_seconds),
                stamp: slot.stamp,
            })
            .collect()
    };
    engine.parts.cache.put(&fresh).await;
}

/// Gives each place its row. `outputs` holds, in order, the rows of those that were there and none of the others.
fn by_place<'a>(there: &[bool], outputs: &'a [f32], width: usize) -> Vec<Option<&'a [f32]>> {
    let mut rows = outputs.chunks_exact(width.max(1));
    let place = |there: &bool| there.then(|| rows.next()).flatten();
    there.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_takes_nobody_elses_row() {
        let (there, outputs) = ([false, true, false, true], [1.0, 2.0, 3.0, 4.0]);
        let rows = by_place(&there, &outputs, 2);
        assert_eq!(rows, [None, Some(&outputs[..2]), None, Some(&outputs[2..])]);
    }
}
