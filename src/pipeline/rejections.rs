//! Owns the rows of rejected jobs.
//!
//! Promises that a job which was finished before isn't rejected, however its message comes back: its first result is its outcome. Waits for a
//! database that is out of reach. A rejection that the database refuses, or doesn't store in time while it stores others, is logged: its dead letter
//! still says why. A job that came before is as old as its first delivery, also where it is rejected unseen.

use super::{
    blocking::blocking,
    context::Context,
    ending::{End, Ending},
    outcome::Outcome,
};
use crate::{
    clock,
    store::{self, Rejected, RejectedRow, Writing},
};
use kiln_contract::failure::Code;
use kiln_contract::{job, key};
use std::{borrow::Cow, ops::Range, sync::Arc};

/// Jobs that are rejected together: each may have a result after all, which is in memory until its owner has it.
pub(super) const TOGETHER: usize = 16;

/// Writes the rows of these jobs, in the order of their ids, so that no two writers wait for each other's. Who was finished before has
/// that outcome then.
pub(super) async fn batch(context: &Context, rejected: &mut [(Ending, Outcome)]) {
    date(context, rejected).await;
    let finished = {
        let rows = rejected.iter().enumerate();
        let rows = rows.filter_map(|(number, one)| Some((number, row(one)?)));
        let mut rows: Vec<(usize, RejectedRow<'_>)> = rows.collect();
        rows.sort_by(|(_, one), (_, other)| one.job_id.cmp(&other.job_id));
        let mut finished = unread(context, rejected).await;
        rows.retain(|(number, _)| finished.iter().all(|(known, ..)| known != number));
        finished.extend(written(context, &rows).await);
        finished
    };
    for (number, job_id, first) in finished {
        if let Some((_, outcome)) = rejected.get_mut(number) {
            *outcome = Outcome::Done {
                job_id: job_id.into(),
                result: Arc::from(first),
                repeated: true,
            };
        }
    }
}

/// Finds out when those were first accepted that were never looked up.
async fn date(context: &Context, rejected: &[(Ending, Outcome)]) {
    let undated = rejected.iter().filter_map(|(ending, outcome)| {
        let Outcome::Rejected { job_id, .. } = outcome else {
            return None;
        };
        let source = Some(&ending.source).filter(|source| !source.is_dated());
        Some((source?, key::accepted(job_id.as_deref()?)))
    });
    let (sources, keys): (Vec<_>, Vec<_>) = undated.unzip();
    let known = context.cache.accepted(&keys).await;
    for (source, known) in sources.into_iter().zip(known) {
        known.into_iter().for_each(|at| source.note_accepted(at));
    }
}

/// A job of the batch that was finished before, with its id and its result.
type Finished = (usize, String, Box<kiln_contract::result::Finished>);

/// Those that were finished before and whose bodies are too large to be read now: nothing else gives their ids.
async fn unread(context: &Context, rejected: &[(Ending, Outcome)]) -> Vec<Finished> {
    let mut finished = Vec::new();
    for (number, (ending, outcome)) in rejected.iter().enumerate() {
        let Outcome::Rejected {
            job_id: None,
            rejection,
        } = outcome
        else {
            continue;
        };
        if rejection.code != Code::TooLarge {
            continue;
        }
        let body = ending.source.body();
        let found = blocking(body.len(), || job::find_id(body));
        let Some(job_id) = found.map(Cow::into_owned) else {
            continue;
        };
        if let Some(first) = look(context, &job_id, &key::hash_body(body)).await {
            finished.push((number, job_id, first));
        }
    }
    finished
}

/// Writes rows; gives those that were finished before.
async fn written(context: &Context, rows: &[(usize, RejectedRow<'_>)]) -> Vec<Finished> {
    let only: Vec<RejectedRow<'_>> = rows.iter().map(|(_, row)| row.clone()).collect();
    let stored = || context.store.stored();
    let of = |part: Range<usize>| only.get(part).unwrap_or_default();
    let writing = Writing {
        insert: |part| {
            let rows = of(part);
            context.write_in_time(move || context.store.reject(rows))
        },
        takes: async |part| {
            let takes = context.store.takes_rejections(of(part)).await;
            context.hear_whether_it_takes(takes)
        },
        like: |part| context.store.stored_rejections(of(part)),
    };
    let bytes = vec![0; rows.len()];
    let written = store::in_parts(bytes, context.write_backoff(), stored, writing).await;
    let mut finished = Vec::new();
    for ((number, row), written) in rows.iter().zip(written) {
        let first = match written {
            Ok(Rejected::Noted) => None,
            Ok(Rejected::Finished(first)) => Some(first),
            Err(reason) => {
                let first = match row.job_id {
                    Some(id) => look(context, id, &row.body_sha256).await,
                    None => None,
                };
                if first.is_none() {
                    tracing::error!(
                        reason,
                        code = row.rejection.code.as_str(),
                        "the database refuses a rejection's row"
                    );
                }
                first
            }
        };
        if let (Some(first), Some(id)) = (first, row.job_id) {
            finished.push((*number, id.to_owned(), first));
        }
    }
    finished
}

/// The result of a job that was finished before. Waits for the database as long as it takes; what it refuses to look for isn't there.
async fn look(
    context: &Context,
    job_id: &str,
    body_sha256: &[u8; 32],
) -> Option<Box<kiln_contract::result::Finished>> {
    let ask = || context.store.finished(job_id, body_sha256);
    let found = store::until_refused(context.write_backoff(), ask);
    found.await.ok().flatten()
}

fn row((ending, outcome): &(Ending, Outcome)) -> Option<RejectedRow<'_>> {
    let Outcome::Rejected { job_id, rejection } = outcome else {
        return None;
    };
    let (model, namespace) = match &ending.end {
        End::Finished(job) => (
            Some(job.result.model.as_str()),
            Some(job.result.namespace.as_str()),
        ),
        End::Failed {
            model, namespace, ..
        } => (model.as_deref(), namespace.as_deref()),
    };
    Some(RejectedRow {
        job_id: job_id.as_deref(),
        body_sha256: key::hash_body(ending.source.body()),
        model,
        namespace,
        rejection,
        posters: ending.posters().collect(),
        callback: ending.source.callback(),
        finished_at: clock::now(),
    })
}
