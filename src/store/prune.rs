//! Owns deleting old rows from Postgres, some at a time.

use super::{PostgresStore, StoreError, Table};
use chrono::{DateTime, Utc};

const PRUNE_JOBS: &str =
    "DELETE FROM jobs WHERE job_id IN (SELECT job_id FROM jobs WHERE finished_at < $1 LIMIT $2)";
const PRUNE_SCORES: &str = "DELETE FROM scores WHERE ctid = ANY(ARRAY(SELECT ctid FROM scores WHERE scored_at < $1 LIMIT $2))";
const PRUNE_SERVED: &str = "DELETE FROM served WHERE ctid = ANY(ARRAY(SELECT ctid FROM served WHERE served_from < $1 LIMIT $2))";
const PRUNE_RUNS: &str =
    "DELETE FROM warm_runs WHERE id IN (SELECT id FROM warm_runs WHERE finished_at < $1 LIMIT $2)";

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
            Table::Served => PRUNE_SERVED,
            Table::Runs => PRUNE_RUNS,
        };
        self.execute(sqlx::query(statement).bind(before).bind(i64::from(batch)))
            .await
    }
}
