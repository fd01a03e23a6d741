//! Owns the order of a batch's stages, and what is said of each job at the end.
//!
//! Promises one outcome a job, in the order of the jobs, and that a job is called done or rejected only after
//! its row is committed. Refuses to settle anything: that is the caller's.

use super::{
    coalesce::{Found, Plan, Source},
    flight::Flights,
    insight::Insight,
    keep::{self, Stored},
    outcome::Outcome,
    score,
    source::JobSource,
};
use crate::{
    cache::{Cache, Wanted},
    clock,
    config::Settings,
    failure::{Code, Failure, Rejection, Verdict},
    health::Health,
    heat::Heat,
    job::{self, Content, Job, Unparsable},
    key,
    model::{Model, Registry, Task},
    result::{Finished, Reading, ResultsWriter},
    store::{RejectedRow, Store},
    telemetry::{
        metrics::{InputResult, JobOutcome, Metrics, Stage},
        trace::Stages,
    },
};
use ahash::RandomState;
use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::Arc,
    time::Instant,
};

/// Bodies beyond this many bytes are parsed where they hold up no other task of the runtime.
const BLOCKING_BYTES: usize = 1 << 18;

/// What a job takes beside its model, in seconds: what a reader who misses an entry waits at least.
pub const ROUND_TRIP_SECONDS: f64 = 0.003;

/// How a batch's inputs got their scores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InputCounts {
    pub hits: u64,
    pub misses: u64,
    pub coalesced: u64,
    pub skipped: u64,
    pub stages: Stages,
}

/// What an engine is made of.
pub struct EngineParts {
    pub registry: Arc<Registry>,
    pub cache: Cache,
    pub store: Store,
    pub health: Health,
    pub metrics: Metrics,
    /// Where what is asked for is counted, if anywhere.
    pub heat: Option<Arc<Heat>>,
    /// Where what is learnt of namespaces is kept, if anywhere.
    pub insight: Option<Arc<Insight>>,
}

/// Carries batches of jobs from their bodies to stored results.
pub struct Engine {
    pub(super) parts: EngineParts,
    pub(super) flights: Arc<Flights>,
    pub(super) settings: Settings,
}

/// A job that passed every check that needs no server.
struct Accepted<'a> {
    /// Its place in the batch.
    place: usize,
    job: Job<'a>,
    model: Arc<Model>,
    body_sha256: [u8; 32],
}

impl Engine {
    /// An engine over these parts.
    pub fn new(parts: EngineParts, settings: &Settings) -> Self {
        Self {
            parts,
            flights: Arc::default(),
            settings: settings.clone(),
        }
    }

    /// The models that it serves.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.parts.registry
    }

    /// Where it looks entries up.
    pub fn cache(&self) -> &Cache {
        &self.parts.cache
    }

    /// Carries one batch through every stage. Waits for the database as long as it takes; dropping the
    /// future leaves nothing half done that a repeat doesn't mend.
    pub async fn run(&self, sources: &[JobSource<'_>]) -> (Vec<Outcome>, InputCounts) {
        let received = Instant::now();
        let begun = received;
        let mut outcomes: Vec<Option<Outcome>> = vec![None; sources.len()];
        let mut followers: Vec<(usize, usize)> = Vec::new();
        let bytes: usize = sources.iter().map(|s| s.body.len()).sum();
        let mut accept = || self.accept(sources, &mut outcomes, &mut followers);
        let accepted = if bytes > BLOCKING_BYTES {
            tokio::task::block_in_place(accept)
        } else {
            accept()
        };
        let mut plan = Plan::default();
        for one in &accepted {
            let renews = sources.get(one.place).is_some_and(|s| s.renews);
            let ttl_seconds = self.ttl_seconds(&one.job, &one.model);
            plan.add(&one.job, &one.model, ttl_seconds, renews);
        }
        self.note_heat(sources, &accepted, &plan);
        self.parts.metrics.stage(Stage::Parse, begun.elapsed());

        self.look_up(&mut plan).await;
        let looked_up = received.elapsed();
        let begun = Instant::now();
        let failures = score::misses(self, &mut plan).await;
        let scored = received.elapsed();
        self.parts.metrics.stage(Stage::Score, begun.elapsed());

        let (finished, mut counts) =
            self.render(sources, &accepted, &plan, &failures, &mut outcomes);
        (counts.stages.looked_up, counts.stages.scored) = (looked_up, scored);
        let begun = Instant::now();
        let jobs: Vec<keep::ToStore<'_>> = finished
            .into_iter()
            .map(|(number, result)| {
                let one = &accepted[number];
                keep::ToStore {
                    number,
                    place: one.place,
                    job: &one.job,
                    body_sha256: one.body_sha256,
                    result,
                }
            })
            .collect();
        for (place, stored) in keep::batch(self, &plan, jobs).await {
            let outcome = match stored {
                Stored::Done {
                    job_id,
                    result,
                    repeated,
                } => Outcome::Done {
                    job_id,
                    result,
                    repeated,
                },
                Stored::Failed { job_id, failure } => {
                    self.judge(failure, Some(job_id), sources.get(place))
                }
            };
            set(&mut outcomes, place, outcome);
        }
        counts.stages.stored = received.elapsed();
        for (place, leader) in followers {
            let outcome = match outcomes.get(leader).cloned().flatten() {
                Some(Outcome::Done { job_id, result, .. }) => Outcome::Done {
                    job_id,
                    result,
                    repeated: true,
                },
                Some(other) => other,
                None => Outcome::Abandoned,
            };
            set(&mut outcomes, place, outcome);
        }
        let outcomes: Vec<Outcome> = outcomes
            .into_iter()
            .map(|o| o.unwrap_or(Outcome::Abandoned))
            .collect();
        if let Some(insight) = &self.parts.insight {
            let jobs = accepted.iter().map(|one| (one.place, &one.job));
            insight.note(sources, jobs, &plan);
        }
        self.keep_rejections(sources, &accepted, &outcomes).await;
        self.parts.metrics.stage(Stage::Store, begun.elapsed());
        self.count(sources, &outcomes, counts);
        (outcomes, counts)
    }

    /// Checks a body as a job's is checked, without running it; an error is what would be replied.
    pub fn examine(&self, body: &[u8], message_id: Option<&str>) -> Result<(), Rejection> {
        let source = JobSource::new(body).with_message_id(message_id);
        self.check(&source).map(|_| ()).map_err(|bad| bad.rejection)
    }

    /// Parses every body and checks it against its model. What fails here has its outcome already.
    fn accept<'a>(
        &self,
        sources: &[JobSource<'a>],
        outcomes: &mut [Option<Outcome>],
        followers: &mut Vec<(usize, usize)>,
    ) -> Vec<Accepted<'a>> {
        let mut accepted: Vec<Accepted<'a>> = Vec::with_capacity(sources.len());
        let mut by_id: HashMap<String, usize, RandomState> = HashMap::default();
        for (place, source) in sources.iter().enumerate() {
            let (job, model) = match self.check(source) {
                Ok(pair) => pair,
                Err(bad) => {
                    set(
                        outcomes,
                        place,
                        Outcome::Rejected {
                            job_id: bad.job_id,
                            rejection: bad.rejection,
                        },
                    );
                    continue;
                }
            };
            let body_sha256 = key::hash_body(source.body);
            match by_id.entry(job.job_id.to_string()) {
                Entry::Vacant(slot) => {
                    slot.insert(accepted.len());
                    accepted.push(Accepted {
                        place,
                        job,
                        model,
                        body_sha256,
                    });
                }
                Entry::Occupied(first) => match accepted.get(*first.get()) {
                    Some(leader) if leader.body_sha256 == body_sha256 => {
                        followers.push((place, leader.place))
                    }
                    _ => {
                        let job_id = Some(first.key().clone());
                        set(
                            outcomes,
                            place,
                            Outcome::Rejected {
                                job_id,
                                rejection: conflict(),
                            },
                        );
                    }
                },
            }
        }
        accepted
    }

    fn check<'a>(&self, source: &JobSource<'a>) -> Result<(Job<'a>, Arc<Model>), Unparsable> {
        let most = self.settings.intake.max_body_bytes;
        if source.body.len() > most {
            let job_id = source
                .message_id
                .filter(|id| job::is_job_id(id))
                .map(str::to_owned);
            return Err(Unparsable {
                job_id,
                rejection: job::too_large(source.body.len(), most),
            });
        }
        let parsed = Job::parse(source.body, source.message_id);
        if let Some(rejection) = source.given_up.clone() {
            let job_id = match parsed {
                Ok(job) => Some(job.job_id.into_owned()),
                Err(bad) => bad.job_id,
            };
            return Err(Unparsable { job_id, rejection });
        }
        let mut job = parsed?;
        let refuse = |job: &Job<'_>, rejection| Unparsable {
            job_id: Some(job.job_id.to_string()),
            rejection,
        };
        let model = self.parts.registry.resolve(&job.model).map_err(|unknown| {
            refuse(
                &job,
                Rejection::new(Code::UnknownModel, "model", unknown.to_string()),
            )
        })?;
        if job.rank.is_some() && model.info().task == Task::Embedding {
            return Err(refuse(
                &job,
                Rejection::invalid("rank", "an embedding model gives no score to rank by"),
            ));
        }
        if let Err(rejection) = job.check_inputs(model.info()) {
            return Err(refuse(&job, rejection));
        }
        Ok((job, model))
    }

    fn ttl_seconds(&self, job: &Job<'_>, model: &Model) -> u64 {
        self.settings
            .ttl_seconds(job.ttl_seconds, job.namespace(), model.info().ttl_seconds)
    }

    /// Counts what producers ask for; what warming asks for itself says nothing of readers.
    fn note_heat(&self, sources: &[JobSource<'_>], accepted: &[Accepted<'_>], plan: &Plan<'_>) {
        let Some(heat) = &self.parts.heat else {
            return;
        };
        type Asked<'a> = Vec<(&'a Arc<Model>, usize)>;
        let mut asked: BTreeMap<(&str, &str), Asked<'_>> = BTreeMap::new();
        for (one, planned) in accepted.iter().zip(&plan.jobs) {
            if sources.get(one.place).is_some_and(|source| source.renews) {
                continue;
            }
            let slots = planned.slots.iter().flatten();
            asked
                .entry((one.job.namespace(), one.job.model_name()))
                .or_default()
                .extend(slots.map(|slot| (&one.model, *slot)));
        }
        for ((namespace, name), asked) in asked {
            heat.asked(namespace, name, &asked, |(model, slot)| {
                let slot = plan.slots.get(*slot)?;
                Some((slot.input, saving(model, &slot.source)))
            });
        }
    }

    /// One look-up for every slot of the batch.
    async fn look_up(&self, plan: &mut Plan<'_>) {
        if plan.slots.is_empty() {
            return;
        }
        let begun = Instant::now();
        let Plan {
            groups,
            slots,
            namespaces,
            ..
        } = &*plan;
        // Slots of one model version stand together, so that its rows do too.
        let mut order: Vec<usize> = (0..slots.len()).collect();
        if groups.len() > 1 {
            order.sort_by_key(|i| slots.get(*i).map(|s| s.group));
        }
        let wanted: Vec<Wanted<'_>> = order
            .iter()
            .filter_map(|i| {
                let slot = slots.get(*i)?;
                Some(Wanted {
                    space: &groups.get(slot.group)?.space,
                    input: &slot.input,
                })
            })
            .collect();
        let mut outputs = Vec::new();
        let cache = &self.parts.cache;
        let looked = cache.look_up(&wanted, namespaces, &mut outputs).await;
        plan.mark(&looked.marks, looked.now);
        let Plan { groups, slots, .. } = plan;
        let mut rest = outputs.as_slice();
        for (index, stamp) in order.into_iter().zip(looked.stamps) {
            let (Some(slot), Some(stamp)) = (slots.get_mut(index), stamp) else {
                continue;
            };
            let Some(group) = groups.get_mut(slot.group) else {
                continue;
            };
            let Some((row, after)) = rest.split_at_checked(group.width()) else {
                break;
            };
            rest = after;
            if stamp >= slot.least_stamp {
                slot.found = Found::Cached(group.push_rows(row));
                slot.stamp = stamp;
            }
        }
        self.parts.metrics.stage(Stage::LookUp, begun.elapsed());
    }

    /// Writes every job's results; a job with an unscored input gets its outcome instead. Returns the
    /// finished jobs by their number in the plan.
    fn render(
        &self,
        sources: &[JobSource<'_>],
        accepted: &[Accepted<'_>],
        plan: &Plan<'_>,
        failures: &score::Failures,
        outcomes: &mut [Option<Outcome>],
    ) -> (Vec<(usize, Finished)>, InputCounts) {
        let mut finished = Vec::with_capacity(accepted.len());
        let finished_at = clock::now();
        let mut counts = InputCounts {
            coalesced: plan.coalesced,
            ..InputCounts::default()
        };
        let mut labels: Vec<Vec<u64>> = vec![Vec::new(); plan.groups.len()];
        for (number, (one, planned)) in accepted.iter().zip(&plan.jobs).enumerate() {
            let Some(group) = plan.groups.get(planned.group) else {
                continue;
            };
            let info = group.model.info();
            let failure = planned
                .slots
                .iter()
                .flatten()
                .find_map(|slot| failures.get(slot));
            if let Some(failure) = failure {
                let job_id = Some(one.job.job_id.to_string());
                let outcome = self.judge(failure.clone().into(), job_id, sources.get(one.place));
                set(outcomes, one.place, outcome);
                continue;
            }
            let mut writer = ResultsWriter::new(one.job.inputs.len());
            let (mut hits, mut misses) = (0u32, 0u32);
            for (index, (input, slot)) in one.job.inputs.iter().zip(&planned.slots).enumerate() {
                let key = input.key.as_deref();
                match (slot.and_then(|slot| plan.row(slot)), &input.content) {
                    (Some((row, cached)), _) => {
                        if cached {
                            hits += 1
                        } else {
                            misses += 1
                        }
                        writer.scored(key, info, row, cached, one.job.detail);
                        if let (Reading::Label { index, .. }, Some(counts)) =
                            (Reading::of(info, row), labels.get_mut(planned.group))
                        {
                            counts.resize(counts.len().max(index + 1), 0);
                            counts.iter_mut().skip(index).take(1).for_each(|c| *c += 1);
                        }
                    }
                    (None, content) => {
                        counts.skipped += 1;
                        let (field, message) = match content {
                            Content::Bad(bad) => (bad.field.as_str(), bad.message.as_str()),
                            _ => ("", "not scored"),
                        };
                        writer.skipped(
                            key,
                            &Rejection::invalid(job::input_path(index, field), message),
                        );
                    }
                }
            }
            let received = sources
                .get(one.place)
                .map_or_else(Instant::now, |s| s.received);
            let result = Finished {
                model: info.name.clone(),
                version: info.version.clone(),
                namespace: one.job.namespace().to_owned(),
                results: writer.finish(),
                hits,
                misses,
                elapsed_ms: (received.elapsed().as_secs_f64() * 1e5).round() / 1e2,
                finished_at,
            };
            finished.push((number, result));
        }
        for slot in &plan.slots {
            match slot.found {
                Found::Cached(_) => counts.hits += 1,
                Found::Scored(_) => counts.misses += 1,
                Found::Shared(_) => counts.coalesced += 1,
                Found::Not => {}
            }
        }
        for (group, counts) in plan.groups.iter().zip(labels) {
            let Task::Classification { labels } = &group.model.info().task else {
                continue;
            };
            for (label, count) in labels.iter().zip(counts).filter(|(_, count)| *count > 0) {
                self.parts
                    .metrics
                    .predictions(group.model.info(), label, count);
            }
        }
        (finished, counts)
    }

    /// What a failure means for a job with so many tries behind it.
    fn judge(
        &self,
        failure: Failure,
        job_id: Option<String>,
        source: Option<&JobSource<'_>>,
    ) -> Outcome {
        let tries = source.map_or(0, |s| s.tries) + 1;
        let last = source.is_some_and(|s| !s.may_retry) || tries >= self.settings.retry.max_tries;
        match failure.verdict() {
            Verdict::Reject(rejection) => Outcome::Rejected { job_id, rejection },
            Verdict::Retry(reason) if last => {
                let message = format!("given up after {tries} tries; the last one: {reason}");
                Outcome::Rejected {
                    job_id,
                    rejection: Rejection::new(Code::Exhausted, "", message),
                }
            }
            Verdict::Retry(reason) => Outcome::Retry { job_id, reason },
            Verdict::Fatal(reason) => {
                tracing::error!(reason, "the worker can't go on with a job");
                Outcome::Abandoned
            }
        }
    }

    async fn keep_rejections(
        &self,
        sources: &[JobSource<'_>],
        accepted: &[Accepted<'_>],
        outcomes: &[Outcome],
    ) {
        let mut rows = Vec::new();
        for (place, (source, outcome)) in sources.iter().zip(outcomes).enumerate() {
            let Outcome::Rejected { job_id, rejection } = outcome else {
                continue;
            };
            let job = accepted.iter().find(|a| a.place == place).map(|a| &a.job);
            rows.push(RejectedRow {
                job_id: job_id.as_deref(),
                body_sha256: key::hash_body(source.body),
                model: job.map(|j| j.model_name()),
                namespace: job.map(|j| j.namespace()),
                rejection,
                finished_at: clock::now(),
            });
        }
        if !rows.is_empty() {
            keep::rejections(self, &rows).await;
        }
    }

    fn count(&self, sources: &[JobSource<'_>], outcomes: &[Outcome], inputs: InputCounts) {
        let metrics = &self.parts.metrics;
        let mut totals = [0u64; JobOutcome::ALL.len()];
        for (source, outcome) in sources.iter().zip(outcomes) {
            let outcome = match outcome {
                Outcome::Done {
                    repeated: false, ..
                } => JobOutcome::Ok,
                Outcome::Done { repeated: true, .. } => JobOutcome::Repeated,
                Outcome::Rejected { rejection, .. } => {
                    metrics.rejection(rejection.code);
                    JobOutcome::Rejected
                }
                Outcome::Retry { .. } => JobOutcome::Retried,
                Outcome::Abandoned => JobOutcome::Abandoned,
            };
            if let Some(total) = totals.get_mut(outcome as usize) {
                *total += 1;
            }
            metrics.job(source.received.elapsed());
        }
        for (outcome, total) in JobOutcome::ALL.iter().zip(totals) {
            metrics.jobs(*outcome, total);
        }
        metrics.inputs(InputResult::Hit, inputs.hits);
        metrics.inputs(InputResult::Miss, inputs.misses);
        metrics.inputs(InputResult::Coalesced, inputs.coalesced);
        metrics.inputs(InputResult::Skipped, inputs.skipped);
    }
}

/// The rejection of a job whose id names another one.
pub(super) fn conflict() -> Rejection {
    Rejection::new(
        Code::Conflict,
        "job_id",
        "this id was used before with another body; use a new one",
    )
}

/// What a hit on an input saves, in seconds of waiting for a second of model time.
fn saving(model: &Model, source: &Source<'_>) -> f32 {
    let text = match source {
        Source::Features(_) => None,
        Source::Text { text, pair } => Some((text.as_ref(), pair.as_deref())),
    };
    let cost = model.expected_seconds(text).unwrap_or(ROUND_TRIP_SECONDS);
    (1.0 + ROUND_TRIP_SECONDS / cost.max(1e-6)) as f32
}

fn set(outcomes: &mut [Option<Outcome>], place: usize, outcome: Outcome) {
    if let Some(slot) = outcomes.get_mut(place) {
        *slot = Some(outcome);
    }
}
