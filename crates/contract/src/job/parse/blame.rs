//! Which field a reader's error is told of.

use crate::redact;

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
