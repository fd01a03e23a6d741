//! Owns storing jobs at their end: rows to the database, then entries to the cache and what readers find.
//!
//! Promises to wait for a database that is out of reach, and that a row which the database refuses costs only
//! its own job.

use super::{
    context::Context,
    ending::FinishedJob,
    index::{SlotIndex, bug},
    names,
    owned::{How, JobRows, JobSlot, Value},
    standing,
};
use crate::{
    cache::{Fresh, Word, WordKind, Words},
    clock,
    config::{StoredJobs, StoredScores},
    simulated::{Mutation, is_mutated},
    store::{
        self, Batch, CallbackRow, CallbackTo, Inserted, JobRow, PosterRow, RunPiece, ScoreRow,
        SpentTime, StoreError, Writing,
    },
    telemetry::metrics::Table,
};
use kiln_contract::{
    entry::Seal,
    order::Order,
    result::{Finished, Reading},
};
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    ops::Range,
    sync::Arc,
};

/// About what a row adds to a statement beside its texts and outputs: its columns of fixed length.
const ROW_BYTES: usize = 200;

/// A finished job, and whether its entries that were in the cache have their TTL refreshed.
pub(super) struct ToStore<'a> {
    pub job: &'a FinishedJob,
    pub refreshes_ttl: bool,
    /// Model time that it took, in nanoseconds.
    pub model_nanos: u64,
    /// The API keys that posted it.
    pub posters: Vec<&'a str>,
    /// Where its end is posted to.
    pub callback: Option<CallbackTo<'a>>,
}

impl ToStore<'_> {
    /// What a warming run's job took of the model, for its run.
    fn spent(&self) -> Option<SpentTime> {
        if !self.refreshes_ttl || self.model_nanos == 0 {
            return None;
        }
        Some(SpentTime {
            of: RunPiece::of_job(&self.job.job_id)?,
            seconds: self.model_nanos as f64 / 1e9,
        })
    }
}

impl<'a> ToStore<'a> {
    fn callback_row(&self) -> Option<CallbackRow<'a>> {
        let (job_id, to) = (&*self.job.job_id, self.callback?);
        let body_sha256 = self.job.body_sha256;
        Some(CallbackRow {
            job_id,
            body_sha256,
            to,
        })
    }

    fn poster_rows(&self) -> impl Iterator<Item = PosterRow<'a>> {
        let job = self.job;
        self.posters.iter().map(|posted_by| PosterRow {
            posted_by,
            job_id: &job.job_id,
            body_sha256: job.body_sha256,
        })
    }
}

/// What became of a job that was to be stored.
pub(super) enum Kept {
    Row(Inserted),
    /// The database refuses its row, and why.
    Refused(String),
    /// It has its row, but readers still find what it removes: Redis didn't take that.
    Unremoved,
}

/// Stores jobs, no two of them with the same id, and says of each what became of its row. Where inputs have rows, entries come after
/// them: a worker that dies in between leaves rows without entries, which costs a score, and never an entry without its row.
pub(super) async fn jobs(context: &Context, jobs: &[ToStore<'_>]) -> Vec<Kept> {
    let have_rows = context.settings.store.scores != StoredScores::None;
    let kept = if have_rows {
        insert_rows(context, jobs).await
    } else {
        let entries = put_entries(context, jobs.iter());
        tokio::join!(entries, insert_rows(context, jobs)).1
    };
    let unremoved = {
        let stored = jobs.iter().zip(&kept);
        let stored = stored.filter_map(|(one, kept)| kept.is_ok().then_some(one));
        let entries = async {
            if have_rows {
                put_entries(context, stored).await;
            }
        };
        tokio::join!(publish(context, jobs, &kept), entries).0
    };
    let kept = kept.into_iter().zip(unremoved);
    let kept = kept.map(|(kept, is_unremoved)| match kept {
        Err(reason) => Kept::Refused(reason),
        Ok(_) if is_unremoved => Kept::Unremoved,
        Ok(inserted) => Kept::Row(inserted),
    });
    kept.collect()
}

/// Writes what readers find of these jobs. Says of each whether it has removals that weren't written.
async fn publish(
    context: &Context,
    jobs: &[ToStore<'_>],
    kept: &[Result<Inserted, String>],
) -> Vec<bool> {
    let mut shown: BTreeMap<u64, Words<'_>> = BTreeMap::new();
    for (job, kept) in jobs.iter().map(|one| one.job).zip(kept) {
        let first = match kept {
            Ok(Inserted::New) => None,
            Ok(Inserted::Same(first)) => Some(first),
            Ok(Inserted::Conflict) | Err(_) => continue,
        };
        if job.shown.is_empty() {
            continue;
        }
        let words = shown.entry(job.stamp).or_default();
        words.stamp = job.stamp;
        words.jobs.push(&job.job_id);
        let all = words.all.entry(&job.result.namespace).or_default();
        all.extend(job.shown.iter().map(|word| match first {
            None => Cow::Borrowed(word),
            Some(first) => Cow::Owned(repeated(word, first)),
        }));
    }
    let (mut unwritten, mut standing) = (BTreeMap::new(), HashSet::new());
    for (stamp, words) in &shown {
        let published = context.cache.publish(words).await;
        let published = published.map(|published| {
            standing.extend(published.standing);
            published.unwritten
        });
        unwritten.insert(*stamp, published);
    }
    let stored = jobs.iter().map(|one| one.job).zip(kept);
    let stored = stored.filter_map(|(job, kept)| Some((job, kept.as_ref().ok()?)));
    let stored: Vec<(&FinishedJob, &Inserted)> = stored.collect();
    standing::note(context, &stored, &standing).await;
    let unremoved = jobs.iter().map(|one| {
        let unwritten = unwritten.get(&one.job.stamp);
        unwritten.is_some_and(|keys| has_unwritten_removal(one.job, keys.as_deref()))
    });
    unremoved.collect()
}

/// What the names of these jobs say.
fn naming<'a>(
    jobs: impl Iterator<Item = &'a ToStore<'a>>,
) -> impl Iterator<Item = names::Naming<'a>> {
    jobs.map(|ToStore { job, .. }| (&*job.job_id, &*job.result, job.order, job.names.as_slice()))
}

/// Whether a job has a removal under one of these keys; under any, where all are unwritten.
fn has_unwritten_removal(job: &FinishedJob, unwritten: Option<&[String]>) -> bool {
    let mut shown = job.shown.iter();
    shown.any(|word| {
        word.kind == WordKind::Removal && unwritten.is_none_or(|keys| keys.contains(&word.key))
    })
}

/// A word of a job that was finished before.
fn repeated(word: &Word, first: &Finished) -> Word {
    let mut word = word.clone();
    word.may_be_old = word.kind != WordKind::Removal;
    Order::rewrite(&mut word.value, |order| standing::at_first(order, first));
    word
}

/// Puts into the cache what was scored now, and again what is pending there or has its TTL refreshed.
async fn put_entries<'a>(context: &Context, jobs: impl Iterator<Item = &'a ToStore<'a>>) {
    let fresh: Vec<Fresh<'_>> = {
        let mut rng = clock::rng();
        let stored = jobs.filter_map(|one| {
            let rows = one.job.rows.as_deref()?;
            Some((rows, one.refreshes_ttl))
        });
        let due = stored.flat_map(|(rows, refreshes)| {
            let due = rows
                .slots
                .enumerate()
                .filter(move |(_, slot)| slot.keeps.entry && is_due(slot, refreshes));
            due.map(move |due| (rows, due))
        });
        due.filter_map(|(rows, (index, slot))| {
            Some(Fresh {
                space: rows.space_of(slot),
                input: &slot.input,
                row: rows.row(index)?,
                ttl_ms: clock::random_ttl_ms(&mut rng, slot.ttl_seconds),
                seal: Seal {
                    stamp: slot.seal.stamp,
                    is_pending: slot.seal.is_pending && !slot.keeps.row,
                },
            })
        })
        .collect()
    };
    if !fresh.is_empty() {
        context.cache.put(&fresh).await;
    }
}

/// Whether an entry is to be written at its job's end.
fn is_due(slot: &JobSlot, refreshes_ttl: bool) -> bool {
    match slot.found {
        // One that was written before its row was is pending there.
        Some(How::Scored { is_stored, .. }) => slot.keeps.row || !is_stored,
        Some(How::Cached) => refreshes_ttl || (slot.keeps.row && slot.seal.is_pending),
        Some(How::Shared) | None => false,
    }
}

/// Writes the jobs' rows and the misses' scores, in parts where they are too much for one statement or the database refuses them
/// together.
async fn insert_rows(context: &Context, jobs: &[ToStore<'_>]) -> Vec<Result<Inserted, String>> {
    let bytes = statement_bytes(context, jobs);
    let stored = || context.store.stored();
    let of = |part: Range<usize>| jobs.get(part).unwrap_or_default();
    let writing = Writing {
        insert: |part| attempt(context, of(part)),
        takes: async |part: Range<usize>| {
            let misses = Misses::of(context, of(part.clone()));
            let takes = context
                .store
                .takes(&batch(context, of(part), &misses))
                .await;
            context.hear_whether_it_takes(takes)
        },
        like: |part: Range<usize>| {
            let misses = Misses::of(context, of(part.clone()));
            context
                .store
                .stored_like(&batch(context, of(part), &misses))
        },
    };
    let kept = store::in_parts(bytes, context.write_backoff(), stored, writing).await;
    if let [Err(reason)] = kept.as_slice() {
        tracing::warn!(reason, "the database refuses a job's row");
    }
    kept
}

/// About how many bytes each job adds to a statement.
fn statement_bytes(context: &Context, jobs: &[ToStore<'_>]) -> Vec<usize> {
    let scores = context.settings.store.scores != StoredScores::None;
    let bytes = |ToStore { job, callback, .. }: &ToStore<'_>| {
        let rows = job.rows.as_deref().filter(|_| scores);
        let rows = rows.map_or(0, |rows| rows.bytes() + ROW_BYTES * rows.slots.len());
        let callback = callback.map_or(0, |to| ROW_BYTES + to.url.len());
        ROW_BYTES + job.result.results.len() + rows + names::bytes(&job.names) + callback
    };
    jobs.iter().map(bytes).collect()
}

/// What some jobs write.
fn batch<'a>(context: &Context, jobs: &'a [ToStore<'a>], misses: &'a Misses<'a>) -> Batch<'a> {
    let rows = jobs.iter().map(|ToStore { job, .. }| JobRow {
        job_id: &job.job_id,
        body_sha256: job.body_sha256,
        done: &job.result,
    });
    Batch {
        jobs: rows.collect(),
        scores: misses.rows(),
        served: names::rows(naming(jobs.iter())),
        spent: jobs.iter().filter_map(ToStore::spent).collect(),
        posters: jobs.iter().flat_map(ToStore::poster_rows).collect(),
        callbacks: jobs.iter().filter_map(ToStore::callback_row).collect(),
        finished_at: jobs
            .first()
            .map(|one| one.job.result.finished_at)
            .unwrap_or_default(),
        is_ledger: context.settings.store.jobs == StoredJobs::Ledger,
    }
}

/// One transaction, repeated until the database has answered. An error is the database's refusal, or that it took too long.
async fn attempt(context: &Context, jobs: &[ToStore<'_>]) -> Result<Vec<Inserted>, StoreError> {
    let misses = Misses::of(context, jobs);
    let batch = batch(context, jobs, &misses);
    let insert = || async {
        let begun = clock::instant();
        if is_mutated(Mutation::SkipsRows) {
            return Ok(vec![Inserted::New; batch.jobs.len()]);
        }
        let kept = context.store.insert(&batch).await;
        context.metrics.stored_in(clock::since(begun));
        kept
    };
    let kept = context.write_in_time(insert).await?;
    if kept.len() != jobs.len() {
        bug("the store answered for more or fewer jobs than it was given");
    }
    let new = kept.iter().filter(|kept| **kept == Inserted::New).count();
    context.metrics.rows(Table::Jobs, new);
    context.metrics.rows(Table::Scores, batch.scores.len());
    Ok(kept)
}

/// The misses of some jobs, with their inputs as they were scored.
struct Misses<'a>(Vec<Miss<'a>>);

/// A slot of a job that missed, and its input where inputs are stored.
type Miss<'a> = (&'a JobRows, SlotIndex, Option<Value<'a>>);

impl<'a> Misses<'a> {
    /// Every miss of these jobs, each once.
    fn of(context: &Context, jobs: &[ToStore<'a>]) -> Self {
        let inputs = context.settings.store.inputs;
        let mut misses = Vec::new();
        if context.settings.store.scores != StoredScores::None {
            let stored = jobs.iter().filter_map(|one| {
                let rows = one.job.rows.as_deref()?;
                Some((rows, one.refreshes_ttl))
            });
            for (rows, refreshes) in stored {
                for (index, slot) in rows.slots.enumerate() {
                    if slot.needs_row(refreshes) {
                        let value = if inputs { rows.value(slot) } else { None };
                        misses.push((rows, index, value));
                    }
                }
            }
        }
        let key = |(rows, index, _): &Miss<'a>| {
            let slot = rows.slots.get(*index);
            slot.map(|slot| (Arc::as_ptr(rows.model_of(slot)) as usize, slot.input))
        };
        misses.sort_by_key(key);
        misses.dedup_by(|one, other| key(one) == key(other));
        Self(misses)
    }

    fn rows(&self) -> Vec<ScoreRow<'_>> {
        let rows = self.0.iter().filter_map(|(rows, index, value)| {
            let slot = rows.slots.get(*index)?;
            let row = rows.row(*index)?;
            let info = rows.model_of(slot).info();
            let reading = Reading::of(info, row);
            let (text, pair, features) = match value {
                Some(Value::Features(values)) => (None, None, Some(*values)),
                Some(Value::Text { text, pair }) => (Some(text.as_ref()), pair.as_deref(), None),
                None => (None, None, None),
            };
            let input = rows.job.inputs.get(slot.number)?;
            Some(ScoreRow {
                input: slot.input,
                model: &info.name,
                version: &info.version,
                namespace: rows.job.namespace(),
                key: input.key.as_deref(),
                label: reading.label(),
                score: reading.score(),
                outputs: row,
                text,
                text_pair: pair,
                features,
            })
        });
        rows.collect()
    }
}
