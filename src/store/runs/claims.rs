//! Which worker has which run: claims are made, renewed, given up, and taken over.

use super::{
    Claim, RunState,
    queued::{MAX_QUEUED, STANDS_FOR},
};
use crate::{
    redact::Redact,
    store::{PostgresStore, StoreError},
};
use chrono::{DateTime, Utc};
use std::{collections::BTreeMap, time::Duration};

const CLOCK: &str = "SELECT now()";
/// A few steps down an index for each schedule, however many runs it has had. Due times are whole seconds, and those of runs that were asked for
/// aren't: such a run leaves what is due as it was. What was due later than now was claimed by a clock that was wrong.
const LAST_DUE: &str = "\
SELECT wanted.schedule, last.due_at FROM unnest($1::text[]) AS wanted(schedule)
CROSS JOIN LATERAL (SELECT due_at FROM warm_runs WHERE schedule = wanted.schedule AND due_at <= $2
  AND due_at = date_trunc('second', due_at) ORDER BY due_at DESC LIMIT 1) AS last";
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('kiln warm ' || $1, 0))";
const CLAIM: &str = concat!(
    "\
INSERT INTO warm_runs (id, schedule, due_at, state, worker, lease_until, limit_seconds, ends_at) OVERRIDING SYSTEM VALUE
SELECT ",
    new_run_id!(),
    ", $1, $2,
  CASE WHEN $3 = 'allow' OR NOT EXISTS (SELECT FROM warm_runs WHERE schedule = $1 AND state IN ('queued', 'planning', 'posting', 'waiting'))
       THEN 'planning'
       WHEN $3 = 'queue' OR ($3 = 'wait' AND NOT EXISTS (
         SELECT FROM warm_runs WHERE schedule = $1 AND state = 'queued' AND due_at = date_trunc('second', due_at)))
       THEN 'queued' ELSE 'skipped' END,
  $4, now() + make_interval(secs => $5), $6, now() + make_interval(secs => $6)
WHERE $3 <> 'queue' OR (SELECT count(*) FROM warm_runs WHERE schedule = $1 AND state = 'queued') < $7
ON CONFLICT (schedule, due_at) DO NOTHING
RETURNING id, token, state"
);
const HAS_RUN: &str = "SELECT EXISTS (SELECT FROM warm_runs WHERE schedule = $1 AND due_at = $2)";
/// One that was asked for and waits does what is asked for now.
const ASKED: &str = "\
SELECT id FROM warm_runs WHERE schedule = $1 AND state = 'queued' AND due_at <> date_trunc('second', due_at) ORDER BY due_at LIMIT 1";
const ASK: &str = concat!(
    "\
INSERT INTO warm_runs (id, schedule, due_at, state, limit_seconds, ends_at) OVERRIDING SYSTEM VALUE
SELECT ",
    new_run_id!(),
    ", $1, CASE WHEN at = date_trunc('second', at) THEN at + interval '1 microsecond' ELSE at END, 'queued', $2, now() + make_interval(secs => $2)
FROM (SELECT clock_timestamp() AS at OFFSET 0) AS asked RETURNING id, pg_notify('kiln', '')"
);
const UNDER_WAY: &str = "an earlier run was under way";
const CLOSE_SKIPPED: &str = "\
UPDATE warm_runs SET message = $2, finished_at = now(), worker = NULL, lease_until = NULL WHERE id = $1";
/// $3 are the schedules that this worker knows, $4 those of them that run by themselves: of others only what was asked for is begun.
const TAKE_OVER: &str = "\
UPDATE warm_runs SET worker = $1, token = token + 1, lease_until = now() + make_interval(secs => $2),
  state = CASE WHEN state = 'queued' THEN 'planning' ELSE state END,
  ends_at = CASE WHEN state = 'queued' THEN now() + make_interval(secs => limit_seconds) ELSE ends_at END,
  started_at = CASE WHEN state = 'queued' THEN now() ELSE started_at END
WHERE id = (
  SELECT id FROM warm_runs AS open
  WHERE (state IN ('planning', 'posting', 'waiting') AND lease_until < now()
         AND (state <> 'planning' OR schedule = ANY($3) OR ends_at < now()))
     OR (state = 'queued' AND schedule = ANY($3) AND (schedule = ANY($4) OR due_at <> date_trunc('second', due_at)) AND NOT EXISTS (
           SELECT FROM warm_runs AS other WHERE other.schedule = open.schedule AND other.id <> open.id
             AND (other.state IN ('planning', 'posting', 'waiting') OR (other.state = 'queued' AND other.due_at < open.due_at
               AND (other.schedule = ANY($4) OR other.due_at <> date_trunc('second', other.due_at))))))
  ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id, token, schedule, due_at, state, ends_at < now() AS is_over";
const RENEW: &str = "\
UPDATE warm_runs SET lease_until = now() + make_interval(secs => $3) WHERE id = $1 AND token = $2 AND state IN ('planning', 'posting', 'waiting')
RETURNING ends_at < now()";
const RELEASE: &str = "\
UPDATE warm_runs SET lease_until = now(), token = token + 1 WHERE id = $1 AND token = $2 AND state IN ('planning', 'posting', 'waiting')
RETURNING pg_notify('kiln', '')";

/// What became of a wish to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    /// It is this worker's.
    Own(Claim),
    /// It has its row, and runs later or not at all.
    Set(i64, RunState),
    /// Another worker was first.
    Taken,
    /// So many wait before it that it has no row yet.
    Full,
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

impl PostgresStore {
    /// The database's clock.
    pub async fn clock(&self) -> Result<DateTime<Utc>, StoreError> {
        let mut lease = self.lease().await?;
        let answer = self
            .deadline(sqlx::query_scalar(CLOCK).fetch_one(&mut *lease))
            .await;
        self.end(lease, answer).await
    }

    /// The latest due time until `now` of each of these schedules that has a row; of what was asked for there is none.
    pub async fn last_due(
        &self,
        schedules: &[&str],
        now: DateTime<Utc>,
    ) -> Result<BTreeMap<String, DateTime<Utc>>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_as::<_, (String, DateTime<Utc>)>(LAST_DUE)
            .bind(schedules)
            .bind(now);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        self.end(lease, answer).await.map(BTreeMap::from_iter)
    }

    /// Claims the run of a schedule that is due at `due_at`. `overlap` is `skip`, `wait` (of those that are due, one
    /// waits at most), `queue` (each waits for those before it) or `allow`.
    pub async fn claim_run(
        &self,
        schedule: &str,
        due_at: DateTime<Utc>,
        overlap: &str,
        worker: &str,
        life: Duration,
        limit: Duration,
    ) -> Result<Claimed, StoreError> {
        let mut lease = self.transaction().await?;
        let work = async {
            sqlx::query(LOCK)
                .bind(schedule)
                .execute(&mut *lease)
                .await?;
            let row = sqlx::query_as::<_, (i64, i64, String)>(CLAIM)
                .bind(schedule)
                .bind(due_at)
                .bind(overlap)
                .bind(worker)
                .bind(life.as_secs_f64())
                .bind(limit.as_secs_f64())
                .bind(MAX_QUEUED)
                .fetch_optional(&mut *lease)
                .await?;
            let claimed = match row {
                None => {
                    let has_run = sqlx::query_scalar(HAS_RUN).bind(schedule).bind(due_at);
                    match has_run.fetch_one(&mut *lease).await? {
                        true => Claimed::Taken,
                        false => Claimed::Full,
                    }
                }
                Some((id, token, state)) => match RunState::parse(&state)? {
                    RunState::Planning => Claimed::Own(Claim { id, token }),
                    RunState::Skipped => {
                        sqlx::query(CLOSE_SKIPPED)
                            .bind(id)
                            .bind(if overlap == "wait" {
                                STANDS_FOR
                            } else {
                                UNDER_WAY
                            })
                            .execute(&mut *lease)
                            .await?;
                        Claimed::Set(id, RunState::Skipped)
                    }
                    state => Claimed::Set(id, state),
                },
            };
            Ok(claimed)
        };
        let answer = self.deadline(work).await;
        self.end(lease, answer).await
    }

    /// Asks for a run now, whatever is due; a worker takes it as soon as no other run of the schedule is under way. Where one that was asked for
    /// waits already, it is that one.
    pub async fn ask_run(&self, schedule: &str, limit: Duration) -> Result<i64, StoreError> {
        let mut lease = self.transaction().await?;
        let work = async {
            sqlx::query(LOCK)
                .bind(schedule)
                .execute(&mut *lease)
                .await?;
            let asked = sqlx::query_scalar(ASKED).bind(schedule);
            if let Some(waits) = asked.fetch_optional(&mut *lease).await? {
                return Ok(waits);
            }
            let query = sqlx::query_scalar(ASK)
                .bind(schedule)
                .bind(limit.as_secs_f64());
            query.fetch_one(&mut *lease).await
        };
        let answer = self.deadline(work).await;
        self.end(lease, answer).await
    }

    /// Takes over a run whose worker is gone, or one that had to wait and may begin. One that isn't planned yet must be of
    /// one of these schedules.
    pub async fn take_run_over(
        &self,
        worker: &str,
        (known, running): (&[&str], &[&str]),
        life: Duration,
    ) -> Result<Option<TakenOver>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_as::<_, (i64, i64, String, DateTime<Utc>, String, bool)>(TAKE_OVER)
            .bind(worker)
            .bind(life.as_secs_f64())
            .bind(known)
            .bind(running);
        let answer = self.deadline(query.fetch_optional(&mut *lease)).await;
        let row = self.end(lease, answer).await?;
        row.map(|(id, token, schedule, due_at, state, is_over)| {
            Ok(TakenOver {
                claim: Claim { id, token },
                schedule,
                due_at,
                state: RunState::parse(&state).map_err(|e| StoreError::Refused(e.redacted()))?,
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
        self.end(lease, answer).await
    }

    /// Gives a claim up: any worker may take the run over at once, and a renewal that is still on its way changes nothing.
    pub async fn release_run(&self, claim: Claim) -> Result<(), StoreError> {
        self.execute(sqlx::query(RELEASE).bind(claim.id).bind(claim.token))
            .await?;
        Ok(())
    }
}
