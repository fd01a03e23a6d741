//! Owns how far the tables are read that schedules follow, and which worker follows which.
//!
//! Promises that a table is followed by one worker at a time, under the claim of a run: a write under an older token changes nothing. A position
//! is durable before anybody relies on it.

use super::{Claim, PostgresStore, StoreError, runs::new_run_id, tables::Tables};
use kiln_contract::order::Kind;
use std::{collections::BTreeSet, time::Duration};

const FREE: &str = "\
SELECT wanted FROM unnest($1::text[]) AS wanted
WHERE NOT EXISTS (SELECT FROM warm_runs WHERE schedule = wanted AND state IN ('queued', 'planning', 'posting', 'waiting'))";
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('kiln warm ' || $1, 0))";
const CLAIM: &str = concat!(
    "\
INSERT INTO warm_runs (id, schedule, due_at, state, worker, lease_until, limit_seconds, ends_at) OVERRIDING SYSTEM VALUE
SELECT ",
    new_run_id!(),
    ", $1, clock_timestamp(), 'planning', $2, now() + make_interval(secs => $3), $4, now() + make_interval(secs => $4)
WHERE NOT EXISTS (SELECT FROM warm_runs WHERE schedule = $1 AND state IN ('queued', 'planning', 'posting', 'waiting'))
RETURNING id, token"
);
const TAKE_OVER: &str = "\
UPDATE warm_runs SET worker = $1, token = token + 1, lease_until = now() + make_interval(secs => $2)
WHERE id = (
  SELECT id FROM warm_runs WHERE state = 'planning' AND lease_until < now() AND schedule = ANY($3)
  ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id, token, schedule, ends_at < now()";
const POSITION: &str =
    "SELECT position_kind::text, position, source_digest FROM warm_positions WHERE schedule = $1";
const NOTE: &str = "\
WITH held AS MATERIALIZED (
  UPDATE warm_runs SET posted = coalesce($9, posted + $3), planned = coalesce($9, posted + $3), bad = bad + $4, pieces = pieces + $5,
    model_seconds = model_seconds + $6, message = $7
  WHERE id = $1 AND token = $2 AND state = 'planning' RETURNING schedule)
INSERT INTO warm_positions (schedule, position_kind, position, source_digest) SELECT schedule, $10::text::\"char\", $8, $11 FROM held
ON CONFLICT (schedule) DO UPDATE SET position_kind = excluded.position_kind, position = excluded.position, source_digest = excluded.source_digest, noted_at = now()";
const ENDED: &str = "SELECT job_id FROM jobs WHERE job_id = ANY($1)";
const ENDED_BY_IDS: &str = "SELECT job_id FROM job_ids WHERE job_id = ANY($1)";

/// How far a schedule has followed its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowedTo {
    pub position: (Kind, i64),
    /// The digest of what it followed; nothing where a release noted it that didn't say.
    pub source: Option<Vec<u8>>,
}

impl FollowedTo {
    /// Whether the position is one of the source with this digest, as far as anybody knows.
    pub fn is_of(&self, digest: &[u8]) -> bool {
        self.source.as_deref().is_none_or(|known| known == digest)
    }
}

/// What a run has followed since that was noted last.
#[derive(Debug, Clone, PartialEq)]
pub struct Followed<'a> {
    /// Up to where every change has been served, and the digest of what is followed.
    pub position: (Kind, i64),
    pub source: &'a [u8],
    /// Inputs that were posted, rows that were no input, jobs, and the model time that was expected, in seconds.
    pub posted: i64,
    pub bad: i64,
    pub jobs: i64,
    pub model_seconds: f64,
    /// What is in its way now.
    pub message: Option<&'a str>,
    /// Inputs that the run has posted in all, where that is known.
    pub all_posted: Option<i64>,
}

impl PostgresStore {
    /// Which of these schedules have no run that is open.
    pub async fn unclaimed(&self, schedules: &[&str]) -> Result<Vec<String>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_scalar(FREE).bind(schedules);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        self.end(lease, answer).await
    }

    /// Claims a run that follows a schedule's table; nothing where it has one that is open.
    pub async fn claim_following(
        &self,
        schedule: &str,
        worker: &str,
        life: Duration,
        limit: Duration,
    ) -> Result<Option<Claim>, StoreError> {
        let mut lease = self.transaction().await?;
        let work = async {
            sqlx::query(LOCK)
                .bind(schedule)
                .execute(&mut *lease)
                .await?;
            let row = sqlx::query_as::<_, (i64, i64)>(CLAIM)
                .bind(schedule)
                .bind(worker)
                .bind(life.as_secs_f64())
                .bind(limit.as_secs_f64())
                .fetch_optional(&mut *lease)
                .await?;
            Ok(row.map(|(id, token)| Claim { id, token }))
        };
        let answer = self.deadline(work).await;
        self.end(lease, answer).await
    }

    /// How far a schedule has followed its table; nothing where it never has.
    pub async fn followed_to(&self, schedule: &str) -> Result<Option<FollowedTo>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_as::<_, (String, i64, Option<Vec<u8>>)>(POSITION).bind(schedule);
        let answer = self.deadline(query.fetch_optional(&mut *lease)).await;
        let row = self.end(lease, answer).await?;
        Ok(row.and_then(|(letter, position, source)| {
            let position = (kind_of(&letter)?, position);
            Some(FollowedTo { position, source })
        }))
    }

    /// Takes over a run that follows the table of one of these schedules and whose worker is gone. Says which one, and whether its time limit has
    /// passed.
    pub async fn take_following_over(
        &self,
        worker: &str,
        schedules: &[&str],
        life: Duration,
    ) -> Result<Option<(Claim, String, bool)>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_as::<_, (i64, i64, String, bool)>(TAKE_OVER)
            .bind(worker)
            .bind(life.as_secs_f64())
            .bind(schedules);
        let answer = self.deadline(query.fetch_optional(&mut *lease)).await;
        let row = self.end(lease, answer).await?;
        Ok(row.map(|(id, token, schedule, is_over)| (Claim { id, token }, schedule, is_over)))
    }

    /// Notes how far a run has followed. Says whether the claim holds.
    pub async fn note_followed(
        &self,
        claim: Claim,
        followed: &Followed<'_>,
    ) -> Result<bool, StoreError> {
        let (kind, position) = followed.position;
        let query = sqlx::query(NOTE)
            .bind(claim.id)
            .bind(claim.token)
            .bind(followed.posted)
            .bind(followed.bad)
            .bind(followed.jobs)
            .bind(followed.model_seconds)
            .bind(followed.message)
            .bind(position)
            .bind(followed.all_posted)
            .bind(letter_of(kind))
            .bind(followed.source);
        Ok(self.execute(query).await? > 0)
    }

    /// Which of these jobs have ended.
    pub async fn ended_jobs(&self, ids: &[&str]) -> Result<Vec<String>, StoreError> {
        let ask = |tables| async move {
            let statement = match tables {
                Tables::Plain => ENDED,
                Tables::Partitioned => ENDED_BY_IDS,
            };
            let mut lease = self.lease().await?;
            let query = sqlx::query_scalar(statement).bind(ids);
            let answer = self.deadline(query.fetch_all(&mut *lease)).await;
            self.end(lease, answer).await
        };
        self.for_tables(BTreeSet::new, ask).await
    }
}

fn letter_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Sequence => "s",
        Kind::Moment => "t",
    }
}

fn kind_of(letter: &str) -> Option<Kind> {
    let mut kinds = [Kind::Sequence, Kind::Moment].into_iter();
    kinds.find(|kind| letter_of(*kind) == letter)
}
