//! Owns the rows of warming runs: which worker has which, and how far it is.
//!
//! Promises that a due run is claimed once, that a run whose worker is gone can be taken over, and that a worker which was
//! taken over from changes nothing any more: every write carries the claim's token. All times are the database's.

/// A run's number: microseconds since the year in which runs were first numbered so. A sequence that a restore of the database sets back would give
/// numbers again whose jobs may still wait at the broker, and would count for another run.
macro_rules! new_run_id {
    () => {
        "(extract(epoch FROM clock_timestamp() - timestamptz '2026-01-01 00:00:00+00') * 1000000)::bigint"
    };
}
pub(super) use new_run_id;

mod ahead;
mod claims;
mod kept;
mod posts;
mod queued;
pub(super) mod spent;

pub use ahead::SpentAhead;
pub use claims::{Claimed, TakenOver};
pub use kept::{Kept, RunsBefore};
pub use posts::{NewPost, PlanTotals, Post};
pub use spent::{Outlay, Progress, RunPiece, SpentTime};

use super::{PostgresStore, StoreError};
use chrono::{DateTime, Utc};
use sqlx::{FromRow, Row, postgres::PgRow};

/// With what of it isn't posted. Of a plan that was never whole nothing is left over.
const FINISH: &str = "\
WITH held AS MATERIALIZED (
  SELECT id, state FROM warm_runs WHERE id = $1 AND token = $2 AND state IN ('planning', 'posting', 'waiting') FOR UPDATE),
gone AS (DELETE FROM warm_posts USING held WHERE run_id = held.id RETURNING inputs, sent, held.state <> 'planning' AS is_planned),
rest AS (
  SELECT coalesce(sum(inputs) FILTER (WHERE sent), 0) AS sent, coalesce(sum(inputs) FILTER (WHERE NOT sent AND is_planned), 0) AS left_over FROM gone)
UPDATE warm_runs SET state = $3, done = $4 + $5, hits = $4, misses = $5, posted = posted + rest.sent,
  failed = greatest(posted + rest.sent - $4 - $5, 0), left_over = warm_runs.left_over + rest.left_over, spent_seconds = $7,
  kept_bytes = CASE WHEN held.state = 'planning' THEN 0 ELSE kept_bytes END, kept_until = kept_until + (now() - started_at),
  message = nullif(concat_ws('; ', message, $6::text), ''), finished_at = now(), lease_until = NULL
FROM rest, held WHERE warm_runs.id = held.id
RETURNING rest.left_over, pg_notify('kiln', '')";
/// With what jobs that came back late have left of others.
const DROP_SPENT: &str = "\
DELETE FROM warm_spent WHERE run_id = $1 OR NOT EXISTS (SELECT FROM warm_runs WHERE id = run_id AND finished_at IS NULL)";
const COLUMNS: &str = "id, schedule, due_at, state, worker, planned, skipped, bad, posted, done, failed, hits, misses, \
model_seconds, saved_seconds, message, started_at, finished_at, computes, left_over, spent_seconds, kept_bytes, evicted_keys";

/// What holds a run: its row and the claim's token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    pub id: i64,
    pub token: i64,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// Another run of its schedule comes first.
    Queued,
    Planning,
    Posting,
    /// All is posted; not all is done.
    Waiting,
    Done,
    Failed,
    Skipped,
}

impl RunState {
    /// As it stands in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Planning => "planning",
            Self::Posting => "posting",
            Self::Waiting => "waiting",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    /// Whether nothing more happens to it.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Skipped)
    }

    fn parse(text: &str) -> Result<Self, sqlx::Error> {
        [
            Self::Queued,
            Self::Planning,
            Self::Posting,
            Self::Waiting,
            Self::Done,
            Self::Failed,
            Self::Skipped,
        ]
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or_else(|| sqlx::Error::Decode(format!("unknown state {text}").into()))
    }
}

/// A run as its row has it.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRow {
    pub id: i64,
    pub schedule: String,
    pub due_at: DateTime<Utc>,
    pub state: RunState,
    pub worker: Option<String>,
    pub planned: i64,
    pub skipped: i64,
    pub bad: i64,
    pub posted: i64,
    pub done: i64,
    pub failed: i64,
    pub hits: i64,
    pub misses: i64,
    pub model_seconds: f64,
    pub saved_seconds: Option<f64>,
    pub message: Option<String>,
    pub started_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
    /// Those of the planned inputs that the model was to compute.
    pub computes: i64,
    /// Inputs that a budget or the memory left no room for.
    pub left_over: i64,
    /// Model time that its jobs took, in seconds; `model_seconds` was planned.
    pub spent_seconds: f64,
    /// About what its entries fill of Redis, in bytes.
    pub kept_bytes: i64,
    /// What Redis had evicted when it was planned, where it said so.
    pub evicted_keys: Option<i64>,
}

impl FromRow<'_, PgRow> for RunRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            schedule: row.try_get("schedule")?,
            due_at: row.try_get("due_at")?,
            state: RunState::parse(row.try_get("state")?)?,
            worker: row.try_get("worker")?,
            planned: row.try_get("planned")?,
            skipped: row.try_get("skipped")?,
            bad: row.try_get("bad")?,
            posted: row.try_get("posted")?,
            done: row.try_get("done")?,
            failed: row.try_get("failed")?,
            hits: row.try_get("hits")?,
            misses: row.try_get("misses")?,
            model_seconds: row.try_get("model_seconds")?,
            saved_seconds: row.try_get("saved_seconds")?,
            message: row.try_get("message")?,
            started_at: row.try_get("started_at")?,
            finished_at: row.try_get("finished_at")?,
            computes: row.try_get("computes")?,
            left_over: row.try_get("left_over")?,
            spent_seconds: row.try_get("spent_seconds")?,
            kept_bytes: row.try_get("kept_bytes")?,
            evicted_keys: row.try_get("evicted_keys")?,
        })
    }
}

impl PostgresStore {
    /// When a run began.
    pub async fn run_started_at(&self, run: i64) -> Result<Option<DateTime<Utc>>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_scalar("SELECT started_at FROM warm_runs WHERE id = $1").bind(run);
        let answer = self.deadline(query.fetch_optional(&mut *lease)).await;
        self.end(lease, answer).await
    }

    /// Ends a run and drops what of it isn't posted. Says how many inputs that is; nothing where the claim didn't hold.
    pub async fn finish_run(
        &self,
        claim: Claim,
        state: RunState,
        progress: Progress,
        message: Option<&str>,
    ) -> Result<Option<i64>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_scalar(FINISH)
            .bind(claim.id)
            .bind(claim.token)
            .bind(state.as_str())
            .bind(progress.hits)
            .bind(progress.misses)
            .bind(message)
            .bind(progress.model_seconds);
        let answer = self.deadline(query.fetch_optional(&mut *lease)).await;
        let left_over = self.end(lease, answer).await?;
        if left_over.is_some() {
            self.execute(sqlx::query(DROP_SPENT).bind(claim.id)).await?;
        }
        Ok(left_over)
    }

    /// One run.
    pub async fn run_row(&self, id: i64) -> Result<Option<RunRow>, StoreError> {
        let text = format!("SELECT {COLUMNS} FROM warm_runs WHERE id = $1");
        let mut lease = self.lease().await?;
        // The text is made of constants alone.
        let query = sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(id);
        let answer = self.deadline(query.fetch_optional(&mut *lease)).await;
        self.end(lease, answer).await
    }

    /// The latest runs of every schedule, or of one, at most `each` of one, the latest first.
    pub async fn latest_runs(
        &self,
        each: i64,
        schedule: Option<&str>,
    ) -> Result<Vec<RunRow>, StoreError> {
        let text = format!(
            "SELECT {COLUMNS} FROM (SELECT *, row_number() OVER (PARTITION BY schedule ORDER BY due_at DESC) AS place FROM warm_runs \
             WHERE $2::text IS NULL OR schedule = $2) AS runs \
             WHERE place <= $1 ORDER BY schedule, due_at DESC"
        );
        let mut lease = self.lease().await?;
        let query = sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(each)
            .bind(schedule);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        self.end(lease, answer).await
    }
}
