//! Owns the statements against Postgres.
//!
//! A batch is one statement ([`insert`]), and so one round trip and one commit.

use super::{
    Batch, Inserted, RejectedRow, StoreError, Table, insert, migrations, retry::until_answered,
};
use crate::{
    backoff::Backoff,
    config::{self, Database},
    secret::Secret,
    tls,
};
use chrono::{DateTime, Utc};
use kiln_contract::result::Finished;
use sqlx::{
    Connection, PgConnection, PgPool, Postgres, Row,
    pool::PoolConnection,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow},
    query::Query,
};
use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

const FIND_JOBS: &str = "\
SELECT job_id, status, model, version, namespace, hits, misses, results::text AS results, elapsed_ms, body_sha256, finished_at
FROM jobs WHERE job_id = ANY($1::text[])";

const REJECT: &str = "\
INSERT INTO jobs (job_id, status, model, namespace, error, body_sha256, finished_at)
VALUES ($1, 'rejected', $2, $3, $4::jsonb, $5, $6)
ON CONFLICT (job_id) DO UPDATE SET
  model = excluded.model, namespace = excluded.namespace, error = excluded.error,
  body_sha256 = excluded.body_sha256, finished_at = excluded.finished_at
WHERE jobs.status = 'rejected'";

const SUSPECT_STARTED: &str = "\
INSERT INTO suspects (body_sha256, runs) VALUES ($1, $2)
ON CONFLICT (body_sha256) DO UPDATE SET runs = GREATEST(suspects.runs, excluded.runs), seen_at = now()";
const SUSPECT_UNCOUNTED: &str =
    "UPDATE suspects SET runs = $2 WHERE body_sha256 = $1 AND runs = $2 + 1";

const PRUNE_JOBS: &str =
    "DELETE FROM jobs WHERE job_id IN (SELECT job_id FROM jobs WHERE finished_at < $1 LIMIT $2)";
const PRUNE_SCORES: &str = "DELETE FROM scores WHERE ctid = ANY(ARRAY(SELECT ctid FROM scores WHERE scored_at < $1 LIMIT $2))";

const PRUNE_RUNS: &str =
    "DELETE FROM warm_runs WHERE id IN (SELECT id FROM warm_runs WHERE finished_at < $1 LIMIT $2)";

/// A pool of connections to one database.
#[derive(Debug, Clone)]
pub struct PostgresStore {
    pool: PgPool,
    options: Arc<PgConnectOptions>,
    url: Secret,
    timeout: Duration,
}

impl PostgresStore {
    /// A store that connects when it is first used.
    pub fn new(url: &Secret, settings: &Database) -> Result<Self, StoreError> {
        let options: PgConnectOptions = url
            .expose()
            .parse()
            .map_err(|e: sqlx::Error| StoreError::Refused(url.scrub(&e.to_string())))?;
        let options = tls::postgres(options, url.expose(), &settings.tls);
        let options = options.application_name("kiln");
        let timeout = config::ms(settings.timeout_ms);
        let pool = PgPoolOptions::new()
            .max_connections(settings.connections)
            .acquire_timeout(timeout)
            // A dead connection shows itself in the statement, which is repeated: no ping before each.
            .test_before_acquire(false)
            .connect_lazy_with(options.clone());
        Ok(Self {
            pool,
            options: Arc::new(options),
            url: url.clone(),
            timeout,
        })
    }

    /// Runs the embedded migrations under the database's advisory lock.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        self.probe().await?;
        let migrated = migrations::POSTGRES.run(&self.pool).await;
        migrated.map_err(|e| match e {
            sqlx::migrate::MigrateError::Execute(e) => self.classify(e),
            other => StoreError::Refused(self.url.scrub(&other.to_string())),
        })
    }

    /// Migrates, waiting for the database as long as it takes; `waiting` hears of each failed attempt.
    pub async fn migrate_when_up(
        &self,
        max: Duration,
        mut waiting: impl FnMut(&StoreError, u32),
    ) -> Result<(), StoreError> {
        let backoff = Backoff::new(Duration::from_millis(100), max);
        until_answered(
            backoff,
            || self.migrate(),
            |error, attempts| {
                let down = matches!(error, StoreError::Unavailable(_));
                if down {
                    waiting(error, attempts);
                }
                down
            },
        )
        .await
    }

    /// A round trip.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let mut lease = self.lease().await?;
        let answer = self
            .deadline(sqlx::query("SELECT 1").execute(&mut *lease))
            .await;
        self.end(lease, answer).map(|_| ())
    }

    /// Closes the connections, each when it is idle.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// The pool, for what `kiln doctor` asks of the server.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    pub(super) async fn insert(&self, batch: &Batch<'_>) -> Result<Vec<Inserted>, StoreError> {
        if batch.jobs.is_empty() {
            return Ok(Vec::new());
        }
        let statement = insert::statement(batch).map_err(|e| StoreError::Refused(e.to_string()))?;
        let written = self.execute(statement).await?;
        if written == batch.jobs.len() as u64 {
            return Ok(batch.jobs.iter().map(|_| Inserted::New).collect());
        }
        self.compare(batch).await
    }

    /// Holds a batch of which some ids were taken against the rows that are there.
    async fn compare(&self, batch: &Batch<'_>) -> Result<Vec<Inserted>, StoreError> {
        let ids: Vec<&str> = batch.jobs.iter().map(|j| j.job_id).collect();
        let mut lease = self.lease().await?;
        let answer = self
            .deadline(sqlx::query(FIND_JOBS).bind(&ids).fetch_all(&mut *lease))
            .await;
        let rows = self.end(lease, answer)?;
        let mut found: HashMap<String, (Vec<u8>, Finished)> = HashMap::with_capacity(rows.len());
        for row in &rows {
            let (id, hash, done) = read_job(row).map_err(|e| self.classify(e))?;
            found.insert(id, (hash, done));
        }
        Ok(batch
            .jobs
            .iter()
            .map(|job| match found.remove(job.job_id) {
                // Written by this statement and pruned since, or written and unchanged: either way it is kept.
                None => Inserted::New,
                Some((hash, _)) if hash != job.body_sha256 => Inserted::Conflict,
                Some((_, done)) if done.is_the_run_of(job.done) => Inserted::New,
                Some((_, done)) => Inserted::Same(Box::new(done)),
            })
            .collect())
    }

    pub(super) async fn reject(&self, rows: &[RejectedRow<'_>]) -> Result<(), StoreError> {
        for row in rows {
            let (id, other) = row.ids();
            for id in [id, other] {
                let error = serde_json::to_string(row.rejection)
                    .map_err(|e| StoreError::Refused(e.to_string()))?;
                let query = sqlx::query(REJECT)
                    .bind(&id)
                    .bind(row.model)
                    .bind(row.namespace)
                    .bind(&error)
                    .bind(row.body_sha256.as_slice())
                    .bind(row.finished_at);
                if self.execute(query).await? > 0 {
                    break;
                }
            }
        }
        Ok(())
    }

    /// How many runs a suspected job has left unfinished.
    pub async fn suspect_runs(&self, body: &[u8; 32]) -> Result<u32, StoreError> {
        let mut lease = self.lease().await?;
        let query =
            sqlx::query_scalar::<_, i32>("SELECT runs FROM suspects WHERE body_sha256 = $1")
                .bind(body.as_slice());
        let answer = self.deadline(query.fetch_optional(&mut *lease)).await;
        let runs = self.end(lease, answer)?;
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

    /// A connection of the pool, within the time limit.
    pub(super) async fn lease(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        match self.deadline(self.pool.acquire()).await {
            Ok(Ok(lease)) => Ok(lease),
            // The pool only says that it waited: the server itself says why.
            Ok(Err(sqlx::Error::PoolTimedOut)) | Err(_) => {
                self.probe().await?;
                Err(StoreError::Unavailable("every connection is in use".into()))
            }
            Ok(Err(error)) => Err(self.classify(error)),
        }
    }

    /// Opens a connection beside the pool, for what the server says when it can't be had.
    async fn probe(&self) -> Result<(), StoreError> {
        let connection = self
            .deadline(PgConnection::connect_with(&*self.options))
            .await?;
        let connection = connection.map_err(|e| self.classify(e))?;
        // It answered: how it takes the goodbye changes nothing.
        let _closed = tokio::time::timeout(Duration::from_secs(1), connection.close()).await;
        Ok(())
    }

    /// Gives a connection back. One that failed, or ran past its limit, is closed instead: its answer may
    /// still come.
    pub(super) fn end<T>(
        &self,
        lease: PoolConnection<Postgres>,
        answer: Result<Result<T, sqlx::Error>, StoreError>,
    ) -> Result<T, StoreError> {
        let answer = answer.and_then(|answer| answer.map_err(|e| self.classify(e)));
        if matches!(answer, Err(StoreError::Unavailable(_))) {
            drop(lease.detach());
        }
        answer
    }

    /// Runs one statement; returns the rows that it touched.
    pub(super) async fn execute(
        &self,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<u64, StoreError> {
        let mut lease = self.lease().await?;
        let answer = self.deadline(query.execute(&mut *lease)).await;
        self.end(lease, answer).map(|r| r.rows_affected())
    }

    pub(super) async fn deadline<T>(&self, work: impl Future<Output = T>) -> Result<T, StoreError> {
        tokio::time::timeout(self.timeout, work).await.map_err(|_| {
            StoreError::Unavailable(format!("no answer within {} ms", self.timeout.as_millis()))
        })
    }

    /// Whether an error can pass. Only what Postgres says of the data itself can't.
    fn classify(&self, error: sqlx::Error) -> StoreError {
        let text = tls::explain(self.url.scrub(&error.to_string()));
        match &error {
            // 40: a transaction rolled back by the server, and nothing wrong with it or the server.
            sqlx::Error::Database(e) if e.code().is_some_and(|code| code.starts_with("40")) => {
                StoreError::Contended(text)
            }
            sqlx::Error::Database(e)
                if e.code().is_some_and(|code| {
                    // 22: data exception, 23: integrity violation, 54: a limit of the server, 21: cardinality.
                    ["22", "23", "54", "21"]
                        .iter()
                        .any(|class| code.starts_with(class))
                }) =>
            {
                StoreError::Refused(text)
            }
            sqlx::Error::Encode(_) => StoreError::Refused(text),
            _ => StoreError::Unavailable(text),
        }
    }
}

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
