//! Owns one input's result, as it is read to be written: its fields, and what they are as cells.
//!
//! Pure.

use super::tally::Tally;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

/// The fields of a result, in the order of CSV's columns.
pub(super) const COLUMNS: [&str; 7] = [
    "key",
    "label",
    "score",
    "cached",
    "scores",
    "embedding",
    "error",
];

/// One input's result, its fields as JSON.
#[derive(Debug, Deserialize)]
pub(super) struct ResultRow<'a> {
    #[serde(borrow)]
    pub key: Option<&'a RawValue>,
    #[serde(borrow)]
    pub label: Option<&'a RawValue>,
    pub score: Option<f64>,
    pub cached: Option<bool>,
    #[serde(borrow)]
    pub scores: Option<&'a RawValue>,
    #[serde(borrow)]
    pub embedding: Option<&'a RawValue>,
    #[serde(borrow)]
    pub error: Option<&'a RawValue>,
}

impl ResultRow<'_> {
    /// Counts it, its score only where that is to be reported.
    pub fn count(&self, tally: &mut Tally, reports: bool) {
        if let Some(label) = self.label {
            match tally.labels.get_mut(label.get()) {
                Some(count) => *count += 1,
                None => drop(tally.labels.insert(label.get().to_owned(), 1)),
            }
        }
        if let Some(score) = self.score.filter(|_| reports) {
            tally.scores.add(score);
        }
    }

    /// The result, `raw` being its JSON, with an error's field as of the input itself: its place in a job that nobody sees says nothing, and
    /// differs between runs. Nothing where there is no such field.
    pub fn unplaced(&self, raw: &str) -> Option<String> {
        let error = self.error?.get();
        let mut shown: Value = serde_json::from_str(error).ok()?;
        let field = shown.get_mut("field")?;
        let placed = field
            .as_str()
            .filter(|field| field.starts_with("inputs["))?;
        let own = placed.split_once('.').map_or("", |(_, own)| own);
        *field = Value::from(own);
        Some(raw.replacen(error, &shown.to_string(), 1))
    }

    /// The error's field and message.
    pub fn problem(&self) -> Option<(String, String)> {
        let error: Value = serde_json::from_str(self.error?.get()).ok()?;
        let part = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
        Some((part("field").to_owned(), part("message").to_owned()))
    }
}

/// A problem with the field that it is of.
pub(super) fn named(field: &str, message: &str) -> String {
    if field.is_empty() {
        message.to_owned()
    } else {
        format!("`{field}`: {message}")
    }
}

/// The numbers that an embedding is written as, where the output has types.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum EmbeddingType {
    #[default]
    Float32,
    Float16,
    /// Whole numbers from -127 to 127, each times the column `embedding_scale`.
    Int8,
}

/// A kept column's name in the output: results keep their own.
pub(super) fn kept_name(name: &str) -> String {
    if COLUMNS.contains(&name) {
        format!("input_{name}")
    } else {
        name.to_owned()
    }
}

/// A JSON value as a cell: a text without its quotes, nothing for null.
pub(super) fn cell(json: &str) -> String {
    if json.starts_with('"') {
        return serde_json::from_str(json).unwrap_or_default();
    }
    match json {
        "null" => String::new(),
        other => other.to_owned(),
    }
}
