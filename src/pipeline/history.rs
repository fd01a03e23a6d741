//! Owns telling the history of names what finished jobs say.
//!
//! Promises that whatever readers are shown under a name has its row before the job is acknowledged, and asks the database only about
//! names whose entry has changed by a job, or may have: most jobs say what was said before.

use super::{
    context::Context,
    ending::{FinishedJob, ToStore},
    names::{self, NameWord, Naming},
};
use crate::{
    cache::Published,
    store::{self, Inserted, ServedRow},
};
use ahash::RandomState;
use kiln_contract::{key, order::Moment, result::Finished};
use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
    time::Duration,
};

/// Names whose history is written with their jobs, and no round trip later. Most words of more say what was said before, and need no look
/// at the history: what Redis had tells.
pub(super) const FEW_NAMES: usize = 16;
/// Of so many words that change nothing, one is held against the history all the same: rows that a database has lost come back.
const SAMPLED: u32 = 32;
/// Longest run of a job that a row is taken to tell of, in milliseconds: a day.
const MAX_ELAPSED_MS: f64 = 86_400_000.0;

/// What became of what readers are to find, by the stamp of the jobs that say it; nothing where Redis has failed.
pub(super) type ByStamp = BTreeMap<u64, Option<Published>>;

/// Writes to the history of names what jobs that have their rows say now, as far as that isn't known to be what was said before. A job that
/// was finished before may have been lost between its row and this.
pub(super) async fn note(
    context: &Context,
    jobs: &[ToStore<'_>],
    kept: &[Result<Inserted, String>],
    published: &ByStamp,
    are_noted: bool,
) {
    let changed = |published: &Published| -> HashSet<String, RandomState> {
        let Published {
            unwritten, changed, ..
        } = published;
        unwritten.iter().chain(changed).cloned().collect()
    };
    let changed: BTreeMap<u64, Option<HashSet<String, RandomState>>> = published
        .iter()
        .map(|(stamp, published)| (*stamp, published.as_ref().map(changed)))
        .collect();
    let is_due = |(job, name): (&FinishedJob, &NameWord)| {
        let Some(Some(changed)) = changed.get(&job.stamp) else {
            return true;
        };
        let key = key::named(&job.result.namespace, name.key());
        name.is_removal() || changed.contains(&key) || rand::random_ratio(1, SAMPLED)
    };
    let words = jobs.iter().zip(kept).flat_map(|(one, kept)| {
        let order = match kept {
            Ok(Inserted::New) if !are_noted => Some(one.job.order),
            Ok(Inserted::Same(first)) => Some(one.job.order.accepted_by(begun(first))),
            Ok(Inserted::New | Inserted::Conflict) | Err(_) => None,
        };
        let words = order.map(|order| one.job.names.iter().map(move |name| (order, name)));
        let words = words.into_iter().flatten();
        words.map(move |(order, name)| (one.job, order, name))
    });
    let words = words.filter(|(job, _, name)| is_due((job, name)));
    let words =
        words.map(|(job, order, name)| -> Naming<'_> { (&*job.job_id, &*job.result, order, name) });
    let rows = names::rows(words);
    let Some(at) = jobs.first().map(|one| one.job.result.finished_at) else {
        return;
    };
    let bytes = rows.iter().map(ServedRow::bytes).collect();
    let stored = || context.store.stored();
    let insert = async |part: Range<usize>| {
        let rows = rows.get(part).unwrap_or_default();
        context
            .write_in_time(|| context.store.serve(rows, at))
            .await?;
        Ok(rows.iter().map(|_| ()).collect())
    };
    let noted = store::in_parts(bytes, context.write_backoff(), stored, insert).await;
    if let Some(Err(reason)) = noted.iter().find(|noted| noted.is_err()) {
        tracing::warn!(reason, "the database refuses what a name is served");
    }
}

/// When a job that was finished was accepted, by its row.
pub(super) fn begun(first: &Finished) -> Moment {
    let elapsed = Duration::from_secs_f64(first.elapsed_ms.clamp(0.0, MAX_ELAPSED_MS) / 1e3);
    Moment::of(first.finished_at - elapsed)
}
