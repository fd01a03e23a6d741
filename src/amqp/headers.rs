//! Owns what is written into a message's headers on its way out: its number, by which a returned message is known.
//!
//! Promises that the headers fit the one frame that AMQP has for them: the broker closes the connection on those that don't, and a
//! message that must arrive would close it again and again. What doesn't fit is left out, the largest of the producer's first,
//! and then the largest under names like Kiln's own.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

/// Header with the number under which a message was published on its channel. Names that start so belong to the broker and to
/// whoever publishes: they aren't copied from message to message.
const NUMBER: &str = "x-kiln-publish-id";
/// What a header frame holds beside the headers, at most: short texts of up to 255 bytes each, and some numbers.
const OTHER_PROPERTIES: usize = 3 << 10;
/// Names that start so are Kiln's own.
const OWN: &str = "kiln-";

/// The properties under a number, with headers that fit a frame.
pub(super) fn numbered(
    properties: &BasicProperties,
    number: u64,
    frame_max: usize,
) -> BasicProperties {
    let mut headers = properties.headers().clone().unwrap_or_default();
    let number = i64::try_from(number).unwrap_or_default();
    headers.insert(NUMBER.into(), AMQPValue::LongLongInt(number));
    properties.clone().with_headers(fitting(headers, frame_max))
}

/// The number of a message that came back.
pub(super) fn number(properties: &BasicProperties) -> u64 {
    let number = properties
        .headers()
        .as_ref()
        .and_then(|headers| headers.inner().get(NUMBER));
    match number {
        Some(AMQPValue::LongLongInt(number)) => u64::try_from(*number).unwrap_or_default(),
        _ => 0,
    }
}

fn fitting(headers: FieldTable, frame_max: usize) -> FieldTable {
    let room = match frame_max {
        0 => usize::MAX,
        max => max.saturating_sub(OTHER_PROPERTIES),
    };
    let mut excess = table_bytes(&headers).saturating_sub(room);
    if excess == 0 {
        return headers;
    }
    let entries = headers.inner().iter();
    let entries = entries.filter(|(name, _)| name.as_str() != NUMBER);
    let mut largest_first: Vec<_> = entries
        .map(|(name, value)| (name, entry_bytes(name, value)))
        .collect();
    // A producer may have given a name like Kiln's own to a header of its own, of any size.
    largest_first.sort_by_key(|(name, bytes)| (name.as_str().starts_with(OWN), Reverse(*bytes)));
    let mut left_out = BTreeSet::new();
    for (name, bytes) in largest_first {
        if excess == 0 {
            break;
        }
        left_out.insert(name);
        excess = excess.saturating_sub(bytes);
    }
    let kept = headers.inner().iter();
    let kept = kept.filter(|(name, _)| !left_out.contains(name));
    let kept: BTreeMap<_, _> = kept.map(|(n, v)| (n.clone(), v.clone())).collect();
    FieldTable::from(kept)
}

pub(super) fn table_bytes(table: &FieldTable) -> usize {
    let entries = table.inner().iter();
    4 + entries
        .map(|(name, value)| entry_bytes(name, value))
        .sum::<usize>()
}

fn entry_bytes(name: &ShortString, value: &AMQPValue) -> usize {
    1 + name.as_str().len() + bytes(value)
}

/// Bytes of a value on the wire, its type included.
fn bytes(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::Void => 0,
        AMQPValue::Boolean(_) | AMQPValue::ShortShortInt(_) | AMQPValue::ShortShortUInt(_) => 1,
        AMQPValue::ShortInt(_) | AMQPValue::ShortUInt(_) => 2,
        AMQPValue::LongInt(_) | AMQPValue::LongUInt(_) | AMQPValue::Float(_) => 4,
        AMQPValue::DecimalValue(_) => 5,
        AMQPValue::LongLongInt(_) | AMQPValue::Timestamp(_) | AMQPValue::Double(_) => 8,
        AMQPValue::ShortString(text) => 1 + text.as_str().len(),
        AMQPValue::LongString(text) => 4 + text.as_bytes().len(),
        AMQPValue::ByteArray(array) => 4 + array.len(),
        AMQPValue::FieldArray(array) => 4 + array.as_slice().iter().map(bytes).sum::<usize>(),
        AMQPValue::FieldTable(table) => table_bytes(table),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(headers: &[(&str, usize)]) -> BasicProperties {
        let mut table = FieldTable::default();
        for (name, bytes) in headers {
            let text = "x".repeat(*bytes);
            table.insert((*name).into(), AMQPValue::LongString(text.into()));
        }
        BasicProperties::default().with_headers(table)
    }

    fn names(properties: &BasicProperties) -> Vec<String> {
        let headers = properties.headers().clone().unwrap_or_default();
        headers.inner().keys().map(ToString::to_string).collect()
    }

    #[test]
    fn a_number_comes_back_as_it_was_written() {
        for properties in [BasicProperties::default(), with(&[("team", 5)])] {
            let numbered = numbered(&properties, 7, 131_072);
            assert_eq!(number(&numbered), 7);
        }
        assert_eq!(number(&BasicProperties::default()), 0);
    }

    #[test]
    fn what_does_not_fit_a_frame_is_left_out_the_largest_first() {
        let properties = with(&[
            ("kiln-error-message", 2_000),
            ("a", 90_000),
            ("b", 40_000),
            ("team", 5),
        ]);
        let fits = numbered(&properties, 1, 131_072);
        assert_eq!(names(&fits), ["b", "kiln-error-message", "team", NUMBER]);
        let small = numbered(&properties, 1, 8_192);
        assert_eq!(names(&small), ["kiln-error-message", "team", NUMBER]);
        let claimed = with(&[
            ("kiln-error-message", 2_000),
            ("kiln-tries", 130_000),
            ("team", 5),
        ]);
        let fits = numbered(&claimed, 1, 131_072);
        assert_eq!(names(&fits), ["kiln-error-message", NUMBER]);
        assert_eq!(
            names(&numbered(&properties, 1, 0)).len(),
            5,
            "no limit at all"
        );
    }
}
