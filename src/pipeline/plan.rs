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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Settings,
        pipeline::{coalesce, index::SourceIndex, source::JobSource},
    };
    use kiln_contract::job::Job;
    use kiln_model::Registry;

    fn registry() -> Arc<Registry> {
        let mut settings = Settings::default().models;
        settings.dir = concat!(env!("CARGO_MANIFEST_DIR"), "/models").into();
        settings.threads = 1;
        Registry::open(&settings).expect("models")
    }

    fn admitted<'a>(registry: &Registry, source: &'a JobSource) -> AdmittedJob<'a> {
        let job = Job::parse(source.body(), None).expect("a job");
        AdmittedJob {
            index: SourceIndex::new(0),
            source,
            serving: registry.serving(&job.model).expect("a model"),
            job,
            body_sha256: [0; 32],
            ttl_seconds: 60,
            outlives: false,
        }
    }

    fn sources() -> [JobSource; 2] {
        [("fast", ["one", "both"]), ("slow", ["both", "two"])].map(|(namespace, texts)| {
            let inputs = texts.map(|text| format!(r#"{{"text":"{text}"}}"#)).join(",");
            let body = format!(
                r#"{{"job_id":"j","model":"sentiment","namespace":"{namespace}","inputs":[{inputs}]}}"#
            );
            JobSource::awaited(body, None).0
        })
    }

    #[test]
    fn an_entry_must_be_new_enough_for_everyone_who_asks_for_it() {
        let (registry, sources) = (registry(), sources());
        let jobs = sources.each_ref().map(|source| admitted(&registry, source));
        let marked = |marks: &[u64]| {
            let mut plan = coalesce::plan(&jobs, Retention::default());
            plan.mark(marks, 12);
            assert_eq!(plan.stamp, 12);
            let slots = plan.slots.iter();
            let of = |slot: &Slot| (slot.min_stamp, slot.seal.stamp, slot.seal.is_pending);
            slots.map(of).collect::<Vec<_>>()
        };
        let (any, new) = ((0, 12, false), (9, 12, false));
        assert_eq!(marked(&[0, 9]), [any, new, new]);
        assert_eq!(marked(&[9, 0]), [new, new, any]);
        assert_eq!(marked(&[9, 7]), [new, new, (7, 12, false)]);
        for unmarked in [&[0, 0][..], &[]] {
            assert_eq!(marked(unmarked), [any; 3]);
        }
    }

    #[test]
    fn a_slot_has_its_own_row() {
        let (registry, sources) = (registry(), sources());
        let jobs = sources.each_ref().map(|source| admitted(&registry, source));
        let mut plan = coalesce::plan(&jobs, Retention::default());
        let [first, second, third] = [0, 1, 2].map(SlotIndex::new);
        let asked: Vec<Vec<SlotIndex>> =
            plan.jobs.iter().map(|job| job.slots().collect()).collect();
        assert_eq!(asked, [[first, second], [second, third]]);
        let group = GroupIndex::new(0);
        let rows = [[0.1, 0.2, 0.7], [0.3, 0.3, 0.4], [0.5, 0.1, 0.4]];
        let rows = [(second, rows[0]), (third, rows[1]), (first, rows[2])];
        for (slot, row) in rows {
            assert!(plan.row(slot).is_none(), "it has none yet");
            let found = plan.groups.get_mut(group).expect("a group").push_row(&row);
            plan.slots.get_mut(slot).expect("a slot").found = Found::Cached(found);
        }
        for (index, row) in rows {
            let (slot, found) = plan.row(index).expect("a row");
            assert_eq!(found, row);
            let (group, same) = plan.row_of(slot).expect("a row");
            assert_eq!((group.width(), same), (3, found));
        }
    }
}
