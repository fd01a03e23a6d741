//! Answers to `CLUSTER SLOTS` that no server gives: what isn't understood has no slots.

use super::*;
use kiln_fuzz::{Case, Target};

fn value(case: &mut Case<'_>, depth: usize) -> Value {
    match case.below(6) {
        0 => Value::Int(case.word() as i64 >> case.below(64)),
        1 => Value::BulkString(case.text().into_bytes()),
        2 => Value::SimpleString(case.text()),
        3 => Value::Nil,
        4 if depth > 0 => {
            Value::Array((0..case.below(5)).map(|_| value(case, depth - 1)).collect())
        }
        _ => Value::Int(case.below(16_384) as i64),
    }
}

fn range(case: &mut Case<'_>) -> Value {
    let (first, last) = (case.below(16_390), case.below(16_390));
    let mut parts = vec![Value::Int(first as i64), Value::Int(last as i64)];
    for _ in 0..case.below(3) {
        let host = Value::BulkString(case.text().into_bytes());
        parts.push(Value::Array(vec![
            host,
            Value::Int(case.word() as i64 >> 48),
        ]));
    }
    if case.one_in(6) {
        let at = case.below(parts.len());
        parts[at] = value(case, 3);
    }
    Value::Array(parts)
}

#[test]
fn fuzz_cluster_slots() {
    Target::new("cluster_slots")
        .memory(256 << 10, 256)
        .run(|case| {
            let mut ranges = Vec::new();
            while case.goes_on() && ranges.len() < 64 {
                ranges.push(range(case));
            }
            let count = ranges.len() * 64;
            let answer = if case.one_in(9) {
                value(case, 4)
            } else {
                Value::Array(ranges)
            };
            let layout = case.bounded(count, || Layout::read(&answer, "asked:6379"));
            let served = (0..SLOTS).filter_map(|slot| layout.owner(slot));
            let mut owners = 0;
            for owner in served {
                owners += 1;
                assert!(owner < layout.primaries.len(), "{owner}");
            }
            assert_eq!(owners + layout.unserved(), usize::from(SLOTS));
            for primary in &layout.primaries {
                assert!(!primary.address.is_empty());
                assert!(primary.slot < SLOTS, "{primary:?}");
                let own = layout
                    .primaries
                    .iter()
                    .filter(|one| one.address == primary.address);
                assert_eq!(own.count(), 1, "{primary:?} twice");
            }
            case.saw(&format!("{} primaries", layout.primaries.len().min(4)));
        });
}
