//! Owns the rows of warming runs: which worker has which, and how far it is.
//!
//! Promises that a due run is claimed once, that a run whose worker is gone can be taken over, and that a worker which was
//! taken over from changes nothing any more: every write carries the claim's token. All times are the database's.

use super::{PostgresStore, StoreError};
use chrono::{DateTime, Utc};
use sqlx::{FromRow, Row, postgres::PgRow};
use std::{collections::BTreeMap, time::Duration};

const CLOCK: &str = "SELECT now()";
const LAST_DUE: &str =
    "SELECT schedule, max(due_at) FROM warm_runs WHERE schedule = ANY($1) GROUP BY schedule";
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('kiln warm ' || $1, 0))";
const CLAIM: &str = "\
INSERT INTO warm_runs (schedule, due_at, state, worker, lease_until, limit_seconds, ends_at)
SELECT $1, $2,
  CASE WHEN $3 = 'allow' OR NOT EXISTS (SELECT FROM warm_runs WHERE schedule = $1 AND state IN ('queued', 'planning', 'posting', 'waiting'))
       THEN 'planning' WHEN $3 = 'wait' THEN 'queued' ELSE 'skipped' END,
  $4, now() + make_interval(secs => $5), $6, now() + make_interval(secs => $6)
ON CONFLICT (schedule, due_at) DO NOTHING
RETURNING id, token, state";
const ASK: &str = "\
INSERT INTO warm_runs (schedule, due_at, state, limit_seconds, ends_at)
VALUES ($1, clock_timestamp(), 'queued', $2, now() + make_interval(secs => $2)) RETURNING id";
const CLOSE_SKIPPED: &str = "\
UPDATE warm_runs SET message = 'an earlier run was under way', finished_at = now(), worker = NULL, lease_until = NULL WHERE id = $1";
const TAKE_OVER: &str = "\
UPDATE warm_runs SET worker = $1, token = token + 1, lease_until = now() + make_interval(secs => $2),
  state = CASE WHEN state = 'queued' THEN 'planning' ELSE state END,
  ends_at = CASE WHEN state = 'queued' THEN now() + make_interval(secs => limit_seconds) ELSE ends_at END,
  started_at = CASE WHEN state = 'queued' THEN now() ELSE started_at END
WHERE id = (
  SELECT id FROM warm_runs AS open
  WHERE (state IN ('planning', 'posting', 'waiting') AND lease_until < now()
         AND (state <> 'planning' OR schedule = ANY($3) OR ends_at < now()))
     OR (state = 'queued' AND schedule = ANY($3) AND NOT EXISTS (
           SELECT FROM warm_runs AS other WHERE other.schedule = open.schedule AND other.id <> open.id
             AND (other.state IN ('planning', 'posting', 'waiting') OR (other.state = 'queued' AND other.due_at < open.due_at))))
  ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id, token, schedule, due_at, state, ends_at < now() AS is_over";
const RENEW: &str = "\
UPDATE warm_runs SET lease_until = now() + make_interval(secs => $3) WHERE id = $1 AND token = $2 AND state IN ('planning', 'posting', 'waiting')
RETURNING ends_at < now()";
const RELEASE: &str = "\
UPDATE warm_runs SET lease_until = now() WHERE id = $1 AND token = $2 AND state IN ('planning', 'posting', 'waiting')";
const CLEAR_POSTS: &str = "\
DELETE FROM warm_posts WHERE run_id = (SELECT id FROM warm_runs WHERE id = $1 AND token = $2 AND state = 'planning' FOR UPDATE)";
const ADD_POSTS: &str = "\
WITH held AS MATERIALIZED (SELECT id FROM warm_runs WHERE id = $1 AND token = $2 AND state = 'planning' FOR UPDATE)
INSERT INTO warm_posts (run_id, piece, inputs, body) SELECT id, unnest($3::int[]), unnest($4::int[]), unnest($5::bytea[]) FROM held";
const PLANNED: &str = "\
UPDATE warm_runs SET state = 'posting', planned = $3, skipped = $4, bad = $5, pieces = $6, model_seconds = $7, saved_seconds = $8, message = $9
WHERE id = $1 AND token = $2 AND state = 'planning'";
const NEXT_POSTS: &str =
    "SELECT piece, body FROM warm_posts WHERE run_id = $1 ORDER BY piece LIMIT $2";
const POSTED: &str = "\
WITH gone AS (
  DELETE FROM warm_posts WHERE run_id = (SELECT id FROM warm_runs WHERE id = $1 AND token = $2 AND state = 'posting' FOR UPDATE) AND piece = ANY($3)
  RETURNING inputs)
UPDATE warm_runs SET posted = posted + (SELECT coalesce(sum(inputs), 0) FROM gone) WHERE id = $1 AND token = $2 AND state = 'posting'";
const ALL_POSTED: &str =
    "UPDATE warm_runs SET state = 'waiting' WHERE id = $1 AND token = $2 AND state = 'posting'";
// A job's row lies under warm-<run>-<piece>; '-' comes right before '.'.
const PROGRESS: &str = "\
SELECT count(*), count(*) FILTER (WHERE status = 'rejected'), coalesce(sum(hits), 0), coalesce(sum(misses), 0)
FROM jobs WHERE job_id >= 'warm-' || $1::text || '-' AND job_id < 'warm-' || $1::text || '.'";
const FINISH: &str = "\
UPDATE warm_runs SET state = $3, done = $4 + $5, hits = $4, misses = $5, failed = greatest(posted - $4 - $5, 0),
  message = coalesce($6, message), finished_at = now(), lease_until = NULL
WHERE id = $1 AND token = $2 AND state IN ('planning', 'posting', 'waiting')";
const DROP_POSTS: &str = "DELETE FROM warm_posts WHERE run_id = $1";
const COLUMNS: &str = "id, schedule, due_at, state, worker, planned, skipped, bad, posted, done, failed, hits, misses, \
model_seconds, saved_seconds, message, started_at, finished_at";

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

/// What became of a wish to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    /// It is this worker's.
    Own(Claim),
    /// It has its row, and runs later or not at all.
    Set(i64, RunState),
    /// Another worker was first.
    Taken,
}

/// A run that was taken over.
#[derive(Debug, Clone, PartialEq)]
pub struct TakenOver {
    pub claim: Claim,
    pub schedule: String,
    pub due_at: DateTime<Utc>,
    pub state: RunState,
    /// Whether its time limit has passed.
    pub is_over: bool,
}

/// A job of a run that isn't posted yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    pub piece: i32,
    pub body: Vec<u8>,
}

/// What a run's plan came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PlanTotals {
    pub planned: i64,
    pub skipped: i64,
    pub bad: i64,
    pub pieces: i64,
    pub model_seconds: f64,
    pub saved_seconds: Option<f64>,
    pub message: Option<String>,
}

/// How many of a run's jobs are through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    pub jobs: i64,
    pub rejected: i64,
    pub hits: i64,
    pub misses: i64,
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
}

impl FromRow<'_, PgRow> for Post {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            piece: row.try_get("piece")?,
            body: row.try_get("body")?,
        })
    }
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
        })
    }
}

impl PostgresStore {
    /// The database's clock.
    pub async fn clock(&self) -> Result<DateTime<Utc>, StoreError> {
        let mut lease = self.lease().await?;
        let answer = self
            .deadline(sqlx::query_scalar(CLOCK).fetch_one(&mut *lease))
            .await;
        self.end(lease, answer)
    }

    /// The latest due time of each of these schedules that has a row.
    pub async fn last_due(
        &self,
        schedules: &[&str],
    ) -> Result<BTreeMap<String, DateTime<Utc>>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_as::<_, (String, DateTime<Utc>)>(LAST_DUE).bind(schedules);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        self.end(lease, answer).map(BTreeMap::from_iter)
    }

    /// Claims the run of a schedule that is due at `due_at`. `overlap` is `skip`, `wait` or `allow`.
    pub async fn claim_run(
        &self,
        schedule: &str,
        due_at: DateTime<Utc>,
        overlap: &str,
        worker: &str,
        life: Duration,
        limit: Duration,
    ) -> Result<Claimed, StoreError> {
        let mut lease = self.lease().await?;
        let work = async {
            let mut transaction = sqlx::Connection::begin(&mut *lease).await?;
            sqlx::query(LOCK)
                .bind(schedule)
                .execute(&mut *transaction)
                .await?;
            let row = sqlx::query_as::<_, (i64, i64, String)>(CLAIM)
                .bind(schedule)
                .bind(due_at)
                .bind(overlap)
                .bind(worker)
                .bind(life.as_secs_f64())
                .bind(limit.as_secs_f64())
                .fetch_optional(&mut *transaction)
                .await?;
            let claimed = match row {
                None => Claimed::Taken,
                Some((id, token, state)) => match RunState::parse(&state)? {
                    RunState::Planning => Claimed::Own(Claim { id, token }),
                    RunState::Skipped => {
                        sqlx::query(CLOSE_SKIPPED)
                            .bind(id)
                            .execute(&mut *transaction)
                            .await?;
                        Claimed::Set(id, RunState::Skipped)
                    }
                    state => Claimed::Set(id, state),
                },
            };
            transaction.commit().await?;
            Ok(claimed)
        };
        let answer = self.deadline(work).await;
        self.end(lease, answer)
    }

    /// Asks for a run now, whatever is due; a worker takes it as soon as no other run of the schedule is under way.
    pub async fn ask_run(&self, schedule: &str, limit: Duration) -> Result<i64, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_scalar(ASK)
            .bind(schedule)
            .bind(limit.as_secs_f64());
        let answer = self.deadline(query.fetch_one(&mut *lease)).await;
        self.end(lease, answer)
    }

    /// Takes over a run whose worker is gone, or one that had to wait and may begin. One that isn't planned yet must be of
    /// one of these schedules.
    pub async fn take_run_over(
        &self,
        worker: &str,
        schedules: &[&str],
        life: Duration,
    ) -> Result<Option<TakenOver>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_as::<_, (i64, i64, String, DateTime<Utc>, String, bool)>(TAKE_OVER)
            .bind(worker)
            .bind(life.as_secs_f64())
            .bind(schedules);
        let answer = self.deadline(query.fetch_optional(&mut *lease)).await;
        let row = self.end(lease, answer)?;
        row.map(|(id, token, schedule, due_at, state, is_over)| {
            Ok(TakenOver {
                claim: Claim { id, token },
                schedule,
                due_at,
                state: RunState::parse(&state).map_err(|e| StoreError::Refused(e.to_string()))?,
                is_over,
            })
        })
        .transpose()
    }

    /// Keeps a claim. `None`: it is another worker's by now; otherwise whether the run's time limit has passed.
    pub async fn renew_run(
        &self,
        claim: Claim,
        life: Duration,
    ) -> Result<Option<bool>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_scalar::<_, bool>(RENEW)
            .bind(claim.id)
            .bind(claim.token)
            .bind(life.as_secs_f64());
        let answer = self.deadline(query.fetch_optional(&mut *lease)).await;
        self.end(lease, answer)
    }

    /// Gives a claim up: any worker may take the run over at once.
    pub async fn release_run(&self, claim: Claim) -> Result<(), StoreError> {
        self.execute(sqlx::query(RELEASE).bind(claim.id).bind(claim.token))
            .await?;
        Ok(())
    }

    /// Forgets what an interrupted planning wrote.
    pub async fn clear_posts(&self, claim: Claim) -> Result<(), StoreError> {
        self.execute(sqlx::query(CLEAR_POSTS).bind(claim.id).bind(claim.token))
            .await?;
        Ok(())
    }

    /// Adds jobs to post: their pieces' numbers, how many inputs each has, and their bodies. Says whether the claim holds.
    pub async fn add_posts(
        &self,
        claim: Claim,
        pieces: &[i32],
        inputs: &[i32],
        bodies: &[&[u8]],
    ) -> Result<bool, StoreError> {
        let query = sqlx::query(ADD_POSTS)
            .bind(claim.id)
            .bind(claim.token)
            .bind(pieces)
            .bind(inputs)
            .bind(bodies);
        Ok(self.execute(query).await? == pieces.len() as u64)
    }

    /// Ends planning. Says whether the claim holds.
    pub async fn plan_run(&self, claim: Claim, totals: &PlanTotals) -> Result<bool, StoreError> {
        let query = sqlx::query(PLANNED)
            .bind(claim.id)
            .bind(claim.token)
            .bind(totals.planned)
            .bind(totals.skipped)
            .bind(totals.bad)
            .bind(totals.pieces)
            .bind(totals.model_seconds)
            .bind(totals.saved_seconds)
            .bind(totals.message.as_deref());
        Ok(self.execute(query).await? > 0)
    }

    /// The next jobs of a run to post.
    pub async fn next_posts(&self, run: i64, most: i64) -> Result<Vec<Post>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_as(NEXT_POSTS).bind(run).bind(most);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        self.end(lease, answer)
    }

    /// Notes jobs as posted. Says whether the claim holds.
    pub async fn note_posted(&self, claim: Claim, pieces: &[i32]) -> Result<bool, StoreError> {
        let query = sqlx::query(POSTED)
            .bind(claim.id)
            .bind(claim.token)
            .bind(pieces);
        Ok(self.execute(query).await? > 0)
    }

    /// Ends posting. Says whether the claim holds.
    pub async fn all_posted(&self, claim: Claim) -> Result<bool, StoreError> {
        let query = sqlx::query(ALL_POSTED).bind(claim.id).bind(claim.token);
        Ok(self.execute(query).await? > 0)
    }

    /// How many jobs a run consists of.
    pub async fn run_pieces(&self, run: i64) -> Result<Option<i64>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_scalar("SELECT pieces FROM warm_runs WHERE id = $1").bind(run);
        let answer = self.deadline(query.fetch_optional(&mut *lease)).await;
        self.end(lease, answer)
    }

    /// How many of a run's jobs are through.
    pub async fn run_progress(&self, run: i64) -> Result<Progress, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_as::<_, (i64, i64, i64, i64)>(PROGRESS).bind(run);
        let answer = self.deadline(query.fetch_one(&mut *lease)).await;
        self.end(lease, answer)
            .map(|(jobs, rejected, hits, misses)| Progress {
                jobs,
                rejected,
                hits,
                misses,
            })
    }

    /// Ends a run and drops what of it isn't posted. Says whether the claim held.
    pub async fn finish_run(
        &self,
        claim: Claim,
        state: RunState,
        progress: Progress,
        message: Option<&str>,
    ) -> Result<bool, StoreError> {
        let query = sqlx::query(FINISH)
            .bind(claim.id)
            .bind(claim.token)
            .bind(state.as_str())
            .bind(progress.hits)
            .bind(progress.misses)
            .bind(message);
        if self.execute(query).await? == 0 {
            return Ok(false);
        }
        self.execute(sqlx::query(DROP_POSTS).bind(claim.id)).await?;
        Ok(true)
    }

    /// One run.
    pub async fn run_row(&self, id: i64) -> Result<Option<RunRow>, StoreError> {
        let text = format!("SELECT {COLUMNS} FROM warm_runs WHERE id = $1");
        let mut lease = self.lease().await?;
        // The text is made of constants alone.
        let query = sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(id);
        let answer = self.deadline(query.fetch_optional(&mut *lease)).await;
        self.end(lease, answer)
    }

    /// The latest runs of every schedule, at most `each` of one, the latest first.
    pub async fn latest_runs(&self, each: i64) -> Result<Vec<RunRow>, StoreError> {
        let text = format!(
            "SELECT {COLUMNS} FROM (SELECT *, row_number() OVER (PARTITION BY schedule ORDER BY due_at DESC) AS place FROM warm_runs) AS runs \
             WHERE place <= $1 ORDER BY schedule, due_at DESC"
        );
        let mut lease = self.lease().await?;
        let query = sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(each);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        self.end(lease, answer)
    }
}
