//! Owns what readers find of a job: its named entries and its ranking.
//!
//! Refuses to write them: that is done once the job's row is committed.

use super::{context::Context, render::InputRow, source::JobSource};
use crate::{cache::Put, clock};
use chrono::{DateTime, Utc};
use kiln_contract::job::Job;
use kiln_contract::key;
use kiln_contract::result::{self, RankedItem, Reading};
use kiln_model::ModelInfo;

/// The named entries and the ranking of a job, in its namespace.
pub(super) fn entries<'r>(
    context: &Context,
    source: &JobSource,
    job: &Job<'_>,
    info: &ModelInfo,
    ttl_seconds: u64,
    at: DateTime<Utc>,
    rows: &impl Fn(usize) -> Option<InputRow<'r>>,
) -> Vec<Put> {
    if !job.named && job.rank.is_none() {
        return Vec::new();
    }
    let own = context.settings.namespaces.get(job.namespace());
    let grace_ms = 1_000 * context.settings.cache.grace_of(own);
    let mut rng = rand::rng();
    let mut entries = Vec::new();
    let mut put = |key: &str, value: Vec<u8>| {
        entries.push(Put {
            key: key::named(job.namespace(), key).into_bytes(),
            value,
            ttl_ms: clock::random_ttl_ms(&mut rng, ttl_seconds) + grace_ms,
        });
    };
    let (mut ranked, mut written) = (Vec::new(), Vec::new());
    for (number, input) in job.inputs.iter().enumerate() {
        let (Some(key), Some(InputRow { input, row, .. })) = (input.key.as_deref(), rows(number))
        else {
            continue;
        };
        if job.named {
            written.push((key, Some(*input)));
            put(key, result::named_entry(info, row, at));
        }
        if let Some(score) = Reading::of(info, row).score() {
            ranked.push(RankedItem { key, score });
        }
    }
    if let Some(rank) = &job.rank {
        written.push((&rank.key, None));
        let top = rank.top.unwrap_or(ranked.len());
        let best = result::rank(ranked, top);
        put(&rank.key, result::ranking(info, best, at));
    }
    if let Some(heat) = &context.heat {
        let is_news = !source.refreshes_ttl();
        heat.readers
            .written(job.namespace(), written.into_iter(), is_news);
    }
    entries
}
