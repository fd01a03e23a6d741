//! Owns deleting old rows from Postgres, some at a time.
//!
//! Promises that a name's latest row stays, however long ago it began: what readers find may still be of it.

use super::{PostgresStore, StoreError, Table};
use chrono::{DateTime, Utc};
use sqlx::Row;

const PRUNE_JOBS: &str =
    "DELETE FROM jobs WHERE job_id IN (SELECT job_id FROM jobs WHERE finished_at < $1 LIMIT $2)";
const PRUNE_SCORES: &str = "DELETE FROM scores WHERE ctid = ANY(ARRAY(SELECT ctid FROM scores WHERE scored_at < $1 LIMIT $2))";
const PRUNE_RUNS: &str =
    "DELETE FROM warm_runs WHERE id IN (SELECT id FROM warm_runs WHERE finished_at < $1 LIMIT $2)";

/// A step of a walk over all rows in the order of their names, so that no step looks again at what an earlier one has left. A row holds until the
/// name's next one: it goes once that one is old as well.
const PRUNE_SERVED: &str = "\
WITH looked AS (
  SELECT namespace, key, id, served_from FROM served WHERE (namespace, key, id) > ($3, $4, $5) ORDER BY namespace, key, id LIMIT $2
), gone AS (
  DELETE FROM served USING looked
  WHERE (served.namespace, served.key, served.id) = (looked.namespace, looked.key, looked.id) AND looked.served_from < $1
  AND (SELECT next.served_from FROM served AS next WHERE next.namespace = looked.namespace AND next.key = looked.key AND next.id > looked.id
    ORDER BY next.id LIMIT 1) < $1
  RETURNING 1
)
SELECT namespace, key, id, (SELECT count(*) FROM gone) AS gone FROM looked ORDER BY namespace DESC, key DESC, id DESC LIMIT 1";

/// The row at which a walk over the names has come.
#[derive(Debug, Default)]
pub(super) struct Walk {
    namespace: String,
    key: String,
    id: i64,
}

impl PostgresStore {
    pub(super) async fn prune(
        &self,
        table: Table,
        before: DateTime<Utc>,
        batch: u32,
    ) -> Result<u64, StoreError> {
        let statement = match table {
            Table::Jobs => PRUNE_JOBS,
            Table::Scores => PRUNE_SCORES,
            Table::Runs => PRUNE_RUNS,
        };
        self.execute(sqlx::query(statement).bind(before).bind(i64::from(batch)))
            .await
    }

    /// A step over what names were served; says how many rows it deleted, or nothing at the end.
    pub(super) async fn prune_served(
        &self,
        before: DateTime<Utc>,
        batch: u32,
        walk: &mut Walk,
    ) -> Result<Option<u64>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query(PRUNE_SERVED)
            .bind(before)
            .bind(i64::from(batch))
            .bind(&walk.namespace)
            .bind(&walk.key)
            .bind(walk.id);
        let answer = self.deadline(query.fetch_optional(&mut *lease)).await;
        let Some(row) = self.end(lease, answer).await? else {
            return Ok(None);
        };
        let read = || {
            let at = Walk {
                namespace: row.try_get("namespace")?,
                key: row.try_get("key")?,
                id: row.try_get("id")?,
            };
            Ok((at, row.try_get::<i64, _>("gone")?))
        };
        let (at, gone) = read().map_err(|e: sqlx::Error| StoreError::Refused(e.to_string()))?;
        *walk = at;
        Ok(Some(gone.unsigned_abs()))
    }
}
