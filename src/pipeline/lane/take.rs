//! Owns cutting batches out of what waits in a lane.
//!
//! Promises that no more batches are in flight than may be; that a batch holds inputs of one model version, namespaces in turns, within its limits; and that jobs which nobody waits for,
//! or whose time has passed, end without being scored.

use super::{
    one::Lane,
    slot::{JobId, LaneJob, LaneSlot, Left, SlotId, Taken},
    state::State,
    turns::{Cost, Turns},
};
use kiln_model::{Model, Rows};
use slab::Slab;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Bytes of a text that count as one token.
const BYTES_PER_TOKEN: usize = 4;

/// What bounds one batch.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    pub rows: usize,
    pub tokens: usize,
    pub seconds: f64,
}

/// Inputs of one model version that are scored together.
#[derive(Debug)]
pub struct LaneBatch {
    pub model: Arc<Model>,
    pub taken: Vec<Taken>,
    /// Why it holds no more.
    pub is_full: bool,
}

/// What is to begin in a lane, once its state is free again: what can't begin is dropped at once, and looks at the state then.
pub struct Due {
    /// Batches with their inputs, each of them counted.
    pub batches: Vec<(LaneBatch, Rows)>,
    /// Jobs that end without being scored.
    pub left: Vec<Left>,
    /// When the lane is to be looked at again, where nobody does that yet.
    pub wait: Option<Duration>,
}

impl Lane {
    /// What is to begin where `max` batches may be in flight.
    pub fn due(&self, max: usize, limits: BatchLimits, now: Instant) -> Due {
        self.change(|state| {
            let (mut batches, mut left) = (Vec::new(), Vec::new());
            while state.running < max && !state.work.is_idle() {
                // Warming has no more than what is left over.
                let may_warm = state.running == 0;
                let Some(batch) = state.work.take(limits, may_warm, now, &mut left) else {
                    break;
                };
                let rows = state.work.rows(&batch.taken);
                state.running += 1;
                batches.push((batch, rows));
            }
            let may_wait = state.running < max && !state.has_timer;
            let wait = may_wait.then(|| state.work.wait(now)).flatten();
            state.has_timer |= wait.is_some();
            Due {
                batches,
                left,
                wait,
            }
        })
    }
}

impl State {
    /// The next batch; jobs that end without being scored are added to `left`. `may_warm` says whether warming may have it.
    pub fn take(
        &mut self,
        limits: BatchLimits,
        may_warm: bool,
        now: Instant,
        left: &mut Vec<Left>,
    ) -> Option<LaneBatch> {
        loop {
            let mut batch = self.cut(limits, may_warm, now, left)?;
            // Those who asked for a slot may have ended after it was taken, by another one of theirs.
            let idle = |one: &Taken| {
                let slot = self.slots.get(one.id.index);
                slot.is_none_or(|slot| slot.waiters.is_empty())
            };
            let (gone, taken) = batch.taken.into_iter().partition(idle);
            batch.taken = taken;
            for one in &gone {
                self.give_back(one);
            }
            if !batch.taken.is_empty() {
                return Some(batch);
            }
        }
    }

    /// Undoes that a slot was taken for which nobody waits any more.
    fn give_back(&mut self, taken: &Taken) {
        self.end_slot(taken.id);
        let cost = Cost {
            seconds: -taken.seconds,
            jobs: -taken.part,
        };
        self.turns_of(taken.warms).charge(&taken.namespace, cost);
    }

    fn turns_of(&mut self, warms: bool) -> &mut Turns<SlotId> {
        if warms {
            &mut self.warming
        } else {
            &mut self.turns
        }
    }

    fn cut(
        &mut self,
        limits: BatchLimits,
        may_warm: bool,
        now: Instant,
        left: &mut Vec<Left>,
    ) -> Option<LaneBatch> {
        let mut warms = false;
        let mut first = self.take_one(warms, None, now, left);
        if first.is_none() && may_warm {
            warms = true;
            first = self.take_one(warms, None, now, left);
        }
        let (model, mut next) = first?;
        let mut batch = LaneBatch {
            model,
            taken: Vec::new(),
            is_full: false,
        };
        let (mut tokens, mut seconds) = (0, 0.0);
        loop {
            tokens += next.tokens;
            seconds += next.seconds;
            batch.taken.push(next);
            batch.is_full = batch.taken.len() >= limits.rows
                || tokens >= limits.tokens
                || seconds >= limits.seconds;
            if batch.is_full {
                return Some(batch);
            }
            match self.take_one(warms, Some(&batch.model), now, left) {
                Some((_, one)) => next = one,
                None => return Some(batch),
            }
        }
    }

    /// The next slot, of `model` where one is given.
    fn take_one(
        &mut self,
        warms: bool,
        model: Option<&Arc<Model>>,
        now: Instant,
        left: &mut Vec<Left>,
    ) -> Option<(Arc<Model>, Taken)> {
        let model = model.map(|model| Arc::as_ptr(model) as usize);
        loop {
            let slots = &self.slots;
            // One that is gone or taken fits as well: it is dropped on the way.
            let fits = |id: &SlotId| {
                let slot = waiting(slots, *id);
                slot.is_none_or(|slot| model.is_none_or(|model| model == slot.key.model))
            };
            let turns = if warms {
                &mut self.warming
            } else {
                &mut self.turns
            };
            let (namespace, id, cost) = turns.take(now, fits)?;
            if waiting(slots, id).is_some() {
                self.drop_idle(id.index, now, left);
                if let Some((model, mut taken)) = self.mark_taken(id, &namespace) {
                    taken.warms = warms;
                    taken.part = cost.jobs;
                    return Some((model, taken));
                }
            }
            let cost = Cost {
                seconds: -cost.seconds,
                jobs: -cost.jobs,
            };
            self.turns_of(warms).charge(&namespace, cost);
        }
    }

    /// Ends those who ask for a slot and don't wait for it any more.
    fn drop_idle(&mut self, index: usize, now: Instant, left: &mut Vec<Left>) {
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        let idle = |job: &LaneJob| (job.job.is_abandoned(), job.job.is_expired(now));
        let waiters = slot.waiters.iter().map(|(job, _)| *job);
        let states = waiters.filter_map(|id| Some((id, idle(self.jobs.get(id)?))));
        let states: Vec<(JobId, (bool, bool))> = states.collect();
        for (id, (abandoned, expired)) in states {
            if (abandoned || expired)
                && let Some(job) = self.remove(id)
            {
                left.push(if abandoned {
                    Left::Abandoned(job)
                } else {
                    Left::Expired(job)
                });
            }
        }
    }

    fn mark_taken(&mut self, id: SlotId, namespace: &Arc<str>) -> Option<(Arc<Model>, Taken)> {
        let slot = self.slots.get_mut(id.index)?;
        if slot.serial != id.serial {
            return None;
        }
        let (job_id, local) = *slot.waiters.first()?;
        let job = &self.jobs.get(job_id)?.job;
        let of_job = job.rows.slots.get(local)?;
        let bytes = job.rows.value(of_job).map_or(0, |value| value.text_bytes());
        slot.is_taken = true;
        let taken = Taken {
            id,
            job: job_id,
            input: of_job.input,
            stamp: of_job.seal.stamp,
            min_stamp: of_job.min_stamp,
            ttl_seconds: slot.ttl_seconds,
            keeps: slot.keeps,
            namespace: namespace.clone(),
            seconds: slot.seconds,
            part: 0.0,
            warms: false,
            tokens: bytes.div_ceil(BYTES_PER_TOKEN),
        };
        Some((job.rows.model_of(of_job).clone(), taken))
    }
}

/// A slot that waits for its turn.
fn waiting(slots: &Slab<LaneSlot>, id: SlotId) -> Option<&LaneSlot> {
    let slot = slots.get(id.index)?;
    (slot.serial == id.serial && !slot.is_taken).then_some(slot)
}
