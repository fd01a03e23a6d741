//! Owns the choice of each model's active version, which all workers on a database share.

use super::{PostgresStore, StoreError};
use std::collections::BTreeMap;

const CHOSEN: &str = "SELECT name, version FROM active_models";
const CHOOSE: &str = "\
INSERT INTO active_models (name, version) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET version = excluded.version, changed_at = now()
RETURNING pg_notify('kiln', '')";
const UNCHOOSE: &str = "DELETE FROM active_models WHERE name = $1 RETURNING pg_notify('kiln', '')";

impl PostgresStore {
    /// The chosen versions by model name.
    pub async fn chosen_models(&self) -> Result<BTreeMap<String, String>, StoreError> {
        let mut lease = self.lease().await?;
        let answer = self
            .deadline(sqlx::query_as::<_, (String, String)>(CHOSEN).fetch_all(&mut *lease))
            .await;
        self.end(lease, answer).await.map(BTreeMap::from_iter)
    }

    /// Chooses a model's version for every worker.
    pub async fn choose_model(&self, name: &str, version: &str) -> Result<(), StoreError> {
        let query = sqlx::query(CHOOSE).bind(name).bind(version);
        self.execute(query).await.map(|_| ())
    }

    /// Takes the choice back; says whether there was one.
    pub async fn unchoose_model(&self, name: &str) -> Result<bool, StoreError> {
        let query = sqlx::query(UNCHOOSE).bind(name);
        self.execute(query).await.map(|rows| rows > 0)
    }
}
