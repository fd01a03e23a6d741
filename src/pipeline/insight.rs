//! Owns the statistics of namespaces and kinds of keys that operators see.
//!
//! Promises bounded memory whatever is asked for. Refuses to decide anything by it.

use super::{
    index::{IndexVec, SlotIndex},
    plan::{Found, Plan, PlannedInput, PlannedJob},
};
use crate::telemetry::{
    causes::Watched,
    window::{Causes, Noted, Pattern, Window, prefix},
};
use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// A day of figures, and why inputs missed.
#[derive(Debug)]
pub struct Insight {
    pub window: Window,
    watched: Mutex<Watched>,
    began: Instant,
}

impl Default for Insight {
    fn default() -> Self {
        Self {
            window: Window::default(),
            watched: Mutex::default(),
            began: Instant::now(),
        }
    }
}

impl Insight {
    /// Adds a batch. What warming asks for is left out: it says nothing about producers.
    pub(super) fn note(&self, plan: &Plan<'_>) {
        let causes = self.causes(plan);
        let mut noted: Vec<(Pattern, Noted)> = Vec::new();
        for planned in plan.jobs.iter() {
            if !planned.admitted.source.refresh_ttl {
                note_job(plan, planned, &causes, &mut noted);
            }
        }
        self.window.note(noted.into_iter());
    }

    /// Why each slot missed, where it did and is watched.
    fn causes(&self, plan: &Plan<'_>) -> IndexVec<SlotIndex, Causes> {
        let now = self.began.elapsed().as_secs();
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        plan.slots.map(|slot| match slot.found {
            Found::Scored(_) => watched
                .missed(&slot.input, now, slot.ttl_seconds)
                .unwrap_or_default(),
            _ => Causes::default(),
        })
    }
}

/// Adds one job: its namespace, and the kinds of its keys.
fn note_job(
    plan: &Plan<'_>,
    planned: &PlannedJob<'_>,
    causes: &IndexVec<SlotIndex, Causes>,
    noted: &mut Vec<(Pattern, Noted)>,
) {
    let latency = Some(planned.admitted.source.received.elapsed());
    let mut whole = Noted {
        latency,
        ..Noted::default()
    };
    // The keys of one job mostly share a prefix: there are few kinds, and a linear search finds them.
    let mut kinds: Vec<(&str, Noted)> = Vec::new();
    for (input, became) in planned.with_inputs() {
        let PlannedInput::Slot(index) = became else {
            continue;
        };
        let Some((slot, _)) = plan.row(index) else {
            continue;
        };
        let cached = slot.is_cached();
        let one = Noted {
            hits: u64::from(cached),
            misses: u64::from(!cached),
            causes: causes.get(index).copied().unwrap_or_default(),
            latency: None,
        };
        add(&mut whole, &one);
        let Some(kind) = input.key.as_deref().and_then(prefix) else {
            continue;
        };
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, sum)) => add(sum, &one),
            None => kinds.push((kind, Noted { latency, ..one })),
        }
    }
    let namespace = planned.admitted.job.namespace();
    noted.extend(kinds.into_iter().map(|(kind, sum)| {
        let pattern = Pattern::Prefix(namespace.to_owned(), kind.to_owned());
        (pattern, sum)
    }));
    noted.push((Pattern::Namespace(namespace.to_owned()), whole));
}

fn add(sum: &mut Noted, one: &Noted) {
    sum.hits += one.hits;
    sum.misses += one.misses;
    sum.causes.first += one.causes.first;
    sum.causes.soon_after += one.causes.soon_after;
    sum.causes.late += one.causes.late;
    sum.causes.dropped += one.causes.dropped;
}
