//! Owns what the values of a Parquet page take in memory, before any of them is made. Pure.

use super::delta;
use ::parquet::{
    basic::{Encoding, Type as Physical},
    column::page::Page,
    schema::types::ColumnDescriptor,
};

/// Texts of a page whose lengths are packed: room is made for all of them at once.
const MAX_PACKED_TEXTS: u64 = 8 << 20;
/// What a text takes beside its bytes, and a value of a list beside its own.
const VIEW_BYTES: usize = 16;
const LEVEL_BYTES: usize = 4;

/// What the values of a page take that aren't bounded by how many rows are read at once. Nothing where it can't be told.
pub(super) fn brought(page: &Page, column: &ColumnDescriptor) -> Option<usize> {
    let values = page.num_values() as usize;
    let max = MAX_PACKED_TEXTS.min(values as u64);
    let mut bytes = match page.encoding() {
        Encoding::DELTA_BYTE_ARRAY => delta::shared(levels(page, column)?, max)?,
        Encoding::DELTA_LENGTH_BYTE_ARRAY => {
            delta::apart(levels(page, column)?, max)?;
            0
        }
        _ => 0,
    };
    if column.max_rep_level() > 0 {
        let each = width(column) + LEVEL_BYTES;
        bytes = bytes.saturating_add(values.saturating_mul(each) as u64);
    }
    usize::try_from(bytes).ok()
}

/// What the values of a dictionary take beside its page, all of which are made at once; or why they can't be.
pub(super) fn of_dictionary(
    values: usize,
    bytes: usize,
    column: &ColumnDescriptor,
) -> Result<usize, String> {
    let (min, more) = match column.physical_type() {
        // Each text has its length before it.
        Physical::BYTE_ARRAY => (4, VIEW_BYTES),
        _ => (width(column).max(1), width(column)),
    };
    match values.saturating_mul(min) > bytes {
        true => Err(format!(
            "is a dictionary that claims {values} values in {bytes} bytes"
        )),
        false => Ok(values.saturating_mul(more)),
    }
}

/// Bytes that a value of a column takes beside a text's own.
pub(super) fn width(column: &ColumnDescriptor) -> usize {
    match column.physical_type() {
        Physical::BOOLEAN => 1,
        Physical::INT32 | Physical::FLOAT => 4,
        Physical::INT64 | Physical::DOUBLE => 8,
        Physical::INT96 => 12,
        Physical::BYTE_ARRAY => VIEW_BYTES,
        Physical::FIXED_LEN_BYTE_ARRAY => usize::try_from(column.type_length()).unwrap_or_default(),
    }
}

/// A page's values, after the levels that say which are there.
fn levels<'p>(page: &'p Page, column: &ColumnDescriptor) -> Option<&'p [u8]> {
    let mut rest: &[u8] = page.buffer();
    match page {
        Page::DataPage {
            num_values,
            def_level_encoding,
            rep_level_encoding,
            ..
        } => {
            for (max, encoding) in [
                (column.max_rep_level(), rep_level_encoding),
                (column.max_def_level(), def_level_encoding),
            ] {
                if max <= 0 {
                    continue;
                }
                let bytes = match encoding {
                    Encoding::RLE => {
                        let length: [u8; 4] = *rest.first_chunk()?;
                        4 + usize::try_from(u32::from_le_bytes(length)).ok()?
                    }
                    _ => {
                        let width = u64::from(16 - (max as u16).leading_zeros());
                        usize::try_from((u64::from(*num_values) * width).div_ceil(8)).ok()?
                    }
                };
                rest = rest.get(bytes..)?;
            }
            Some(rest)
        }
        Page::DataPageV2 {
            def_levels_byte_len,
            rep_levels_byte_len,
            ..
        } => rest.get((*def_levels_byte_len as usize) + (*rep_levels_byte_len as usize)..),
        Page::DictionaryPage { .. } => None,
    }
}
