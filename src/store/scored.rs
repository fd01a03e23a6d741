//! Owns finding again what a model version said of an input.

use super::{PostgresStore, StoreError};
use crate::redact::Redact;
use kiln_contract::key::InputHash;
use sqlx::{Row, postgres::PgRow};

const SCORED: &str = "\
SELECT wanted.number, namespace, label, score, outputs, text, text_pair, features
FROM unnest($1::bytea[], $2::text[], $3::text[]) WITH ORDINALITY AS wanted(input, name, release, number)
JOIN scores ON input_sha256 = wanted.input AND model = wanted.name AND version = wanted.release";

/// What a model version said of an input, and the input where inputs are stored.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScoredInput {
    pub namespace: String,
    pub label: Option<String>,
    pub score: Option<f32>,
    /// The whole output row where it has more than one value.
    pub outputs: Option<Vec<f32>>,
    pub text: Option<String>,
    pub text_pair: Option<String>,
    pub features: Option<Vec<f32>>,
}

impl PostgresStore {
    /// The rows of these inputs, each by the model and version with it, in order; nothing of one that has none.
    pub async fn scored(
        &self,
        wanted: &[(InputHash, &str, &str)],
    ) -> Result<Vec<Option<ScoredInput>>, StoreError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let inputs: Vec<&[u8]> = wanted.iter().map(|(input, ..)| input.as_slice()).collect();
        let models: Vec<&str> = wanted.iter().map(|(_, model, _)| *model).collect();
        let versions: Vec<&str> = wanted.iter().map(|(.., version)| *version).collect();
        let mut lease = self.lease().await?;
        let query = sqlx::query(SCORED)
            .bind(&inputs)
            .bind(&models)
            .bind(&versions);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        let rows = self.end(lease, answer).await?;
        let mut found = vec![None; wanted.len()];
        for row in &rows {
            let (number, scored) = read(row).map_err(|e| StoreError::Refused(e.redacted()))?;
            let index = usize::try_from(number - 1).ok();
            if let Some(slot) = index.and_then(|index| found.get_mut(index)) {
                *slot = Some(scored);
            }
        }
        Ok(found)
    }
}

fn read(row: &PgRow) -> Result<(i64, ScoredInput), sqlx::Error> {
    let floats = |name: &str| {
        let bytes: Option<Vec<u8>> = row.try_get(name)?;
        Ok::<_, sqlx::Error>(bytes.map(|bytes| super::floats(&bytes)))
    };
    Ok((
        row.try_get("number")?,
        ScoredInput {
            namespace: row.try_get("namespace")?,
            label: row.try_get("label")?,
            score: row.try_get("score")?,
            outputs: floats("outputs")?,
            text: row.try_get("text")?,
            text_pair: row.try_get("text_pair")?,
            features: floats("features")?,
        },
    ))
}
