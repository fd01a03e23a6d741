//! Owns storing a batch: entries to the cache and rows to the database together, then what readers find.
//!
//! Promises to wait for a database that is out of reach, and that a row which the database refuses costs only
//! its own job.

use super::{
    coalesce::{Found, Plan},
    run::{self, Engine},
};
use crate::{
    backoff::Backoff,
    cache::{Fresh, Put},
    clock, config,
    failure::Failure,
    health::Part,
    job::Job,
    key,
    result::{self, Finished, RankedItem, Reading},
    store::{Batch, JobRow, Kept, RejectedRow, ScoreRow, StoreError},
    telemetry::metrics::Table,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// A finished job on its way to its row.
pub(super) struct ToStore<'a> {
    /// Its number in the plan.
    pub number: usize,
    /// Its place in the batch.
    pub place: usize,
    pub job: &'a Job<'a>,
    pub body_sha256: [u8; 32],
    pub result: Finished,
}

/// What became of it.
pub(super) enum Stored {
    Done {
        job_id: String,
        result: Arc<Finished>,
        repeated: bool,
    },
    Failed {
        job_id: String,
        failure: Failure,
    },
}

/// Stores a batch. Returns, by place in the batch, what became of each job.
pub(super) async fn batch(
    engine: &Engine,
    plan: &Plan<'_>,
    jobs: Vec<ToStore<'_>>,
) -> Vec<(usize, Stored)> {
    let (_, kept) = tokio::join!(keep_entries(engine, plan), keep_rows(engine, plan, &jobs));
    let mut stored = Vec::with_capacity(jobs.len());
    let mut shown = BTreeMap::new();
    for (job, kept) in jobs.into_iter().zip(kept) {
        let job_id = job.job.job_id.to_string();
        if matches!(kept, Ok(Kept::New | Kept::Same(_))) {
            entries_for_readers(engine, plan, &job, &mut shown);
        }
        let outcome = match kept {
            Ok(Kept::New) => Stored::Done {
                job_id,
                result: Arc::new(job.result),
                repeated: false,
            },
            Ok(Kept::Same(first)) => Stored::Done {
                job_id,
                result: Arc::from(first),
                repeated: true,
            },
            Ok(Kept::Conflict) => Stored::Failed {
                job_id,
                failure: run::conflict().into(),
            },
            Err(reason) => Stored::Failed {
                job_id,
                failure: Failure::Unstorable(reason),
            },
        };
        stored.push((job.place, outcome));
    }
    if !shown.is_empty() {
        engine.parts.cache.publish(&shown, plan.stamp).await;
    }
    stored
}

/// Keeps the rows of what was scored now in the cache, and those that are to live anew.
async fn keep_entries(engine: &Engine, plan: &Plan<'_>) {
    let fresh: Vec<Fresh<'_>> = {
        let mut rng = rand::rng();
        let scored = plan.slots.iter().filter_map(|slot| match slot.found {
            Found::Scored(place) => Some((slot, plan.groups.get(slot.group)?, place)),
            Found::Cached(place) if slot.renews => {
                Some((slot, plan.groups.get(slot.group)?, place))
            }
            _ => None,
        });
        scored
            .map(|(slot, group, place)| Fresh {
                space: &group.space,
                input: &slot.input,
                row: group.row(place),
                ttl_ms: clock::random_ttl_ms(&mut rng, slot.ttl_seconds),
                stamp: slot.stamp,
            })
            .collect()
    };
    if !fresh.is_empty() {
        engine.parts.cache.put(&fresh).await;
    }
}

/// Writes the jobs' rows and the misses' scores; one by one where the database refuses them together.
async fn keep_rows(
    engine: &Engine,
    plan: &Plan<'_>,
    jobs: &[ToStore<'_>],
) -> Vec<Result<Kept, String>> {
    if jobs.is_empty() {
        return Vec::new();
    }
    match attempt(engine, plan, jobs).await {
        Ok(kept) => kept.into_iter().map(Ok).collect(),
        Err(reason) if jobs.len() == 1 => {
            tracing::warn!(reason, "the database refuses a job's row");
            vec![Err(reason)]
        }
        Err(_) => {
            let mut kept = Vec::with_capacity(jobs.len());
            for job in jobs {
                let one = attempt(engine, plan, std::slice::from_ref(job)).await;
                kept.push(
                    one.and_then(|mut one| one.pop().ok_or_else(|| "no row came back".to_owned())),
                );
            }
            kept
        }
    }
}

/// One transaction, repeated until the database has answered. An error is the database's refusal.
async fn attempt(
    engine: &Engine,
    plan: &Plan<'_>,
    jobs: &[ToStore<'_>],
) -> Result<Vec<Kept>, String> {
    let batch = Batch {
        jobs: jobs
            .iter()
            .map(|j| JobRow {
                job_id: &j.job.job_id,
                body_sha256: j.body_sha256,
                done: &j.result,
            })
            .collect(),
        scores: score_rows(engine, plan, jobs),
        finished_at: jobs
            .first()
            .map(|j| j.result.finished_at)
            .unwrap_or_default(),
    };
    let kept = until_available(engine, || engine.parts.store.keep(&batch)).await?;
    engine.parts.metrics.rows(
        Table::Jobs,
        kept.iter().filter(|k| **k == Kept::New).count(),
    );
    engine.parts.metrics.rows(Table::Scores, batch.scores.len());
    Ok(kept)
}

/// The misses that these jobs were the first to ask for.
fn score_rows<'a>(
    engine: &Engine,
    plan: &'a Plan<'_>,
    jobs: &'a [ToStore<'_>],
) -> Vec<ScoreRow<'a>> {
    if !engine.settings.store.scores {
        return Vec::new();
    }
    let mut by_number: Vec<Option<&ToStore<'_>>> = vec![None; plan.jobs.len()];
    for job in jobs {
        if let Some(slot) = by_number.get_mut(job.number) {
            *slot = Some(job);
        }
    }
    let inputs = engine.settings.store.inputs;
    plan.slots
        .iter()
        .filter_map(|slot| {
            let Found::Scored(place) = slot.found else {
                return None;
            };
            let group = plan.groups.get(slot.group)?;
            let (info, row) = (group.model.info(), group.row(place));
            let job = by_number.get(slot.asked_by.0).copied().flatten()?.job;
            let input = job.inputs.get(slot.asked_by.1)?;
            let reading = Reading::of(info, row);
            let (text, pair, features) = match &slot.source {
                super::coalesce::Source::Features(values) => (None, None, Some(*values)),
                super::coalesce::Source::Text { text, pair } => {
                    (Some(text.as_ref()), pair.as_deref(), None)
                }
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

/// Named entries and the ranking of a job whose row is committed.
fn entries_for_readers<'a>(
    engine: &Engine,
    plan: &Plan<'_>,
    stored: &ToStore<'a>,
    entries: &mut BTreeMap<&'a str, Vec<Put>>,
) {
    let job = stored.job;
    if !job.named && job.rank.is_none() {
        return;
    }
    let Some(planned) = plan.jobs.get(stored.number) else {
        return;
    };
    let Some(group) = plan.groups.get(planned.group) else {
        return;
    };
    let info = group.model.info();
    let at = stored.result.finished_at;
    let ttl = plan.slots.get(
        planned
            .slots
            .iter()
            .flatten()
            .copied()
            .next()
            .unwrap_or(usize::MAX),
    );
    let ttl_seconds = job
        .ttl_seconds
        .or(ttl.map(|s| s.ttl_seconds))
        .unwrap_or(engine.settings.cache.ttl_seconds);
    let mut rng = rand::rng();
    let grace_ms = 1_000 * engine.settings.grace_seconds(job.namespace());
    let entries = entries.entry(job.namespace()).or_default();
    let mut put = |key: &str, value: Vec<u8>| {
        entries.push(Put {
            key: key::named(job.namespace(), key).into_bytes(),
            value,
            ttl_ms: clock::random_ttl_ms(&mut rng, ttl_seconds) + grace_ms,
        });
    };
    let keyed = job
        .inputs
        .iter()
        .zip(&planned.slots)
        .filter_map(|(input, slot)| {
            let (row, _) = plan.row((*slot)?)?;
            let hash = plan.slots.get((*slot)?)?.input;
            Some((input.key.as_deref()?, row, hash))
        });
    let (mut ranked, mut written) = (Vec::new(), Vec::new());
    for (key, row, hash) in keyed {
        if job.named {
            written.push((key, Some(hash)));
            put(key, result::named_entry(info, row, at));
        }
        if let Some(score) = Reading::of(info, row).score() {
            ranked.push(RankedItem { key, score });
        }
    }
    if let Some(rank) = &job.rank {
        written.push((&rank.key, None));
        let top = rank.top.unwrap_or(ranked.len());
        put(
            &rank.key,
            result::ranking(info, result::rank(ranked, top), at),
        );
    }
    if let Some(heat) = &engine.parts.heat {
        heat.readers.written(job.namespace(), written.into_iter());
    }
}

/// Writes rejections, waiting for the database. A rejection that the database refuses is logged: its dead
/// letter still says why.
pub(super) async fn rejections(engine: &Engine, rows: &[RejectedRow<'_>]) {
    for row in rows {
        let one = std::slice::from_ref(row);
        if let Err(reason) = until_available(engine, || engine.parts.store.reject(one)).await {
            tracing::error!(
                reason,
                code = row.rejection.code.as_str(),
                "the database refuses a rejection's row"
            );
        }
    }
}

/// Repeats a write until the database has answered; an error is its refusal.
async fn until_available<T, W: Future<Output = Result<T, StoreError>>>(
    engine: &Engine,
    write: impl Fn() -> W,
) -> Result<T, String> {
    let most = config::ms(engine.settings.database.max_backoff_ms);
    let mut backoff = Backoff::new(Duration::from_millis(50), most);
    loop {
        match write().await {
            Ok(value) => {
                engine.parts.health.up(Part::Postgres);
                return Ok(value);
            }
            Err(StoreError::Refused(reason)) => {
                engine.parts.metrics.store_error();
                return Err(reason);
            }
            Err(StoreError::Contended(reason)) => {
                engine.parts.metrics.store_error();
                tracing::info!(reason, "the database undid a write; repeating it");
                tokio::time::sleep(backoff.next_wait()).await;
            }
            Err(StoreError::Unavailable(reason)) => {
                engine.parts.metrics.store_error();
                engine.parts.health.down(Part::Postgres, &reason);
                tokio::time::sleep(backoff.next_wait()).await;
            }
        }
    }
}
