//! Owns what is known of a batch between its stages: its jobs, their distinct inputs, and the rows that were found for them.
//!
//! Promises that whatever it refers to by index is in it. Pure: no I/O, no clock.

use super::{
    index::{
        GroupIndex, Index, IndexVec, JobIndex, NamespaceIndex, RowIndex, SlotIndex, bug, lost,
    },
    retention::Retention,
    source::AdmittedJob,
};
use crate::cache::Space;
use kiln_contract::entry::Seal;
use kiln_contract::key::InputHash;
use kiln_model::Model;
use std::sync::Arc;

/// A model version that the batch's jobs ask for.
pub struct Group {
    pub model: Arc<Model>,
    pub space: Arc<Space>,
    /// Output rows, one after the other; slots say which is theirs.
    outputs: Vec<f32>,
}

impl Group {
    /// A model version, with no rows yet.
    pub fn new(model: &Arc<Model>) -> Self {
        Self {
            model: model.clone(),
            space: Arc::new(Space::new(model.info())),
            outputs: Vec::new(),
        }
    }

    /// Values of one output row.
    pub fn width(&self) -> usize {
        self.model.info().output_width
    }

    /// Adds one row.
    pub fn push_row(&mut self, row: &[f32]) -> RowIndex {
        if row.len() != self.width() {
            bug("a row has another width than its model gives");
        }
        let index = RowIndex::new(self.outputs.len() / self.width().max(1));
        self.outputs.extend_from_slice(row);
        index
    }

    /// An output row; nothing only where the pipeline has a bug, which is reported.
    pub fn row(&self, index: RowIndex) -> Option<&[f32]> {
        let (width, number) = (self.width(), index.number());
        let row = self.outputs.get(number * width..(number + 1) * width);
        if row.is_none() {
            lost(index, self.outputs.len() / width.max(1));
        }
        row
    }
}

/// How a slot got its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Not,
    Cached(RowIndex),
}

/// One distinct input of one model version.
#[derive(Debug)]
pub struct Slot {
    pub group: GroupIndex,
    pub input: InputHash,
    /// Seconds that its model is expected to take for it, once that is known.
    pub cost: Option<f64>,
    /// The first job that asks for it.
    pub asked_by: JobIndex,
    pub found: Found,
    /// What is kept of its score, and whether it is looked up: of what isn't kept, only that it was looked up counts, not what was found.
    pub keeps: Retention,
    pub is_looked_up: bool,
    /// The oldest stamp that an entry may bear: nobody who asks has invalidated anything since.
    pub min_stamp: u64,
    /// The latest invalidation before its row was scored, and whether that row may be missing in the database.
    pub seal: Seal,
}

/// A job's part of the plan.
#[derive(Debug)]
pub struct PlannedJob<'a> {
    pub admitted: &'a AdmittedJob<'a>,
    pub namespace: NamespaceIndex,
    /// The slot of each input of the job, in order; none for one that isn't scored.
    pub inputs: Vec<Option<SlotIndex>>,
    /// Slots that no job of the batch asked for before it.
    pub asked_first: u64,
}

impl<'a> PlannedJob<'a> {
    /// The slots that it asks for, in the order of its inputs.
    pub fn slots(&self) -> impl Iterator<Item = SlotIndex> {
        self.inputs.iter().flatten().copied()
    }
}

/// The distinct inputs of a batch.
#[derive(Default)]
pub struct Plan<'a> {
    pub groups: IndexVec<GroupIndex, Group>,
    pub slots: IndexVec<SlotIndex, Slot>,
    /// The admitted jobs, in order.
    pub jobs: IndexVec<JobIndex, PlannedJob<'a>>,
    /// The namespaces of these jobs, each once.
    pub namespaces: IndexVec<NamespaceIndex, &'a str>,
    /// The latest invalidation of all when entries were looked up.
    pub stamp: u64,
}

impl Plan<'_> {
    /// Notes what was invalidated when, a mark for each namespace: a slot's entry must be new enough for everyone who asks
    /// for it. No marks are given where none could be read.
    pub fn mark(&mut self, marks: &[u64], now: u64) {
        self.stamp = now;
        self.slots
            .iter_mut()
            .for_each(|slot| slot.seal = Seal::settled(now));
        if marks.iter().all(|mark| *mark == 0) {
            return;
        }
        for job in self.jobs.iter() {
            let mark = marks.get(job.namespace.number()).copied();
            let mark = mark.unwrap_or_default();
            for index in job.slots() {
                if let Some(slot) = self.slots.get_mut(index) {
                    slot.min_stamp = slot.min_stamp.max(mark);
                }
            }
        }
    }

    /// A slot's row with its model version; nothing where it has none.
    pub fn row_of(&self, slot: &Slot) -> Option<(&Group, &[f32])> {
        match slot.found {
            Found::Not => None,
            Found::Cached(row) => {
                let group = self.groups.get(slot.group)?;
                Some((group, group.row(row)?))
            }
        }
    }

    /// A slot with its row; nothing where it has none.
    pub fn row(&self, index: SlotIndex) -> Option<(&Slot, &[f32])> {
        let slot = self.slots.get(index)?;
        Some((slot, self.row_of(slot)?.1))
    }
}
