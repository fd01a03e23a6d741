//! Owns finding inputs again that were scored before.

use super::{PostgresStore, StoreError};
use sqlx::Row;
use std::collections::HashMap;

const INPUTS: &str = "\
SELECT DISTINCT ON (input_sha256) input_sha256, key, text, text_pair, features
FROM scores WHERE input_sha256 = ANY($1) AND model = $2 ORDER BY input_sha256, scored_at DESC";

/// An input as the table of scores holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownInput {
    pub key: Option<String>,
    pub text: Option<String>,
    pub text_pair: Option<String>,
    pub features: Option<Vec<f32>>,
}

impl PostgresStore {
    /// The inputs of `model` with these hashes, as they were last scored.
    pub async fn inputs(
        &self,
        model: &str,
        hashes: &[&[u8]],
    ) -> Result<HashMap<Vec<u8>, KnownInput>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query(INPUTS).bind(hashes).bind(model);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        let rows = self.end(lease, answer)?;
        let mut found = HashMap::with_capacity(rows.len());
        for row in rows {
            let read = || -> Result<(Vec<u8>, KnownInput), sqlx::Error> {
                let features: Option<Vec<u8>> = row.try_get("features")?;
                Ok((
                    row.try_get("input_sha256")?,
                    KnownInput {
                        key: row.try_get("key")?,
                        text: row.try_get("text")?,
                        text_pair: row.try_get("text_pair")?,
                        features: features.map(|bytes| super::floats(&bytes)),
                    },
                ))
            };
            let (hash, input) = read().map_err(|e| StoreError::Refused(e.to_string()))?;
            found.insert(hash, input);
        }
        Ok(found)
    }
}
