//! Owns turning the inputs of a batch of jobs into distinct slots: one for each model version and input,
//! however many jobs ask for it.
//!
//! Pure: no I/O, no clock.

use crate::{
    cache::Space,
    job::{Content, Job},
    key::{self, InputHash},
    model::Model,
};
use ahash::RandomState;
use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

/// A model version that a batch asks.
pub struct Group {
    pub model: Arc<Model>,
    pub space: Space,
    /// Output rows, one after the other; slots say which is theirs.
    pub outputs: Vec<f32>,
    by_input: HashMap<InputHash, usize, RandomState>,
}

impl Group {
    /// Values of one output row.
    pub fn width(&self) -> usize {
        self.model.info().output_width
    }

    /// Identity of the loaded version within the process.
    pub fn id(&self) -> usize {
        Arc::as_ptr(&self.model) as usize
    }

    /// Adds rows, and returns the place of the first.
    pub fn push_rows(&mut self, rows: &[f32]) -> usize {
        let first = self.outputs.len() / self.width().max(1);
        self.outputs.extend_from_slice(rows);
        first
    }

    /// An output row by its place.
    pub fn row(&self, place: usize) -> &[f32] {
        let width = self.width();
        self.outputs
            .get(place * width..(place + 1) * width)
            .unwrap_or_default()
    }
}

/// What is scored: features borrowed from their job, or normalised text.
#[derive(Debug)]
pub enum Source<'a> {
    Features(&'a [f32]),
    Text {
        text: Cow<'a, str>,
        pair: Option<Cow<'a, str>>,
    },
}

/// How a slot got its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Not,
    Cached(usize),
    Scored(usize),
    /// Scored by another batch of this process.
    Shared(usize),
}

/// One distinct input of one model version.
#[derive(Debug)]
pub struct Slot<'a> {
    pub group: usize,
    pub input: InputHash,
    pub source: Source<'a>,
    /// Life of its entry: the longest that a job asks for.
    pub ttl_seconds: u64,
    /// Whether its entry, if there is one, is to live anew.
    pub renews: bool,
    /// The first job and input that ask for it.
    pub asked_by: (usize, usize),
    pub found: Found,
    /// The least stamp that an entry must bear: one that nobody who asks has invalidated.
    pub least_stamp: u64,
    /// The latest invalidation before its row was scored.
    pub stamp: u64,
}

/// A job's place in the plan.
#[derive(Debug, Default)]
pub struct Planned {
    pub group: usize,
    /// Its namespace's place in the plan.
    pub namespace: usize,
    /// One a job's input, in order; none where the input is skipped.
    pub slots: Vec<Option<usize>>,
}

/// The distinct inputs of a batch.
#[derive(Default)]
pub struct Plan<'a> {
    pub groups: Vec<Group>,
    pub slots: Vec<Slot<'a>>,
    /// One a job that was added, in order.
    pub jobs: Vec<Planned>,
    /// The namespaces of these jobs, each once.
    pub namespaces: Vec<&'a str>,
    /// The latest invalidation of all when entries were looked up.
    pub stamp: u64,
    /// Inputs that fell together with another of the batch.
    pub coalesced: u64,
}

impl<'a> Plan<'a> {
    /// Adds a checked job that asks `model`; `ttl_seconds` is the life of its entries,
    /// and `renews` whether those that are there are to live anew.
    pub fn add(&mut self, job: &'a Job<'_>, model: &Arc<Model>, ttl_seconds: u64, renews: bool) {
        let group = self.group(model);
        let namespace = self.namespace(job.namespace());
        let number = self.jobs.len();
        let Some(entry) = self.groups.get_mut(group) else {
            return;
        };
        let mut planned = Planned {
            group,
            namespace,
            slots: Vec::with_capacity(job.inputs.len()),
        };
        for (index, input) in job.inputs.iter().enumerate() {
            let (hash, source) = match &input.content {
                Content::Bad(_) => {
                    planned.slots.push(None);
                    continue;
                }
                Content::Features(range) => {
                    let features = job.features_of(range);
                    (key::hash_features(features), Source::Features(features))
                }
                Content::Text { text, pair } => {
                    let text = model.normalise(text);
                    let pair = pair.as_deref().map(|p| model.normalise(p));
                    (
                        key::hash_text(&text, pair.as_deref()),
                        Source::Text { text, pair },
                    )
                }
            };
            match entry.by_input.entry(hash) {
                Entry::Occupied(at) => {
                    self.coalesced += 1;
                    if let Some(slot) = self.slots.get_mut(*at.get()) {
                        slot.ttl_seconds = slot.ttl_seconds.max(ttl_seconds);
                        slot.renews |= renews;
                    }
                    planned.slots.push(Some(*at.get()));
                }
                Entry::Vacant(at) => {
                    at.insert(self.slots.len());
                    planned.slots.push(Some(self.slots.len()));
                    let asked_by = (number, index);
                    let found = Found::Not;
                    self.slots.push(Slot {
                        group,
                        input: hash,
                        source,
                        ttl_seconds,
                        renews,
                        asked_by,
                        found,
                        least_stamp: 0,
                        stamp: 0,
                    });
                }
            }
        }
        self.jobs.push(planned);
    }

    fn namespace(&mut self, name: &'a str) -> usize {
        let known = self.namespaces.iter().position(|one| *one == name);
        known.unwrap_or_else(|| {
            self.namespaces.push(name);
            self.namespaces.len() - 1
        })
    }

    /// Notes what was invalidated when: a slot's entry must be new enough for everyone who asks for it.
    pub fn mark(&mut self, marks: &[u64], now: u64) {
        self.stamp = now;
        self.slots.iter_mut().for_each(|slot| slot.stamp = now);
        if marks.iter().all(|mark| *mark == 0) {
            return;
        }
        for job in &self.jobs {
            let mark = marks.get(job.namespace).copied().unwrap_or_default();
            for slot in job.slots.iter().flatten() {
                if let Some(slot) = self.slots.get_mut(*slot) {
                    slot.least_stamp = slot.least_stamp.max(mark);
                }
            }
        }
    }

    fn group(&mut self, model: &Arc<Model>) -> usize {
        if let Some(at) = self
            .groups
            .iter()
            .position(|g| Arc::ptr_eq(&g.model, model))
        {
            return at;
        }
        let info = model.info();
        self.groups.push(Group {
            model: model.clone(),
            space: Space::new(info),
            outputs: Vec::new(),
            by_input: HashMap::default(),
        });
        self.groups.len() - 1
    }

    /// A slot's row, with whether it came from the cache.
    pub fn row(&self, slot: usize) -> Option<(&[f32], bool)> {
        let slot = self.slots.get(slot)?;
        let group = self.groups.get(slot.group)?;
        match slot.found {
            Found::Not => None,
            Found::Cached(place) => Some((group.row(place), true)),
            Found::Scored(place) | Found::Shared(place) => Some((group.row(place), false)),
        }
    }
}
