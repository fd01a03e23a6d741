//! Owns how long things took on every worker within the last day, in slots of time.
//!
//! Promises rows as many as workers and slots, whatever is asked of them, and that none older than a day and an hour stays. Refuses to hold all of them
//! at once: they are handed on as they come.

use super::{PostgresStore, StoreError};
use crate::telemetry::timings::Timings;
use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use sqlx::{FromRow, Row, postgres::PgRow};

/// Seconds of a slot.
pub const SLOT_SECONDS: i64 = 300;
/// Rows that are read at the most, the latest first: a day of 173 workers.
const MAX_READ: i64 = 50_000;
const RECORD: &str = "\
INSERT INTO timings (slot, worker, started_at, parts) VALUES ($1, $2, $3, $4::text::jsonb)
ON CONFLICT (slot, worker, started_at) DO UPDATE SET parts = excluded.parts";
/// Those of a worker whose clock is ahead would stay otherwise.
const FORGET: &str = "DELETE FROM timings WHERE slot < now() - interval '25 hours' OR slot > now() + interval '1 day'";
const READ: &str = "\
SELECT slot, worker, parts::text AS parts FROM timings WHERE slot >= $1 AND slot < $2 ORDER BY slot DESC, worker LIMIT $3";

/// What a worker did within a slot.
#[derive(Debug, Clone, PartialEq)]
pub struct TimingRow {
    /// When the slot began.
    pub slot: DateTime<Utc>,
    pub worker: String,
    pub timings: Timings,
}

impl FromRow<'_, PgRow> for TimingRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let parts: String = row.try_get("parts")?;
        Ok(Self {
            slot: row.try_get("slot")?,
            worker: row.try_get("worker")?,
            timings: Timings::from_json(&parts),
        })
    }
}

impl PostgresStore {
    /// Notes what a worker did within a slot so far, in place of what it had noted of it before.
    pub async fn record_timings(
        &self,
        slot: DateTime<Utc>,
        (worker, started_at): (&str, DateTime<Utc>),
        timings: &Timings,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(RECORD)
            .bind(slot)
            .bind(worker)
            .bind(started_at)
            .bind(timings.to_json());
        self.execute(query).await.map(drop)
    }

    /// Forgets what is older than a day.
    pub async fn forget_timings(&self) -> Result<(), StoreError> {
        self.execute(sqlx::query(FORGET)).await.map(drop)
    }

    /// Hands on what every worker did within a time, the latest first; returns whether that was all.
    pub async fn read_timings(
        &self,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        mut each: impl FnMut(TimingRow),
    ) -> Result<bool, StoreError> {
        let mut lease = self.lease().await?;
        let read = async {
            let query = sqlx::query(READ).bind(from).bind(to).bind(MAX_READ);
            let mut rows = query.fetch(&mut *lease);
            let mut count = 0;
            while let Some(row) = rows.try_next().await? {
                each(TimingRow::from_row(&row)?);
                count += 1;
            }
            Ok(count < MAX_READ)
        };
        let answer = self.deadline(read).await;
        self.end(lease, answer).await
    }
}
