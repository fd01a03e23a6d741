//! Owns the statements against Postgres.
//!
//! A batch is one statement ([`insert`]), and so one round trip and one commit.

use super::{
    Batch, Inserted, JobRow, Opened, StoreError,
    address::Address,
    hosts::Hosts,
    insert,
    kinds::Taken,
    migrations::{self, Applied, SchemaState},
    retry::until_answered,
    sessions::Sessions,
    tables::KnownTables,
};
use crate::{
    backoff::Backoff,
    config::{self, Database},
    redact::Redact,
    secret::Secret,
    telemetry::metrics::Metrics,
    tls,
};
use kiln_contract::result::Finished;
use sqlx::{
    Row,
    migrate::MigrateError,
    postgres::{PgConnectOptions, PgRow},
};
use std::{collections::HashMap, sync::Arc, time::Duration};

const FIND_JOBS: &str = "\
SELECT job_id, status, model, version, namespace, hits, misses, results::text AS results, elapsed_ms, body_sha256, finished_at
FROM jobs WHERE job_id = ANY($1::text[])";

/// The share of the time that is waited for an answer after which the server ends a statement at the latest: the server's word is to come
/// before it is given up.
const SERVERS_SHARE: f64 = 0.8;

/// The connections to one database.
#[derive(Debug, Clone)]
pub struct PostgresStore {
    pub(super) sessions: Arc<Sessions>,
    pub(super) url: Secret,
    /// Longest wait for an answer.
    pub(super) timeout: Duration,
    pub(super) tables: Arc<KnownTables>,
    /// What was stored, of batches that were answered.
    pub(super) taken: Arc<Taken>,
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
        let mut addresses = Vec::new();
        for one in url.addresses() {
            let options: PgConnectOptions = one
                .expose()
                .parse()
                .map_err(|e: sqlx::Error| StoreError::Refused(url.scrub(&e.redacted())))?;
            addresses.push(Address::new(tls::postgres(
                options,
                one.expose(),
                &settings.tls,
            )));
        }
        if addresses.is_empty() {
            let expected = "expected postgres://user:password@host:port/database";
            return Err(StoreError::Refused(expected.to_owned()));
        }
        let hosts = Hosts::new(addresses, url.clone(), config::ms(settings.timeout_ms));
        let sessions = Sessions::new(hosts, settings.connections, statement_limit(settings));
        Ok(Self {
            sessions: Arc::new(sessions),
            url: url.clone(),
            timeout: config::ms(settings.timeout_ms),
            tables: Arc::default(),
            taken: Arc::default(),
        })
    }

    /// The same for a worker, whose failovers are counted and logged.
    pub fn counted(self, metrics: Metrics) -> Self {
        // Only a worker's own store is, and that once.
        let _first = self.sessions.hosts.metrics.set(metrics);
        self
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

    /// Runs the embedded migrations under the database's advisory lock. Says which migration of a newer release the database has had, if any.
    pub async fn migrate(&self) -> Result<Option<i64>, StoreError> {
        let mut connection = self.connect().await?;
        let applied = self.within(Applied::ask(&mut connection)).await?;
        let applied = applied.map_err(|e| self.classify(e))?;
        let state = applied.judge();
        let state = state.map_err(|unfit| StoreError::Refused(unfit.to_string()))?;
        // Nobody waits for a newer release that is migrating.
        if state.pending == 0 || self.sessions.hosts.is_pooled() {
            self.goodbye(connection).await;
            self.is_migrated(state)?;
            return Ok(state.newer);
        }
        // However long it takes: an index on a large table has no limit, and the lock is another worker's for as long as it migrates.
        let unlimited = sqlx::raw_sql("SET statement_timeout = 0").execute(&mut connection);
        unlimited.await.map_err(|e| self.classify(e))?;
        let migrated = migrations::POSTGRES
            .run_direct(None, &mut connection, false)
            .await;
        self.goodbye(connection).await;
        migrated.map_err(|e| match e {
            MigrateError::Execute(e) | MigrateError::ExecuteMigration(e, _) => self.classify(e),
            other => StoreError::Refused(self.url.scrub(&other.redacted())),
        })?;
        Ok(state.newer)
    }

    /// Says whether nothing is to be migrated: behind a pooler the lock of who migrates can't be held.
    fn is_migrated(&self, state: SchemaState) -> Result<(), StoreError> {
        match state.pending {
            0 => Ok(()),
            pending => Err(StoreError::Unavailable(format!(
                "{} is behind a pooler such as pgbouncer, where the lock of who migrates can't be held, and {pending} migrations are pending: \
                 run `kiln migrate` with the database's own address",
                self.url.host()
            ))),
        }
    }

    /// Migrates, waiting for the database as long as it takes; `waiting` hears of each failed attempt.
    pub async fn migrate_when_up(
        &self,
        max: Duration,
        mut waiting: impl FnMut(&StoreError, u32),
    ) -> Result<Option<i64>, StoreError> {
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

    /// The address that it is connected to; nothing before the first connection.
    pub fn address(&self) -> Option<String> {
        self.sessions.hosts.address()
    }

    /// A connection to each address, as far as it answers in time: for whoever looks at all of them.
    pub async fn open_each(&self, name: &str) -> Vec<Opened> {
        self.sessions.hosts.open_each(name, self.timeout).await
    }

    /// A round trip.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let mut lease = self.lease().await?;
        let answer = self
            .deadline(sqlx::query("SELECT 1").execute(&mut *lease))
            .await;
        self.end(lease, answer).await.map(|_| ())
    }

    /// Closes the connections, each when it is idle.
    pub async fn close(&self) {
        self.sessions.close_all().await;
    }

    /// How many statements have added rows so far, of batches that were answered.
    pub(super) fn stored(&self) -> u64 {
        self.taken.batches()
    }

    pub(super) async fn insert(&self, batch: &Batch<'_>) -> Result<Vec<Inserted>, StoreError> {
        if batch.jobs.is_empty() {
            return Ok(Vec::new());
        }
        let days = || {
            let moments = batch.jobs.iter().map(|j| j.done.finished_at.date_naive());
            moments.collect()
        };
        let write = |tables| async move {
            let statement = insert::statement(batch, tables);
            let statement =
                statement.map_err(|e| StoreError::Refused(sqlx::Error::Encode(e).redacted()))?;
            self.execute_write(statement).await
        };
        let written = self.for_tables(days, write).await?;
        let inserted = if written == batch.jobs.len() as u64 {
            batch.jobs.iter().map(|_| Inserted::New).collect()
        } else {
            self.compare(batch).await?
        };
        // Not before: whoever is late by its comparison would take its own statement for one of others. Nor where no row was new: that
        // is no sign that rows are taken.
        if written > 0 {
            self.taken.batch(batch, written == batch.jobs.len() as u64);
        }
        Ok(inserted)
    }

    /// Holds a batch of which some ids were taken against the rows that are there.
    async fn compare(&self, batch: &Batch<'_>) -> Result<Vec<Inserted>, StoreError> {
        let ids: Vec<&str> = batch.jobs.iter().map(|j| j.job_id).collect();
        let rows = self.find(&ids).await?;
        let mut found: HashMap<String, (Vec<u8>, Finished)> = HashMap::with_capacity(rows.len());
        for row in &rows {
            let (id, hash, done) = super::jobs::read_job(row).map_err(|e| self.classify(e))?;
            found.insert(id, (hash, done));
        }
        Ok(compared(batch, found))
    }

    async fn find(&self, ids: &[&str]) -> Result<Vec<PgRow>, StoreError> {
        let mut lease = self.lease().await?;
        let found = sqlx::query(FIND_JOBS).bind(ids).fetch_all(&mut *lease);
        let answer = self.deadline(found).await;
        self.end(lease, answer).await
    }

    /// The result of a job that has finished, by its id and its body's hash.
    pub async fn finished(
        &self,
        job_id: &str,
        body_sha256: &[u8; 32],
    ) -> Result<Option<Box<Finished>>, StoreError> {
        let rows = self.find(&[job_id]).await?;
        let read = |row: &PgRow| {
            let status: String = row.try_get("status")?;
            let (_, hash, done) = super::jobs::read_job(row)?;
            Ok((status == "ok" && hash == body_sha256).then(|| Box::new(done)))
        };
        let found = rows.first().map(read).transpose();
        found.map(Option::flatten).map_err(|e| self.classify(e))
    }
}

/// What became of each job of a batch, by the rows with their ids that are there: each with its body's hash.
pub(super) fn compared(
    batch: &Batch<'_>,
    mut found: HashMap<String, (Vec<u8>, Finished)>,
) -> Vec<Inserted> {
    // Where its results weren't stored, a repeat's are as good: a score depends on model, version and input alone.
    let with_results = |done: Finished, now: &Finished| match done.results.is_empty() {
        false => done,
        true => Finished {
            hits: done.hits,
            misses: done.misses,
            elapsed_ms: done.elapsed_ms,
            finished_at: done.finished_at,
            ..now.clone()
        },
    };
    let known = |job: &JobRow<'_>, (hash, done)| (hash, with_results(done, job.done));
    let jobs = batch.jobs.iter();
    let compared = jobs.map(
        |job| match found.remove(job.job_id).map(|one| known(job, one)) {
            // Written by this statement and pruned since, or written and unchanged: either way it is kept.
            None => Inserted::New,
            Some((hash, _)) if hash != job.body_sha256 => Inserted::Conflict,
            Some((_, done)) if done.is_the_run_of(job.done) => Inserted::New,
            Some((_, done)) => Inserted::Same(Box::new(done)),
        },
    );
    compared.collect()
}
