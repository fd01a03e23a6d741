//! Owns finding again what a model version said of an input.

use super::{PostgresStore, StoreError};
use crate::redact::Redact;
use chrono::{DateTime, Utc};
use kiln_contract::key::InputHash;
use sqlx::{Row, postgres::PgRow};

/// Inputs that are looked up in one statement.
const TOGETHER: usize = 500;

const SCORED: &str = "\
SELECT wanted.number, namespace, label, score, outputs, text, text_pair, features
FROM unnest($1::bytea[], $2::text[], $3::text[]) WITH ORDINALITY AS wanted(input, name, release, number)
JOIN scores ON input_sha256 = wanted.input AND model = wanted.name AND version = wanted.release";

const KNOWN: &str = "\
SELECT wanted.number, scored_at FROM unnest($1::bytea[]) WITH ORDINALITY AS wanted(input, number)
JOIN scores ON input_sha256 = wanted.input AND model = $2 AND version = $3";
const ROWS: &str = "\
SELECT wanted.number, scored_at, score, outputs FROM unnest($1::bytea[]) WITH ORDINALITY AS wanted(input, number)
JOIN scores ON input_sha256 = wanted.input AND model = $2 AND version = $3";

/// A row that a model version gave for an input, as the table of scores holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownScore {
    pub scored_at: DateTime<Utc>,
    /// The whole output row.
    pub outputs: Vec<f32>,
}

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
    /// When a model version scored each of these inputs first, in order; nothing of one that has no row.
    pub async fn scored_at(
        &self,
        (model, version): (&str, &str),
        inputs: &[InputHash],
    ) -> Result<Vec<Option<DateTime<Utc>>>, StoreError> {
        let read = |row: &PgRow| row.try_get("scored_at");
        self.each_scored(KNOWN, (model, version), inputs, read)
            .await
    }

    /// The rows that a model version gave for these inputs, in order; nothing of one that has none.
    pub async fn known_scores(
        &self,
        (model, version): (&str, &str),
        inputs: &[InputHash],
    ) -> Result<Vec<Option<KnownScore>>, StoreError> {
        let read = |row: &PgRow| {
            let outputs: Option<Vec<u8>> = row.try_get("outputs")?;
            let score: Option<f32> = row.try_get("score")?;
            let outputs = outputs.map(|bytes| super::floats(&bytes));
            Ok(KnownScore {
                scored_at: row.try_get("scored_at")?,
                outputs: outputs.unwrap_or_else(|| score.into_iter().collect()),
            })
        };
        self.each_scored(ROWS, (model, version), inputs, read).await
    }

    async fn each_scored<T: Clone>(
        &self,
        statement: &'static str,
        (model, version): (&str, &str),
        inputs: &[InputHash],
        read: impl Fn(&PgRow) -> Result<T, sqlx::Error>,
    ) -> Result<Vec<Option<T>>, StoreError> {
        let mut found = vec![None; inputs.len()];
        for (part, slots) in inputs.chunks(TOGETHER).zip(found.chunks_mut(TOGETHER)) {
            let hashes: Vec<&[u8]> = part.iter().map(<[u8; 32]>::as_slice).collect();
            let mut lease = self.lease().await?;
            let query = sqlx::query(statement)
                .bind(&hashes)
                .bind(model)
                .bind(version);
            let answer = self.deadline(query.fetch_all(&mut *lease)).await;
            for row in self.end(lease, answer).await? {
                let read = || Ok::<_, sqlx::Error>((row.try_get::<i64, _>("number")?, read(&row)?));
                let (number, one) = read().map_err(|e| StoreError::Refused(e.redacted()))?;
                let index = usize::try_from(number - 1).ok();
                if let Some(slot) = index.and_then(|index| slots.get_mut(index)) {
                    *slot = Some(one);
                }
            }
        }
        Ok(found)
    }

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
