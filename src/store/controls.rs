//! Owns what operators have paused, which all workers on a database share.

use super::{PostgresStore, StoreError};
use chrono::{DateTime, Utc};

const PAUSED: &str = "SELECT name, paused_by, paused_at FROM controls ORDER BY name";
const PAUSE: &str = "\
INSERT INTO controls (name, paused_by) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING RETURNING pg_notify('kiln', '')";
const RESUME: &str = "DELETE FROM controls WHERE name = $1 RETURNING pg_notify('kiln', '')";

/// Something that is paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paused {
    /// [`INTAKE`], or a schedule's name after [`SCHEDULE`].
    pub name: String,
    pub by: String,
    pub at: DateTime<Utc>,
}

/// Taking jobs.
pub const INTAKE: &str = "intake";
/// What a schedule's name stands behind.
pub const SCHEDULE: &str = "schedule:";

impl PostgresStore {
    /// Everything that is paused.
    pub async fn paused(&self) -> Result<Vec<Paused>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_as::<_, (String, String, DateTime<Utc>)>(PAUSED);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        let rows = self.end(lease, answer).await?;
        Ok(rows
            .into_iter()
            .map(|(name, by, at)| Paused { name, by, at })
            .collect())
    }

    /// Pauses something on every worker; says whether it wasn't paused yet.
    pub async fn pause(&self, name: &str, by: &str) -> Result<bool, StoreError> {
        let query = sqlx::query(PAUSE).bind(name).bind(by);
        self.execute(query).await.map(|rows| rows > 0)
    }

    /// Takes a pause back; says whether there was one.
    pub async fn resume(&self, name: &str) -> Result<bool, StoreError> {
        let query = sqlx::query(RESUME).bind(name);
        self.execute(query).await.map(|rows| rows > 0)
    }
}
