//! Owns turning the inputs of a batch of jobs into distinct slots: one for each model version and input, however many jobs
//! ask for it; and so, which version an input of a bare name goes to.
//!
//! Pure: no I/O, no clock.

use super::{
    index::{GroupIndex, IndexVec, NamespaceIndex, SlotIndex},
    plan::{Found, Group, Plan, PlannedJob, Slot},
    retention::Retention,
    source::AdmittedJob,
};
use ahash::RandomState;
use kiln_contract::entry::Seal;
use kiln_contract::job::{Content, Input, Job};
use kiln_contract::key::{self, InputHash};
use kiln_contract::split::Point;
use kiln_model::{Model, Serving};
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

type SlotsByInput = HashMap<InputHash, SlotIndex, RandomState>;

/// Plans a batch of admitted jobs, whose scores are kept as `keeps` says.
pub(super) fn plan<'a>(jobs: &'a [AdmittedJob<'a>], keeps: Retention) -> Plan<'a> {
    let mut coalescing = Coalescing {
        keeps,
        ..Coalescing::default()
    };
    for job in jobs {
        coalescing.add(job);
    }
    coalescing.plan
}

#[derive(Default)]
struct Coalescing<'a> {
    plan: Plan<'a>,
    by_input: IndexVec<GroupIndex, SlotsByInput>,
    /// What is kept of a score unless its cost says otherwise.
    keeps: Retention,
}

impl<'a> Coalescing<'a> {
    fn add(&mut self, admitted: &'a AdmittedJob<'a>) {
        let job = &admitted.job;
        let namespace = self.namespace(job.namespace());
        let index = self.plan.jobs.next_index();
        let keeps = self.keeps;
        let mut asked_first = 0;
        let mut inputs = Vec::with_capacity(job.inputs.len());
        for input in &job.inputs {
            let scored = scored_by(job, input, &admitted.serving, admitted.source.stands_at);
            let Some((model, hash, cost)) = scored else {
                inputs.push(None);
                continue;
            };
            let group = self.group(model);
            let Some(by_input) = self.by_input.get_mut(group) else {
                return;
            };
            let slot = match by_input.entry(hash) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => {
                    asked_first += 1;
                    *new.insert(self.plan.slots.push(Slot {
                        group,
                        input: hash,
                        cost,
                        asked_by: index,
                        found: Found::Not,
                        keeps,
                        is_looked_up: true,
                        min_stamp: 0,
                        seal: Seal::default(),
                    }))
                }
            };
            inputs.push(Some(slot));
        }
        self.plan.jobs.push(PlannedJob {
            admitted,
            namespace,
            inputs,
            asked_first,
        });
    }

    fn namespace(&mut self, name: &'a str) -> NamespaceIndex {
        let namespaces = &mut self.plan.namespaces;
        let known = namespaces.position(|one| *one == name);
        known.unwrap_or_else(|| namespaces.push(name))
    }

    fn group(&mut self, model: &Arc<Model>) -> GroupIndex {
        let groups = &mut self.plan.groups;
        let known = groups.position(|group| Arc::ptr_eq(&group.model, model));
        known.unwrap_or_else(|| {
            self.by_input.push(SlotsByInput::default());
            groups.push(Group::new(model))
        })
    }
}

/// The version that an input goes to, its hash, and the seconds that it is expected to cost; nothing for one that isn't scored. Whoever has the
/// job run may say where its inputs stand; else the job does.
pub fn scored_by<'m>(
    job: &Job<'_>,
    input: &Input<'_>,
    serving: &'m Serving,
    stands_at: Option<Point>,
) -> Option<(&'m Arc<Model>, InputHash, Option<f64>)> {
    let rank = job.rank.as_ref().map(|rank| &*rank.key);
    let active = &serving.model;
    let goes_to = |by_itself: &dyn Fn() -> InputHash| {
        let name = &active.info().name;
        serving.version_at(|| {
            stands_at.unwrap_or_else(|| Point::of(name, rank, input.key.as_deref(), by_itself))
        })
    };
    match &input.content {
        // Names were put in order when the job was admitted.
        Content::Bad(_) | Content::Removal | Content::Named(_) => None,
        Content::Features(range) => {
            let hash = key::hash_features(job.features_of(range));
            let model = goes_to(&|| hash);
            Some((model, hash, model.expected_seconds(None)))
        }
        Content::Text { text, pair } => {
            let seen_by = |model: &Model| {
                let pair = pair.as_deref().map(|pair| model.normalise(pair));
                (model.normalise(text), pair)
            };
            let model = goes_to(&|| {
                let (text, pair) = seen_by(active);
                key::hash_text(&text, pair.as_deref())
            });
            let (text, pair) = seen_by(model);
            let hash = key::hash_text(&text, pair.as_deref());
            let cost = model.expected_seconds(Some((&text, pair.as_deref())));
            Some((model, hash, cost))
        }
    }
}
