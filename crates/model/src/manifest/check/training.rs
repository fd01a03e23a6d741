//! What a manifest says of a version's training: every figure is one, and few enough to be labels of metrics.

use kiln_contract::model::Training;
use kiln_contract::time::parse_rfc3339;

/// Figures of an evaluation: each is a series of every worker's metrics.
const MAX_METRICS: usize = 16;
const MAX_NAME_BYTES: usize = 32;
/// Longest instant with an offset and nine digits of a second, with room to spare.
const MAX_INSTANT_BYTES: usize = 40;
/// Rows and seconds that no training has.
const MAX_ROWS: u64 = 1_000_000_000_000_000;
const MAX_SECONDS: f64 = 1e9;

/// The field that is wrong, and what was expected.
pub(in crate::manifest) fn check(training: &Training) -> Result<(), (String, String)> {
    let refuse = |field: &str, message: &str| Err((field.to_owned(), message.to_owned()));
    let instant = |text: &str| {
        let text = Some(text).filter(|text| text.len() <= MAX_INSTANT_BYTES);
        text.and_then(parse_rfc3339)
    };
    let expected = "must be an instant in RFC 3339, such as \"2026-11-27T00:00:00Z\"";
    let Some(from) = instant(&training.from) else {
        return refuse("from", expected);
    };
    let Some(to) = instant(&training.to) else {
        return refuse("to", expected);
    };
    if to < from {
        return refuse("to", "is earlier than `from`");
    }
    if !(1..=MAX_ROWS).contains(&training.rows) {
        return refuse("rows", "must be between 1 and 1000000000000000");
    }
    for (field, seconds) in [
        ("training_seconds", training.training_seconds),
        ("evaluation_seconds", training.evaluation_seconds),
    ] {
        if !(0.0..=MAX_SECONDS).contains(&seconds) {
            return refuse(field, "must be between 0 and 1000000000 seconds");
        }
    }
    if training.metrics.len() > MAX_METRICS {
        let message = format!("has {} figures, at most 16", training.metrics.len());
        return refuse("metrics", &message);
    }
    for (name, figure) in &training.metrics {
        if !is_name(name) {
            let message = "has a name that isn't 1 to 32 of a-z, 0-9 and _";
            return refuse("metrics", message);
        }
        if !figure.is_finite() {
            return refuse(&format!("metrics.{name}"), "must be a finite number");
        }
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(fits)
}
