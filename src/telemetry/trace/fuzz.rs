//! Headers of traces that nobody thought of, against the standard's own words.

use super::*;
use kiln_fuzz::Target;

/// Whether a header is one by W3C Trace Context, section 3.2: lower-case hexadecimal digits of fixed counts.
fn is_standard(header: &str) -> bool {
    let is_hex = |text: &str, count: usize| {
        let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        text.len() == count && text.bytes().all(is_digit)
    };
    let parts: Vec<&str> = header.split('-').collect();
    let [version, trace, span, flags, more @ ..] = parts.as_slice() else {
        return false;
    };
    let is_zero = |text: &str| text.bytes().all(|b| b == b'0');
    is_hex(version, 2)
        && is_hex(trace, 32)
        && is_hex(span, 16)
        && is_hex(flags, 2)
        && *version != "ff"
        && (*version != "00" || more.is_empty())
        && !is_zero(trace)
        && !is_zero(span)
}

#[test]
fn fuzz_traceparent() {
    let seeds: [&[u8]; 3] = [
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        b"01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-more",
        b"+0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-+1",
    ];
    Target::new("traceparent")
        .seeds(&seeds)
        .max_bytes(600)
        .words(&["+", "-", "ff", "00", " "])
        .run(|case| {
            let header = String::from_utf8_lossy(case.bytes()).into_owned();
            let parsed = case.bounded(header.len(), || TraceParent::parse(&header));
            assert_eq!(parsed.is_some(), is_standard(header.trim()), "{header:?}");
            if let Some(parent) = parsed {
                case.saw("a parent");
                let (trace, span) = (hex::encode(parent.trace_id), hex::encode(parent.span_id));
                assert!(header.contains(&format!("-{trace}-{span}-")));
            }
            let state = context(Some(seed()), Some(header.as_str())).state;
            let parent = context(Some(header.as_str()), None).parent;
            for kept in [state, parent].into_iter().flatten() {
                assert!(kept.len() <= MAX_STATE_BYTES);
                assert!(kept.bytes().all(|b| (b' '..=b'~').contains(&b)), "{kept:?}");
            }
            case.saw(if state.is_some() { "a state" } else { "none" });
        });
}

fn seed() -> &'static str {
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
}
