//! Owns the one question that a worker asks of the database again and again: what operators and other workers want.
//!
//! Promises one statement for all of it, whose cost doesn't grow with the history: it reads small tables, and of runs the open ones.

use super::{InvalidationMark, Paused, PostgresStore, StoreError, active};
use chrono::{DateTime, TimeDelta, Utc};
use kiln_model::Choices;
use sqlx::{Executor, Postgres, Row, postgres::PgRow};
use std::{collections::BTreeSet, time::Instant};

/// A row a fact. The row of the latest invalidation always comes along: it says how far the changes go. Of removals that nobody is at, it is
/// enough to know from which servers they were made last.
const NEWS: &str = "\
SELECT 'clock' AS about, current_setting('transaction_read_only') AS name, NULL AS word, 0::int8 AS stamp, 0::int8 AS change, clock_timestamp() AS at
UNION ALL SELECT 'paused', name, paused_by, 0, 0, paused_at FROM controls
UNION ALL SELECT 'active', name, version, 0, 0, changed_at FROM active_models
UNION ALL SELECT 'split', name, version, millionths, 0, changed_at FROM model_splits
UNION ALL SELECT 'mark', namespace, NULL, stamp, change, at FROM invalidations WHERE change > $1 OR namespace = ''
UNION ALL SELECT 'cancelled', name, NULL, 0, 0, cancelled_at FROM (
  SELECT name, cancelled_at FROM cancelled_runs ORDER BY cancelled_at DESC LIMIT 1000
) AS cancelled
UNION ALL SELECT 'removal', '', removed_on, 0, 0, now() FROM (
  SELECT DISTINCT removed_on FROM invalidations WHERE namespace <> '' AND (removing_until IS NULL OR removing_until < now())
) AS removals
UNION ALL SELECT 'run', '', NULL, 0, 0, now() WHERE EXISTS (
  SELECT FROM warm_runs WHERE state = 'queued' OR (state IN ('planning', 'posting', 'waiting') AND lease_until < now())
)";

/// What the database says of everything that workers share, at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct News {
    /// The database's clock, and this machine's when it was heard.
    clock: DateTime<Utc>,
    heard: Instant,
    /// Everything that is paused.
    pub paused: Vec<Paused>,
    /// Runs that were cancelled, the latest ones where there are many.
    pub cancelled: BTreeSet<String>,
    /// What bare model names mean.
    pub chosen: Choices,
    /// The marks that were set after the change from which on was asked, and the latest of all.
    pub marks: Vec<InvalidationMark>,
    /// From which servers what readers found was removed last, of namespaces whose removal nobody is at; none: from no server yet.
    pub removed_on: Vec<Option<String>>,
    /// Whether a run waits for a worker.
    pub is_run_waiting: bool,
    /// Whether the server takes no writes.
    pub is_read_only: bool,
}

impl News {
    fn read(rows: &[PgRow]) -> Result<Self, sqlx::Error> {
        let mut news = Self {
            clock: DateTime::UNIX_EPOCH,
            heard: Instant::now(),
            paused: Vec::new(),
            cancelled: BTreeSet::new(),
            chosen: Choices::default(),
            marks: Vec::new(),
            removed_on: Vec::new(),
            is_run_waiting: false,
            is_read_only: false,
        };
        for row in rows {
            let name: String = row.try_get("name")?;
            let word: Option<String> = row.try_get("word")?;
            let at: DateTime<Utc> = row.try_get("at")?;
            match row.try_get("about")? {
                "clock" => {
                    news.clock = at;
                    news.is_read_only = name == "on";
                }
                "paused" => news.paused.push(Paused {
                    name,
                    by: word.unwrap_or_default(),
                    at,
                }),
                "cancelled" => {
                    news.cancelled.insert(name);
                }
                "active" => {
                    active::add(&mut news.chosen, (name, word.unwrap_or_default()), None);
                }
                "split" => {
                    let named = (name, word.unwrap_or_default());
                    active::add(&mut news.chosen, named, Some(row.try_get("stamp")?));
                }
                "mark" => news.marks.push(InvalidationMark {
                    namespace: name,
                    stamp: row.try_get::<i64, _>("stamp")?.unsigned_abs(),
                    change: row.try_get("change")?,
                }),
                "removal" => news.removed_on.push(word),
                _ => news.is_run_waiting = true,
            }
        }
        news.paused.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(news)
    }

    /// The database's clock now.
    pub fn now(&self) -> DateTime<Utc> {
        let since = TimeDelta::from_std(self.heard.elapsed());
        self.clock + since.unwrap_or_default()
    }
}

/// Asks on one connection.
pub(super) async fn ask<'c>(
    connection: impl Executor<'c, Database = Postgres>,
    since: i64,
) -> Result<News, sqlx::Error> {
    let rows = sqlx::query(NEWS).bind(since).fetch_all(connection).await?;
    News::read(&rows)
}

impl PostgresStore {
    /// What is wanted of workers now, and the marks that were set after a change.
    pub(super) async fn news(&self, since: i64) -> Result<News, StoreError> {
        let mut lease = self.lease().await?;
        let answer = self.deadline(ask(&mut *lease, since)).await;
        self.end(lease, answer).await
    }
}
