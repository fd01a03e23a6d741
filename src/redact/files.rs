//! What is said of files that can't be read as CSV or TOML: where, and what was expected there.

use super::Redact;
use csv::ErrorKind;
use kiln_contract::redact::serde;
use std::fmt;

/// A line and a column of a text, in characters, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl Position {
    /// The position of a byte.
    pub fn of(text: &str, at: usize) -> Self {
        let before = text.get(..at).unwrap_or(text);
        let line = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            line: before.bytes().filter(|byte| *byte == b'\n').count() + 1,
            column: before.get(line..).unwrap_or_default().chars().count() + 1,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// An error of the TOML reader in its file's text. The reader's own words show the line, with what stands in it.
pub fn toml(error: &toml::de::Error, text: &str) -> String {
    match error.span() {
        Some(span) => format!("{}: {}", Position::of(text, span.start), message(error)),
        None => message(error),
    }
}

/// The same without a position.
pub(super) fn message(error: &toml::de::Error) -> String {
    serde(error.message())
}

/// An error of the CSV reader.
pub fn csv(error: &csv::Error) -> String {
    let at = error.position().map_or_else(String::new, |at| {
        format!("line {}, record {}: ", at.line(), at.record())
    });
    let what = match error.kind() {
        ErrorKind::Io(error) => error.redacted(),
        ErrorKind::Utf8 { err, .. } => format!("field {} is not UTF-8", err.field() + 1),
        ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => format!("{len} fields, expected {expected_len} as in the record before"),
        ErrorKind::Seek => "the header can't be read any more".to_owned(),
        ErrorKind::Serialize(_) => "it can't be written as CSV".to_owned(),
        ErrorKind::Deserialize { err, .. } => {
            let field = err.field().map_or_else(String::new, |field| {
                format!("field {}: ", field.saturating_add(1))
            });
            format!("{field}{}", serde(&err.kind().to_string()))
        }
        _ => "it isn't CSV".to_owned(),
    };
    format!("{at}{what}")
}
