//! Owns turning the inputs of a batch of jobs into distinct slots: one for each model version and input, however many jobs
//! ask for it.
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
use kiln_model::Model;
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
        let group = self.group(&admitted.model);
        let namespace = self.namespace(job.namespace());
        let index = self.plan.jobs.next_index();
        let keeps = self.keeps;
        let Some(by_input) = self.by_input.get_mut(group) else {
            return;
        };
        let mut asked_first = 0;
        let mut inputs = Vec::with_capacity(job.inputs.len());
        for input in &job.inputs {
            let planned = match value(job, input, &admitted.model) {
                None => None,
                Some((hash, cost)) => {
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
                    Some(slot)
                }
            };
            inputs.push(planned);
        }
        self.plan.jobs.push(PlannedJob {
            admitted,
            group,
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

/// An input's hash and the seconds that it is expected to cost; nothing for one that isn't scored.
fn value(job: &Job<'_>, input: &Input<'_>, model: &Model) -> Option<(InputHash, Option<f64>)> {
    match &input.content {
        // Names were put in order when the job was admitted.
        Content::Bad(_) | Content::Removal | Content::Named(_) => None,
        Content::Features(range) => {
            let features = job.features_of(range);
            Some((key::hash_features(features), model.expected_seconds(None)))
        }
        Content::Text { text, pair } => {
            let text = model.normalise(text);
            let pair = pair.as_deref().map(|pair| model.normalise(pair));
            let hash = key::hash_text(&text, pair.as_deref());
            let cost = model.expected_seconds(Some((&text, pair.as_deref())));
            Some((hash, cost))
        }
    }
}
