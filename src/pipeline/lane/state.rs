//! Owns what waits in a lane and what is being scored of it: the jobs, their distinct inputs, and who waits for which.
//!
//! Promises that an input which several jobs ask for is scored once; that a job leaves as soon as its last input has its row, or one of
//! them has failed; and that what nobody waits for any more isn't scored. Pure: the caller says what time it is.

use super::turns::{Cost, Depth, Turns};
use crate::pipeline::{
    index::{SlotIndex, bug},
    owned::{How, JobSlot, OwnedJob, Value},
    share::Share,
    source::Urgency,
};
use ahash::RandomState;
use kiln_contract::key::InputHash;
use kiln_model::{ModelError, Rows, TextRow};
use slab::Slab;
use std::{collections::HashMap, sync::Arc, time::Instant};

/// A loaded model version's identity within the process, the latest invalidation known to who asks, and an input. What was begun
/// before an invalidation is never shared with those who come after it.
type SlotKey = (usize, u64, InputHash);

/// A slot in its lane: an index, and which of those that have had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SlotId {
    pub(super) index: usize,
    pub(super) serial: u64,
}

/// A job in its lane.
pub type JobId = usize;

/// An input that is to be scored.
#[derive(Debug)]
pub(super) struct LaneSlot {
    pub serial: u64,
    pub key: SlotKey,
    /// The jobs that wait for it; it is scored for the first one.
    pub waiters: Vec<(JobId, SlotIndex)>,
    pub is_taken: bool,
    pub ttl_seconds: u64,
    pub seconds: f64,
}

/// A job that waits for scores.
#[derive(Debug)]
pub(super) struct LaneJob {
    pub job: OwnedJob,
    /// Slots that have no row yet.
    open: usize,
    /// Where the slots are that it came with open.
    slots: Vec<(SlotIndex, SlotId)>,
    seconds: f64,
}

/// A job that leaves its lane.
#[derive(Debug)]
pub enum Left {
    /// All of its inputs have their rows.
    Scored(OwnedJob),
    Failed(OwnedJob, ModelError),
    /// Its time passed before its turn.
    Expired(OwnedJob),
    /// Nobody waits for it any more.
    Abandoned(OwnedJob),
}

impl Left {
    /// The job.
    pub fn job(&self) -> &OwnedJob {
        match self {
            Self::Scored(job)
            | Self::Failed(job, _)
            | Self::Expired(job)
            | Self::Abandoned(job) => job,
        }
    }
}

/// A slot that is to be scored now.
#[derive(Debug, Clone)]
pub struct Taken {
    pub id: SlotId,
    /// The job that it is scored for.
    pub job: JobId,
    pub input: InputHash,
    pub stamp: u64,
    pub min_stamp: u64,
    pub ttl_seconds: u64,
    pub namespace: Arc<str>,
    pub seconds: f64,
    pub(super) tokens: usize,
}

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
    seconds: f64,
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
            seconds: 0.0,
            by_namespace: HashMap::default(),
        }
    }

    /// Jobs in the lane.
    pub fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// Expected model seconds of all jobs in the lane.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// The same of one namespace's.
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
        self.turns.wait(now)
    }

    /// What waits for its turn, by namespace.
    pub fn depths(&self) -> Vec<Depth> {
        self.turns.depths()
    }

    /// Takes a job in.
    pub fn enter(&mut self, job: OwnedJob, share: impl Fn() -> Share, now: Instant) {
        let id = self.jobs.vacant_key();
        let model = Arc::as_ptr(&job.rows.model) as usize;
        let open: Vec<SlotIndex> = job.rows.open().map(|(local, _)| local).collect();
        let part = 1.0 / open.len().max(1) as f64;
        let mut mine = Vec::with_capacity(open.len());
        let mut seconds = 0.0;
        let namespace = job.rows.job.namespace();
        let is_first = job.source.urgency == Urgency::First;
        let warms = job.source.refreshes_ttl();
        let turns = if warms {
            &mut self.warming
        } else {
            &mut self.turns
        };
        for local in open {
            let Some(slot) = job.rows.slots.get(local) else {
                continue;
            };
            let key = (model, slot.stamp, slot.input);
            let known = self.by_key.get(&key).copied();
            let known = known.and_then(|index| Some((index, self.slots.get_mut(index)?)));
            let (at, cost) = match known {
                Some((index, known)) => {
                    known.waiters.push((id, local));
                    known.ttl_seconds = known.ttl_seconds.max(slot.ttl_seconds);
                    let serial = known.serial;
                    let at = SlotId { index, serial };
                    if known.is_taken {
                        mine.push((local, at));
                        continue;
                    }
                    // It has its turn with whoever asks and comes first: a short queue doesn't wait for a long one.
                    (at, known.seconds)
                }
                None => {
                    let cost = expected_seconds(&job, slot).unwrap_or(self.unknown);
                    seconds += cost;
                    self.serial += 1;
                    let index = self.slots.insert(LaneSlot {
                        serial: self.serial,
                        key,
                        waiters: vec![(id, local)],
                        is_taken: false,
                        ttl_seconds: slot.ttl_seconds,
                        seconds: cost,
                    });
                    self.by_key.insert(key, index);
                    let serial = self.serial;
                    (SlotId { index, serial }, cost)
                }
            };
            mine.push((local, at));
            let cost = Cost {
                seconds: cost,
                jobs: part,
            };
            turns.push(namespace, &share, at, cost, is_first, now);
        }
        self.seconds += seconds;
        *self.by_namespace.entry(namespace.to_owned()).or_default() += seconds;
        self.jobs.insert(LaneJob {
            job,
            open: mine.len(),
            slots: mine,
            seconds,
        });
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
        for (id, local) in self.end_slot(taken.id) {
            let Some(waiting) = self.jobs.get_mut(id) else {
                continue;
            };
            waiting.open = waiting.open.saturating_sub(1);
            waiting.job.rows.fill(local, how, row);
            if let Some(slot) = waiting.job.rows.slots.get_mut(local) {
                slot.ttl_seconds = taken.ttl_seconds;
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
        for (id, _) in self.end_slot(taken.id) {
            if let Some(job) = self.remove(id) {
                left.push(Left::Failed(job, error.clone()));
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
            self.turns.charge(&one.namespace, one.seconds * more);
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.jobs.clear();
        self.slots.clear();
        self.by_key.clear();
        self.turns.clear();
        self.warming.clear();
        self.by_namespace.clear();
        self.seconds = 0.0;
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
    fn end_slot(&mut self, id: SlotId) -> Vec<(JobId, SlotIndex)> {
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
            seconds,
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
        self.seconds = (self.seconds - seconds).max(0.0);
        let namespace = job.rows.job.namespace();
        if let Some(sum) = self.by_namespace.get_mut(namespace) {
            *sum -= seconds;
            // What is left by then is rounding.
            if *sum <= 1e-9 {
                self.by_namespace.remove(namespace);
            }
        }
        if self.jobs.is_empty() {
            self.seconds = 0.0;
            self.by_namespace.clear();
        }
        Some(job)
    }
}

fn expected_seconds(job: &OwnedJob, slot: &JobSlot) -> Option<f64> {
    job.rows.value(slot)?.expected_seconds(&job.rows.model)
}

#[cfg(test)]
mod tests;
