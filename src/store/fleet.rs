//! Owns what workers say of themselves, so that any of them can show all.
//!
//! Promises that a worker which is gone stays to be seen for an hour, and no longer; that a newer worker's figures are read as far as they are
//! known here; and that what they say of their passes is written and read apart from the rest, and added up only where all count alike.

use super::{PostgresStore, StoreError};
use chrono::{DateTime, Utc};
use kiln_model::{PASS_BUCKETS, PassBuckets, PassCounts};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, Row, postgres::PgRow};
use std::collections::BTreeMap;

/// Workers that are listed.
const MAX_LISTED: i64 = 1_000;
/// Versions whose passes are added up.
const MAX_TIMED: usize = 512;
/// Longest word of a worker on its passes that is read, in bytes.
const MAX_PASSES_BYTES: i32 = 64 << 10;
/// After so many seconds of silence a worker is lost.
pub const LOST_SECONDS: f64 = 20.0;
const REPORT: &str = "\
INSERT INTO workers (name, started_at, version, figures, passes) VALUES ($1, $2, $3, $4::text::jsonb, $5::text::jsonb)
ON CONFLICT (name, started_at) DO UPDATE SET seen_at = now(), stopped_at = NULL, figures = excluded.figures,
  passes = coalesce(excluded.passes, workers.passes)";
const STOPPED: &str =
    "UPDATE workers SET stopped_at = now(), seen_at = now() WHERE name = $1 AND started_at = $2";
const FORGET: &str = "DELETE FROM workers WHERE seen_at < now() - interval '1 hour'";
const LIST: &str = "\
SELECT name, version, started_at, seen_at, stopped_at, extract(epoch FROM now() - seen_at)::float8 AS silent,
  extract(epoch FROM seen_at - started_at)::float8 AS up, figures::text AS figures
FROM workers WHERE seen_at > now() - interval '1 hour' ORDER BY stopped_at IS NOT NULL OR seen_at < now() - interval '20 seconds', name, seen_at DESC LIMIT $1";
/// Of those that are there, in an order, so that the same versions are added up each time where there are too many.
const PASSES: &str = "\
SELECT said FROM (
  SELECT name, started_at, passes::text AS said FROM workers WHERE stopped_at IS NULL AND seen_at > now() - interval '20 seconds'
) AS each WHERE octet_length(said) <= $1 ORDER BY name, started_at LIMIT $2";

/// How long a version's passes took within the last minutes, on all workers that are there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VersionPasses {
    /// Workers on which there were any.
    pub workers: usize,
    pub counts: PassCounts,
}

/// How a worker is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerFigures {
    /// `ready`, `degraded`, `paused` or `not ready`.
    pub status: String,
    /// What is in its way; empty if nothing is.
    pub reason: String,
    /// Lanes that it serves.
    pub lanes: Vec<String>,
    /// Active versions of models that it has, as `name@version`.
    pub models: Vec<String>,
    /// Versions that have a share of their model's inputs there, as `name@version 10 %`.
    pub splits: Vec<String>,
    /// All versions that it has, active or not, as `name@version`; empty where a worker of an earlier release doesn't say.
    pub loaded: Vec<String>,
    /// Jobs that wait for scores there, and bytes of all in hand.
    pub waiting_jobs: u64,
    pub bytes_in_hand: u64,
    /// Inputs found and scored, and jobs, within the last five minutes.
    pub hits: u64,
    pub misses: u64,
    pub jobs: u64,
    /// Of these jobs, from delivery to stored result, in milliseconds.
    pub p99_ms: f64,
    /// What the process takes.
    pub memory_bytes: u64,
    /// Whether it keeps warming runs that wait of schedules that it knows; one of an earlier release doesn't.
    pub keeps_queued: bool,
}

/// How long a worker's passes took within the last minutes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerPasses {
    /// What its buckets' numbers mean.
    pub buckets: PassBuckets,
    /// By `name@version`.
    pub versions: BTreeMap<String, PassCounts>,
}

impl WorkerPasses {
    /// As they are said.
    pub fn to_text(&self) -> String {
        // Numbers and texts are always JSON.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// One worker, by its name and when it started.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerRow {
    pub name: String,
    pub version: String,
    pub started_at: DateTime<Utc>,
    pub seen_at: DateTime<Utc>,
    pub stopped_at: Option<DateTime<Utc>>,
    /// For how long it has said nothing, and for how long it had run when it did last, in seconds.
    pub silent: f64,
    pub up: f64,
    pub figures: WorkerFigures,
}

impl WorkerRow {
    /// As it says of itself, or `stopped`, or `lost` where it says nothing any more.
    pub fn state(&self) -> &str {
        match self.stopped_at {
            Some(_) => "stopped",
            None if self.silent > LOST_SECONDS => "lost",
            None => &self.figures.status,
        }
    }

    /// Whether it is there.
    pub fn is_there(&self) -> bool {
        self.stopped_at.is_none() && self.silent <= LOST_SECONDS
    }
}

impl FromRow<'_, PgRow> for WorkerRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let figures: String = row.try_get("figures")?;
        Ok(Self {
            name: row.try_get("name")?,
            version: row.try_get("version")?,
            started_at: row.try_get("started_at")?,
            seen_at: row.try_get("seen_at")?,
            stopped_at: row.try_get("stopped_at")?,
            silent: row.try_get("silent")?,
            up: row.try_get("up")?,
            figures: serde_json::from_str(&figures).unwrap_or_default(),
        })
    }
}

impl PostgresStore {
    /// Notes how a worker is, and of its passes what it says now; where that is nothing, what it said stays.
    pub async fn report_worker(
        &self,
        name: &str,
        started_at: DateTime<Utc>,
        figures: &WorkerFigures,
        passes: Option<&str>,
    ) -> Result<(), StoreError> {
        // Numbers and texts are always JSON.
        let figures = serde_json::to_string(figures).unwrap_or_else(|_| "{}".to_owned());
        let query = sqlx::query(REPORT)
            .bind(name)
            .bind(started_at)
            .bind(env!("CARGO_PKG_VERSION"))
            .bind(figures)
            .bind(passes);
        self.execute(query).await.map(drop)
    }

    /// Notes that a worker has stopped as it was asked to.
    pub async fn note_stopped(
        &self,
        name: &str,
        started_at: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(STOPPED).bind(name).bind(started_at);
        self.execute(query).await.map(drop)
    }

    /// Forgets workers that have been silent for an hour.
    pub async fn forget_workers(&self) -> Result<(), StoreError> {
        self.execute(sqlx::query(FORGET)).await.map(drop)
    }

    /// Every worker of the last hour: those that are there before those that have stopped.
    pub async fn workers(&self) -> Result<Vec<WorkerRow>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_as(LIST).bind(MAX_LISTED);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        self.end(lease, answer).await
    }

    /// The passes of all workers that are there, by `name@version`.
    pub async fn passes(&self) -> Result<BTreeMap<String, VersionPasses>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_scalar(PASSES).bind(MAX_PASSES_BYTES);
        let query = query.bind(MAX_LISTED);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        let said: Vec<String> = self.end(lease, answer).await?;
        Ok(together(&said))
    }
}

/// What workers say of their passes, added up. What can't be read, or is of other buckets, is left out.
fn together(said: &[String]) -> BTreeMap<String, VersionPasses> {
    let mut all: BTreeMap<String, VersionPasses> = BTreeMap::new();
    for one in said {
        let Ok(passes) = serde_json::from_str::<WorkerPasses>(one) else {
            continue;
        };
        if passes.buckets != PASS_BUCKETS {
            continue;
        }
        for (version, counts) in passes.versions {
            if all.len() >= MAX_TIMED && !all.contains_key(&version) {
                continue;
            }
            let sum = all.entry(version).or_default();
            sum.workers += 1;
            sum.counts.add(&counts);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_says_nothing_is_lost_and_one_that_said_goodbye_has_stopped() {
        let row = |silent, stopped: bool| WorkerRow {
            name: "a:1".into(),
            version: "1".into(),
            started_at: DateTime::UNIX_EPOCH,
            seen_at: DateTime::UNIX_EPOCH,
            stopped_at: stopped.then_some(DateTime::UNIX_EPOCH),
            silent,
            up: 5.0,
            figures: WorkerFigures {
                status: "ready".into(),
                ..WorkerFigures::default()
            },
        };
        assert_eq!(row(19.0, false).state(), "ready");
        assert_eq!(row(21.0, false).state(), "lost");
        assert_eq!(row(21.0, true).state(), "stopped");
        assert!(row(1.0, false).is_there() && !row(1.0, true).is_there());
    }

    #[test]
    fn passes_of_all_workers_are_added_up_by_version() {
        let of = |steps: u32, versions: &str| {
            let buckets = format!(r#"{{"steps": {steps}, "first_ns": 1000}}"#);
            format!(r#"{{"buckets": {buckets}, "versions": {versions}, "colour": "blue"}}"#)
        };
        let first = r#"{"a@1": {"buckets": [[40, 3]], "inputs": 5}, "a@2": {"buckets": [[44, 1]], "inputs": 1}}"#;
        let second = r#"{"a@1": {"buckets": [[40, 1], [48, 1]], "inputs": 9, "colour": "blue"}}"#;
        let said = [
            of(4, first),
            of(4, second),
            // Of twice as many buckets, and of nobody knows which.
            of(8, second),
            format!(r#"{{"versions": {first}}}"#),
            of(4, r#"{"a@1": "garbage"}"#),
            "null".to_owned(),
        ];
        let all = together(&said);
        assert_eq!(all.len(), 2);
        let first = &all["a@1"];
        assert_eq!((first.workers, first.counts.inputs), (2, 14));
        assert_eq!(first.counts.buckets, [(40, 4), (48, 1)]);
        let many = WorkerPasses {
            buckets: PASS_BUCKETS,
            versions: (0..2 * MAX_TIMED)
                .map(|n| (format!("a@{n}"), PassCounts::default()))
                .collect(),
        };
        assert_eq!(together(&[many.to_text()]).len(), MAX_TIMED, "and no more");
    }

    #[test]
    fn figures_of_a_newer_worker_are_read_as_far_as_they_are_known() {
        let text = r#"{"status": "ready", "jobs": 3, "colour": "blue"}"#;
        let read: WorkerFigures = serde_json::from_str(text).expect("figures");
        assert_eq!((read.status.as_str(), read.jobs), ("ready", 3));
    }
}
