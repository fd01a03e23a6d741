//! Owns the runs of suspected jobs that didn't end: durably, so that every worker knows what a job did to whoever ran it.

use super::{PostgresStore, StoreError};

const SUSPECT_STARTED: &str = "\
INSERT INTO suspects (body_sha256, runs) VALUES ($1, $2)
ON CONFLICT (body_sha256) DO UPDATE SET runs = GREATEST(suspects.runs, excluded.runs), seen_at = now()";
const SUSPECT_UNCOUNTED: &str =
    "UPDATE suspects SET runs = $2 WHERE body_sha256 = $1 AND runs = $2 + 1";

impl PostgresStore {
    /// How many runs a suspected job has left unfinished.
    pub async fn suspect_runs(&self, body: &[u8; 32]) -> Result<u32, StoreError> {
        let mut lease = self.lease().await?;
        let query =
            sqlx::query_scalar::<_, i32>("SELECT runs FROM suspects WHERE body_sha256 = $1")
                .bind(body.as_slice());
        let answer = self.deadline(query.fetch_optional(&mut *lease)).await;
        let runs = self.end(lease, answer).await?;
        Ok(runs.unwrap_or_default().unsigned_abs())
    }

    /// Counts a run of a suspected job, durably, before it starts; `runs` are those unfinished so far, with this one.
    pub async fn suspect_started(&self, body: &[u8; 32], runs: u32) -> Result<(), StoreError> {
        let query = sqlx::query(SUSPECT_STARTED)
            .bind(body.as_slice())
            .bind(i32::try_from(runs).unwrap_or(i32::MAX));
        self.execute(query).await.map(|_| ())
    }

    /// Takes back the count of a run that was cut short through no fault of the job's; `runs` are those before it.
    pub async fn suspect_uncounted(&self, body: &[u8; 32], runs: u32) -> Result<(), StoreError> {
        let query = sqlx::query(SUSPECT_UNCOUNTED)
            .bind(body.as_slice())
            .bind(i32::try_from(runs).unwrap_or(i32::MAX));
        self.execute(query).await.map(|_| ())
    }

    /// Clears a suspect that survived.
    pub async fn suspect_cleared(&self, body: &[u8; 32]) -> Result<(), StoreError> {
        let query =
            sqlx::query("DELETE FROM suspects WHERE body_sha256 = $1").bind(body.as_slice());
        self.execute(query).await.map(|_| ())
    }
}
