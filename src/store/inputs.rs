//! Owns finding inputs again that were scored before.

use super::{PostgresStore, StoreError};
use crate::redact::Redact;
use kiln_contract::key::InputHash;
use sqlx::Row;
use std::collections::HashMap;

const INPUTS: &str = "\
SELECT DISTINCT ON (input_sha256) input_sha256, key, text, text_pair, features
FROM scores WHERE input_sha256 = ANY($1) AND model = $2 ORDER BY input_sha256, scored_at DESC";

const LAST_SCORED: &str = "\
SELECT input_sha256 FROM (SELECT input_sha256, max(scored_at) AS last FROM scores WHERE model = $1 GROUP BY input_sha256) AS inputs
ORDER BY last DESC LIMIT $2";
const PAIRS: &str = "\
SELECT old.score, new.score, old.label, new.label FROM scores AS old JOIN scores AS new USING (input_sha256, model)
WHERE model = $1 AND old.version = $2 AND new.version = $3 AND input_sha256 = ANY($4) AND old.score IS NOT NULL AND new.score IS NOT NULL";

/// An input as the table of scores holds it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KnownInput {
    pub key: Option<String>,
    pub text: Option<String>,
    pub text_pair: Option<String>,
    pub features: Option<Vec<f32>>,
}

/// One input's scores under two versions.
#[derive(Debug, Clone, PartialEq)]
pub struct ScorePair {
    pub old: f32,
    pub new: f32,
    pub old_label: Option<String>,
    pub new_label: Option<String>,
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
        let rows = self.end(lease, answer).await?;
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
            let (hash, input) = read().map_err(|e| StoreError::Refused(e.redacted()))?;
            found.insert(hash, input);
        }
        Ok(found)
    }

    /// The inputs of `model` that were scored last, at most `most`.
    pub async fn last_scored(&self, model: &str, max: i64) -> Result<Vec<InputHash>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_scalar::<_, Vec<u8>>(LAST_SCORED)
            .bind(model)
            .bind(max);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        let rows = self.end(lease, answer).await?;
        Ok(rows
            .into_iter()
            .filter_map(|hash| hash.try_into().ok())
            .collect())
    }

    /// What two versions of `model` said of these inputs, where both said something.
    pub async fn score_pairs(
        &self,
        model: &str,
        old: &str,
        new: &str,
        hashes: &[&[u8]],
    ) -> Result<Vec<ScorePair>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_as::<_, (f32, f32, Option<String>, Option<String>)>(PAIRS)
            .bind(model)
            .bind(old)
            .bind(new)
            .bind(hashes);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        let rows = self.end(lease, answer).await?;
        let pair = |(old, new, old_label, new_label)| ScorePair {
            old,
            new,
            old_label,
            new_label,
        };
        Ok(rows.into_iter().map(pair).collect())
    }
}
