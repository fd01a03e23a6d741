//! Owns turning the inputs of a batch of jobs into distinct slots: one for each model version and input, however many jobs
//! ask for it.
//!
//! Pure: no I/O, no clock.

use super::{
    index::{GroupIndex, IndexVec, NamespaceIndex, SlotIndex},
    plan::{Found, Group, InputValue, Plan, PlannedInput, PlannedJob, Slot},
    source::AdmittedJob,
};
use ahash::RandomState;
use kiln_contract::job::{Content, Input, InputError, Job};
use kiln_contract::key::{self, InputHash};
use kiln_model::Model;
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

type SlotsByInput = HashMap<InputHash, SlotIndex, RandomState>;

/// Plans a batch of admitted jobs.
pub(super) fn plan<'a>(jobs: &'a [AdmittedJob<'a>]) -> Plan<'a> {
    let mut coalescing = Coalescing::default();
    for job in jobs {
        coalescing.add(job);
    }
    coalescing.plan
}

#[derive(Default)]
struct Coalescing<'a> {
    plan: Plan<'a>,
    by_input: IndexVec<GroupIndex, SlotsByInput>,
}

impl<'a> Coalescing<'a> {
    fn add(&mut self, admitted: &'a AdmittedJob<'a>) {
        let job = &admitted.job;
        let group = self.group(&admitted.model);
        let namespace = self.namespace(job.namespace());
        let index = self.plan.jobs.next_index();
        let Some(by_input) = self.by_input.get_mut(group) else {
            return;
        };
        let mut inputs = Vec::with_capacity(job.inputs.len());
        for input in &job.inputs {
            let planned = match value(job, input, &admitted.model) {
                Err(bad) => PlannedInput::Bad(bad),
                Ok((hash, value)) => {
                    let slot = match by_input.entry(hash) {
                        Entry::Occupied(known) => {
                            self.plan.coalesced += 1;
                            if let Some(slot) = self.plan.slots.get_mut(*known.get()) {
                                slot.ttl_seconds = slot.ttl_seconds.max(admitted.ttl_seconds);
                                slot.refresh_ttl |= admitted.source.refresh_ttl;
                            }
                            *known.get()
                        }
                        Entry::Vacant(new) => *new.insert(self.plan.slots.push(Slot {
                            group,
                            input: hash,
                            value,
                            ttl_seconds: admitted.ttl_seconds,
                            refresh_ttl: admitted.source.refresh_ttl,
                            asked_by: (index, input),
                            found: Found::Not,
                            min_stamp: 0,
                            stamp: 0,
                        })),
                    };
                    PlannedInput::Slot(slot)
                }
            };
            inputs.push(planned);
        }
        self.plan.jobs.push(PlannedJob {
            admitted,
            group,
            namespace,
            inputs,
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

/// What is scored of an input, with its hash.
fn value<'a>(
    job: &'a Job<'_>,
    input: &'a Input<'_>,
    model: &Model,
) -> Result<(InputHash, InputValue<'a>), &'a InputError> {
    match &input.content {
        Content::Bad(bad) => Err(bad),
        Content::Features(range) => {
            let features = job.features_of(range);
            Ok((key::hash_features(features), InputValue::Features(features)))
        }
        Content::Text { text, pair } => {
            let text = model.normalise(text);
            let pair = pair.as_deref().map(|pair| model.normalise(pair));
            let hash = key::hash_text(&text, pair.as_deref());
            Ok((hash, InputValue::Text { text, pair }))
        }
    }
}
