//! What waits of schedules: a queue of each, which is bounded and outlives no schedule.
//!
//! Promises that a run is left to every worker that knows its schedule: each says so by keeping it, and it ends only once nobody has for a while.

use crate::store::{PostgresStore, StoreError};
use std::time::Duration;

/// Said by whoever knows the schedule, before half of the time is over.
const KEEP: &str = "\
UPDATE warm_runs SET lease_until = now() + make_interval(secs => $2) WHERE id IN (
  SELECT id FROM warm_runs WHERE state = 'queued' AND schedule = ANY($1)
    AND coalesce(lease_until < now() + make_interval(secs => $2 / 2), true)
  ORDER BY id FOR UPDATE SKIP LOCKED)";
/// Workers of an earlier release keep nothing: while there is one, nobody knows which schedules it has.
const END_UNKNOWN: &str = "\
UPDATE warm_runs SET state = 'skipped', message = $3, finished_at = now(), worker = NULL, lease_until = NULL WHERE id IN (
  SELECT id FROM warm_runs WHERE state = 'queued' AND schedule <> ALL($1)
    AND greatest(lease_until, started_at + make_interval(secs => $2)) < now()
  ORDER BY id FOR UPDATE SKIP LOCKED)
AND NOT EXISTS (
  SELECT FROM workers WHERE seen_at > now() - make_interval(secs => $2) AND coalesce(figures->>'keeps_queued', '') <> 'true')
RETURNING schedule";

/// How long a run waits whose schedule no worker knows: a worker that is restarted, or a file that is moved, is back by then.
const UNKNOWN_FOR: Duration = Duration::from_secs(600);
/// Runs of one schedule that may wait where each is to be made up for.
pub(super) const MAX_QUEUED: i64 = 1_000;
/// What is said of a run that one which waits stands for.
pub(super) const STANDS_FOR: &str = "an earlier run waits already, and stands for this one";
const UNKNOWN: &str = "no worker knows its schedule any more";

impl PostgresStore {
    /// Keeps the runs that wait of these schedules for those who know them.
    pub async fn keep_queued(&self, known: &[&str]) -> Result<(), StoreError> {
        let query = sqlx::query(KEEP).bind(known);
        let query = query.bind(UNKNOWN_FOR.as_secs_f64());
        self.execute(query).await.map(drop)
    }

    /// Ends runs that wait of other schedules than these, where nobody has kept them for long; says whose they were.
    pub async fn end_unknown(&self, known: &[&str]) -> Result<Vec<String>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_scalar(END_UNKNOWN)
            .bind(known)
            .bind(UNKNOWN_FOR.as_secs_f64())
            .bind(UNKNOWN);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        self.end(lease, answer).await
    }
}
