//! Owns a block's results as columns with types.
//!
//! Pure.

use super::{
    super::{
        item::{ByName, Input},
        result::{EmbeddingType, ResultRow, cell},
    },
    Batch,
    kept::taken,
    schema::{Columns, Shape, probabilities},
};
use anyhow::Context;
use arrow_array::{
    ArrayRef, RecordBatch, StructArray,
    builder::{
        BooleanBuilder, Float16Builder, Float32Builder, Int8Builder, ListBuilder, StringBuilder,
    },
};
use arrow_buffer::NullBuffer;
use kiln_contract::model::ModelInfo;
use std::{collections::HashMap, sync::Arc};

/// A block's rows, column by column.
pub(in super::super) struct Builder {
    columns: Columns,
    embedding_type: EmbeddingType,
    /// Which rows of their batch they are.
    rows: Vec<u32>,
    /// What is kept of a file without types.
    kept: Option<Vec<(String, StringBuilder)>>,
    key: StringBuilder,
    label: StringBuilder,
    score: Float32Builder,
    cached: BooleanBuilder,
    scores: Vec<Float32Builder>,
    has_scores: Vec<bool>,
    embedding: Embedding,
    scale: Float32Builder,
    error: StringBuilder,
}

enum Embedding {
    Single(ListBuilder<Float32Builder>),
    Half(ListBuilder<Float16Builder>),
    Int8(ListBuilder<Int8Builder>),
}

/// Rows that are whole.
pub(in super::super) struct Ready(pub(super) RecordBatch);

impl Ready {
    pub fn rows(&self) -> usize {
        self.0.num_rows()
    }

    /// Some of the rows.
    pub fn slice(&self, at: usize, count: usize) -> Self {
        Self(self.0.slice(at, count))
    }
}

impl Builder {
    /// No rows yet, for a model.
    pub fn new(shape: &Shape, model: Option<&ModelInfo>) -> Self {
        let columns = shape.columns(model);
        let names = shape.names.iter().cloned();
        let kept = names.map(|name| (name, StringBuilder::new()));
        let labels = columns.labels.iter().flatten();
        Self {
            kept: shape.is_text.then(|| kept.collect()),
            scores: labels.map(|_| Float32Builder::new()).collect(),
            columns,
            embedding_type: shape.embedding,
            rows: Vec::new(),
            key: StringBuilder::new(),
            label: StringBuilder::new(),
            score: Float32Builder::new(),
            cached: BooleanBuilder::new(),
            has_scores: Vec::new(),
            embedding: match shape.embedding {
                EmbeddingType::Float32 => {
                    Embedding::Single(ListBuilder::new(Float32Builder::new()))
                }
                EmbeddingType::Float16 => Embedding::Half(ListBuilder::new(Float16Builder::new())),
                EmbeddingType::Int8 => Embedding::Int8(ListBuilder::new(Int8Builder::new())),
            },
            scale: Float32Builder::new(),
            error: StringBuilder::new(),
        }
    }

    /// Adds a row.
    pub fn push(&mut self, row: &ResultRow<'_>, input: &Input, from: Option<&Batch>) {
        if let Some(batch) = from {
            let at = input.line.saturating_sub(batch.first);
            self.rows.push(u32::try_from(at).unwrap_or(u32::MAX));
        }
        let found = ByName::new(&input.kept);
        for (at, (wanted, column)) in self.kept.iter_mut().flatten().enumerate() {
            let value = found.get(at, wanted).filter(|value| *value != "null");
            column.append_option(value.map(|value| cell(value)));
        }
        self.key.append_option(row.key.map(|key| cell(key.get())));
        self.label
            .append_option(row.label.map(|label| cell(label.get())));
        self.score
            .append_option(row.score.map(|score| score as f32));
        self.cached.append_option(row.cached);
        self.error
            .append_option(row.problem().map(|(_, message)| message));
        if let Some(labels) = &self.columns.labels {
            let raw = row.scores.map(|raw| raw.get()).unwrap_or("{}");
            let scores: HashMap<String, f32> = serde_json::from_str(raw).unwrap_or_default();
            self.has_scores.push(row.scores.is_some());
            for (label, column) in labels.iter().zip(&mut self.scores) {
                column.append_option(scores.get(label).copied());
            }
        }
        if self.columns.has_embedding {
            let raw = row.embedding.map(|raw| raw.get());
            let values: Option<Vec<f32>> = raw.and_then(|raw| serde_json::from_str(raw).ok());
            self.embed(values.as_deref());
        }
    }

    fn embed(&mut self, values: Option<&[f32]>) {
        let (each, is_there) = (values.unwrap_or_default(), values.is_some());
        match &mut self.embedding {
            Embedding::Single(column) => {
                column.values().append_slice(each);
                column.append(is_there);
            }
            Embedding::Half(column) => {
                for value in each {
                    column.values().append_value(half::f16::from_f32(*value));
                }
                column.append(is_there);
            }
            Embedding::Int8(column) => {
                let largest = each.iter().fold(0_f32, |max, value| max.max(value.abs()));
                let scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
                for value in each {
                    column.values().append_value((value / scale).round() as i8);
                }
                column.append(is_there);
                self.scale.append_option(is_there.then_some(scale));
            }
        }
    }

    /// The rows, with what is kept of the batch that they are of.
    pub fn finish(mut self, from: Option<&Batch>) -> anyhow::Result<Ready> {
        let mut all: Vec<ArrayRef> = match (&mut self.kept, from) {
            (Some(kept), _) => kept
                .iter_mut()
                .map(|(_, column)| Arc::new(column.finish()) as _)
                .collect(),
            (None, Some(batch)) => taken(batch, &self.rows)?,
            (None, None) => Vec::new(),
        };
        all.push(Arc::new(self.key.finish()));
        if self.columns.has_embedding {
            all.push(match &mut self.embedding {
                Embedding::Single(column) => Arc::new(column.finish()),
                Embedding::Half(column) => Arc::new(column.finish()),
                Embedding::Int8(column) => Arc::new(column.finish()),
            });
            if self.embedding_type == EmbeddingType::Int8 {
                all.push(Arc::new(self.scale.finish()));
            }
        } else {
            all.push(Arc::new(self.label.finish()));
            all.push(Arc::new(self.score.finish()));
        }
        all.push(Arc::new(self.cached.finish()));
        if let Some(labels) = &self.columns.labels {
            let scores = self.scores.iter_mut();
            let scores: Vec<ArrayRef> = scores
                .map(|column| Arc::new(column.finish()) as _)
                .collect();
            let there = NullBuffer::from(self.has_scores);
            let scores = StructArray::try_new(probabilities(labels), scores, Some(there));
            all.push(Arc::new(
                scores.ok().context("scores aren't as many as rows")?,
            ));
        }
        let error = self.error.finish();
        if self.columns.schema.index_of("error").is_ok() {
            all.push(Arc::new(error));
        }
        let batch = RecordBatch::try_new(self.columns.schema, all);
        batch
            .ok()
            .map(Ready)
            .context("columns aren't of one length, or of another type")
    }
}

#[cfg(test)]
mod tests {
    use super::{super::super::item::Json, *};
    use std::time::{Duration, Instant};

    #[test]
    fn twenty_thousand_columns_cost_no_square_of_them() {
        let names: Vec<String> = (0..20_000).map(|n| format!("column{n:08}")).collect();
        let shape =
            Shape::new(&names, None, false, false, EmbeddingType::Float32).expect("a shape");
        let row: ResultRow<'_> = serde_json::from_str(r#"{"label":"positive"}"#).expect("a result");
        // The first one isn't there, so that all others stand at another place.
        let kept = names
            .iter()
            .skip(1)
            .map(|name| (name.clone(), "1".to_owned()));
        let input = Input {
            line: 1,
            json: Json::Own(String::new()),
            kept: kept.collect(),
            row: None,
        };
        let (begun, mut builder) = (Instant::now(), Builder::new(&shape, None));
        for _ in 0..20 {
            builder.push(&row, &input, None);
        }
        // Looking through all for each takes four thousand million steps.
        assert!(begun.elapsed() < Duration::from_secs(10));
        let Ready(batch) = builder.finish(None).expect("columns");
        assert_eq!(batch.column(0).null_count(), 20);
        assert_eq!(batch.column(19_999).null_count(), 0);
    }
}
