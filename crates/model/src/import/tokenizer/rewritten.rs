//! What the reference library changes in a tokenizer once it has read it, written into the file.
//!
//! Parts that aren't changed keep their bytes, the numbers of vocabularies too.

use std::collections::BTreeMap;

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

type Parts = BTreeMap<String, Box<RawValue>>;

/// The file with texts lowercased before all else.
pub(super) fn with_lowercase(bytes: Vec<u8>) -> Vec<u8> {
    changed(bytes, "normalizer", lowercased)
}

/// The file without a type of its own for the second text.
pub(super) fn without_types(bytes: Vec<u8>) -> Vec<u8> {
    changed(bytes, "post_processor", |mut processor| {
        clear_types(&mut processor);
        Some(processor)
    })
}

/// The file with one part changed. One that isn't understood is left as it is: what is wrong with it is reported when it is loaded.
fn changed(bytes: Vec<u8>, part: &str, change: impl Fn(Value) -> Option<Value>) -> Vec<u8> {
    let changed = || {
        let mut parts: Parts = serde_json::from_slice(&bytes).ok()?;
        let found = match parts.get(part) {
            Some(raw) => serde_json::from_str(raw.get()).ok()?,
            None => Value::Null,
        };
        parts.insert(part.to_owned(), to_raw_value(&change(found)?).ok()?);
        serde_json::to_vec(&parts).ok()
    };
    changed().unwrap_or(bytes)
}

/// The normaliser with lowercasing before it; nothing if it has that already, as sentence-transformers looks for it.
fn lowercased(normalizer: Value) -> Option<Value> {
    let is_lowercase = |part: &Value| part.get("type") == Some(&json!("Lowercase"));
    let parts = match normalizer {
        Value::Null => Vec::new(),
        one if one.get("type") == Some(&json!("Sequence")) => {
            one.get("normalizers")?.as_array()?.clone()
        }
        one => vec![one],
    };
    if parts.iter().any(is_lowercase) {
        return None;
    }
    let mut all = vec![json!({"type": "Lowercase"})];
    all.extend(parts);
    Some(json!({"type": "Sequence", "normalizers": all}))
}

/// Sets each type in templates to 0, at any depth.
fn clear_types(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                if name == "type_id" {
                    *field = json!(0);
                } else {
                    clear_types(field);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(clear_types),
        _ => {}
    }
}
