//! Owns what is kept of a table's rows, in the types that outputs have.
//!
//! Pure.

use super::{Batch, cells, schema::written};
use anyhow::Context;
use arrow_array::{
    Array, ArrayRef, BinaryArray, FixedSizeListArray, LargeListArray, ListArray, StringArray,
    StructArray, UInt32Array, cast::AsArray,
};
use arrow_schema::DataType;
use arrow_select::take::take;
use std::sync::Arc;

/// The kept columns of some rows of a batch.
pub(super) fn taken(batch: &Batch, rows: &[u32]) -> anyhow::Result<Vec<ArrayRef>> {
    let rows = UInt32Array::from(rows.to_vec());
    let kept = batch.plan.kept.iter().map(|at| {
        let field = batch.plan.fields.get(*at)?;
        let found = take(batch.columns.column(*at).as_ref(), &rows, None).ok()?;
        plain(&found, &written(field.data_type()))
    });
    let kept: Option<Vec<ArrayRef>> = kept.collect();
    kept.context("a kept column has a type that can't be written")
}

/// An array in another form of its type: texts and dictionaries as every reader knows them.
pub(super) fn plain(array: &ArrayRef, of: &DataType) -> Option<ArrayRef> {
    let all = 0..array.len();
    Some(match of {
        DataType::Utf8 if cells::is_text(array.data_type()) => {
            let texts = all.map(|row| cells::text(array.as_ref(), row));
            let texts =
                texts.map(|text| text.map(|text| std::str::from_utf8(text).unwrap_or_default()));
            Arc::new(texts.collect::<StringArray>())
        }
        DataType::Binary if cells::is_text(array.data_type()) => {
            let all = all.map(|row| cells::text(array.as_ref(), row));
            Arc::new(all.collect::<BinaryArray>())
        }
        _ if array.data_type() == of => array.clone(),
        DataType::List(item) => {
            let list = array.as_list_opt::<i32>()?;
            let values = plain(list.values(), item.data_type())?;
            let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
            Arc::new(ListArray::try_new(item.clone(), offsets, values, nulls).ok()?)
        }
        DataType::LargeList(item) => {
            let list = array.as_list_opt::<i64>()?;
            let values = plain(list.values(), item.data_type())?;
            let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
            Arc::new(LargeListArray::try_new(item.clone(), offsets, values, nulls).ok()?)
        }
        DataType::FixedSizeList(item, size) => {
            let list = array.as_fixed_size_list_opt()?;
            let values = plain(list.values(), item.data_type())?;
            let nulls = list.nulls().cloned();
            Arc::new(FixedSizeListArray::try_new(item.clone(), *size, values, nulls).ok()?)
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct_opt()?;
            let each = fields.iter().zip(columns.columns());
            let each = each.map(|(field, column)| plain(column, field.data_type()));
            let each: Option<Vec<ArrayRef>> = each.collect();
            let nulls = columns.nulls().cloned();
            Arc::new(StructArray::try_new(fields.clone(), each?, nulls).ok()?)
        }
        _ => {
            let dictionary = array.as_any_dictionary_opt()?;
            let found = take(dictionary.values().as_ref(), dictionary.keys(), None);
            plain(&found.ok()?, of)?
        }
    })
}
