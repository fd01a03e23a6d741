//! Owns the log of what operators did: who, what, when.
//!
//! Promises that it keeps the latest [`KEPT`], and no secret: a key is named, never shown.

use super::{PostgresStore, StoreError};
use chrono::{DateTime, Utc};
use sqlx::{FromRow, Row, postgres::PgRow};

/// Actions that are kept.
pub const KEPT: i64 = 10_000;
/// Longest detail, in characters.
const DETAIL: usize = 500;

const NOTE: &str = "\
WITH new AS (INSERT INTO actions (by_name, kind, detail) VALUES ($1, $2, $3) RETURNING id)
DELETE FROM actions USING new WHERE actions.id <= new.id - $4";
const LIST: &str = "\
SELECT id, at, by_name, kind, detail FROM actions WHERE ($1::int8 IS NULL OR id < $1) ORDER BY id DESC LIMIT $2";

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionKind {
    Pause,
    Resume,
    RunNow,
    Invalidate,
    Activate,
    Replay,
    Purge,
    LogLevels,
}

impl ActionKind {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::RunNow => "run now",
            Self::Invalidate => "invalidate",
            Self::Activate => "activate",
            Self::Replay => "replay",
            Self::Purge => "purge",
            Self::LogLevels => "log levels",
        }
    }
}

/// One action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionRow {
    /// Rises with each.
    pub id: i64,
    pub at: DateTime<Utc>,
    /// A key's name.
    pub by_name: String,
    pub kind: String,
    pub detail: String,
}

impl FromRow<'_, PgRow> for ActionRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            at: row.try_get("at")?,
            by_name: row.try_get("by_name")?,
            kind: row.try_get("kind")?,
            detail: row.try_get("detail")?,
        })
    }
}

impl PostgresStore {
    /// Notes what somebody did.
    pub async fn note_action(
        &self,
        by_name: &str,
        kind: ActionKind,
        detail: &str,
    ) -> Result<(), StoreError> {
        let detail: String = detail.chars().filter(|c| *c != '\0').take(DETAIL).collect();
        let query = sqlx::query(NOTE)
            .bind(by_name)
            .bind(kind.as_str())
            .bind(detail)
            .bind(KEPT);
        self.execute(query).await.map(drop)
    }

    /// The latest actions, those before `before` if it is given.
    pub async fn actions(
        &self,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<ActionRow>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_as(LIST).bind(before).bind(limit);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        self.end(lease, answer).await
    }
}
