//! Owns deleting old rows from Postgres, some at a time.
//!
//! Promises that a name's latest row stays, however long ago it began: what readers find may still be of it.

use super::{
    PostgresStore, StoreError, Table,
    tables::{TRIES, Tables},
};
use crate::redact::Redact;
use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Row};

/// A step of a walk over a table's rows as they lie in its file, so that no step looks again at what an earlier one has left, and none reads
/// more than some blocks, however few rows are old. A row that was written anew meanwhile is looked at again: it may be young.
const PRUNE_BLOCKS: &str = "\
WITH old AS (
  SELECT ctid FROM TABLE WHERE ctid > $3::text::tid AND ctid < $4::text::tid AND TIME < $1 LIMIT $2
), gone AS (
  DELETE FROM TABLE WHERE ctid = ANY(ARRAY(SELECT ctid FROM old)) AND TIME < $1 ANDALSO RETURNING 1
)
SELECT (SELECT count(*) FROM old) AS looked, (SELECT count(*) FROM gone) AS gone, (SELECT max(ctid)::text FROM old) AS at";
/// Its job is gone: one that was rejected may have been posted again by another key, and is as young as its last end. Looked up row by row, however
/// many rows the server expects.
const HAS_NO_JOB: &str = "AND (SELECT true FROM jobs WHERE jobs.job_id = TABLE.job_id AND jobs.body_sha256 = TABLE.body_sha256 LIMIT 1) IS NULL";
/// Else the server may begin in the middle of a table, where others read it as well: the latest of a step's rows tells of those before it.
const IN_ORDER: &str = "SET LOCAL synchronize_seqscans = off";
const BLOCKS: &str =
    "SELECT pg_relation_size(to_regclass($1)) / current_setting('block_size')::bigint";
/// Blocks of a step: 64 MiB of a server's default ones.
const STEP_BLOCKS: i64 = 8192;
/// Each schedule's latest due run stays, however old: it says up to when all that was due has been dealt with.
const PRUNE_RUNS: &str = "\
DELETE FROM warm_runs WHERE id IN (SELECT id FROM warm_runs AS old WHERE finished_at < $1
  AND (due_at <> date_trunc('second', due_at) OR EXISTS (SELECT FROM warm_runs AS later WHERE later.schedule = old.schedule
    AND later.due_at > old.due_at AND later.due_at = date_trunc('second', later.due_at))) LIMIT $2)";

/// A step of a walk over all rows in the order of their names, so that no step looks again at what an earlier one has left. A row holds until the
/// name's next one: it goes once that one is old as well.
const PRUNE_SERVED: &str = "\
WITH looked AS (
  SELECT namespace, key, id, served_from FROM served WHERE (namespace, key, id) > ($3, $4, $5) ORDER BY namespace, key, id LIMIT $2
), gone AS (
  DELETE FROM served USING looked
  WHERE (served.namespace, served.key, served.id) = (looked.namespace, looked.key, looked.id) AND looked.served_from < $1
  AND (SELECT next.served_from FROM served AS next WHERE next.namespace = looked.namespace AND next.key = looked.key AND next.id > looked.id
    ORDER BY next.id LIMIT 1) < $1
  RETURNING 1
)
SELECT namespace, key, id, (SELECT count(*) FROM gone) AS gone FROM looked ORDER BY namespace DESC, key DESC, id DESC LIMIT 1";

/// The row at which a walk over the names has come.
#[derive(Debug, Default)]
pub(super) struct Walk {
    namespace: String,
    key: String,
    id: i64,
}

/// Rows that go for their age.
pub(super) struct OldRows {
    pub table: &'static str,
    /// The column that says how old a row is.
    pub time: &'static str,
    /// What else must hold of a row; a condition that begins with `AND`, or nothing.
    pub and: &'static str,
}

/// How far a walk over a table's blocks is.
#[derive(Debug, Default)]
pub(super) struct BlockWalk {
    /// The row at which it has come.
    at: Option<String>,
    block: i64,
    /// Where it ends: what is written later isn't old.
    end: Option<i64>,
}

impl PostgresStore {
    /// A step; says how many rows it deleted, or nothing at the end. Where the tables turn out to be others, the walk begins anew.
    pub(super) async fn prune(
        &self,
        table: Table,
        before: DateTime<Utc>,
        batch: u32,
        walk: &mut BlockWalk,
    ) -> Result<Option<u64>, StoreError> {
        let mut tries = 1;
        loop {
            let doubts = self.tables.doubts();
            let step = self.prune_step(table, before, batch, walk).await;
            if step.is_ok() || tries == TRIES || self.tables.doubts() == doubts {
                return step;
            }
            tries += 1;
            *walk = BlockWalk::default();
        }
    }

    async fn prune_step(
        &self,
        table: Table,
        before: DateTime<Utc>,
        batch: u32,
        walk: &mut BlockWalk,
    ) -> Result<Option<u64>, StoreError> {
        let (table, time) = match (table, self.tables().await?) {
            (Table::Jobs, Tables::Plain) => ("jobs", "finished_at"),
            (Table::Jobs, Tables::Partitioned) => ("job_ids", "finished_at"),
            (Table::Scores, _) => ("scores", "scored_at"),
            (Table::Runs, _) => {
                let delete = sqlx::query(PRUNE_RUNS).bind(before).bind(i64::from(batch));
                let rows = self.execute(delete).await?;
                return Ok((rows > 0).then_some(rows));
            }
        };
        let rows = OldRows {
            table,
            time,
            and: "",
        };
        self.prune_blocks(rows, before, batch, walk).await
    }

    /// A step over a table's blocks.
    pub(super) async fn prune_blocks(
        &self,
        OldRows { table, time, and }: OldRows,
        before: DateTime<Utc>,
        batch: u32,
        walk: &mut BlockWalk,
    ) -> Result<Option<u64>, StoreError> {
        let end = match walk.end {
            Some(end) => end,
            None => {
                let mut lease = self.lease().await?;
                let query = sqlx::query_scalar::<_, Option<i64>>(BLOCKS).bind(table);
                let answer = self.deadline(query.fetch_one(&mut *lease)).await;
                let blocks = self.end(lease, answer).await?.unwrap_or_default();
                *walk.end.insert(blocks)
            }
        };
        if walk.block >= end {
            return Ok(None);
        }
        // The names are Kiln's own.
        let statement = PRUNE_BLOCKS.replace("ANDALSO", and);
        let statement = statement.replace("TABLE", table).replace("TIME", time);
        let from = walk.at.clone();
        let from = from.unwrap_or_else(|| format!("({},0)", walk.block));
        let next = walk.block + STEP_BLOCKS;
        let mut lease = self.transaction().await?;
        let query = sqlx::query(AssertSqlSafe(statement))
            .bind(before)
            .bind(i64::from(batch))
            .bind(from)
            .bind(format!("({next},0)"));
        let step = async {
            sqlx::raw_sql(IN_ORDER).execute(&mut *lease).await?;
            query.fetch_one(&mut *lease).await
        };
        let answer = self.deadline(step).await;
        let row = self.end(lease, answer).await?;
        let read = || {
            let looked: i64 = row.try_get("looked")?;
            let gone: i64 = row.try_get("gone")?;
            Ok((looked, gone, row.try_get("at")?))
        };
        let (looked, gone, at) = read().map_err(|e: sqlx::Error| self.classify(e))?;
        if looked < i64::from(batch) {
            // There is no more among these blocks.
            (walk.at, walk.block) = (None, next);
        } else {
            walk.at = at;
        }
        Ok(Some(gone.unsigned_abs()))
    }

    /// Deletes which keys posted jobs that ended so long ago and are gone: a key knows of its job for as long as that is kept.
    pub(super) async fn prune_posters(
        &self,
        before: DateTime<Utc>,
        batch: u32,
    ) -> Result<(), StoreError> {
        let mut walk = BlockWalk::default();
        let rows = || OldRows {
            table: "job_posters",
            time: "posted_at",
            and: HAS_NO_JOB,
        };
        while let Some(_rows) = self.prune_blocks(rows(), before, batch, &mut walk).await? {}
        Ok(())
    }

    /// A step over what names were served; says how many rows it deleted, or nothing at the end.
    pub(super) async fn prune_served(
        &self,
        before: DateTime<Utc>,
        batch: u32,
        walk: &mut Walk,
    ) -> Result<Option<u64>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query(PRUNE_SERVED)
            .bind(before)
            .bind(i64::from(batch))
            .bind(&walk.namespace)
            .bind(&walk.key)
            .bind(walk.id);
        let answer = self.deadline(query.fetch_optional(&mut *lease)).await;
        let Some(row) = self.end(lease, answer).await? else {
            return Ok(None);
        };
        let read = || {
            let at = Walk {
                namespace: row.try_get("namespace")?,
                key: row.try_get("key")?,
                id: row.try_get("id")?,
            };
            Ok((at, row.try_get::<i64, _>("gone")?))
        };
        let (at, gone) = read().map_err(|e: sqlx::Error| StoreError::Refused(e.redacted()))?;
        *walk = at;
        Ok(Some(gone.unsigned_abs()))
    }
}
