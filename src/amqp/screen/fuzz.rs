//! Frames that no client library thought of: after screening, what could be read is read by the library behind it.

use super::*;
use crate::amqp::headers;
use kiln_fuzz::{Case, Target};
use lapin::{
    BasicProperties,
    types::{FieldTable, parsing},
};

/// A value as it stands on the wire, with its type.
fn value(case: &mut Case<'_>, depth: usize, out: &mut Vec<u8>) {
    let kinds = b"VtbBsuUiIfDlLdTSxFA";
    let mut kind = *case.pick(kinds);
    if depth == 0 && b"FA".contains(&kind) {
        kind = b'T';
    }
    out.push(kind);
    let fixed = match kind {
        b'V' => 0,
        b't' | b'b' | b'B' => 1,
        b's' | b'u' | b'U' => 2,
        b'i' | b'I' | b'f' => 4,
        b'D' => 5,
        b'l' | b'L' | b'd' | b'T' => 8,
        _ => {
            let mut inner = Vec::new();
            match kind {
                b'F' => entries(case, depth - 1, &mut inner),
                b'A' => (0..case.below(4)).for_each(|_| value(case, depth - 1, &mut inner)),
                _ => inner.extend(case.text().bytes()),
            }
            out.extend((inner.len() as u32).to_be_bytes());
            out.extend(inner);
            return;
        }
    };
    (0..fixed).for_each(|_| out.push(case.byte()));
}

fn entries(case: &mut Case<'_>, depth: usize, out: &mut Vec<u8>) {
    for _ in 0..case.below(5) {
        let mut name: Vec<u8> = case.text().bytes().take(255).collect();
        if case.one_in(4) {
            name.truncate(254);
            name.push(case.byte());
        }
        out.push(name.len() as u8);
        out.extend(name);
        value(case, depth, out);
    }
}

/// A content header with these headers, and tables as deep as it says around them.
fn frame(case: &mut Case<'_>) -> Vec<u8> {
    let mut table = Vec::new();
    entries(case, 4, &mut table);
    for _ in 0..*case.pick(&[0, 0, 0, 30, 31, 32, 33, 40, 2_000]) {
        let mut outer = vec![1, b'a', b'F'];
        outer.extend((table.len() as u32).to_be_bytes());
        outer.extend(table);
        table = outer;
    }
    let mut payload = vec![0, 60, 0, 0];
    payload.extend(7u64.to_be_bytes());
    payload.extend([0b0010_0000, 0]);
    payload.extend((table.len() as u32).to_be_bytes());
    payload.extend(table);
    let mut frame = vec![HEADER, 0, 1];
    frame.extend((payload.len() as u32).to_be_bytes());
    frame.extend(payload);
    frame.push(0xce);
    frame
}

/// Where a frame's table begins.
const TABLE: usize = FRAME_HEAD + 14;

#[test]
fn fuzz_frame() {
    Target::new("frame").memory(64 << 10, 64).run(|case| {
        let mut whole = frame(case);
        let before = whole.clone();
        let count = whole.len();
        case.bounded(count, || screen(&mut whole));
        assert_eq!(whole.len(), before.len());
        let mut again = whole.clone();
        screen(&mut again);
        assert_eq!(again, whole, "screening twice is screening once");
        let table = &whole[TABLE..whole.len() - 1];
        let (rest, read) = parsing::parse_field_table(table).expect("the library reads it");
        assert!(rest.is_empty());
        assert!(depth(&read) <= DEPTH);
        fits(case, read);
        // A frame that was cut or changed keeps its length, and nothing panics.
        let mut bytes = before;
        for _ in 0..1 + case.below(4) {
            let at = case.below(65_536) % bytes.len();
            bytes[at] = case.byte();
        }
        let count = bytes.len();
        case.bounded(count, || screen(&mut bytes));
        assert_eq!(bytes.len(), count);
    });
}

fn depth(table: &FieldTable) -> usize {
    let inner = table.inner().values().filter_map(|value| match value {
        lapin::types::AMQPValue::FieldTable(inner) => Some(1 + depth(inner)),
        _ => None,
    });
    inner.max().unwrap_or_default()
}

/// Whatever a producer's headers are, those that Kiln passes on fit a frame, with its own number among them.
fn fits(case: &mut Case<'_>, table: FieldTable) {
    let properties = BasicProperties::default().with_headers(table);
    for frame_max in [4_096, 8_192] {
        let number = case.word() >> 1;
        let numbered = headers::numbered(&properties, number, frame_max);
        assert_eq!(headers::number(&numbered), number);
        let kept = numbered.headers().clone().unwrap_or_default();
        let bytes = headers::table_bytes(&kept);
        assert!(
            bytes <= frame_max - (3 << 10),
            "{bytes} bytes of headers in frames of {frame_max}"
        );
    }
}
