//! Owns the marks of runs that were cancelled, and counting what is done of a run.
//!
//! Promises that a mark is set once, heard by all workers, and forgotten once no job of its run can wait any more.

use super::{PostgresStore, StoreError};
use crate::redact::Redact;
use chrono::{DateTime, Utc};
use sqlx::Row;

const CANCEL: &str = "\
INSERT INTO cancelled_runs (name) VALUES ($1) ON CONFLICT (name) DO NOTHING RETURNING pg_notify('kiln', '')";
const FORGET: &str = "DELETE FROM cancelled_runs WHERE cancelled_at < now() - interval '30 days'";
/// The ids of a run's jobs begin with its name and a dot; what comes after a dot in the alphabet is a slash.
const COUNT: &str = "\
SELECT count(*) FILTER (WHERE status = 'ok') AS ok, count(*) FILTER (WHERE status = 'rejected' AND error->>'code' <> 'cancelled') AS rejected,
  count(*) FILTER (WHERE status = 'rejected' AND error->>'code' = 'cancelled') AS dropped,
  (SELECT cancelled_at FROM cancelled_runs WHERE name = $1) AS cancelled_at
FROM jobs WHERE job_id > $1 || '.' AND job_id < $1 || '/'";

/// What is done of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunJobs {
    /// Jobs with results.
    pub ok: u64,
    /// Jobs that were rejected.
    pub rejected: u64,
    /// Jobs that were dropped, since their run was cancelled.
    pub dropped: u64,
    /// When the run was cancelled.
    pub cancelled_at: Option<DateTime<Utc>>,
}

impl PostgresStore {
    /// Cancels a run for every worker; says whether it wasn't cancelled yet.
    pub async fn cancel_run(&self, name: &str) -> Result<bool, StoreError> {
        self.execute(sqlx::query(FORGET)).await?;
        let rows = self.execute(sqlx::query(CANCEL).bind(name)).await?;
        Ok(rows > 0)
    }

    /// Counts a run's jobs that have their rows.
    pub async fn run_jobs(&self, name: &str) -> Result<RunJobs, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query(COUNT).bind(name);
        let answer = self.deadline(query.fetch_one(&mut *lease)).await;
        let row = self.end(lease, answer).await?;
        let count = |name: &str| row.try_get::<i64, _>(name).map(i64::unsigned_abs);
        let read = || {
            Ok(RunJobs {
                ok: count("ok")?,
                rejected: count("rejected")?,
                dropped: count("dropped")?,
                cancelled_at: row.try_get("cancelled_at")?,
            })
        };
        read().map_err(|e: sqlx::Error| StoreError::Refused(e.redacted()))
    }
}
