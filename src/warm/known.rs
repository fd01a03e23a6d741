//! Owns renewing scores that are known: an entry that Redis has lost is put back from the table of scores before the job that renews it is posted.
//!
//! Promises that nothing is put back that was scored before its namespace's latest invalidation, and that what is put back bears no later one. Refuses
//! to renew by itself: that is the job's.

use crate::{
    cache::{Cache, Fresh, Space},
    clock,
    config::{CacheMode, Settings, StoredScores},
    pipeline::scored_by,
    store::{Post, PostgresStore, RunPiece, StoreError},
};
use chrono::{DateTime, TimeDelta, Utc};
use kiln_contract::{entry::Seal, job::Job, key::InputHash};
use kiln_model::{Model, Registry};
use std::{sync::Arc, time::Duration};

/// How far the clocks of a worker and of the database may be apart.
const SKEW: TimeDelta = TimeDelta::seconds(60);

/// Whether a row that was written then was scored after an invalidation: its job may have begun as long before as a job may be in hand. What a
/// namespace without one has always was.
pub(super) fn is_after(scored_at: DateTime<Utc>, mark: u64, settings: &Settings) -> bool {
    if mark == 0 {
        return true;
    }
    let hold = i64::try_from(settings.intake.max_hold_seconds).unwrap_or(i64::MAX);
    let hold = TimeDelta::try_seconds(hold).unwrap_or(TimeDelta::MAX);
    let since = scored_at
        .checked_sub_signed(hold)
        .and_then(|at| at.checked_sub_signed(SKEW));
    since.is_some_and(|at| at.timestamp_millis() > i64::try_from(mark).unwrap_or(i64::MAX))
}

/// Whether scores of a namespace's inputs are looked up in any case, and may have rows: otherwise what a model computes sooner is computed.
pub(super) fn are_kept(settings: &Settings, namespace: &str, model: &str) -> bool {
    keeps_all(settings, namespace, model) && settings.store.scores != StoredScores::None
}

/// Whether scores are looked up and kept whatever they cost.
pub(super) fn keeps_all(settings: &Settings, namespace: &str, model: &str) -> bool {
    let own = settings.namespaces.get(namespace);
    settings.cache.mode_of(own, model) == CacheMode::Always
}

/// What a job of a run renews of one version.
struct Renewals {
    model: Arc<Model>,
    namespace: String,
    ttl_seconds: u64,
    inputs: Vec<InputHash>,
}

impl Renewals {
    /// What a job renews, of each version that its inputs go to; nothing of one that computes all that it has, or that no model here takes.
    fn of(registry: &Registry, run: i64, (post, body): (&Post, &[u8])) -> Vec<Self> {
        if post.computes >= post.inputs {
            return Vec::new();
        }
        Self::read(registry, run, (post, body)).unwrap_or_default()
    }

    fn read(registry: &Registry, run: i64, (post, body): (&Post, &[u8])) -> Option<Vec<Self>> {
        let piece = post.piece;
        let id = RunPiece { run, piece }.job_id();
        let mut job = Job::parse(body, Some(&id)).ok()?;
        let serving = registry.serving(&job.model).ok()?;
        // Features by name are put in order.
        job.check_inputs(serving.model.info()).ok()?;
        let ttl_seconds = job.ttl_seconds?;
        let scored = job.inputs.iter();
        let scored = scored.filter_map(|input| scored_by(&job, input, &serving, None));
        let scored: Vec<(&Arc<Model>, InputHash, _)> = scored.collect();
        let of_version = |model: &Arc<Model>| {
            let its = scored.iter().filter(|(one, ..)| Arc::ptr_eq(one, model));
            Self {
                inputs: its.map(|(_, input, _)| *input).collect(),
                namespace: job.namespace().to_owned(),
                ttl_seconds,
                model: model.clone(),
            }
        };
        Some(serving.versions().map(of_version).collect())
    }
}

/// What entries are put back with.
pub(super) struct Renewing<'a> {
    pub cache: &'a Cache,
    pub store: &'a PostgresStore,
    pub registry: &'a Registry,
    pub settings: &'a Settings,
    /// How long jobs are expected to wait for their turn.
    pub waits: Duration,
}

impl Renewing<'_> {
    /// Puts entries back that these jobs of a run are to renew and that Redis doesn't have, or won't have when it is the jobs' turn. What can't be put
    /// back is computed by the job.
    pub(super) async fn put_back<'a>(
        &self,
        run: i64,
        jobs: impl Iterator<Item = (&'a Post, &'a Vec<u8>)>,
    ) -> Result<(), StoreError> {
        let renewals =
            jobs.flat_map(|(post, body)| Renewals::of(self.registry, run, (post, body.as_slice())));
        let renewals = renewals.filter(|renewal| {
            let model = &renewal.model.info().name;
            let is_any = !renewal.inputs.is_empty();
            is_any && are_kept(self.settings, &renewal.namespace, model)
        });
        let renewals: Vec<Renewals> = renewals.collect();
        for renewal in renewals {
            if !self.put_back_one(&renewal).await? {
                break;
            }
        }
        Ok(())
    }

    /// The same of one job. Says whether Redis answers.
    async fn put_back_one(&self, renewal: &Renewals) -> Result<bool, StoreError> {
        let Some(redis) = self.cache.server() else {
            return Ok(false);
        };
        let (info, space) = (renewal.model.info(), Space::new(renewal.model.info()));
        let keys = renewal.inputs.iter().map(|input| space.prefix.key(input));
        let keys: Vec<Vec<u8>> = keys.collect();
        let Some(mark) = redis.mark(&renewal.namespace).await else {
            return Ok(false);
        };
        let Some(lives) = redis.ttls_since(&keys, mark).await else {
            return Ok(false);
        };
        let is_missing = |life| is_short(life, self.waits, renewal.ttl_seconds);
        let missing = renewal.inputs.iter().zip(lives);
        let missing = missing.filter_map(|(input, life)| is_missing(life).then_some(*input));
        let missing: Vec<InputHash> = missing.collect();
        if missing.is_empty() {
            return Ok(true);
        }
        let version = (info.name.as_str(), info.version.as_str());
        let rows = self.store.known_scores(version, &missing).await?;
        let known = missing.iter().zip(&rows).filter_map(|(input, row)| {
            let row = row.as_ref()?;
            let is_whole = row.outputs.len() == space.width();
            (is_whole && is_after(row.scored_at, mark, self.settings)).then_some((input, row))
        });
        let known: Vec<_> = known.collect();
        let fresh: Vec<Fresh<'_>> = {
            let mut rng = rand::rng();
            let fresh = known.into_iter().map(|(input, row)| Fresh {
                space: &space,
                input,
                row: &row.outputs,
                ttl_ms: clock::random_ttl_ms(&mut rng, renewal.ttl_seconds),
                seal: Seal::settled(mark),
            });
            fresh.collect()
        };
        if !fresh.is_empty() {
            self.cache.put(&fresh).await;
        }
        Ok(true)
    }
}

/// Whether an entry with so many milliseconds to live may be gone after a wait. The database isn't asked for one that has half of its time before
/// it, however long the wait.
fn is_short(life_ms: Option<u64>, waits: Duration, ttl_seconds: u64) -> bool {
    let waits = waits.min(Duration::from_secs(ttl_seconds) / 2);
    life_ms.is_none_or(|ms| Duration::from_millis(ms) < waits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_scored_before_an_invalidation_is_not_put_back() {
        let mut settings = Settings::default();
        settings.intake.max_hold_seconds = 100;
        let at = |seconds| DateTime::from_timestamp(seconds, 0).expect("a time");
        assert!(is_after(at(5), 0, &settings), "nothing was invalidated");
        assert!(!is_after(at(1_000), 1_000_000, &settings));
        assert!(!is_after(at(1_160), 1_000_000, &settings));
        assert!(is_after(at(1_161), 1_000_000, &settings));
        assert!(!is_after(at(1_161), u64::MAX, &settings));
        settings.intake.max_hold_seconds = u64::MAX;
        assert!(!is_after(at(1_161), 1_000_000, &settings));
    }

    #[test]
    fn what_will_be_gone_at_its_jobs_turn_is_put_back_before() {
        let waits = Duration::from_secs(20);
        assert!(is_short(None, waits, 3_600) && is_short(Some(19_999), waits, 3_600));
        assert!(!is_short(Some(20_000), waits, 3_600));
        assert!(!is_short(Some(5_000), waits, 10), "it was renewed just now");
        assert!(is_short(Some(4_999), Duration::MAX, 10));
    }
}
