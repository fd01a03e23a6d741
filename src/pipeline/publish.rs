//! Owns what readers find of a job: its named entries, its ranking, and what it removes.
//!
//! Promises that all of it is as new as the job is, and that of a key which comes twice the last one counts. Refuses to write
//! anything: that is done once the job's row is committed.

use super::{context::Context, render::InputRow, source::JobSource};
use crate::{
    cache::{REMOVED, Word, WordKind},
    clock,
};
use ahash::RandomState;
use chrono::{DateTime, Utc};
use kiln_contract::{
    job::{Content, Job},
    key,
    order::Order,
    reader::{self, EntryWriter, Provenance, RankedItem},
    result::Reading,
};
use kiln_model::Model;
use std::{collections::HashSet, sync::Arc};

/// What is to stand under readers' keys for a job, in its namespace, `model` being its version.
pub(super) fn words<'r>(
    context: &Context,
    (job, source): (&Job<'_>, &JobSource),
    model: &Arc<Model>,
    ttl_seconds: u64,
    at: DateTime<Utc>,
    rows: &impl Fn(usize) -> Option<InputRow<'r>>,
) -> Vec<Word> {
    if !job.is_for_readers() {
        return Vec::new();
    }
    let own = context.settings.namespaces.get(job.namespace());
    let grace_ms = 1_000 * context.settings.cache.grace_of(own);
    let said = Provenance {
        job_id: Some(&job.job_id),
        as_of: job.as_of.as_ref(),
        order: Order::new(job.as_of.as_ref(), source.accepted()),
    };
    let writer = EntryWriter::new(model.info(), at, &said);
    let mut others: Option<EntryWriter<'_>> = None;
    let may_be_old = job.as_of.is_some();
    let kind = match source.refreshes_ttl() {
        true => WordKind::Refresh,
        false => WordKind::Entry,
    };
    let mut rng = clock::rng();
    let mut words = Vec::new();
    let mut put = |key: &str, value: Vec<u8>| {
        words.push(Word {
            key: key::named(job.namespace(), key),
            value,
            ttl_ms: clock::random_ttl_ms(&mut rng, ttl_seconds) + grace_ms,
            kind,
            may_be_old,
        });
    };
    let (mut ranked, mut written, mut removed) = (Vec::new(), Vec::new(), Vec::new());
    for (number, input) in job.inputs.iter().enumerate() {
        let Some(key) = input.key.as_deref() else {
            continue;
        };
        if input.content == Content::Removal {
            removed.push(key);
            continue;
        }
        let Some(found) = rows(number) else {
            continue;
        };
        let InputRow { input, row, .. } = found;
        if job.named {
            written.push((key, Some(*input)));
            let writer = match Arc::ptr_eq(found.model, model) {
                true => &writer,
                false => {
                    others.get_or_insert_with(|| EntryWriter::new(found.model.info(), at, &said))
                }
            };
            put(key, writer.named(row));
        }
        if job.rank.is_some()
            && let Some(score) = Reading::of(found.model.info(), row).score()
        {
            ranked.push(RankedItem { key, score });
        }
    }
    if let Some(rank) = &job.rank {
        written.push((&rank.key, None));
        let top = rank.top.unwrap_or(ranked.len());
        put(&rank.key, writer.ranking(&reader::rank(ranked, top)));
    }
    let life_ms = 1_000 * ttl_seconds + grace_ms;
    words.extend(removals(job.namespace(), &removed, &said, life_ms));
    if let Some(heat) = &context.heat {
        let is_news = !source.refreshes_ttl();
        heat.readers
            .written(job.namespace(), written.into_iter(), is_news);
    }
    last_of_each(words)
}

/// What keeps readers from removed entries. Older words may come for as long as the entry that they would replace might have stood, and
/// longer out of a queue.
fn removals(
    namespace: &str,
    keys: &[&str],
    said: &Provenance<'_>,
    life_ms: u64,
) -> impl Iterator<Item = Word> {
    keys.iter().map(move |key| Word {
        key: key::named(namespace, key),
        value: reader::removal(said),
        ttl_ms: life_ms.max(REMOVED.as_millis() as u64),
        kind: WordKind::Removal,
        may_be_old: false,
    })
}

/// The last word on each key, in order: all are as new.
fn last_of_each(mut words: Vec<Word>) -> Vec<Word> {
    let mut seen: HashSet<&str, RandomState> = HashSet::default();
    let last: Vec<bool> = words
        .iter()
        .rev()
        .map(|word| seen.insert(&word.key))
        .collect();
    if last.contains(&false) {
        let mut last = last.into_iter().rev();
        words.retain(|_| last.next().unwrap_or(true));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_key_that_comes_twice_the_last_one_counts() {
        let word = |(key, value): (&str, u8)| Word {
            key: key.to_owned(),
            value: vec![value],
            ttl_ms: 1,
            kind: WordKind::Entry,
            may_be_old: false,
        };
        let words = [("a", 1), ("b", 2), ("a", 3), ("c", 4), ("a", 5)].map(word);
        let left = last_of_each(words.into());
        let left: Vec<(&str, u8)> = left.iter().map(|w| (w.key.as_str(), w.value[0])).collect();
        assert_eq!(left, [("b", 2), ("c", 4), ("a", 5)]);
    }
}
