//! Which field a reader's error is told of.

use crate::redact;

/// Whether the reader refuses a number that is beyond any float: it is well-formed JSON that no field can hold. The reader tells it apart
/// by its message only.
pub(super) fn is_out_of_range(error: &serde_json::Error) -> bool {
    error.to_string().starts_with("number out of range")
}

/// What an error says of the value that it is about.
pub(super) fn reason(error: &serde_json::Error) -> String {
    match is_out_of_range(error) {
        true => "expected a finite 32-bit float".to_owned(),
        false => redact::data(error),
    }
}

/// An unknown, missing or repeated field is reported at the object that holds it: say which field it is.
pub(super) fn blame(path: String, error: &serde_json::Error) -> String {
    let message = error.to_string();
    let named = ["unknown field `", "duplicate field `", "missing field `"]
        .iter()
        .find_map(|start| message.strip_prefix(start)?.split('`').next())
        .filter(|name| redact::is_name(name));
    match named {
        Some(name) if path.is_empty() => name.to_owned(),
        Some(name) if path != name && !path.ends_with(&format!(".{name}")) => {
            format!("{path}.{name}")
        }
        _ => path,
    }
}
