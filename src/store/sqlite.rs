//! Owns the statements against SQLite, for Kiln without servers.
//!
//! The same tables as in Postgres. A batch goes in as one JSON
//! array a table, in one transaction. The scores are also what a second run finds: its cache on disk.

use super::{Batch, Inserted, Rejected, RejectedRow, StoreError, Table, float_bytes, migrations};
use crate::{clock, redact::Redact};
use chrono::{DateTime, Utc};
use kiln_contract::key::InputHash;
use kiln_contract::result::Finished;
use serde_json::json;
use sqlx::{
    Row, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{collections::HashMap, path::Path, time::Duration};

const KEEP_JOBS: &str = "\
INSERT INTO jobs (job_id, status, model, version, namespace, hits, misses, results, elapsed_ms, body_sha256, finished_at)
SELECT value->>0, 'ok', value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8, value->>9
FROM json_each(?1) WHERE true
ON CONFLICT (job_id) DO UPDATE SET
  status = 'ok', model = excluded.model, version = excluded.version, namespace = excluded.namespace,
  hits = excluded.hits, misses = excluded.misses, results = excluded.results, error = NULL,
  elapsed_ms = excluded.elapsed_ms, body_sha256 = excluded.body_sha256, finished_at = excluded.finished_at
WHERE jobs.status = 'rejected'";

const KEEP_SCORES: &str = "\
INSERT INTO scores (input_sha256, model, version, namespace, key, label, score, outputs, text, text_pair, features, scored_at)
SELECT unhex(value->>0), value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, unhex(value->>7), value->>8, value->>9, unhex(value->>10), ?2
FROM json_each(?1) WHERE true
ON CONFLICT DO NOTHING";

const FIND_JOBS: &str = "\
SELECT job_id, status, model, version, namespace, hits, misses, results, elapsed_ms, body_sha256, finished_at
FROM jobs WHERE status = 'ok' AND job_id IN (SELECT value FROM json_each(?1))";

const FIND_SCORES: &str = "\
SELECT input_sha256, outputs FROM scores
WHERE model = ?1 AND version = ?2 AND input_sha256 IN (SELECT unhex(value) FROM json_each(?3))";

const REJECT: &str = "\
INSERT INTO jobs (job_id, status, model, namespace, error, body_sha256, finished_at)
VALUES (?1, 'rejected', ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (job_id) DO UPDATE SET
  model = excluded.model, namespace = excluded.namespace, error = excluded.error,
  body_sha256 = excluded.body_sha256, finished_at = excluded.finished_at
WHERE jobs.status = 'rejected'";

const PRUNE_JOBS: &str =
    "DELETE FROM jobs WHERE job_id IN (SELECT job_id FROM jobs WHERE finished_at < ?1 LIMIT ?2)";
const PRUNE_SCORES: &str = "\
DELETE FROM scores WHERE (input_sha256, model, version) IN
  (SELECT input_sha256, model, version FROM scores WHERE scored_at < ?1 LIMIT ?2)";

/// One file.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    pool: SqlitePool,
}

impl SqliteStore {
    /// Opens the file, making it where it isn't there, and migrates it.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            // Hashes land on random pages: a larger cache and rarer checkpoints write each of them less often.
            .pragma("cache_size", "-65536")
            .pragma("wal_autocheckpoint", "8000")
            .busy_timeout(Duration::from_secs(30));
        let problem =
            |e: &dyn Redact| StoreError::Refused(format!("{}: {}", path.display(), e.redacted()));
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_with(options)
            .await
            .map_err(|e| problem(&e))?;
        migrations::SQLITE
            .run(&pool)
            .await
            .map_err(|e| problem(&e))?;
        Ok(Self { pool })
    }

    /// The output rows of those inputs that a model version has scored before.
    pub async fn find_scores(
        &self,
        model: &str,
        version: &str,
        inputs: &[InputHash],
    ) -> Result<HashMap<InputHash, Vec<f32>>, StoreError> {
        let wanted = json!(inputs.iter().map(hex::encode).collect::<Vec<_>>()).to_string();
        let rows = sqlx::query(FIND_SCORES)
            .bind(model)
            .bind(version)
            .bind(wanted)
            .fetch_all(&self.pool)
            .await
            .map_err(classify)?;
        let mut found = HashMap::with_capacity(rows.len());
        for row in rows {
            let hash: &[u8] = row.try_get(0).map_err(classify)?;
            let outputs: &[u8] = row.try_get(1).map_err(classify)?;
            if let Ok(key) = InputHash::try_from(hash) {
                found.insert(key, super::floats(outputs));
            }
        }
        Ok(found)
    }

    pub(super) async fn insert(&self, batch: &Batch<'_>) -> Result<Vec<Inserted>, StoreError> {
        let at = clock::rfc3339(batch.finished_at);
        let jobs: Vec<_> = batch
            .jobs
            .iter()
            .map(|j| {
                let d = j.done;
                let hash = hex::encode(j.body_sha256);
                json!([
                    j.job_id,
                    d.model,
                    d.version,
                    d.namespace,
                    d.hits,
                    d.misses,
                    d.results,
                    d.elapsed_ms,
                    hash,
                    clock::rfc3339(d.finished_at)
                ])
            })
            .collect();
        let scores: Vec<_> = batch
            .scores
            .iter()
            .map(|s| {
                let floats = |values: &[f32]| hex::encode(float_bytes(values));
                json!([
                    hex::encode(s.input),
                    s.model,
                    s.version,
                    s.namespace,
                    s.key,
                    s.label,
                    s.score,
                    floats(s.outputs),
                    s.text,
                    s.text_pair,
                    s.features.map(floats)
                ])
            })
            .collect();
        let mut transaction = self
            .pool
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(classify)?;
        if !scores.is_empty() {
            let query = sqlx::query(KEEP_SCORES)
                .bind(json!(scores).to_string())
                .bind(&at);
            query.execute(&mut *transaction).await.map_err(classify)?;
        }
        let query = sqlx::query(KEEP_JOBS).bind(json!(jobs).to_string());
        let written = query
            .execute(&mut *transaction)
            .await
            .map_err(classify)?
            .rows_affected();
        transaction.commit().await.map_err(classify)?;
        if written == batch.jobs.len() as u64 {
            return Ok(batch.jobs.iter().map(|_| Inserted::New).collect());
        }
        self.compare(batch).await
    }

    /// Finished jobs by id, each with its body's hash.
    async fn find(&self, ids: &[&str]) -> Result<HashMap<String, (String, Finished)>, StoreError> {
        let ids = json!(ids).to_string();
        let rows = sqlx::query(FIND_JOBS)
            .bind(ids)
            .fetch_all(&self.pool)
            .await
            .map_err(classify)?;
        let mut found = HashMap::with_capacity(rows.len());
        for row in &rows {
            let text = |name: &str| {
                row.try_get::<Option<String>, _>(name)
                    .map(Option::unwrap_or_default)
            };
            let read = || -> Result<_, sqlx::Error> {
                let at: String = row.try_get("finished_at")?;
                let done = Finished {
                    model: text("model")?,
                    version: text("version")?,
                    namespace: text("namespace")?,
                    results: text("results")?,
                    hits: row.try_get("hits")?,
                    misses: row.try_get("misses")?,
                    elapsed_ms: row
                        .try_get::<Option<f64>, _>("elapsed_ms")?
                        .unwrap_or_default(),
                    finished_at: DateTime::parse_from_rfc3339(&at)
                        .map(|t| t.to_utc())
                        .unwrap_or_default(),
                };
                Ok((text("job_id")?, (text("body_sha256")?, done)))
            };
            let (id, job) = read().map_err(classify)?;
            found.insert(id, job);
        }
        Ok(found)
    }

    async fn compare(&self, batch: &Batch<'_>) -> Result<Vec<Inserted>, StoreError> {
        let ids: Vec<&str> = batch.jobs.iter().map(|j| j.job_id).collect();
        let mut found = self.find(&ids).await?;
        Ok(batch
            .jobs
            .iter()
            .map(|job| match found.remove(job.job_id) {
                None => Inserted::New,
                Some((hash, _)) if hash != hex::encode(job.body_sha256) => Inserted::Conflict,
                Some((_, done)) if done.is_the_run_of(job.done) => Inserted::New,
                Some((_, done)) => Inserted::Same(Box::new(done)),
            })
            .collect())
    }

    pub(super) async fn finished(
        &self,
        job_id: &str,
        body_sha256: &[u8; 32],
    ) -> Result<Option<Box<Finished>>, StoreError> {
        let mut found = self.find(&[job_id]).await?;
        let done = found
            .remove(job_id)
            .filter(|(hash, _)| *hash == hex::encode(body_sha256));
        Ok(done.map(|(_, done)| Box::new(done)))
    }

    pub(super) async fn reject(
        &self,
        rows: &[RejectedRow<'_>],
    ) -> Result<Vec<Rejected>, StoreError> {
        let mut rejected = Vec::with_capacity(rows.len());
        'rows: for row in rows {
            let (own, other) = row.ids();
            for id in [&own, &other] {
                let written = sqlx::query(REJECT)
                    .bind(id)
                    .bind(row.model)
                    .bind(row.namespace)
                    .bind(json!(row.rejection).to_string())
                    .bind(hex::encode(row.body_sha256))
                    .bind(clock::rfc3339(row.finished_at))
                    .execute(&self.pool)
                    .await
                    .map_err(classify)?
                    .rows_affected();
                if written > 0 {
                    break;
                }
                if let Some(first) = self.finished(id, &row.body_sha256).await? {
                    rejected.push(Rejected::Finished(first));
                    continue 'rows;
                }
            }
            rejected.push(Rejected::Noted);
        }
        Ok(rejected)
    }

    pub(super) async fn prune(
        &self,
        table: Table,
        before: DateTime<Utc>,
        batch: u32,
    ) -> Result<Option<u64>, StoreError> {
        let statement = match table {
            Table::Jobs => PRUNE_JOBS,
            Table::Scores => PRUNE_SCORES,
            // Without servers nobody reads names, and nothing is warmed.
            Table::Runs => return Ok(None),
        };
        let query = sqlx::query(statement)
            .bind(clock::rfc3339(before))
            .bind(batch);
        query
            .execute(&self.pool)
            .await
            .map(|r| Some(r.rows_affected()).filter(|rows| *rows > 0))
            .map_err(classify)
    }
}

fn classify(error: sqlx::Error) -> StoreError {
    match &error {
        // Busy or locked: another process holds the file.
        sqlx::Error::Database(e) if e.code().is_some_and(|c| c == "5" || c == "6") => {
            StoreError::Unavailable(error.redacted())
        }
        sqlx::Error::PoolTimedOut => StoreError::Unavailable(error.redacted()),
        _ => StoreError::Refused(error.redacted()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::JobRow;
    use chrono::Duration;
    use kiln_contract::result::Finished;

    #[tokio::test]
    async fn jobs_that_finished_apart_are_known_again_when_their_batch_is_written_twice() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::open(&folder.path().join("kiln.db")).await;
        let store = store.expect("a database");
        let now = clock::now();
        let done = |ms: i64| Finished {
            model: "m".to_owned(),
            version: "1".to_owned(),
            namespace: "n".to_owned(),
            results: "[]".to_owned(),
            hits: 0,
            misses: 1,
            elapsed_ms: 1.0,
            finished_at: now + Duration::milliseconds(ms),
        };
        let (first, second) = (done(0), done(12));
        let row = |job_id, done| JobRow {
            job_id,
            body_sha256: [0; 32],
            done,
        };
        let batch = Batch {
            jobs: vec![row("a", &first), row("b", &second)],
            scores: Vec::new(),
            finished_at: now,
            ..Batch::default()
        };
        for _written in 0..2 {
            let kept = store.insert(&batch).await.expect("a write");
            assert_eq!(kept, [Inserted::New, Inserted::New]);
        }
    }
}
