//! Owns which columns an output with types has: those that are kept with their own types, then the result's.
//!
//! Pure.

use super::{
    super::result::{EmbeddingType, kept_name},
    Table, cells,
};
use arrow_schema::{DataType, Field, Fields, Schema};
use kiln_contract::model::{ModelInfo, Task};
use std::sync::Arc;

/// What the columns of an output follow from, beside the model.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Shape {
    pub(super) kept: Vec<Field>,
    /// What they are called in the input.
    pub(super) names: Vec<String>,
    /// Whether what is kept comes as text.
    pub(super) is_text: bool,
    pub(super) detail: bool,
    pub(super) errors: bool,
    pub(super) embedding: EmbeddingType,
}

/// The columns of a model's output.
pub(super) struct Columns {
    pub schema: Arc<Schema>,
    /// A classifier's labels, where each has its probability.
    pub labels: Option<Vec<String>>,
    pub has_embedding: bool,
}

impl Shape {
    /// `kept` are the names of what is kept; `table` is where it comes from, where that has types.
    pub fn new(
        kept: &[String],
        table: Option<&Table>,
        detail: bool,
        errors: bool,
        embedding: EmbeddingType,
    ) -> anyhow::Result<Self> {
        let field = |name: &str, of: DataType| Field::new(kept_name(name), of, true);
        let fields = match table {
            Some(table) => {
                let plan = table.plan();
                let fields = plan.kept.iter().filter_map(|at| plan.fields.get(*at));
                let typed = fields.map(|one| {
                    field(one.name(), written(one.data_type()))
                        .with_metadata(one.metadata().clone())
                });
                typed.collect()
            }
            None => kept
                .iter()
                .map(|name| field(name, DataType::Utf8))
                .collect(),
        };
        Ok(Self {
            kept: fields,
            names: kept.to_vec(),
            is_text: table.is_none(),
            detail,
            errors,
            embedding,
        })
    }

    /// Whether another table's columns are those that are kept.
    pub fn fits(&self, table: &Table) -> bool {
        let kept = table.kept();
        let own = Self::new(&kept, Some(table), self.detail, self.errors, self.embedding);
        own.is_ok_and(|own| own.kept == self.kept)
    }

    /// The columns for a model.
    pub(super) fn columns(&self, model: Option<&ModelInfo>) -> Columns {
        let field = |name: &str, of: DataType| Field::new(name, of, true);
        let task = model.map(|model| &model.task);
        let has_embedding = matches!(task, Some(Task::Embedding));
        let labels = match task {
            Some(Task::Classification { labels }) if self.detail => Some(labels.clone()),
            _ => None,
        };
        let mut fields = self.kept.clone();
        fields.push(field("key", DataType::Utf8));
        if has_embedding {
            let item = Arc::new(field("item", embedded(self.embedding)));
            fields.push(field("embedding", DataType::List(item)));
            if self.embedding == EmbeddingType::Int8 {
                fields.push(field("embedding_scale", DataType::Float32));
            }
        } else {
            fields.push(field("label", DataType::Utf8));
            fields.push(field("score", DataType::Float32));
        }
        fields.push(field("cached", DataType::Boolean));
        if let Some(labels) = &labels {
            fields.push(field("scores", DataType::Struct(probabilities(labels))));
        }
        if self.errors {
            fields.push(field("error", DataType::Utf8));
        }
        Columns {
            schema: Arc::new(Schema::new(fields)),
            labels,
            has_embedding,
        }
    }
}

/// A field for each label's probability.
pub(super) fn probabilities(labels: &[String]) -> Fields {
    let labels = labels.iter();
    labels
        .map(|label| Field::new(label, DataType::Float32, true))
        .collect()
}

fn embedded(as_type: EmbeddingType) -> DataType {
    match as_type {
        EmbeddingType::Float32 => DataType::Float32,
        EmbeddingType::Float16 => DataType::Float16,
        EmbeddingType::Int8 => DataType::Int8,
    }
}

/// The type as which a kept column is written: of texts the one that every reader knows, of dictionaries their values'.
pub(super) fn written(of: &DataType) -> DataType {
    let inner = |field: &Arc<Field>| {
        let of = written(field.data_type());
        Arc::new(field.as_ref().clone().with_data_type(of))
    };
    match of {
        DataType::Dictionary(_, value) => written(value),
        of if cells::is_string(of) => DataType::Utf8,
        of if cells::is_text(of) => DataType::Binary,
        DataType::List(item) => DataType::List(inner(item)),
        DataType::LargeList(item) => DataType::LargeList(inner(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(inner(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        of => of.clone(),
    }
}
