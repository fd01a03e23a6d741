//! Owns what bare model names mean, which all workers on a database share: each model's active version, and the one that a share of its
//! inputs goes to.
//!
//! Promises that what is chosen and what is taken back reaches every worker in one piece.

use super::{PostgresStore, StoreError};
use kiln_contract::split::Share;
use kiln_model::{Choices, SplitChoice};
use sqlx::{Row, postgres::PgRow};
use std::collections::BTreeMap;

const CHOSEN: &str = "\
SELECT name, version, NULL AS millionths FROM active_models
UNION ALL SELECT name, version, millionths FROM model_splits";
const CHOOSE: &str = "\
WITH ended AS (DELETE FROM model_splits WHERE name = $1)
INSERT INTO active_models (name, version) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET version = excluded.version, changed_at = now()
RETURNING pg_notify('kiln', '')";
const UNCHOOSE: &str = "\
WITH ended AS (DELETE FROM model_splits WHERE name = $1 RETURNING name),
     gone AS (DELETE FROM active_models WHERE name = $1 RETURNING name)
SELECT pg_notify('kiln', '') FROM (SELECT name FROM ended UNION SELECT name FROM gone) AS either";
const SPLIT: &str = "\
INSERT INTO model_splits (name, version, millionths) VALUES ($1, $2, $3)
ON CONFLICT (name) DO UPDATE SET version = excluded.version, millionths = excluded.millionths, changed_at = now()
RETURNING pg_notify('kiln', '')";
const UNSPLIT: &str = "DELETE FROM model_splits WHERE name = $1 RETURNING pg_notify('kiln', '')";

/// Adds what a row says. A share that is none, which the table refuses, chooses nothing.
pub(super) fn add(
    choices: &mut Choices,
    (name, version): (String, String),
    millionths: Option<i64>,
) {
    let Some(millionths) = millionths else {
        choices.active.insert(name, version);
        return;
    };
    if let Some(share) = Share::from_millionths(millionths) {
        choices.splits.insert(name, SplitChoice { version, share });
    }
}

fn read(rows: &[PgRow]) -> Result<Choices, sqlx::Error> {
    let mut choices = Choices::default();
    for row in rows {
        let named = (row.try_get("name")?, row.try_get("version")?);
        let millionths: Option<i32> = row.try_get("millionths")?;
        add(&mut choices, named, millionths.map(i64::from));
    }
    Ok(choices)
}

impl PostgresStore {
    /// What was chosen for every worker.
    pub async fn choices(&self) -> Result<Choices, StoreError> {
        let mut lease = self.lease().await?;
        let answer = async {
            let rows = sqlx::query(CHOSEN).fetch_all(&mut *lease).await?;
            read(&rows)
        };
        let answer = self.deadline(answer).await;
        self.end(lease, answer).await
    }

    /// The active versions alone: also in a database that an older release has migrated.
    pub async fn active_models(&self) -> Result<BTreeMap<String, String>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_as("SELECT name, version FROM active_models");
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        let rows: Vec<(String, String)> = self.end(lease, answer).await?;
        Ok(rows.into_iter().collect())
    }

    /// Chooses a model's version for every worker: all inputs of its bare name go to it.
    pub async fn choose_model(&self, name: &str, version: &str) -> Result<(), StoreError> {
        let query = sqlx::query(CHOOSE).bind(name).bind(version);
        self.execute(query).await.map(|_| ())
    }

    /// Takes the choice back, and the share of another version; says whether there was one of them.
    pub async fn unchoose_model(&self, name: &str) -> Result<bool, StoreError> {
        let query = sqlx::query(UNCHOOSE).bind(name);
        self.execute(query).await.map(|rows| rows > 0)
    }

    /// Has a share of a model's inputs go to a version, on every worker, in place of what was shared before.
    pub async fn split_model(
        &self,
        name: &str,
        version: &str,
        share: Share,
    ) -> Result<(), StoreError> {
        let millionths = i32::try_from(share.millionths()).unwrap_or(i32::MAX);
        let query = sqlx::query(SPLIT).bind(name).bind(version).bind(millionths);
        self.execute(query).await.map(|_| ())
    }

    /// Has all of a model's inputs go to its active version again; says whether a share didn't.
    pub async fn unsplit_model(&self, name: &str) -> Result<bool, StoreError> {
        let query = sqlx::query(UNSPLIT).bind(name);
        self.execute(query).await.map(|rows| rows > 0)
    }
}
