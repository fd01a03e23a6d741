//! Owns which jobs' ends are still to be posted, and which worker posts which of them now.
//!
//! Promises that a row is written by the statement that writes its job's, and only where that one is new; that no two workers have a row at the same
//! time, unless the first one took longer than its time; that whoever has lost a row changes nothing of it; and that what is read of a job to post it is
//! bounded, whatever its row holds. Refuses to post anything.

use super::{
    Batch, JobEnd, PostgresStore, StoreError,
    columns::{Columns, column},
    jobs,
};
use crate::redact::Redact;
use sha2::{Digest, Sha256};
use sqlx::{
    FromRow, Row,
    error::BoxDynError,
    postgres::{PgArguments, PgRow},
};
use std::time::Duration;

/// The tail of every insertion: of a job that was rejected and has ended well since, the latest end is posted.
macro_rules! again {
    () => {
        "ON CONFLICT (job_id) DO UPDATE SET body_sha256 = excluded.body_sha256, url = excluded.url, host = excluded.host, \
         created_at = now(), due_at = now(), tries = 0, claim = callbacks.claim + 1"
    };
}
pub(super) use again;

/// By host, so that one with many rows costs the others nothing. Rows are taken one after the other, and those of others are left alone.
const CLAIM: &str = "\
WITH due AS (
  SELECT one.job_id FROM unnest($1::text[], $2::int8[]) AS free (host, seats) CROSS JOIN LATERAL (
    SELECT job_id FROM callbacks
    WHERE callbacks.host = free.host AND due_at <= now() AND created_at > now() - $5::float8 * interval '1 second'
    ORDER BY due_at LIMIT free.seats FOR UPDATE SKIP LOCKED
  ) AS one LIMIT $3
)
UPDATE callbacks SET due_at = now() + $4::float8 * interval '1 second', tries = tries + 1, claim = claim + 1
FROM due WHERE callbacks.job_id = due.job_id
RETURNING callbacks.job_id, substr(body_sha256, 1, 32) AS body_sha256, left(url, 2048) AS url, callbacks.host, tries, claim,
  extract(epoch FROM now() - created_at)::float8 AS age_seconds, (extract(epoch FROM created_at) * 1000000)::int8 AS created_us";
const END: &str = "DELETE FROM callbacks WHERE job_id = $1 AND claim = $2";
const LATER: &str = "\
UPDATE callbacks SET due_at = now() + $3::float8 * interval '1 second' WHERE job_id = $1 AND claim = $2";
/// It is due at once, and the try that didn't come to sending anything isn't counted.
const RETURN: &str = "\
UPDATE callbacks SET due_at = now(), tries = greatest(0, tries - 1) WHERE job_id = $1 AND claim = $2";

/// The row is cut where it lies: what is too large to be posted doesn't cross the network.
const TO_POST: &str = "\
WITH found AS MATERIALIZED (
  SELECT status, model, version, namespace, hits, misses, results::text AS results, error, error::text AS said, elapsed_ms, finished_at
  FROM jobs WHERE job_id = $1 AND body_sha256 = $2
)
SELECT $1::text AS job_id, $2::bytea AS body_sha256, status, left(model, 512) AS model, left(version, 512) AS version, left(namespace, 512) AS namespace,
  hits, misses, elapsed_ms, finished_at, CASE WHEN octet_length(results) <= $3 THEN results END AS results,
  CASE WHEN octet_length(said) <= 65536 THEN said ELSE
    jsonb_build_object('code', left(error ->> 'code', 64), 'field', NULL, 'message', 'it is too long to be posted')::text END AS error
FROM found";

/// Rows that one statement deletes.
const STEP: i64 = 1_000;
const FORGET_OLD: &str = "\
DELETE FROM callbacks WHERE job_id = ANY(ARRAY(
  SELECT job_id FROM callbacks WHERE created_at < now() - $1::float8 * interval '1 second' ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED))";
/// Those beyond a number, which are counted no further than they may be deleted; by one worker at a time, so that no two delete for the same excess.
const FORGET_EXCESS: &str = "\
WITH alone AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(hashtextextended('kiln callbacks', 0)) AS is_so)
DELETE FROM callbacks WHERE job_id = ANY(ARRAY(
  SELECT job_id FROM callbacks WHERE (SELECT is_so FROM alone) ORDER BY created_at
  LIMIT least($2, greatest(0, (SELECT count(*) FROM (SELECT FROM callbacks LIMIT $1 + $2) AS counted) - $1)) FOR UPDATE SKIP LOCKED))";
const WAITING: &str = "\
SELECT count(*) AS waiting, coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS oldest_seconds
FROM (SELECT created_at FROM callbacks ORDER BY created_at LIMIT $1) AS oldest";

/// Where a job's end is posted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallbackTo<'a> {
    pub url: &'a str,
    /// The host as the settings list it.
    pub host: &'a str,
}

/// A job of a batch whose end is posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallbackRow<'a> {
    pub job_id: &'a str,
    pub body_sha256: [u8; 32],
    pub to: CallbackTo<'a>,
}

/// A row that this worker is to post now.
#[derive(Debug, Clone, PartialEq)]
pub struct DueCallback {
    pub job_id: String,
    /// Of the body that asked for it.
    pub body_sha256: Vec<u8>,
    pub url: String,
    /// The host as the settings list it.
    pub host: String,
    /// Tries that have begun, this one included.
    pub tries: i32,
    /// The right to it.
    pub claim: i64,
    /// Seconds since the job's end.
    pub age_seconds: f64,
    /// When the job's end was written, in microseconds since 1970: another end of the same job is another callback.
    pub created_us: i64,
}

impl DueCallback {
    /// The id of this end of this job, the same in every try by any worker.
    pub fn delivery(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.created_us.to_be_bytes());
        hash.update(&self.body_sha256);
        hash.update(&self.job_id);
        let hash: [u8; 32] = hash.finalize().into();
        let (id, _rest) = hash.split_at(16);
        hex::encode(id)
    }
}

/// How many wait, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WaitingCallbacks {
    pub waiting: i64,
    pub oldest_seconds: f64,
}

impl FromRow<'_, PgRow> for DueCallback {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            job_id: row.try_get("job_id")?,
            body_sha256: row.try_get("body_sha256")?,
            url: row.try_get("url")?,
            host: row.try_get("host")?,
            tries: row.try_get("tries")?,
            claim: row.try_get("claim")?,
            age_seconds: row.try_get("age_seconds")?,
            created_us: row.try_get("created_us")?,
        })
    }
}

impl FromRow<'_, PgRow> for WaitingCallbacks {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            waiting: row.try_get("waiting")?,
            oldest_seconds: row.try_get("oldest_seconds")?,
        })
    }
}

/// The insertion of a batch's callbacks, where the jobs that were written are in `done`.
pub(super) fn insert(
    batch: &Batch<'_>,
    arguments: &mut PgArguments,
) -> Result<String, BoxDynError> {
    let mut rows = batch.callbacks.clone();
    rows.sort_unstable_by_key(|row| row.job_id);
    let mut columns = Columns::new(arguments);
    columns.each("job_id", "text", column(&rows, |c| c.job_id))?;
    let bodies = column(&rows, |c| c.body_sha256.as_slice());
    columns.each("body_sha256", "bytea", bodies)?;
    columns.each("url", "text", column(&rows, |c| c.to.url))?;
    columns.shared("host", column(&rows, |c| c.to.host))?;
    Ok(format!(
        "INSERT INTO callbacks (job_id, body_sha256, url, host)\nSELECT new.job_id, new.body_sha256, new.url, new.host FROM ({}) AS new \
         JOIN done ON done.job_id = new.job_id ORDER BY new.job_id\n{}",
        columns.into_rows(),
        again!()
    ))
}

impl PostgresStore {
    /// Takes rows that are due and no older than `age`, for each of these hosts at most so many and `max` of all, for a time: then they are due
    /// again.
    pub async fn claim_callbacks(
        &self,
        free: &[(&str, usize)],
        max: usize,
        held_for: Duration,
        age: Duration,
    ) -> Result<Vec<DueCallback>, StoreError> {
        let whole = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let hosts: Vec<&str> = free.iter().map(|(host, _)| *host).collect();
        let seats: Vec<i64> = free.iter().map(|(_, seats)| whole(*seats)).collect();
        let mut lease = self.lease().await?;
        let query = sqlx::query_as::<_, DueCallback>(CLAIM)
            .bind(hosts)
            .bind(seats)
            .bind(whole(max))
            .bind(held_for.as_secs_f64())
            .bind(age.as_secs_f64());
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        self.end(lease, answer).await
    }

    /// Forgets a row that is delivered or given up. Says whether it was still this one's.
    pub async fn end_callback(&self, due: &DueCallback) -> Result<bool, StoreError> {
        let query = sqlx::query(END).bind(&due.job_id).bind(due.claim);
        self.execute(query).await.map(|rows| rows > 0)
    }

    /// Has a row tried again after a wait.
    pub async fn postpone_callback(
        &self,
        due: &DueCallback,
        wait: Duration,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(LATER)
            .bind(&due.job_id)
            .bind(due.claim)
            .bind(wait.as_secs_f64());
        self.execute(query).await.map(drop)
    }

    /// Leaves a row of which nothing was sent to whoever takes it next, at once.
    pub async fn return_callback(&self, due: &DueCallback) -> Result<(), StoreError> {
        let query = sqlx::query(RETURN).bind(&due.job_id).bind(due.claim);
        self.execute(query).await.map(drop)
    }

    /// How the job with this body ended, without its results where they have more than `max_bytes`; nothing where the id has no row, or is another
    /// body's.
    pub async fn job_to_post(
        &self,
        job_id: &str,
        body_sha256: &[u8],
        max_bytes: usize,
    ) -> Result<Option<JobEnd>, StoreError> {
        let mut lease = self.lease().await?;
        let max = i32::try_from(max_bytes).unwrap_or(i32::MAX);
        let query = sqlx::query(TO_POST).bind(job_id).bind(body_sha256);
        let query = query.bind(max);
        let answer = self.deadline(query.fetch_optional(&mut *lease)).await;
        let row = self.end(lease, answer).await?;
        row.map(|row| jobs::read_end(&row))
            .transpose()
            .map_err(|e| StoreError::Refused(e.redacted()))
    }

    /// Gives up rows that are older than `age`, up to 1,000 of them; says how many.
    pub async fn give_up_old_callbacks(&self, age: Duration) -> Result<u64, StoreError> {
        let old = sqlx::query(FORGET_OLD).bind(age.as_secs_f64()).bind(STEP);
        self.execute(old).await
    }

    /// Gives up the oldest rows beyond `max`, up to 1,000 of them; says how many.
    pub async fn give_up_excess_callbacks(&self, max: u32) -> Result<u64, StoreError> {
        let excess = sqlx::query(FORGET_EXCESS).bind(i64::from(max)).bind(STEP);
        self.execute(excess).await
    }

    /// How many wait, counted up to one more than `max`.
    pub async fn waiting_callbacks(&self, max: u32) -> Result<WaitingCallbacks, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_as::<_, WaitingCallbacks>(WAITING).bind(i64::from(max) + 1);
        let answer = self.deadline(query.fetch_one(&mut *lease)).await;
        self.end(lease, answer).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_try_of_an_end_has_one_id_and_another_end_another() {
        let due = DueCallback {
            job_id: "a".to_owned(),
            body_sha256: vec![7; 32],
            url: "https://a/".to_owned(),
            host: "a".to_owned(),
            tries: 1,
            claim: 1,
            age_seconds: 0.5,
            created_us: 1_764_244_800_000_000,
        };
        let again = DueCallback {
            tries: 9,
            claim: 12,
            age_seconds: 90.0,
            ..due.clone()
        };
        assert_eq!(due.delivery(), again.delivery());
        assert_eq!(due.delivery().len(), 32);
        for other in [
            DueCallback {
                created_us: due.created_us + 1,
                ..due.clone()
            },
            DueCallback {
                body_sha256: vec![8; 32],
                ..due.clone()
            },
            DueCallback {
                job_id: "b".to_owned(),
                ..due.clone()
            },
        ] {
            assert_ne!(due.delivery(), other.delivery(), "{other:?}");
        }
    }
}
