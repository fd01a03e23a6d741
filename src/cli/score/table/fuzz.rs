//! Footers and packed lengths of Parquet files that nobody thought of, before the library sees them.

use super::{delta, footer, thrift::Thrift};
use kiln_fuzz::{Case, Target};

/// A field of Thrift's compact protocol, with all that is in it.
fn field(case: &mut Case<'_>, depth: usize, out: &mut Vec<u8>) {
    let kinds = [1, 2, 3, 5, 6, 7, 8, 9, 10, 12, 11, 0];
    let kind = *case.pick(&kinds);
    let step = 1 + case.below(6) as u8;
    out.push(step << 4 | kind);
    content(case, kind, depth, out);
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn content(case: &mut Case<'_>, kind: u8, depth: usize, out: &mut Vec<u8>) {
    match kind {
        3 => out.push(case.byte()),
        4..=6 => varint(case.word() >> case.below(64), out),
        7 => out.extend(case.word().to_le_bytes()),
        8 => {
            let text = case.text();
            varint(
                if case.one_in(9) {
                    case.word()
                } else {
                    text.len() as u64
                },
                out,
            );
            out.extend(text.bytes());
        }
        9 | 10 if depth > 0 => {
            let kind = *case.pick(&[1, 5, 8, 12, 9]);
            let count = case.below(6);
            match case.one_in(9) {
                true => {
                    out.push(0xf0 | kind);
                    varint(case.word() >> case.below(64), out);
                }
                false => out.push((count as u8) << 4 | kind),
            }
            (0..count).for_each(|_| content(case, kind, depth - 1, out));
        }
        12 if depth > 0 => {
            (0..case.below(5)).for_each(|_| field(case, depth - 1, out));
            out.push(0);
        }
        _ => {}
    }
}

#[test]
fn fuzz_parquet_footer() {
    Target::new("parquet_footer")
        .memory(1 << 20, 128)
        .run(|case| {
            let mut bytes = Vec::new();
            while case.goes_on() && bytes.len() < 4_096 {
                field(case, 5, &mut bytes);
            }
            bytes.push(0);
            match case.bounded(bytes.len(), || footer::check(&bytes)) {
                Ok(()) => case.saw("a footer"),
                Err(refused) => case.refused(&refused.to_string()),
            }
            let mut thrift = Thrift { bytes: &bytes };
            let mut id = 0;
            while let Some(Some(kind)) = thrift.field(&mut id) {
                let left = thrift.bytes.len();
                if thrift.skip(kind).is_none() {
                    break;
                }
                assert!(thrift.bytes.len() <= left);
            }
        });
}

#[test]
fn fuzz_parquet_bytes() {
    Target::new("parquet_bytes")
        .memory(1 << 20, 128)
        .run(|case| {
            let bytes = case.bytes();
            match case.bounded(bytes.len(), || footer::check(bytes)) {
                Ok(()) => case.saw("a footer"),
                Err(refused) => case.refused(&refused.to_string()),
            }
            let max = 1_000;
            let sums = case.bounded(bytes.len(), || {
                [delta::apart(bytes, max), delta::shared(bytes, max)]
            });
            case.saw(&format!("{:?}", sums.map(|sum| sum.is_some())));
        });
}

#[test]
fn fuzz_parquet_lengths() {
    Target::new("parquet_lengths")
        .memory(1 << 20, 128)
        .run(|case| {
            let mut bytes = Vec::new();
            varint(
                *case.pick(&[128, 256, 1 << 20, 127, 0, u64::MAX >> 1]),
                &mut bytes,
            );
            varint(*case.pick(&[4, 1, 8, 0, 128, u64::MAX >> 1]), &mut bytes);
            varint(case.word() >> case.below(64), &mut bytes);
            varint(case.word() >> case.below(64), &mut bytes);
            bytes.extend(case.rest());
            let max = 1 << 16;
            let sums = case.bounded(bytes.len(), || {
                [delta::apart(&bytes, max), delta::shared(&bytes, max)]
            });
            case.saw(&format!("{:?}", sums.map(|sum| sum.is_some())));
        });
}
