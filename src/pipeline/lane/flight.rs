//! Owns a batch's part of its lane, from the moment that it is taken.
//!
//! Promises that however a batch ends, were it before its first step, the lane goes on, and nobody waits for its inputs for ever.

use super::{
    one::Lane,
    slot::{Left, SlotId, Taken},
};
use crate::{
    pipeline::owned::How,
    simulated::{Mutation, is_mutated},
};
use kiln_model::ModelError;
use std::{collections::HashSet, sync::Arc};

/// What is around a lane: where jobs go that leave it, and what begins its batches.
pub(super) trait Surroundings {
    /// Sends jobs that leave a lane to their end.
    fn complete(&self, lane: &Lane, left: Vec<Left>);

    /// Begins as many batches of a lane as there should be.
    fn pump(&self, lane: &Arc<Lane>);
}

/// A batch's part of its lane: given back when it is dropped, however the batch ended.
pub(super) struct InFlight<S: Surroundings> {
    pub lanes: S,
    pub lane: Arc<Lane>,
    /// Slots that have no row yet.
    open: Vec<Taken>,
    /// Whether it is one of the batches that the lane may have in flight.
    is_counted: bool,
    /// Whether it has had its first step.
    has_begun: bool,
}

impl<S: Surroundings> InFlight<S> {
    /// That of a batch, which its lane has counted.
    pub fn new(lanes: S, lane: Arc<Lane>, open: Vec<Taken>) -> Self {
        Self {
            lanes,
            lane,
            open,
            is_counted: true,
            has_begun: false,
        }
    }

    /// Notes its first step.
    pub fn begin(&mut self) {
        self.has_begun = true;
    }

    /// Takes slots out that are another's to score: they wait beside the lane, which may begin another batch.
    pub fn set_aside(&mut self, open: Vec<Taken>) -> Self
    where
        S: Clone,
    {
        self.forget(&open);
        Self {
            lanes: self.lanes.clone(),
            lane: self.lane.clone(),
            open,
            is_counted: false,
            has_begun: true,
        }
    }

    /// Gives rows to those who wait for them.
    pub fn land<'r>(&mut self, how: How, landed: impl IntoIterator<Item = (&'r Taken, &'r [f32])>) {
        let mut left = Vec::new();
        let mut ended = HashSet::new();
        self.lane.change(|state| {
            for (taken, row) in landed {
                ended.insert(taken.id);
                state.work.land(taken, row, how, &mut left);
            }
        });
        self.open.retain(|one| !ended.contains(&one.id));
        if is_mutated(Mutation::LosesWaiters) {
            let first = left.len().min(1);
            left.drain(first..).for_each(std::mem::forget);
        }
        self.lanes.complete(&self.lane, left);
    }

    /// Ends those who wait for slots that can't be scored.
    pub fn fail(&mut self, failed: &[Taken], error: &ModelError) {
        let mut left = Vec::new();
        self.lane.change(|state| {
            for taken in failed {
                state.work.fail(taken, error, &mut left);
            }
        });
        self.forget(failed);
        self.lanes.complete(&self.lane, left);
    }

    fn forget(&mut self, gone: &[Taken]) {
        let gone: HashSet<SlotId> = gone.iter().map(|one| one.id).collect();
        self.open.retain(|one| !gone.contains(&one.id));
    }
}

impl<S: Surroundings> Drop for InFlight<S> {
    fn drop(&mut self) {
        let mut left: Vec<Left> = Vec::new();
        let waiting = self.lane.change(|state| {
            if self.is_counted {
                state.running = state.running.saturating_sub(1);
            }
            for taken in &self.open {
                state.work.fail(taken, &ModelError::Stopped, &mut left);
            }
            // One without a first step was begun after everything was cut, or its runtime had ended: so would every other be.
            (!self.has_begun).then(|| state.work.clear())
        });
        // Only what was cut, or panicked, leaves anything: its jobs go back to their owners.
        drop((left, waiting));
        if self.has_begun {
            self.lanes.pump(&self.lane);
        }
    }
}
