//! Owns the first stage: bodies are parsed and checked against their models, and a job that comes twice in one batch is
//! run once.
//!
//! Promises that whatever isn't admitted has its outcome already, or waits for room for its outputs. Refuses to ask any server.

use super::{
    blocking::blocking,
    budget::{BYTES_PER_OUTPUT, LARGE_OUTPUTS},
    context::Context,
    index::{IndexVec, SourceIndex},
    lane::Lanes,
    outcome::Outcome,
    source::{AdmittedJob, Callback, JobSource},
};
use crate::store::Store;
use ahash::RandomState;
use kiln_contract::failure::{Code, Rejection};
use kiln_contract::job::{self, Job, Unparsable};
use kiln_contract::key;
use kiln_model::{Serving, Task};
use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
};

/// What admission made of a batch.
pub(super) struct Admission<'a> {
    pub admitted: Vec<AdmittedJob<'a>>,
    /// Jobs that end here.
    pub refused: Vec<(SourceIndex, Outcome)>,
    /// Jobs that are another one of the batch again, with that one.
    pub repeats: Vec<(SourceIndex, SourceIndex)>,
    /// Jobs whose outputs are large, in bytes: room is to be made for them first.
    pub large: Vec<(SourceIndex, usize)>,
}

/// Admits the jobs of a batch.
pub(super) fn batch<'a>(
    context: &Context,
    lanes: &Lanes,
    sources: &'a IndexVec<SourceIndex, JobSource>,
) -> Admission<'a> {
    let bytes: usize = sources.iter().map(|source| source.body().len()).sum();
    blocking(bytes, || all(context, lanes, sources))
}

fn all<'a>(
    context: &Context,
    lanes: &Lanes,
    sources: &'a IndexVec<SourceIndex, JobSource>,
) -> Admission<'a> {
    let mut admission = Admission {
        admitted: Vec::with_capacity(sources.len()),
        refused: Vec::new(),
        repeats: Vec::new(),
        large: Vec::new(),
    };
    let mut by_id: HashMap<Cow<'_, str>, (SourceIndex, [u8; 32]), RandomState> = HashMap::default();
    for (index, source) in sources.enumerate() {
        let (job, serving) = match check(context, source) {
            Ok(checked) => checked,
            Err(Unparsable { job_id, rejection }) => {
                let outcome = Outcome::Rejected { job_id, rejection };
                admission.refused.push((index, outcome));
                continue;
            }
        };
        let info = serving.model.info();
        let elsewhere = if source.may_move {
            lanes.elsewhere(info, job.namespace())
        } else if source.may_postpone {
            lanes.not_served(info)
        } else {
            None
        };
        if let Some(outcome) = elsewhere {
            admission.refused.push((index, outcome));
            continue;
        }
        let outputs = BYTES_PER_OUTPUT * job.inputs.len() * info.output_width;
        if outputs > LARGE_OUTPUTS && source.reserved.is_none() {
            admission.large.push((index, outputs));
            continue;
        }
        let body_sha256 = key::hash_body(source.body());
        match by_id.entry(job.job_id.clone()) {
            Entry::Occupied(id) => {
                let (first, sha256) = *id.get();
                if sha256 == body_sha256 {
                    admission.repeats.push((index, first));
                    continue;
                }
                // Which of the two the id belongs to is known once one of them has its row.
            }
            Entry::Vacant(id) => {
                id.insert((index, body_sha256));
            }
        }
        if source.reserved.is_none() {
            source.held.grow(outputs);
        }
        let settings = &context.settings;
        let own = settings.namespaces.get(job.namespace());
        let life = |asked| settings.cache.life_seconds(asked, own, info.ttl_seconds);
        let (ttl_seconds, usual_seconds) = (life(job.ttl_seconds), life(None));
        admission.admitted.push(AdmittedJob {
            index,
            source,
            job,
            serving,
            body_sha256,
            ttl_seconds,
            outlives: ttl_seconds > usual_seconds,
        });
    }
    admission
}

/// Checks a job without running it.
fn check<'a>(context: &Context, source: &'a JobSource) -> Result<(Job<'a>, Serving), Unparsable> {
    let max = context.settings.max_body_bytes;
    if source.body().len() > max {
        let id = source.message_id().filter(|id| job::is_job_id(id));
        return Err(Unparsable {
            job_id: id.map(str::to_owned),
            rejection: job::too_large(source.body().len(), max),
        });
    }
    let parsed = Job::parse(source.body(), source.message_id());
    if let Some(rejection) = source.given_up.clone() {
        let job_id = match parsed {
            Ok(job) => {
                // Nobody is told where nobody may be.
                let _nowhere = note_callback(context, source, &job);
                Some(job.job_id.into_owned())
            }
            Err(bad) => bad.job_id,
        };
        return Err(Unparsable { job_id, rejection });
    }
    let mut job = parsed?;
    if let Some(ids) = &context.in_hand {
        source.note_in_hand(ids, &job.job_id);
    }
    let allowed = note_callback(context, source, &job);
    match allowed.and_then(|()| fit(context, &mut job)) {
        Ok(serving) => Ok((job, serving)),
        Err(rejection) => Err(Unparsable {
            job_id: Some(job.job_id.into_owned()),
            rejection,
        }),
    }
}

/// Checks a body that has no message, and gives the id of its job: its own, `message_id`, or else `or_id`.
pub(super) fn examine(
    context: &Context,
    body: &[u8],
    message_id: Option<&str>,
    or_id: &str,
) -> Result<String, Rejection> {
    let max = context.settings.max_body_bytes;
    if body.len() > max {
        return Err(job::too_large(body.len(), max));
    }
    let parsed = Job::parse_or_name(body, message_id, or_id);
    let mut job = parsed.map_err(|bad| bad.rejection)?;
    callback(context, &job)?;
    fit(context, &mut job)?;
    Ok(job.job_id.into_owned())
}

/// Notes where a job's end is posted to, however it ends; it is rejected where that may not be, and then posted nowhere.
fn note_callback(context: &Context, source: &JobSource, job: &Job<'_>) -> Result<(), Rejection> {
    if let Some(callback) = callback(context, job)? {
        source.note_callback(callback);
    }
    Ok(())
}

fn callback(context: &Context, job: &Job<'_>) -> Result<Option<Callback>, Rejection> {
    let Some(url) = job.callback_url.as_deref() else {
        return Ok(None);
    };
    let settings = &context.settings;
    let host = match context.store {
        Store::Postgres(_) => settings.callbacks.host_of(url, settings.store.jobs),
        Store::Sqlite(_) => Err("there are no callbacks here: they need Postgres"),
        #[cfg(all(test, feature = "faults"))]
        Store::Simulated(_) => Err("there are no callbacks here: they need Postgres"),
    };
    let host = host.map_err(|why| Rejection::invalid("callback_url", why))?;
    Ok(Some(Callback {
        url: url.into(),
        host: host.into(),
    }))
}

/// Finds a job's model, and checks the job against it: a version that a share of the inputs goes to takes whatever the active one takes.
fn fit(context: &Context, job: &mut Job<'_>) -> Result<Serving, Rejection> {
    let found = context.registry.serving(&job.model);
    let serving = found
        .map_err(|unknown| Rejection::new(Code::UnknownModel, "model", unknown.to_string()))?;
    let info = serving.model.info();
    if job.rank.is_some() && info.task == Task::Embedding {
        let message = "an embedding model gives no score to rank by";
        return Err(Rejection::invalid("rank", message));
    }
    job.check_inputs(info)?;
    Ok(serving)
}
