//! Owns finding one job's row.

use super::{PostgresStore, StoreError};
use crate::redact::Redact;
use kiln_contract::result::Finished;
use sqlx::{Row, postgres::PgRow};

const FIND_JOB: &str = "\
SELECT job_id, status, model, version, namespace, hits, misses, results::text AS results, error::text AS error, elapsed_ms, body_sha256,
  finished_at FROM jobs WHERE job_id = $1";

/// A job as its row has it.
#[derive(Debug, Clone, PartialEq)]
pub enum JobEnd {
    Done(Box<Finished>),
    /// The error as JSON: code, field and message.
    Rejected(String),
}

impl PostgresStore {
    /// How a job ended; nothing where it has no row.
    pub async fn job(&self, job_id: &str) -> Result<Option<JobEnd>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query(FIND_JOB).bind(job_id);
        let answer = self.deadline(query.fetch_optional(&mut *lease)).await;
        let row = self.end(lease, answer).await?;
        row.map(|row| read(&row))
            .transpose()
            .map_err(|e| StoreError::Refused(e.redacted()))
    }
}

fn read(row: &PgRow) -> Result<JobEnd, sqlx::Error> {
    if row.try_get::<String, _>("status")? == "rejected" {
        let error: Option<String> = row.try_get("error")?;
        return Ok(JobEnd::Rejected(error.unwrap_or_else(|| "null".into())));
    }
    let (_, _, done) = read_job(row)?;
    Ok(JobEnd::Done(Box::new(done)))
}

/// Reads a row of `jobs`: its id, its body's hash and its result.
pub(super) fn read_job(row: &PgRow) -> Result<(String, Vec<u8>, Finished), sqlx::Error> {
    let text = |name: &str| {
        row.try_get::<Option<String>, _>(name)
            .map(Option::unwrap_or_default)
    };
    Ok((
        row.try_get("job_id")?,
        row.try_get("body_sha256")?,
        Finished {
            model: text("model")?,
            version: text("version")?,
            namespace: text("namespace")?,
            results: text("results")?,
            hits: row.try_get::<i32, _>("hits")?.unsigned_abs(),
            misses: row.try_get::<i32, _>("misses")?.unsigned_abs(),
            elapsed_ms: row
                .try_get::<Option<f64>, _>("elapsed_ms")?
                .unwrap_or_default(),
            finished_at: row.try_get("finished_at")?,
        },
    ))
}
