//! Owns storing a batch: entries to the cache and rows to the database together, then what readers find.
//!
//! Promises to wait for a database that is out of reach, and that a row which the database refuses costs only
//! its own job.

use super::{
    context::Context,
    index::bug,
    outcome::{Outcome, Outcomes},
    plan::{Found, InputValue, Plan},
    publish,
    render::FinishedJob,
    verdict,
};
use crate::{
    cache::Fresh,
    clock,
    store::{self, Batch, Inserted, JobRow, ScoreRow, StoreError},
    telemetry::metrics::Table,
};
use kiln_contract::failure::Failure;
use kiln_contract::job::Job;
use kiln_contract::result::Reading;
use std::{collections::BTreeMap, ops::Range, sync::Arc};

/// About what a row adds to a statement beside its texts and outputs: its columns of fixed length.
const ROW_BYTES: usize = 200;

/// Stores a batch, and says of each of its jobs what became of it.
pub(super) async fn batch(
    context: &Context,
    plan: &Plan<'_>,
    jobs: Vec<FinishedJob<'_>>,
    outcomes: &mut Outcomes,
) {
    let (_, kept) = tokio::join!(
        put_entries(context, plan),
        insert_rows(context, plan, &jobs)
    );
    let mut shown = BTreeMap::new();
    for (job, kept) in jobs.into_iter().zip(kept) {
        if matches!(kept, Ok(Inserted::New | Inserted::Same(_))) {
            publish::job(context, plan, &job, &mut shown);
        }
        let admitted = job.planned.admitted;
        let fail = |failure: Failure| verdict::outcome(context, failure, admitted);
        let outcome = match kept {
            Ok(Inserted::New) => Outcome::Done {
                job_id: admitted.job.job_id.to_string(),
                result: Arc::new(job.result),
                repeated: false,
            },
            Ok(Inserted::Same(first)) => Outcome::Done {
                job_id: admitted.job.job_id.to_string(),
                result: Arc::from(first),
                repeated: true,
            },
            Ok(Inserted::Conflict) => fail(verdict::conflict().into()),
            Err(reason) => fail(Failure::Unstorable(reason)),
        };
        outcomes.set(admitted.index, outcome);
    }
    if !shown.is_empty() {
        context.cache.publish(&shown, plan.stamp).await;
    }
}

/// Puts into the cache what was scored now, and again what has its TTL refreshed.
async fn put_entries(context: &Context, plan: &Plan<'_>) {
    let fresh: Vec<Fresh<'_>> = {
        let mut rng = rand::rng();
        let due = plan.slots.iter().filter(|slot| match slot.found {
            Found::Scored(_) => true,
            Found::Cached(_) => slot.refresh_ttl,
            Found::Shared(_) | Found::Not => false,
        });
        due.filter_map(|slot| {
            let (group, row) = plan.row_of(slot)?;
            Some(Fresh {
                space: &group.space,
                input: &slot.input,
                row,
                ttl_ms: clock::random_ttl_ms(&mut rng, slot.ttl_seconds),
                stamp: slot.stamp,
            })
        })
        .collect()
    };
    if !fresh.is_empty() {
        context.cache.put(&fresh).await;
    }
}

/// Writes the jobs' rows and the misses' scores, in parts where they are too much for one statement or the database refuses them together.
async fn insert_rows(
    context: &Context,
    plan: &Plan<'_>,
    jobs: &[FinishedJob<'_>],
) -> Vec<Result<Inserted, String>> {
    let bytes = statement_bytes(context, plan, jobs);
    let stored = || context.store.stored();
    let insert = |part: Range<usize>| attempt(context, plan, jobs.get(part).unwrap_or_default());
    let kept = store::in_parts(bytes, context.write_backoff(), stored, insert).await;
    if let [Err(reason)] = kept.as_slice() {
        tracing::warn!(reason, "the database refuses a job's row");
    }
    kept
}

/// About how many bytes each job adds to a statement.
fn statement_bytes(context: &Context, plan: &Plan<'_>, jobs: &[FinishedJob<'_>]) -> Vec<usize> {
    let own = |job: &FinishedJob<'_>| ROW_BYTES + job.result.results.len();
    let mut bytes: Vec<usize> = jobs.iter().map(own).collect();
    let mut positions = plan.jobs.map(|_| None::<usize>);
    for (position, job) in jobs.iter().enumerate() {
        if let Some(slot) = positions.get_mut(job.index) {
            *slot = Some(position);
        }
    }
    if context.settings.store.scores {
        let scored = plan.slots.iter();
        for slot in scored.filter(|slot| matches!(slot.found, Found::Scored(_))) {
            let input = match &slot.value {
                InputValue::Features(values) => size_of_val(*values),
                InputValue::Text { text, pair } => {
                    text.len() + pair.as_ref().map_or(0, |p| p.len())
                }
            };
            let row = plan.row_of(slot).map_or(0, |(_, row)| size_of_val(row));
            let job = positions.get(slot.asked_by.0).copied().flatten();
            if let Some(sum) = job.and_then(|position| bytes.get_mut(position)) {
                *sum += ROW_BYTES + input + row;
            }
        }
    }
    bytes
}

/// One transaction, repeated until the database has answered. An error is the database's refusal, or that it took too long.
async fn attempt(
    context: &Context,
    plan: &Plan<'_>,
    jobs: &[FinishedJob<'_>],
) -> Result<Vec<Inserted>, StoreError> {
    let rows = jobs.iter().map(|job| JobRow {
        job_id: &job.planned.admitted.job.job_id,
        body_sha256: job.planned.admitted.body_sha256,
        done: &job.result,
    });
    let batch = Batch {
        jobs: rows.collect(),
        scores: score_rows(context, plan, jobs),
        finished_at: jobs
            .first()
            .map(|job| job.result.finished_at)
            .unwrap_or_default(),
    };
    let kept = context
        .write_in_time(|| context.store.insert(&batch))
        .await?;
    if kept.len() != jobs.len() {
        bug("the store answered for more or fewer jobs than it was given");
    }
    let new = kept.iter().filter(|kept| **kept == Inserted::New).count();
    context.metrics.rows(Table::Jobs, new);
    context.metrics.rows(Table::Scores, batch.scores.len());
    Ok(kept)
}

/// The misses that these jobs were the first to ask for.
fn score_rows<'a>(
    context: &Context,
    plan: &'a Plan<'_>,
    jobs: &'a [FinishedJob<'_>],
) -> Vec<ScoreRow<'a>> {
    if !context.settings.store.scores {
        return Vec::new();
    }
    let mut stored = plan.jobs.map(|_| None::<&Job<'_>>);
    for job in jobs {
        if let Some(stored) = stored.get_mut(job.index) {
            *stored = Some(&job.planned.admitted.job);
        }
    }
    let inputs = context.settings.store.inputs;
    let scored = plan.slots.iter();
    let scored = scored.filter(|slot| matches!(slot.found, Found::Scored(_)));
    scored
        .filter_map(|slot| {
            let (first, input) = slot.asked_by;
            // Where the job that asked first isn't stored, nothing is.
            let job = (*stored.get(first)?)?;
            let (group, row) = plan.row_of(slot)?;
            let info = group.model.info();
            let reading = Reading::of(info, row);
            let (text, pair, features) = match &slot.value {
                InputValue::Features(values) => (None, None, Some(*values)),
                InputValue::Text { text, pair } => (Some(text.as_ref()), pair.as_deref(), None),
            };
            Some(ScoreRow {
                input: slot.input,
                model: &info.name,
                version: &info.version,
                namespace: job.namespace(),
                key: input.key.as_deref(),
                label: reading.label(),
                score: reading.score(),
                outputs: row,
                text: text.filter(|_| inputs),
                text_pair: pair.filter(|_| inputs),
                features: features.filter(|_| inputs),
            })
        })
        .collect()
}
