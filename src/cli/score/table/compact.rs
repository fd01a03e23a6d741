//! Owns making rows stand by themselves: what they were read from may be far larger.
//!
//! Pure.

use super::{cells, kept::plain, schema::written};
use anyhow::Context;
use arrow_array::{RecordBatch, RecordBatchOptions, UInt32Array};
use arrow_schema::{DataType, Field, Schema};
use arrow_select::take::take;
use std::sync::Arc;

/// Rows of a batch, in memory of their own. Texts are bytes: one that isn't UTF-8 is a matter of its row.
pub(super) fn compact(
    batch: &RecordBatch,
    begin: usize,
    count: usize,
) -> anyhow::Result<RecordBatch> {
    let damaged = "it has rows that can't be read";
    let number = |at: usize| u32::try_from(at).ok();
    let (begin, end) = number(begin).zip(number(begin + count)).context(damaged)?;
    let rows = UInt32Array::from_iter_values(begin..end);
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let of = match cells::is_text(column.data_type()) {
            true => DataType::Binary,
            false => written(column.data_type()),
        };
        let taken = take(column.as_ref(), &rows, None).ok();
        let own = taken.and_then(|taken| plain(&taken, &of));
        fields.push(Field::new(field.name(), of, true));
        columns.push(own.context(damaged)?);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(count));
    let schema = Arc::new(Schema::new(fields));
    let own = RecordBatch::try_new_with_options(schema, columns, &options);
    own.ok().context(damaged)
}
