//! Owns finding jobs' rows by their ids: how they ended, whose body an id has, and the inputs that are stored of one.

use super::{PostgresStore, StoreError, posters::posted_by};
use crate::redact::Redact;
use kiln_contract::result::Finished;
use sqlx::{Row, postgres::PgRow};

const FIND_JOB: &str = concat!(
    "SELECT job_id, status, model, version, namespace, hits, misses, results::text AS results, error::text AS error, elapsed_ms, body_sha256, \
     finished_at FROM jobs WHERE job_id = $1 AND ($2::text IS NULL OR ",
    posted_by!("$2"),
    ")"
);
const BODY: &str = "SELECT body_sha256 FROM jobs WHERE job_id = $1 AND status = 'ok'";
/// By the names that the job gave a word of, each in a few rows of the name's history.
const INPUTS: &str = "\
SELECT DISTINCT ON (said.key) said.key, said.input_sha256, text, text_pair, features FROM served AS said
LEFT JOIN scores ON scores.input_sha256 = said.input_sha256 AND scores.model = said.model AND scores.version = said.version
WHERE said.namespace = $1 AND said.key = ANY($2::text[]) AND said.job_id = $3 AND said.input_sha256 IS NOT NULL AND said.items IS NULL
ORDER BY said.key, said.id DESC";

/// A job as its row has it.
#[derive(Debug, Clone, PartialEq)]
pub enum JobEnd {
    Done(Box<Finished>),
    /// The error as JSON: code, field and message.
    Rejected(String),
}

/// An input of a job, as far as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct JobInput {
    pub key: String,
    pub input_sha256: Vec<u8>,
    pub text: Option<String>,
    pub text_pair: Option<String>,
    pub features: Option<Vec<f32>>,
}

impl PostgresStore {
    /// How a job ended; nothing where it has no row, or where it is asked for by a key that didn't post it.
    pub async fn job(
        &self,
        job_id: &str,
        posted_by: Option<&str>,
    ) -> Result<Option<JobEnd>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query(FIND_JOB).bind(job_id).bind(posted_by);
        let answer = self.deadline(query.fetch_optional(&mut *lease)).await;
        let row = self.end(lease, answer).await?;
        row.map(|row| read_end(&row))
            .transpose()
            .map_err(|e| StoreError::Refused(e.redacted()))
    }

    /// The hash of the body with which a job has ended well; nothing where none has under that id.
    pub async fn body_of(&self, job_id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_scalar::<_, Vec<u8>>(BODY).bind(job_id);
        let answer = self.deadline(query.fetch_optional(&mut *lease)).await;
        self.end(lease, answer).await
    }

    /// The inputs that a job named these keys of, as far as they are stored.
    pub async fn job_inputs(
        &self,
        job_id: &str,
        namespace: &str,
        keys: &[String],
    ) -> Result<Vec<JobInput>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut lease = self.lease().await?;
        let query = sqlx::query(INPUTS).bind(namespace).bind(keys).bind(job_id);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        let rows = self.end(lease, answer).await?;
        let read = |row: &PgRow| {
            let features: Option<Vec<u8>> = row.try_get("features")?;
            Ok::<_, sqlx::Error>(JobInput {
                key: row.try_get("key")?,
                input_sha256: row.try_get("input_sha256")?,
                text: row.try_get("text")?,
                text_pair: row.try_get("text_pair")?,
                features: features.map(|bytes| super::floats(&bytes)),
            })
        };
        let inputs: Result<Vec<JobInput>, sqlx::Error> = rows.iter().map(read).collect();
        inputs.map_err(|e| StoreError::Refused(e.redacted()))
    }
}

/// Reads a row of `jobs`: how it ended.
pub(super) fn read_end(row: &PgRow) -> Result<JobEnd, sqlx::Error> {
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
