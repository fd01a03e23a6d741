//! Owns the statements against Postgres.
//!
//! A batch is one statement ([`insert`]), and so one round trip and one commit. Promises that nothing is asked while a statement that
//! had no answer may still run: its backend is ended first.

use super::{
    Batch, Inserted, RejectedRow, StoreError, insert, migrations,
    retry::until_answered,
    sessions::{Lease, Sessions, end_backends},
};
use crate::{
    backoff::Backoff,
    config::{self, Database},
    secret::Secret,
    tls,
};
use kiln_contract::result::Finished;
use sqlx::{
    Connection, PgConnection, Postgres, Row,
    migrate::MigrateError,
    postgres::{PgArguments, PgConnectOptions},
    query::Query,
};
use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

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

/// What the server says when it ends a statement: it was cancelled, by its own limit as a rule; it waited too long for a lock; its
/// transaction took too long.
const LIMITS: [&str; 3] = ["57014", "55P03", "25P04"];

/// How soon the server is asked again whether a backend is gone.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// Longest goodbye to the server.
const GOODBYE: Duration = Duration::from_secs(1);

/// The share of the time that is waited for an answer after which the server ends a statement at the latest: the server's word is to come
/// before it is given up.
const SERVERS_SHARE: f64 = 0.8;

/// The connections to one database.
#[derive(Debug, Clone)]
pub struct PostgresStore {
    sessions: Arc<Sessions>,
    url: Secret,
    timeout: Duration,
    /// Statements of batches that were committed.
    stored: Arc<AtomicU64>,
}

/// The time after which the server ends a statement.
fn statement_limit(settings: &Database) -> Duration {
    let longest = config::ms(settings.timeout_ms).mul_f64(SERVERS_SHARE);
    let limit = config::ms(settings.statement_timeout_ms).min(longest);
    // The server takes 0 for no limit.
    limit.max(Duration::from_millis(1))
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
        let sessions = Sessions::new(options, settings.connections, statement_limit(settings));
        Ok(Self {
            sessions: Arc::new(sessions),
            url: url.clone(),
            timeout: config::ms(settings.timeout_ms),
            stored: Arc::default(),
        })
    }

    /// The same connections, for whoever waits no longer than `limit` for one answer.
    pub fn with_limit(&self, limit: Duration) -> Self {
        Self {
            timeout: self.timeout.min(limit),
            ..self.clone()
        }
    }

    /// Longest wait for one answer.
    pub(super) fn patience(&self) -> Duration {
        self.timeout
    }

    /// Runs the embedded migrations under the database's advisory lock.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let mut connection = self.connect().await?;
        // However long it takes: an index on a large table has no limit, and the lock is another worker's for as long as it migrates.
        let unlimited = sqlx::raw_sql("SET statement_timeout = 0").execute(&mut connection);
        unlimited.await.map_err(|e| self.classify(e))?;
        let migrated = migrations::POSTGRES
            .run_direct(None, &mut connection, false)
            .await;
        self.goodbye(connection).await;
        migrated.map_err(|e| match e {
            MigrateError::Execute(e) | MigrateError::ExecuteMigration(e, _) => self.classify(e),
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
                if error.may_pass() {
                    waiting(error, attempts);
                }
                error.may_pass()
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
        self.sessions.close_all().await;
    }

    /// How many statements of batches were committed so far.
    pub(super) fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    pub(super) async fn insert(&self, batch: &Batch<'_>) -> Result<Vec<Inserted>, StoreError> {
        if batch.jobs.is_empty() {
            return Ok(Vec::new());
        }
        let statement = insert::statement(batch).map_err(|e| StoreError::Refused(e.to_string()))?;
        let written = self.execute(statement).await?;
        self.stored.fetch_add(1, Ordering::Relaxed);
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
            let (id, hash, done) = super::jobs::read_job(row).map_err(|e| self.classify(e))?;
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

    /// A connection, within the time limit, once nothing that was lost may still run.
    pub(super) async fn lease(&self) -> Result<Lease, StoreError> {
        self.end_lost().await?;
        let permit = match self.within(self.sessions.permit()).await {
            Ok(Some(permit)) => permit,
            Ok(None) => return Err(StoreError::Unavailable("the connections are closed".into())),
            // Only the server can say why they take so long.
            Err(_) => {
                let connection = self.connect().await?;
                self.goodbye(connection).await;
                return Err(StoreError::Unavailable("every connection is in use".into()));
            }
        };
        let lease = self.within(self.sessions.lease(permit)).await?;
        lease.map_err(|e| self.classify(e))
    }

    /// Opens a connection beside the others.
    async fn connect(&self) -> Result<PgConnection, StoreError> {
        let connection = self.within(self.sessions.connect()).await?;
        connection.map_err(|e| self.classify(e))
    }

    async fn goodbye(&self, connection: PgConnection) {
        // It has answered: how it takes the goodbye changes nothing.
        let _closed = tokio::time::timeout(GOODBYE, connection.close()).await;
    }

    /// Ends what was lost. An error: something may still run.
    async fn end_lost(&self) -> Result<(), StoreError> {
        let lost = &self.sessions.lost;
        if lost.remaining(Instant::now()).is_none() {
            return Ok(());
        }
        let _one_at_a_time = self.within(lost.ending.lock()).await?;
        let names = lost.names();
        if !names.is_empty() {
            let mut connection = self.connect().await?;
            let gone = self.within(async {
                while still_there(&mut connection, &names).await? {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                Ok(())
            });
            let stays =
                |_| StoreError::Unavailable("a statement that had no answer still runs".into());
            match gone.await.map_err(stays)? {
                Ok(()) => lost.ended(&names),
                Err(sqlx::Error::Database(_)) => lost.left_to_their_limit(&names),
                Err(error) => return Err(self.classify(error)),
            }
            self.goodbye(connection).await;
        }
        match lost.remaining(Instant::now()) {
            None => Ok(()),
            Some(left) => Err(StoreError::Unavailable(format!(
                "a statement that had no answer may run for another {} ms",
                left.as_millis()
            ))),
        }
    }

    /// Takes a connection back once its statement was answered. One whose answer may still come is closed, and its statement noted as lost.
    pub(super) fn end<T>(
        &self,
        lease: Lease,
        answer: Result<Result<T, sqlx::Error>, StoreError>,
    ) -> Result<T, StoreError> {
        let error = match answer {
            Ok(Ok(value)) => {
                self.sessions.give_back(lease);
                return Ok(value);
            }
            Ok(Err(error)) => error,
            Err(late) => {
                drop(lease);
                return Err(late);
            }
        };
        let broken = matches!(error, sqlx::Error::Io(_) | sqlx::Error::Tls(_));
        let error = self.classify(error);
        if broken {
            // As a rule the others broke with it.
            self.sessions.close_idle();
        }
        if broken && lease.is_named() {
            drop(lease);
        } else if matches!(error, StoreError::Unavailable(_)) {
            self.sessions.close(lease);
        } else {
            self.sessions.give_back(lease);
        }
        Err(error)
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

    /// The answer to a statement, within the time limit.
    pub(super) async fn deadline<T>(&self, work: impl Future<Output = T>) -> Result<T, StoreError> {
        let answer = tokio::time::timeout(self.timeout, work).await;
        answer.map_err(|_| StoreError::TimedOut(self.no_answer()))
    }

    /// What isn't a statement, within the time limit.
    async fn within<T>(&self, work: impl Future<Output = T>) -> Result<T, StoreError> {
        let done = tokio::time::timeout(self.timeout, work).await;
        done.map_err(|_| StoreError::Unavailable(self.no_answer()))
    }

    fn no_answer(&self) -> String {
        format!("no answer within {} ms", self.timeout.as_millis())
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
                if e.code().is_some_and(|code| LIMITS.contains(&code.as_ref())) =>
            {
                StoreError::TimedOut(text)
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

/// Ends these connections' backends; says whether some are still there.
async fn still_there(connection: &mut PgConnection, names: &[String]) -> Result<bool, sqlx::Error> {
    let there = sqlx::raw_sql(end_backends(names))
        .fetch_one(connection)
        .await?;
    Ok(there.try_get::<i64, _>(0)? > 0)
}
