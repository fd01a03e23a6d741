//! Owns the move of `jobs` into daily partitions, while workers write, and the partitions after it: made ahead, and dropped for their age.
//!
//! Promises that the move can be cut short at any moment and goes on where it was; that nothing is copied but what is narrow; that nobody who
//! writes waits for it longer than [`LOCK_LIMIT`], or now and then the server's `deadlock_timeout`, however long who reads takes; and that it is no migration of sqlx's: a release that doesn't
//! know of it starts as before until it is made.

use super::{
    PostgresStore, StoreError,
    prune::{BlockWalk, OldRows},
    tables::Tables,
};
use crate::{backoff::Backoff, clock};
use chrono::{DateTime, Days, NaiveDate, Utc};
use sqlx::{AssertSqlSafe, PgConnection, Row};
use std::time::{Duration, Instant};

/// How both transactions begin: with a lock, and refused where something would be left behind.
const FIT: &str = include_str!("partitions/fit.sql");
const BEGIN: &str = include_str!("partitions/begin.sql");
const SWITCH: &str = include_str!("partitions/switch.sql");
const STAGE: &str = "\
SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass('jobs') AND relkind = 'v'), to_regclass('job_partitioning') IS NOT NULL";
/// One at a time, for as long as its session lasts: somewhat longer than the client, where that was killed.
const ALONE: &str = "\
SET statement_timeout = 0; SET lock_timeout = '10s'; SELECT pg_advisory_lock(1802071150, 0); SET lock_timeout = 0";
const FILL: &str = "SELECT filled, wanted FROM kiln_fill_job_ids($1)";

const DAYS: &str = "\
SELECT right(relname::text, 8) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
WHERE inhparent = to_regclass('job_results') AND relname ~ '^job_results_[0-9]{8}$' ORDER BY 1";
const PRUNE_RESULTS: &str = "\
DELETE FROM job_results USING (SELECT finished_at, job_id FROM job_results WHERE finished_at < $1 ORDER BY finished_at, job_id LIMIT $2) AS old
WHERE job_results.finished_at = old.finished_at AND job_results.job_id = old.job_id";

/// Longest wait for a lock, in which who writes waits as well.
const LOCK_LIMIT: Duration = Duration::from_millis(500);
/// Tries to get one.
const LOCK_TRIES: u32 = 60;
/// The same, once another was not to be had.
const FEWER_TRIES: u32 = 4;
/// Every so many tries one waits for longer.
const LONGER_EVERY: u32 = 4;
/// That is, for a little longer than `deadlock_timeout`: an autovacuum gives way only to who has waited for so long.
const LONGER_LIMIT: &str = "\
DO $$ BEGIN PERFORM set_config('lock_timeout', (setting::int + 250)::text, true) FROM pg_settings WHERE name = 'deadlock_timeout'; END $$";
/// Longest rest between two tries.
const MAX_REST: Duration = Duration::from_secs(2);
/// How long filling in some blocks is to take: a deletion waits for it.
const FILL_TIME: Duration = Duration::from_millis(300);
/// Blocks at once, at first and at the utmost.
const FILL_BLOCKS: [i64; 2] = [256, 16_384];
/// How many days ahead there are partitions.
const AHEAD: u64 = 3;

/// What the move found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// It was made.
    Now,
    /// It had been made.
    Before,
}

impl PostgresStore {
    /// Moves `jobs` into partitions; `progress` hears how many blocks of the table are done, and of how many.
    pub async fn partition_jobs(
        &self,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Moved, StoreError> {
        let mut connection = self.connect().await?;
        if self.sessions.hosts.is_pooled() {
            self.goodbye(connection).await;
            return Err(StoreError::Refused(format!(
                "{} is behind a pooler such as pgbouncer: the database's own address is needed",
                self.url.host()
            )));
        }
        let moved = self.move_jobs(&mut connection, &mut progress).await;
        self.goodbye(connection).await;
        self.tables.doubt();
        moved
    }

    async fn move_jobs(
        &self,
        connection: &mut PgConnection,
        progress: &mut impl FnMut(u64, u64),
    ) -> Result<Moved, StoreError> {
        let failed = |error| self.classify(error);
        let alone = sqlx::raw_sql(ALONE).execute(&mut *connection).await;
        alone.map_err(|error| match failed(error) {
            StoreError::TimedOut(_) => {
                StoreError::Unavailable("jobs are being moved into partitions already".into())
            }
            other => other,
        })?;
        let stage = sqlx::raw_sql(STAGE).fetch_one(&mut *connection).await;
        let stage = stage.map_err(failed)?;
        if stage.try_get(0).map_err(failed)? {
            return Ok(Moved::Before);
        }
        if !stage.try_get::<bool, _>(1).map_err(failed)? {
            let begin = locked("SHARE ROW EXCLUSIVE", BEGIN);
            self.with_locks(connection, &begin).await?;
        }
        for day in days_ahead(clock::now()) {
            let add = sqlx::query("SELECT kiln_add_job_day($1)").bind(day);
            add.execute(&mut *connection).await.map_err(failed)?;
        }
        self.fill(connection, progress).await?;
        let analyze = sqlx::raw_sql("ANALYZE job_ids_next");
        analyze.execute(&mut *connection).await.map_err(failed)?;
        // A table that was written anew since begins anew.
        let switch = locked("ACCESS EXCLUSIVE", SWITCH);
        while let Err(error) = self.with_locks(connection, &switch).await {
            if !self.is_unfilled(connection).await? {
                return Err(error);
            }
            self.fill(connection, progress).await?;
        }
        Ok(Moved::Now)
    }

    /// Whether rows are missing in `job_ids_next`.
    async fn is_unfilled(&self, connection: &mut PgConnection) -> Result<bool, StoreError> {
        let ask = "SELECT EXISTS (SELECT FROM job_partitioning WHERE done < blocks OR file <> pg_relation_filenode('jobs'))";
        let row = sqlx::raw_sql(ask).fetch_one(connection).await;
        let is = row.and_then(|row| row.try_get(0));
        is.map_err(|e| self.classify(e))
    }

    /// Fills in the rows that were there before.
    async fn fill(
        &self,
        connection: &mut PgConnection,
        progress: &mut impl FnMut(u64, u64),
    ) -> Result<(), StoreError> {
        let [mut blocks, max] = FILL_BLOCKS;
        loop {
            let start = Instant::now();
            let query = sqlx::query_as::<_, (i64, i64)>(FILL).bind(blocks);
            let step = query.fetch_one(&mut *connection).await;
            let (filled, wanted) = match step.map_err(|e| self.classify(e)) {
                Ok(step) => step,
                Err(StoreError::Contended(_)) => continue,
                Err(error) => return Err(error),
            };
            progress(filled.unsigned_abs(), wanted.unsigned_abs());
            if filled >= wanted {
                return Ok(());
            }
            let took = start.elapsed();
            if took > FILL_TIME {
                blocks = (blocks / 2).max(1);
            } else if took < FILL_TIME / 2 {
                blocks = (blocks * 2).min(max);
            }
        }
    }

    /// Runs statements as one transaction, again and again until it gets its locks in time.
    async fn with_locks(
        &self,
        connection: &mut PgConnection,
        statements: &str,
    ) -> Result<(), StoreError> {
        let mut backoff = Backoff::new(Duration::from_millis(100), MAX_REST);
        loop {
            // Statements in one message are one transaction.
            let limited = format!("{}; {statements}", lock_limit(backoff.attempts()));
            let run = sqlx::raw_sql(AssertSqlSafe(limited));
            let error = match run.execute(&mut *connection).await {
                Ok(_) => return Ok(()),
                Err(error) => self.classify(error),
            };
            let is_passing = matches!(error, StoreError::TimedOut(_) | StoreError::Contended(_));
            if !is_passing || backoff.attempts() >= LOCK_TRIES {
                return Err(error);
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    /// Makes the partitions of the days to come, where jobs are in partitions.
    pub async fn add_days_ahead(&self) -> Result<(), StoreError> {
        self.tables.doubt();
        match self.tables().await? {
            Tables::Plain => Ok(()),
            Tables::Partitioned => self.add_days(days_ahead(clock::now())).await,
        }
    }

    /// Drops the partitions all of whose rows are older than that, and deletes what is older in the one after them: once the jobs' ids are gone.
    pub(super) async fn prune_results(
        &self,
        before: DateTime<Utc>,
        batch: u32,
    ) -> Result<(), StoreError> {
        self.tables.doubt();
        if self.tables().await? == Tables::Plain {
            return Ok(());
        }
        let mut lease = self.lease().await?;
        let query = sqlx::query_scalar::<_, String>(DAYS);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        let names = self.end(lease, answer).await?;
        let days = names
            .iter()
            .map(|day| NaiveDate::parse_from_str(day, "%Y%m%d"));
        // What can't be dropped now holds up nothing else.
        let mut failed = None;
        let tries = |failed: &Option<StoreError>| match failed {
            None => LOCK_TRIES,
            Some(_) => FEWER_TRIES,
        };
        for day in days.flatten().filter(|day| is_over(*day, before)) {
            let drop = format!("SELECT true FROM kiln_drop_job_day('{day}')");
            let dropped = self.with_short_locks(&drop, tries(&failed)).await;
            failed = failed.or(dropped.err());
        }
        let drop_before = format!("SELECT kiln_drop_jobs_before('{}')", clock::rfc3339(before));
        let dropped = self.with_short_locks(&drop_before, tries(&failed)).await;
        if matches!(dropped, Ok(false)) {
            let mut walk = BlockWalk::default();
            let rows = || OldRows {
                table: "jobs_before",
                time: "finished_at",
                and: "",
            };
            while let Some(_rows) = self.prune_blocks(rows(), before, batch, &mut walk).await? {}
        }
        let delete = || {
            sqlx::query(PRUNE_RESULTS)
                .bind(before)
                .bind(i64::from(batch))
        };
        while self.execute(delete()).await? > 0 {}
        failed.or(dropped.err()).map_or(Ok(()), Err)
    }

    /// Asks for a change that needs a lock on a whole table, again and again until it gets it in time.
    async fn with_short_locks(&self, change: &str, tries: u32) -> Result<bool, StoreError> {
        let mut backoff = Backoff::new(Duration::from_millis(100), MAX_REST);
        loop {
            let mut lease = self.lease().await?;
            let limited = format!("{}; {change}", lock_limit(backoff.attempts()));
            let run = sqlx::raw_sql(AssertSqlSafe(limited));
            let answer = self.deadline(run.fetch_one(&mut *lease)).await;
            match self.end(lease, answer).await {
                Ok(row) => return row.try_get(0).map_err(|e| self.classify(e)),
                Err(StoreError::TimedOut(_)) if backoff.attempts() < tries => {
                    tokio::time::sleep(backoff.next_wait()).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Statements of the move, behind the lock that they need.
fn locked(mode: &str, statements: &str) -> String {
    format!("{}{statements}", FIT.replace("LOCK_MODE", mode))
}

/// Limits how long a try waits for a lock, of which so many came before.
fn lock_limit(tries: u32) -> String {
    if tries % LONGER_EVERY == LONGER_EVERY - 1 {
        return LONGER_LIMIT.to_owned();
    }
    format!("SET LOCAL lock_timeout = {}", LOCK_LIMIT.as_millis())
}

/// The days for which there are to be partitions: some clocks are behind.
fn days_ahead(now: DateTime<Utc>) -> impl Iterator<Item = NaiveDate> {
    let today = now.date_naive();
    let first = today.pred_opt().unwrap_or(today);
    first.iter_days().take(AHEAD as usize + 2)
}

/// Whether all moments of a day lie before that one.
fn is_over(day: NaiveDate, before: DateTime<Utc>) -> bool {
    let next = day.checked_add_days(Days::new(1));
    next.is_some_and(|next| next <= before.date_naive())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_goes_once_its_last_moment_is_too_old() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().expect("a moment");
        let day = NaiveDate::from_ymd_opt(2026, 11, 26).expect("a day");
        assert!(!is_over(day, at("2026-11-26T23:59:59.999Z")));
        assert!(is_over(day, at("2026-11-27T00:00:00Z")));
        assert!(is_over(day, at("2027-01-01T00:00:00Z")));
    }

    #[test]
    fn some_tries_wait_until_an_autovacuum_gives_way() {
        let longer = (0..FEWER_TRIES).filter(|tries| lock_limit(*tries) == LONGER_LIMIT);
        assert_eq!(longer.count(), 1, "also where there are few");
    }

    #[test]
    fn there_are_partitions_from_yesterday_to_some_days_ahead() {
        let now = "2026-12-31T12:00:00Z".parse().expect("a moment");
        let days: Vec<String> = days_ahead(now).map(|day| day.to_string()).collect();
        let wanted = [
            "2026-12-30",
            "2026-12-31",
            "2027-01-01",
            "2027-01-02",
            "2027-01-03",
        ];
        assert_eq!(days, wanted);
    }
}
