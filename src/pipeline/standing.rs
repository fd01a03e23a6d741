//! Owns having the history of names say what stands in Redis although something newer stood there before, which has left Redis.
//!
//! Promises that only what still stands is noted: a newer word's row is written before the word itself, which may be on its way.

use super::{context::Context, ending::FinishedJob, names};
use crate::{
    clock,
    store::{self, Inserted, ServedRow, Standing, StoreError},
};
use kiln_contract::{
    key,
    order::{Moment, Order},
    reader,
    result::Finished,
};
use std::{collections::HashSet, time::Duration};

/// Longest run of a job that a row is taken to tell of, in milliseconds: a day.
const MAX_ELAPSED_MS: f64 = 86_400_000.0;
/// How exactly a row tells when its job began.
const EXACT: Duration = Duration::from_millis(2);
/// How long a newer word that has its row just now is waited for: as long as Redis is, without settings that say otherwise.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

/// How new a job is that was finished before: no newer than the run that finished it, should its first acceptance be forgotten.
pub(super) fn at_first(order: Order, first: &Finished) -> Order {
    let elapsed = Duration::from_secs_f64(first.elapsed_ms.clamp(0.0, MAX_ELAPSED_MS) / 1e3);
    let begun = Moment::of(first.finished_at - elapsed);
    let after = order.accepted().micros().saturating_sub(begun.micros());
    match u128::from(after) <= EXACT.as_micros() {
        true => order,
        false => order.accepted_by(begun),
    }
}

/// Notes what stands under these keys, by these jobs.
pub(super) async fn note(
    context: &Context,
    jobs: &[(&FinishedJob, &Inserted)],
    standing: &HashSet<String>,
) {
    if standing.is_empty() {
        return;
    }
    let at = clock::now();
    for is_repeat in [false, true] {
        let naming = jobs.iter().filter_map(|(job, inserted)| {
            let order = match inserted {
                Inserted::New if !is_repeat => job.order,
                Inserted::Same(first) if is_repeat => at_first(job.order, first),
                _ => return None,
            };
            Some((&*job.job_id, &*job.result, order, job.names.as_slice()))
        });
        let mut rows = names::rows(naming);
        rows.retain(|row| standing.contains(&key::named(row.namespace, row.key)));
        let said = Standing {
            rows,
            is_repeat,
            at,
        };
        let note = || note_rows(context, &said);
        let noted = store::until_refused(context.write_backoff(), note).await;
        if let Err(error) = noted {
            tracing::warn!(%error, "the database refuses what stands under names");
        }
    }
}

async fn note_rows(context: &Context, said: &Standing<'_>) -> Result<(), StoreError> {
    let unsaid = context.store.unsaid(said).await?;
    if unsaid.is_empty() {
        return Ok(());
    }
    if unsaid.iter().any(|one| one.is_after_news) {
        tokio::time::sleep(ON_ITS_WAY).await;
    }
    let is_unsaid = |row: &&ServedRow<'_>| {
        let mut unsaid = unsaid.iter();
        unsaid.any(|one| (&*one.namespace, &*one.key) == (row.namespace, row.key))
    };
    let mut rows: Vec<ServedRow<'_>> = said.rows.iter().filter(is_unsaid).copied().collect();
    let keys = rows.iter().map(|row| key::named(row.namespace, row.key));
    let keys: Vec<String> = keys.collect();
    let mut found = context.cache.standing(&keys).await.into_iter();
    rows.retain(|row| {
        let found = found.next().flatten();
        found.is_none_or(|value| reader::job_of(&value).as_deref() == Some(row.job_id))
    });
    let still = Standing { rows, ..*said };
    context.store.served_alone(&still).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_is_as_old_as_its_first_run() {
        let begun = clock::now();
        let first = Finished {
            model: "m".to_owned(),
            version: "1".to_owned(),
            namespace: "n".to_owned(),
            results: "[]".to_owned(),
            hits: 0,
            misses: 1,
            elapsed_ms: 40.0,
            finished_at: begun + Duration::from_millis(40),
        };
        let accepted = |micros: u64| {
            let at = Moment::of(begun).micros() + micros;
            let accepted = Moment::from_micros(at.cast_signed());
            at_first(Order::new(None, accepted), &first)
        };
        let at = |micros| Moment::of(begun).micros() + micros;
        assert_eq!(accepted(7).accepted().micros(), at(7), "it is known");
        let forgotten = accepted(9_000_000);
        assert_eq!(forgotten.accepted().micros(), at(0));
        assert!(forgotten.is_plain());
    }
}
