//! Owns what is known of a batch between its stages: its jobs, their distinct inputs, and the rows that were found for them.
//!
//! Promises that whatever it refers to by index is in it. Pure: no I/O, no clock.

use super::{
    index::{
        GroupIndex, Index, IndexVec, JobIndex, NamespaceIndex, RowIndex, SlotIndex, bug, lost,
    },
    source::AdmittedJob,
};
use crate::cache::Space;
use kiln_contract::job::{Input, InputError};
use kiln_contract::key::InputHash;
use kiln_model::Model;
use std::{borrow::Cow, sync::Arc};

/// A model version that the batch's jobs ask for.
pub struct Group {
    pub model: Arc<Model>,
    pub space: Space,
    /// Output rows, one after the other; slots say which is theirs.
    outputs: Vec<f32>,
}

impl Group {
    /// A model version, with no rows yet.
    pub fn new(model: &Arc<Model>) -> Self {
        Self {
            model: model.clone(),
            space: Space::new(model.info()),
            outputs: Vec::new(),
        }
    }

    /// Values of one output row.
    pub fn width(&self) -> usize {
        self.model.info().output_width
    }

    /// Identity of the loaded version within the process.
    pub fn id(&self) -> usize {
        Arc::as_ptr(&self.model) as usize
    }

    /// Cuts outputs into rows.
    pub fn rows<'o>(&self, outputs: &'o [f32]) -> impl Iterator<Item = &'o [f32]> + use<'o> {
        outputs.chunks_exact(self.width().max(1))
    }

    /// Adds rows, and returns their indices.
    pub fn push_rows(&mut self, rows: &[f32]) -> impl Iterator<Item = RowIndex> + use<> {
        let width = self.width().max(1);
        if !rows.len().is_multiple_of(width) {
            bug("outputs are no whole rows");
        }
        let first = self.outputs.len() / width;
        self.outputs.extend_from_slice(rows);
        (first..self.outputs.len() / width).map(RowIndex::new)
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

/// What is scored: features borrowed from their job, or normalised text.
#[derive(Debug)]
pub enum InputValue<'a> {
    Features(&'a [f32]),
    Text {
        text: Cow<'a, str>,
        pair: Option<Cow<'a, str>>,
    },
}

impl InputValue<'_> {
    /// Seconds that `model` is expected to take for it, once that is known.
    pub fn expected_seconds(&self, model: &Model) -> Option<f64> {
        model.expected_seconds(match self {
            Self::Features(_) => None,
            Self::Text { text, pair } => Some((text.as_ref(), pair.as_deref())),
        })
    }
}

/// How a slot got its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Not,
    Cached(RowIndex),
    Scored(RowIndex),
    /// Scored by another batch of this process.
    Shared(RowIndex),
}

/// One distinct input of one model version.
#[derive(Debug)]
pub struct Slot<'a> {
    pub group: GroupIndex,
    pub input: InputHash,
    pub value: InputValue<'a>,
    /// TTL of its entry: the longest that a job asks for.
    pub ttl_seconds: u64,
    /// Whether its entry, if there is one, has its TTL refreshed.
    pub refresh_ttl: bool,
    /// The first job that asks for it, and with which input.
    pub asked_by: (JobIndex, &'a Input<'a>),
    pub found: Found,
    /// The oldest stamp that an entry may bear: nobody who asks has invalidated anything since.
    pub min_stamp: u64,
    /// The latest invalidation before its row was scored.
    pub stamp: u64,
}

impl Slot<'_> {
    /// Whether its row came from the cache.
    pub fn is_cached(&self) -> bool {
        matches!(self.found, Found::Cached(_))
    }
}

/// A slot that is to be scored.
#[derive(Debug, Clone, Copy)]
pub struct Miss<'a> {
    pub index: SlotIndex,
    pub slot: &'a Slot<'a>,
}

/// What a job's input became.
#[derive(Debug, Clone, Copy)]
pub enum PlannedInput<'a> {
    Slot(SlotIndex),
    /// It is skipped.
    Bad(&'a InputError),
}

/// A job's part of the plan.
#[derive(Debug)]
pub struct PlannedJob<'a> {
    pub admitted: &'a AdmittedJob<'a>,
    pub group: GroupIndex,
    pub namespace: NamespaceIndex,
    /// One for each input of the job, in order.
    pub inputs: Vec<PlannedInput<'a>>,
}

impl<'a> PlannedJob<'a> {
    /// The slots that it asks for, in the order of its inputs.
    pub fn slots(&self) -> impl Iterator<Item = SlotIndex> {
        self.inputs.iter().filter_map(|input| match input {
            PlannedInput::Slot(slot) => Some(*slot),
            PlannedInput::Bad(_) => None,
        })
    }

    /// The job's inputs, each with what it became.
    pub fn with_inputs(&self) -> impl Iterator<Item = (&'a Input<'a>, PlannedInput<'a>)> {
        let inputs = self.inputs.iter().copied();
        self.admitted.job.inputs.iter().zip(inputs)
    }
}

/// The distinct inputs of a batch.
#[derive(Default)]
pub struct Plan<'a> {
    pub groups: IndexVec<GroupIndex, Group>,
    pub slots: IndexVec<SlotIndex, Slot<'a>>,
    /// The admitted jobs, in order.
    pub jobs: IndexVec<JobIndex, PlannedJob<'a>>,
    /// The namespaces of these jobs, each once.
    pub namespaces: IndexVec<NamespaceIndex, &'a str>,
    /// The latest invalidation of all when entries were looked up.
    pub stamp: u64,
    /// Inputs that are the same as another one of the batch.
    pub coalesced: u64,
}

impl Plan<'_> {
    /// Notes what was invalidated when, a mark for each namespace: a slot's entry must be new enough for everyone who asks
    /// for it. No marks are given where none could be read.
    pub fn mark(&mut self, marks: &[u64], now: u64) {
        self.stamp = now;
        self.slots.iter_mut().for_each(|slot| slot.stamp = now);
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
    pub fn row_of(&self, slot: &Slot<'_>) -> Option<(&Group, &[f32])> {
        match slot.found {
            Found::Not => None,
            Found::Cached(row) | Found::Scored(row) | Found::Shared(row) => {
                let group = self.groups.get(slot.group)?;
                Some((group, group.row(row)?))
            }
        }
    }

    /// A slot with its row; nothing where it has none.
    pub fn row(&self, index: SlotIndex) -> Option<(&Slot<'_>, &[f32])> {
        let slot = self.slots.get(index)?;
        Some((slot, self.row_of(slot)?.1))
    }
}
