//! Asks Postgres whether it would take a job's row, without writing one, and whether it would say what operators want.
//!
//! Promises to leave no statement waiting in the server: one that meets a lock is given up by the server itself.

use super::{PostgresStore, StoreError, tables::Tables};
use sqlx::AssertSqlSafe;
use std::collections::BTreeSet;

const PLAIN: &str = "INSERT INTO jobs (job_id) SELECT '' WHERE false";
const PARTITIONED: &str = "\
INSERT INTO job_ids (job_id) SELECT '' WHERE false;
INSERT INTO job_results (job_id) SELECT '' WHERE false";

/// What [`super::News`] is read from.
const NEWS: &str = "\
SELECT FROM controls, active_models, model_splits, invalidations, cancelled_runs, warm_runs WHERE false";

impl PostgresStore {
    /// Whether a row of `jobs` would be taken: a server that only reads, a table that is locked or gone, or a right that was taken
    /// away shows here, and not in a round trip. The same for what is only read: a worker that hears of no pause isn't well. Where rows
    /// were refused that nothing is wrong with, such rows are tried again.
    pub async fn probe_write(&self) -> Result<(), StoreError> {
        let probe = |tables| async move {
            self.probe(match tables {
                Tables::Plain => PLAIN,
                Tables::Partitioned => PARTITIONED,
            })
            .await
        };
        self.for_tables(BTreeSet::new, probe).await?;
        self.takes_again().await
    }

    async fn probe(&self, insert: &str) -> Result<(), StoreError> {
        // Before this side gives up, so that the reason is the server's own.
        let patience = self.patience().as_millis() * 4 / 5;
        // Statements in one message are one transaction.
        let statements = format!("SET LOCAL lock_timeout = {patience}; {NEWS}; {insert}");
        let mut lease = self.lease().await?;
        let probe = sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut *lease);
        let answer = self.deadline(probe).await;
        self.end(lease, answer).await.map(|_| ())
    }
}
