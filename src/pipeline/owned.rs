//! Owns a job that outlives its batch: one that waits for scores, or whose entries are to be written.
//!
//! Promises that it borrows nothing, and that a row is given to the slot that it belongs to. Pure: no I/O, no clock.

use super::{
    index::{Index, IndexVec, SlotIndex, bug},
    retention::Retention,
    source::JobSource,
};
use crate::cache::Space;
use kiln_contract::entry::Seal;
use kiln_contract::job::{Content, Job};
use kiln_contract::key::InputHash;
use kiln_model::Model;
use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

/// How an input got its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// From the cache.
    Cached,
    /// The model scored it for this job.
    Scored {
        /// Whether its entry is in the cache already.
        is_stored: bool,
        /// Its part of the call, in nanoseconds.
        nanos: u64,
    },
    /// It was scored for another job, here or on another worker.
    Shared,
}

/// A distinct input of one job.
#[derive(Debug)]
pub(super) struct JobSlot {
    pub input: InputHash,
    /// Which of the job's inputs it is, the first one if several are the same.
    pub number: usize,
    /// Whether it goes to the version that a share of its model's inputs goes to.
    pub is_split: bool,
    /// Whether the job is the first of its batch that asks for it.
    pub is_first: bool,
    /// How its row was found; nothing before.
    pub found: Option<How>,
    /// What is kept of its score.
    pub keeps: Retention,
    /// TTL of its entry: the longest that a job asks for.
    pub ttl_seconds: u64,
    /// The oldest stamp that an entry may bear.
    pub min_stamp: u64,
    /// The latest invalidation before its row was scored, and whether that row may be missing in the database though it was found.
    pub seal: Seal,
}

impl JobSlot {
    /// Whether its row is to be in the database with its job's. An entry that is kept alive outlives its row where old rows are pruned: the job that
    /// refreshes its TTL brings the row back.
    pub fn needs_row(&self, refreshes_ttl: bool) -> bool {
        self.keeps.row
            && match self.found {
                Some(How::Scored { .. } | How::Shared) => true,
                Some(How::Cached) => refreshes_ttl || self.seal.is_pending,
                None => false,
            }
    }
}

/// A version, and where its entries are.
#[derive(Debug)]
pub(super) struct Version {
    pub model: Arc<Model>,
    pub space: Arc<Space>,
}

/// A job's inputs and the rows that were found for them.
#[derive(Debug)]
pub(super) struct JobRows {
    pub job: Job<'static>,
    /// The version that it names, or else the active one.
    pub model: Arc<Model>,
    pub space: Arc<Space>,
    /// The version that a share of its inputs goes to, if there is one. It gives as many outputs.
    pub split: Option<Version>,
    pub body_sha256: [u8; 32],
    /// TTL of its entries.
    pub ttl_seconds: u64,
    /// The slot of each input, in order; none for one that isn't scored.
    pub inputs: Vec<Option<SlotIndex>>,
    pub slots: IndexVec<SlotIndex, JobSlot>,
    /// A row for each slot.
    pub rows: Vec<f32>,
    /// The latest invalidation of all when its entries were looked up.
    pub stamp: u64,
}

/// A job with all that belongs to it.
#[derive(Debug)]
pub(super) struct OwnedJob {
    pub source: JobSource,
    /// The same job again, of the same batch: they share its outcome.
    pub repeats: Vec<JobSource>,
    pub rows: JobRows,
    /// When it was taken up, and how long its look-up took from then.
    pub begun: Instant,
    pub looked_up: Duration,
}

impl OwnedJob {
    fn copies(&self) -> impl Iterator<Item = &JobSource> {
        std::iter::once(&self.source).chain(&self.repeats)
    }

    /// Whether nobody waits for it any more, nor for any of its repeats.
    pub fn is_abandoned(&self) -> bool {
        self.copies().all(JobSource::is_abandoned)
    }

    /// Whether it is of no use any more to anybody.
    pub fn is_expired(&self, now: Instant) -> bool {
        self.copies()
            .all(|one| one.expires.is_some_and(|at| at <= now))
    }
}

/// What is scored of an input: features, or normalised text.
pub(super) enum Value<'a> {
    Features(&'a [f32]),
    Text {
        text: Cow<'a, str>,
        pair: Option<Cow<'a, str>>,
    },
}

impl Value<'_> {
    /// Seconds that `model` is expected to take for it, once that is known.
    pub fn expected_seconds(&self, model: &Model) -> Option<f64> {
        model.expected_seconds(match self {
            Self::Features(_) => None,
            Self::Text { text, pair } => Some((text.as_ref(), pair.as_deref())),
        })
    }

    /// Bytes of text.
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::Features(_) => 0,
            Self::Text { text, pair } => text.len() + pair.as_ref().map_or(0, |pair| pair.len()),
        }
    }
}

impl JobRows {
    /// Values of one row.
    pub fn width(&self) -> usize {
        self.model.info().output_width
    }

    fn version_of(&self, slot: &JobSlot) -> Option<&Version> {
        self.split.as_ref().filter(|_| slot.is_split)
    }

    /// The version that scores a slot.
    pub fn model_of(&self, slot: &JobSlot) -> &Arc<Model> {
        self.version_of(slot).map_or(&self.model, |one| &one.model)
    }

    /// Where a slot's entry is.
    pub fn space_of(&self, slot: &JobSlot) -> &Space {
        self.version_of(slot).map_or(&self.space, |one| &one.space)
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> usize {
        let inputs = self.job.inputs.iter().map(|input| match &input.content {
            Content::Text { text, pair } => text.len() + pair.as_ref().map_or(0, |p| p.len()),
            Content::Features(range) => 4 * range.len(),
            Content::Bad(_) | Content::Removal | Content::Named(_) => 0,
        });
        inputs.sum::<usize>() + 4 * self.rows.len()
    }

    /// Slots without a row.
    pub fn open(&self) -> impl Iterator<Item = (SlotIndex, &JobSlot)> {
        self.slots
            .enumerate()
            .filter(|(_, slot)| slot.found.is_none())
    }

    /// Gives a slot its row.
    pub fn fill(&mut self, index: SlotIndex, how: How, row: &[f32]) {
        let width = self.width();
        let start = index.number() * width;
        match self.rows.get_mut(start..start + width) {
            Some(mine) if mine.len() == row.len() => mine.copy_from_slice(row),
            _ => return bug("a row has another width than its job's model gives"),
        }
        if let Some(slot) = self.slots.get_mut(index) {
            slot.found = Some(how);
        }
    }

    /// The row of a slot; nothing where it has none.
    pub fn row(&self, index: SlotIndex) -> Option<&[f32]> {
        self.slots.get(index)?.found?;
        let width = self.width();
        let start = index.number() * width;
        self.rows.get(start..start + width)
    }

    /// What is scored for a slot; nothing only where the pipeline has a bug.
    pub fn value(&self, slot: &JobSlot) -> Option<Value<'_>> {
        let input = self.job.inputs.get(slot.number);
        match input.map(|input| &input.content) {
            Some(Content::Features(range)) => Some(Value::Features(self.job.features_of(range))),
            Some(Content::Text { text, pair }) => {
                let model = self.model_of(slot);
                Some(Value::Text {
                    text: model.normalise(text),
                    pair: pair.as_deref().map(|pair| model.normalise(pair)),
                })
            }
            Some(Content::Bad(_) | Content::Removal | Content::Named(_)) | None => {
                bug("a slot stands for no input of its job");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_alive_has_its_row_restored() {
        let slot = |found| JobSlot {
            input: [1; 32],
            number: 0,
            is_split: false,
            is_first: true,
            found,
            keeps: Retention::default(),
            ttl_seconds: 60,
            min_stamp: 0,
            seal: Seal::default(),
        };
        assert!(slot(Some(How::Cached)).needs_row(true));
        assert!(!slot(Some(How::Cached)).needs_row(false));
        assert!(slot(Some(How::Shared)).needs_row(false));
        assert!(!slot(None).needs_row(true));
        let unkept = JobSlot {
            keeps: Retention {
                entry: true,
                row: false,
            },
            ..slot(Some(How::Shared))
        };
        assert!(!unkept.needs_row(true));
    }
}
