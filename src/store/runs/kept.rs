//! What the runs of schedules keep in Redis, and would keep, and how long they took: what a plan knows of those before it.

use super::Claim;
use crate::store::{PostgresStore, StoreError};
use sqlx::PgConnection;

/// Two steps down an index for each schedule, however many runs it has had. What is kept is what the latest run that keeps anything plans, and of one that has
/// ended early as much less as it left of its inputs; it is there until it has expired. Of runs of an earlier release it is taken to be there for a
/// day.
const OTHERS: &str = "\
WITH RECURSIVE names AS (
  (SELECT schedule FROM warm_runs ORDER BY schedule LIMIT 1)
  UNION ALL
  SELECT (SELECT schedule FROM warm_runs WHERE schedule > names.schedule ORDER BY schedule LIMIT 1) FROM names WHERE names.schedule IS NOT NULL)
SELECT coalesce(kept.bytes, 0)::float8, coalesce(wanted.bytes, 0)::float8 FROM names
LEFT JOIN LATERAL (
  SELECT kept_bytes * CASE WHEN finished_at IS NULL OR planned = 0 THEN 1
      ELSE (held.fresh + posted)::float8 / greatest(held.fresh + planned, 1) END AS bytes,
    coalesce(kept_until, started_at + interval '1 day') > now() AS is_there
  FROM warm_runs CROSS JOIN LATERAL (SELECT greatest(skipped - greatest(left_over - greatest(planned - posted, 0), 0), 0) AS fresh) AS held
  WHERE schedule = names.schedule AND kept_bytes > 0 ORDER BY due_at DESC LIMIT 1
) AS kept ON kept.is_there
LEFT JOIN LATERAL (
  SELECT wanted_bytes AS bytes, coalesce(kept_until, started_at + interval '1 hour') > now() AS is_there
  FROM warm_runs WHERE schedule = names.schedule AND wanted_bytes IS NOT NULL ORDER BY due_at DESC LIMIT 1
) AS wanted ON wanted.is_there
WHERE names.schedule IS NOT NULL AND names.schedule <> $1 AND (kept.bytes > 0 OR wanted.bytes > 0)";
const BEFORE: &str = "\
SELECT (SELECT extract(epoch FROM finished_at - started_at)::float8 FROM warm_runs
    WHERE schedule = $1 AND state = 'done' ORDER BY due_at DESC LIMIT 1),
  (SELECT evicted_keys FROM warm_runs WHERE evicted_keys IS NOT NULL ORDER BY id DESC LIMIT 1)";
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('kiln warm memory', 0))";
const RESERVE: &str = "\
UPDATE warm_runs SET kept_bytes = $3, wanted_bytes = $4 WHERE id = $1 AND token = $2 AND state = 'planning'";

/// What another schedule's entries fill of Redis, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Kept {
    pub bytes: f64,
    /// What they would fill if there were room for all.
    pub wanted: f64,
}

/// What is known of runs before.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunsBefore {
    /// How long the schedule's last run took, in seconds.
    pub took: Option<f64>,
    /// What Redis had evicted when a run was planned last, where it said so.
    pub evicted_keys: Option<i64>,
    /// What other schedules keep.
    pub others: Vec<Kept>,
}

async fn others(lease: &mut PgConnection, schedule: &str) -> Result<Vec<Kept>, sqlx::Error> {
    let query = sqlx::query_as::<_, (f64, f64)>(OTHERS).bind(schedule);
    let rows = query.fetch_all(lease).await?;
    let kept = rows.into_iter();
    Ok(kept.map(|(bytes, wanted)| Kept { bytes, wanted }).collect())
}

impl PostgresStore {
    /// What is known of runs before a schedule's next one.
    pub async fn runs_before(&self, schedule: &str) -> Result<RunsBefore, StoreError> {
        let mut lease = self.lease().await?;
        let work = async {
            let query = sqlx::query_as::<_, (Option<f64>, Option<i64>)>(BEFORE).bind(schedule);
            let (took, evicted_keys) = query.fetch_one(&mut *lease).await?;
            let others = others(&mut lease, schedule).await?;
            Ok(RunsBefore {
                took,
                evicted_keys,
                others,
            })
        };
        let answer = self.deadline(work).await;
        self.end(lease, answer).await
    }

    /// Reserves memory for a run that is being planned, while no other is reserving any: what is left by what others keep, up to what it wants. Says how
    /// many bytes are left; nothing where the claim doesn't hold.
    pub async fn reserve_memory(
        &self,
        claim: Claim,
        schedule: &str,
        wanted: f64,
        left_by: impl Fn(&[Kept]) -> f64,
    ) -> Result<Option<f64>, StoreError> {
        let mut lease = self.transaction().await?;
        let work = async {
            sqlx::query(LOCK).execute(&mut *lease).await?;
            let left = left_by(&others(&mut lease, schedule).await?);
            let query = sqlx::query(RESERVE)
                .bind(claim.id)
                .bind(claim.token)
                .bind(left.min(wanted) as i64)
                .bind(wanted as i64);
            let held = query.execute(&mut *lease).await?.rows_affected() > 0;
            Ok(held.then_some(left))
        };
        let answer = self.deadline(work).await;
        self.end(lease, answer).await
    }
}
