//! Owns what a cell of a table is: a text, a number, or JSON.
//!
//! Pure. Promises that a cell which isn't there is nothing, and that no type makes it panic.

use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType,
    cast::AsArray,
    temporal_conversions::{as_date, as_datetime, as_time},
    types::*,
};
use arrow_schema::{DataType, TimeUnit};

/// What a column can be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    /// A list of numbers.
    Numbers,
    Other,
}

/// What a column of a type can be used for.
pub(super) fn kind(of: &DataType) -> Kind {
    match of {
        DataType::Dictionary(_, value) => kind(value),
        _ if is_text(of) => Kind::Text,
        DataType::Boolean | DataType::Timestamp(..) => Kind::Number,
        _ if of.is_numeric() => Kind::Number,
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            match item.data_type().is_numeric() {
                true => Kind::Numbers,
                false => Kind::Other,
            }
        }
        _ => Kind::Other,
    }
}

/// Whether a type is one of texts: of bytes as well, which files have for texts whose writers said no more.
pub(super) fn is_text(of: &DataType) -> bool {
    use DataType::{Binary, BinaryView, LargeBinary, LargeUtf8, Utf8, Utf8View};
    match of {
        DataType::Dictionary(_, value) => is_text(value),
        Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView => true,
        _ => false,
    }
}

/// Whether a type says of its bytes that they are text.
pub(super) fn is_string(of: &DataType) -> bool {
    match of {
        DataType::Dictionary(_, value) => is_string(value),
        _ => of.is_string(),
    }
}

/// Whether a cell is one value.
pub(super) fn is_scalar(of: &DataType) -> bool {
    !of.is_nested() && is_plain(of)
}

/// Whether cells of a type have a form as JSON.
pub(super) fn is_plain(of: &DataType) -> bool {
    use DataType::{
        Boolean, Date32, Date64, Dictionary, Duration, FixedSizeList, LargeList, List, Null,
        Struct, Time32, Time64, Timestamp,
    };
    match of {
        Dictionary(_, value) => is_plain(value),
        List(item) | LargeList(item) | FixedSizeList(item, _) => is_plain(item.data_type()),
        Struct(fields) => fields.iter().all(|field| is_plain(field.data_type())),
        Null | Boolean | Date32 | Date64 | Time32(_) | Time64(_) | Timestamp(..) => true,
        Duration(_) => true,
        _ => is_text(of) || of.is_numeric(),
    }
}

/// Whether a type has no dictionary within, which an output would have to go on with from batch to batch.
pub(super) fn has_no_dictionary(of: &DataType) -> bool {
    match of {
        DataType::Dictionary(..) => false,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => has_no_dictionary(item.data_type()),
        DataType::Struct(fields) => {
            let mut fields = fields.iter();
            fields.all(|field| has_no_dictionary(field.data_type()))
        }
        other => !other.is_nested(),
    }
}

/// The bytes of a text's cell; nothing where there is none.
pub(super) fn text(array: &dyn Array, row: usize) -> Option<&[u8]> {
    if array.is_null(row) {
        return None;
    }
    match array.data_type() {
        DataType::BinaryView => Some(array.as_binary_view().value(row)),
        DataType::Utf8View => Some(array.as_string_view().value(row).as_bytes()),
        DataType::Utf8 => Some(array.as_string::<i32>().value(row).as_bytes()),
        DataType::LargeUtf8 => Some(array.as_string::<i64>().value(row).as_bytes()),
        DataType::Binary => Some(array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => Some(array.as_binary::<i64>().value(row)),
        DataType::Dictionary(..) => {
            let (values, at) = entry(array, row)?;
            text(values.as_ref(), at)
        }
        _ => None,
    }
}

/// Which of a dictionary's values a cell is.
fn entry(array: &dyn Array, row: usize) -> Option<(&ArrayRef, usize)> {
    let dictionary = array.as_any_dictionary_opt()?;
    let at = number(dictionary.keys(), row)? as usize;
    (at < dictionary.values().len()).then(|| (dictionary.values(), at))
}

/// A cell as a number; nothing where there is none. A time is the number of its units since 1970.
pub(super) fn number(array: &dyn Array, row: usize) -> Option<f64> {
    if array.is_null(row) {
        return None;
    }
    fn get<T: ArrowPrimitiveType>(array: &dyn Array, row: usize) -> Option<T::Native> {
        array.as_primitive_opt::<T>().map(|array| array.value(row))
    }
    Some(match array.data_type() {
        DataType::Boolean => f64::from(u8::from(array.as_boolean().value(row))),
        DataType::Int8 => get::<Int8Type>(array, row)?.into(),
        DataType::Int16 => get::<Int16Type>(array, row)?.into(),
        DataType::Int32 => get::<Int32Type>(array, row)?.into(),
        DataType::Int64 => get::<Int64Type>(array, row)? as f64,
        DataType::UInt8 => get::<UInt8Type>(array, row)?.into(),
        DataType::UInt16 => get::<UInt16Type>(array, row)?.into(),
        DataType::UInt32 => get::<UInt32Type>(array, row)?.into(),
        DataType::UInt64 => get::<UInt64Type>(array, row)? as f64,
        DataType::Float16 => get::<Float16Type>(array, row)?.into(),
        DataType::Float32 => get::<Float32Type>(array, row)?.into(),
        DataType::Float64 => get::<Float64Type>(array, row)?,
        DataType::Timestamp(unit, _) => match unit {
            TimeUnit::Second => get::<TimestampSecondType>(array, row)? as f64,
            TimeUnit::Millisecond => get::<TimestampMillisecondType>(array, row)? as f64,
            TimeUnit::Microsecond => get::<TimestampMicrosecondType>(array, row)? as f64,
            TimeUnit::Nanosecond => get::<TimestampNanosecondType>(array, row)? as f64,
        },
        DataType::Dictionary(..) => {
            let (values, at) = entry(array, row)?;
            number(values.as_ref(), at)?
        }
        _ => decimal(array, row)?.parse().ok()?,
    })
}

fn decimal(array: &dyn Array, row: usize) -> Option<String> {
    match array.data_type() {
        DataType::Decimal32(..) => Some(array.as_primitive::<Decimal32Type>().value_as_string(row)),
        DataType::Decimal64(..) => Some(array.as_primitive::<Decimal64Type>().value_as_string(row)),
        DataType::Decimal128(..) => {
            Some(array.as_primitive::<Decimal128Type>().value_as_string(row))
        }
        DataType::Decimal256(..) => {
            Some(array.as_primitive::<Decimal256Type>().value_as_string(row))
        }
        _ => None,
    }
}

/// The cell of a list, by itself.
pub(super) fn list(array: &dyn Array, row: usize) -> Option<ArrayRef> {
    if array.is_null(row) {
        return None;
    }
    match array.data_type() {
        DataType::List(_) => Some(array.as_list::<i32>().value(row)),
        DataType::LargeList(_) => Some(array.as_list::<i64>().value(row)),
        DataType::FixedSizeList(..) => Some(array.as_fixed_size_list().value(row)),
        _ => None,
    }
}

/// A cell as JSON; `None` where a text isn't UTF-8.
pub(super) fn json(array: &dyn Array, row: usize) -> Option<String> {
    let mut out = String::new();
    write_json(array, row, &mut out)?;
    Some(out)
}

fn write_json(array: &dyn Array, row: usize, out: &mut String) -> Option<()> {
    if array.is_null(row) || matches!(array.data_type(), DataType::Null) {
        out.push_str("null");
        return Some(());
    }
    match array.data_type() {
        of if is_text(of) => {
            let text = std::str::from_utf8(text(array, row).unwrap_or_default()).ok()?;
            out.push_str(&serde_json::json!(text).to_string());
        }
        DataType::Dictionary(..) => match entry(array, row) {
            Some((values, at)) => write_json(values.as_ref(), at, out)?,
            None => out.push_str("null"),
        },
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            for (at, (field, column)) in fields.iter().zip(columns).enumerate() {
                out.push(if at == 0 { '{' } else { ',' });
                out.push_str(&serde_json::json!(field.name()).to_string());
                out.push(':');
                write_json(column.as_ref(), row, out)?;
            }
            out.push_str(if fields.is_empty() { "{}" } else { "}" });
        }
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
            let items = list(array, row)?;
            out.push('[');
            for at in 0..items.len() {
                if at > 0 {
                    out.push(',');
                }
                write_json(items.as_ref(), at, out)?;
            }
            out.push(']');
        }
        DataType::Boolean => out.push_str(match array.as_boolean().value(row) {
            true => "true",
            false => "false",
        }),
        _ => write_value(array, row, out),
    }
    Some(())
}

/// A number, or a time as text.
fn write_value(array: &dyn Array, row: usize, out: &mut String) {
    if let Some(time) = time(array, row) {
        out.push_str(&serde_json::json!(time).to_string());
        return;
    }
    let value = number(array, row);
    let exact = match array.data_type() {
        DataType::Int64 => Some(array.as_primitive::<Int64Type>().value(row).to_string()),
        DataType::UInt64 => Some(array.as_primitive::<UInt64Type>().value(row).to_string()),
        // The shortest form that reads as the same number; none for what is no number.
        DataType::Float32 => {
            let value = array.as_primitive::<Float32Type>().value(row);
            serde_json::to_string(&value).ok()
        }
        DataType::Float16 | DataType::Float64 => serde_json::to_string(&value).ok(),
        // A time that no calendar has is the number of its units, and so is a duration.
        of if of.is_temporal() => units(array, row).map(|units| units.to_string()),
        _ => decimal(array, row).or_else(|| value.map(|value| value.to_string())),
    };
    out.push_str(exact.as_deref().unwrap_or("null"));
}

/// A date, time or both, as ISO 8601 has it.
fn time(array: &dyn Array, row: usize) -> Option<String> {
    fn at<T: ArrowPrimitiveType>(array: &dyn Array, row: usize, zone: bool) -> Option<String>
    where
        i64: From<T::Native>,
    {
        let value = i64::from(array.as_primitive_opt::<T>()?.value(row));
        let time = as_datetime::<T>(value)?.format("%Y-%m-%dT%H:%M:%S%.f");
        Some(format!("{time}{}", if zone { "Z" } else { "" }))
    }
    fn date<T: ArrowPrimitiveType>(array: &dyn Array, row: usize) -> Option<String>
    where
        i64: From<T::Native>,
    {
        let value = i64::from(array.as_primitive_opt::<T>()?.value(row));
        Some(as_date::<T>(value)?.to_string())
    }
    fn clock<T: ArrowPrimitiveType>(array: &dyn Array, row: usize) -> Option<String>
    where
        i64: From<T::Native>,
    {
        let value = i64::from(array.as_primitive_opt::<T>()?.value(row));
        Some(as_time::<T>(value)?.to_string())
    }
    match array.data_type() {
        DataType::Timestamp(unit, zone) => match unit {
            TimeUnit::Second => at::<TimestampSecondType>(array, row, zone.is_some()),
            TimeUnit::Millisecond => at::<TimestampMillisecondType>(array, row, zone.is_some()),
            TimeUnit::Microsecond => at::<TimestampMicrosecondType>(array, row, zone.is_some()),
            TimeUnit::Nanosecond => at::<TimestampNanosecondType>(array, row, zone.is_some()),
        },
        DataType::Date32 => date::<Date32Type>(array, row),
        DataType::Date64 => date::<Date64Type>(array, row),
        DataType::Time32(TimeUnit::Second) => clock::<Time32SecondType>(array, row),
        DataType::Time32(_) => clock::<Time32MillisecondType>(array, row),
        DataType::Time64(TimeUnit::Microsecond) => clock::<Time64MicrosecondType>(array, row),
        DataType::Time64(_) => clock::<Time64NanosecondType>(array, row),
        _ => None,
    }
}

/// A time as the number of its units.
fn units(array: &dyn Array, row: usize) -> Option<i64> {
    fn get<T: ArrowPrimitiveType>(array: &dyn Array, row: usize) -> Option<i64>
    where
        i64: From<T::Native>,
    {
        Some(array.as_primitive_opt::<T>()?.value(row).into())
    }
    match array.data_type() {
        DataType::Timestamp(unit, _) => match unit {
            TimeUnit::Second => get::<TimestampSecondType>(array, row),
            TimeUnit::Millisecond => get::<TimestampMillisecondType>(array, row),
            TimeUnit::Microsecond => get::<TimestampMicrosecondType>(array, row),
            TimeUnit::Nanosecond => get::<TimestampNanosecondType>(array, row),
        },
        DataType::Date32 => get::<Date32Type>(array, row),
        DataType::Date64 => get::<Date64Type>(array, row),
        DataType::Time32(TimeUnit::Second) => get::<Time32SecondType>(array, row),
        DataType::Time32(_) => get::<Time32MillisecondType>(array, row),
        DataType::Time64(TimeUnit::Microsecond) => get::<Time64MicrosecondType>(array, row),
        DataType::Time64(_) => get::<Time64NanosecondType>(array, row),
        DataType::Duration(unit) => match unit {
            TimeUnit::Second => get::<DurationSecondType>(array, row),
            TimeUnit::Millisecond => get::<DurationMillisecondType>(array, row),
            TimeUnit::Microsecond => get::<DurationMicrosecondType>(array, row),
            TimeUnit::Nanosecond => get::<DurationNanosecondType>(array, row),
        },
        _ => None,
    }
}

/// Bytes that a cell takes, about, as JSON where it is a text.
pub(super) fn size(array: &dyn Array, row: usize) -> usize {
    if let Some(text) = text(array, row) {
        return escaped(text);
    }
    if array.is_null(row) {
        return 1;
    }
    match array.data_type() {
        DataType::Dictionary(..) => match entry(array, row) {
            Some((values, at)) => size(values.as_ref(), at),
            None => 1,
        },
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
            let Some(items) = list(array, row) else {
                return 1;
            };
            match items.data_type().is_primitive() {
                true => 8 * items.len(),
                false => (0..items.len()).map(|at| size(items.as_ref(), at)).sum(),
            }
        }
        DataType::Struct(_) => {
            let columns = array.as_struct().columns().iter();
            columns.map(|column| size(column.as_ref(), row)).sum()
        }
        DataType::Map(..) => array.as_map_opt().map_or(1, |map| {
            let entries = map.value(row);
            (0..entries.len()).map(|at| size(&entries, at)).sum()
        }),
        DataType::FixedSizeBinary(length) => usize::try_from(*length).unwrap_or_default(),
        DataType::Decimal256(..) => 32,
        _ => 8,
    }
}

/// Bytes of a text as JSON: a control character takes six.
fn escaped(text: &[u8]) -> usize {
    let more = text.iter().map(|byte| match byte {
        b'"' | b'\\' => 1,
        0..0x20 => 5,
        _ => 0,
    });
    text.len() + more.sum::<usize>()
}
