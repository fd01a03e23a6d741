//! Owns what waits in a lane and what is being scored of it: the jobs, their distinct inputs, and who waits for which.
//!
//! Promises that an input which several jobs ask for is scored once; that a job leaves as soon as its last input has its row, or one of
//! them has failed; and that what nobody waits for any more isn't scored. Pure: the caller says what time it is.

use super::{
    slot::{Entry, JobId, LaneJob, LaneSlot, Left, Load, SlotId, SlotKey, Taken},
    turns::{Cost, Depth, Turns},
};
use crate::pipeline::{
    index::{SlotIndex, bug},
    owned::{How, JobSlot, OwnedJob, Value},
    retention::Retention,
    share::Share,
    source::Urgency,
};
use ahash::RandomState;
use kiln_model::{ModelError, Rows, TextRow};
use slab::Slab;
use std::{collections::HashMap, sync::Arc, time::Instant};

/// What waits in a lane, and what is being scored.
#[derive(Debug)]
pub struct State {
    pub(super) jobs: Slab<LaneJob>,
    pub(super) slots: Slab<LaneSlot>,
    by_key: HashMap<SlotKey, usize, RandomState>,
    pub(super) turns: Turns<SlotId>,
    pub(super) warming: Turns<SlotId>,
    serial: u64,
    /// What an input of a model is taken to cost before any was measured: as much as keeps its first batches small.
    unknown: f64,
    /// What all jobs take, and what those of namespaces without a limit of their own do.
    all: Load,
    unlimited: Load,
    by_namespace: HashMap<String, f64, RandomState>,
}

impl State {
    /// An empty lane with turns of so many seconds.
    pub fn new(turn: f64) -> Self {
        Self {
            jobs: Slab::new(),
            slots: Slab::new(),
            by_key: HashMap::default(),
            turns: Turns::new(turn),
            warming: Turns::new(turn),
            serial: 0,
            unknown: turn,
            all: Load::default(),
            unlimited: Load::default(),
            by_namespace: HashMap::default(),
        }
    }

    /// Jobs in the lane.
    pub fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// What all jobs in the lane take.
    pub fn load(&self) -> Load {
        self.all
    }

    /// The same of those whose namespaces have no limit of their own: what waits for a limit is in nobody's way.
    pub fn unlimited(&self) -> Load {
        self.unlimited
    }

    /// Whether more of a namespace waits here than its limit lets go in a second.
    pub fn is_over(&self, namespace: &str) -> bool {
        self.turns.is_over(namespace)
    }

    /// Expected model seconds of one namespace's jobs.
    pub fn seconds_of(&self, namespace: &str) -> f64 {
        let known = self.by_namespace.get(namespace);
        known.copied().unwrap_or_default()
    }

    /// Whether nothing waits for its turn.
    pub fn is_idle(&self) -> bool {
        self.turns.is_empty() && self.warming.is_empty()
    }

    /// When a namespace over its limit may go on, where nothing else waits.
    pub fn wait(&mut self, now: Instant) -> Option<std::time::Duration> {
        let waits = [self.turns.wait(now), self.warming.wait(now)];
        waits.into_iter().flatten().min()
    }

    /// What waits for its turn, by namespace.
    pub fn depths(&self) -> Vec<Depth> {
        self.turns.depths()
    }

    /// Takes a job in.
    pub fn enter(&mut self, job: OwnedJob, share: impl Fn() -> Share, now: Instant) {
        let id = self.jobs.vacant_key();
        let open: Vec<SlotIndex> = job.rows.open().map(|(local, _)| local).collect();
        let part = 1.0 / open.len().max(1) as f64;
        let mut mine = Vec::with_capacity(open.len());
        let mut seconds = 0.0;
        let namespace = job.rows.job.namespace();
        let is_first = job.source.urgency == Urgency::First;
        let warms = job.source.refreshes_ttl();
        for local in open {
            let Some(slot) = job.rows.slots.get(local) else {
                continue;
            };
            let key = SlotKey {
                model: Arc::as_ptr(job.rows.model_of(slot)) as usize,
                stamp: slot.seal.stamp,
                min_stamp: slot.min_stamp,
                input: slot.input,
            };
            let expected = || expected_seconds(&job, slot);
            let entry = self.slot(key, (id, local), (slot.ttl_seconds, slot.keeps), expected);
            mine.push((local, entry.at));
            if entry.is_new {
                seconds += entry.seconds;
            }
            if !entry.is_taken {
                // It has its turn with whoever asks and comes first: a short queue doesn't wait for a long one.
                let cost = Cost {
                    seconds: entry.seconds,
                    jobs: part,
                };
                let turns = if warms {
                    &mut self.warming
                } else {
                    &mut self.turns
                };
                turns.push(namespace, &share, entry.at, cost, is_first, now);
            }
        }
        let load = Load {
            seconds,
            bytes: job.source.held.bytes(),
        };
        let is_limited = share().is_limited();
        self.all.add(load);
        if !is_limited {
            self.unlimited.add(load);
        }
        *self.by_namespace.entry(namespace.to_owned()).or_default() += seconds;
        self.jobs.insert(LaneJob {
            job,
            open: mine.len(),
            slots: mine,
            load,
            is_limited,
        });
    }

    /// The slot of an input, with one more who waits for it.
    fn slot(
        &mut self,
        key: SlotKey,
        waiter: (JobId, SlotIndex),
        (ttl_seconds, keeps): (u64, Retention),
        expected: impl Fn() -> Option<f64>,
    ) -> Entry {
        let known = self.by_key.get(&key).copied();
        if let Some(index) = known
            && let Some(known) = self.slots.get_mut(index)
        {
            known.waiters.push(waiter);
            known.ttl_seconds = known.ttl_seconds.max(ttl_seconds);
            known.keeps = known.keeps.or(keeps);
            let serial = known.serial;
            return Entry {
                at: SlotId { index, serial },
                seconds: known.seconds,
                is_new: false,
                is_taken: known.is_taken,
            };
        }
        let seconds = expected().unwrap_or(self.unknown);
        self.serial += 1;
        let serial = self.serial;
        let index = self.slots.insert(LaneSlot {
            serial,
            key,
            waiters: vec![waiter],
            is_taken: false,
            ttl_seconds,
            keeps,
            seconds,
        });
        self.by_key.insert(key, index);
        Entry {
            at: SlotId { index, serial },
            seconds,
            is_new: true,
            is_taken: false,
        }
    }

    /// The rows that a model is given for these slots. All are of one kind, the one that it takes: admission has checked that.
    pub fn rows(&self, taken: &[Taken]) -> Rows {
        let mut features: (usize, Vec<f32>) = (0, Vec::new());
        let mut texts = Vec::new();
        for one in taken {
            let slot = self.slots.get(one.id.index);
            let first = slot.and_then(|slot| slot.waiters.first());
            let value = first.and_then(|(id, local)| {
                let job = &self.jobs.get(*id)?.job;
                job.rows.value(job.rows.slots.get(*local)?)
            });
            match value {
                Some(Value::Features(values)) => {
                    features.0 = values.len();
                    features.1.extend_from_slice(values);
                }
                Some(Value::Text { text, pair }) => texts.push(TextRow {
                    text: text.into_owned(),
                    text_pair: pair.map(|pair| pair.into_owned()),
                }),
                None => bug("a slot that is being scored is gone"),
            }
        }
        if texts.is_empty() {
            let (width, data) = features;
            Rows::Features { width, data }
        } else {
            Rows::Texts(texts)
        }
    }

    /// Gives everybody who waits for a slot its row; jobs that are complete leave.
    pub fn land(&mut self, taken: &Taken, row: &[f32], how: How, left: &mut Vec<Left>) {
        let mut how = how;
        // Somebody who came while it was being scored may ask for a longer life than its entry has by now.
        let slot = self.slots.get(taken.id.index);
        let slot = slot.filter(|slot| slot.serial == taken.id.serial);
        let ttl_seconds = slot.map_or(taken.ttl_seconds, |slot| slot.ttl_seconds);
        let keeps = slot.map_or(taken.keeps, |slot| slot.keeps);
        if let How::Scored { is_stored, .. } = &mut how
            && (ttl_seconds > taken.ttl_seconds || keeps != taken.keeps)
        {
            *is_stored = false;
        }
        for (id, local) in self.end_slot(taken.id) {
            let Some(waiting) = self.jobs.get_mut(id) else {
                continue;
            };
            waiting.open = waiting.open.saturating_sub(1);
            waiting.job.rows.fill(local, how, row);
            if let Some(slot) = waiting.job.rows.slots.get_mut(local) {
                slot.ttl_seconds = ttl_seconds;
                slot.keeps = keeps;
            }
            // It counts as scored for the first one alone.
            how = How::Shared;
            if waiting.open == 0
                && let Some(job) = self.remove(id)
            {
                left.push(Left::Scored(job));
            }
        }
    }

    /// Ends everybody who waits for a slot: it couldn't be scored.
    pub fn fail(&mut self, taken: &Taken, error: &ModelError, left: &mut Vec<Left>) {
        for (id, local) in self.end_slot(taken.id) {
            if let Some(job) = self.remove(id) {
                left.push(Left::Failed(job, error.clone(), local));
            }
        }
    }

    /// Corrects what namespaces were charged for a batch that took `seconds`.
    pub fn charge(&mut self, taken: &[Taken], seconds: f64) {
        let expected: f64 = taken.iter().map(|one| one.seconds).sum();
        if expected <= 0.0 || !seconds.is_finite() {
            return;
        }
        let more = seconds / expected - 1.0;
        for one in taken {
            let cost = Cost {
                seconds: one.seconds * more,
                jobs: 0.0,
            };
            let turns = if one.warms {
                &mut self.warming
            } else {
                &mut self.turns
            };
            turns.charge(&one.namespace, cost);
        }
    }

    /// Forgets everything, and gives the jobs.
    pub fn clear(&mut self) -> Slab<LaneJob> {
        self.slots.clear();
        self.by_key.clear();
        self.turns.clear();
        self.warming.clear();
        self.by_namespace.clear();
        self.all = Load::default();
        self.unlimited = Load::default();
        std::mem::take(&mut self.jobs)
    }

    /// Takes out jobs that were received before a moment.
    pub fn older_than(&mut self, moment: Instant) -> Vec<OwnedJob> {
        let old = self.jobs.iter();
        let old = old.filter(|(_, one)| one.job.source.received < moment);
        let old: Vec<JobId> = old.map(|(id, _)| id).collect();
        old.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    /// Takes out jobs that nobody waits for any more.
    pub fn abandoned(&mut self) -> Vec<Left> {
        let jobs = self.jobs.iter();
        let gone = jobs.filter(|(_, one)| one.job.source.is_abandoned());
        let gone: Vec<JobId> = gone.map(|(id, _)| id).collect();
        let gone = gone.into_iter().filter_map(|id| self.remove(id));
        gone.map(Left::Abandoned).collect()
    }

    /// Takes a slot out, and gives those who waited for it.
    pub(super) fn end_slot(&mut self, id: SlotId) -> Vec<(JobId, SlotIndex)> {
        let there = self.slots.get(id.index);
        if there.is_none_or(|slot| slot.serial != id.serial) {
            return Vec::new();
        }
        let slot = self.slots.remove(id.index);
        self.by_key.remove(&slot.key);
        slot.waiters
    }

    /// Takes a job out. Slots that nobody else waits for go with it, unless they are being scored.
    pub(super) fn remove(&mut self, id: JobId) -> Option<OwnedJob> {
        let LaneJob {
            job,
            slots,
            load,
            is_limited,
            ..
        } = self.jobs.try_remove(id)?;
        for (local, at) in slots {
            let slot = self.slots.get_mut(at.index);
            let Some(slot) = slot.filter(|slot| slot.serial == at.serial) else {
                continue;
            };
            slot.waiters.retain(|waiter| *waiter != (id, local));
            if slot.waiters.is_empty() && !slot.is_taken {
                self.end_slot(at);
            }
        }
        self.all.take_off(load);
        if !is_limited {
            self.unlimited.take_off(load);
        }
        let namespace = job.rows.job.namespace();
        if let Some(sum) = self.by_namespace.get_mut(namespace) {
            *sum -= load.seconds;
            // What is left by then is rounding.
            if *sum <= 1e-9 {
                self.by_namespace.remove(namespace);
            }
        }
        if self.jobs.is_empty() {
            self.all = Load::default();
            self.unlimited = Load::default();
            self.by_namespace.clear();
        }
        Some(job)
    }
}

fn expected_seconds(job: &OwnedJob, slot: &JobSlot) -> Option<f64> {
    job.rows
        .value(slot)?
        .expected_seconds(job.rows.model_of(slot))
}

#[cfg(test)]
mod orders;
#[cfg(test)]
pub(super) mod tests;
