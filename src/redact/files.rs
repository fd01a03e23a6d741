//! What is said of files that can't be read as CSV or TOML: where, and what was expected there.

use super::Redact;
use csv::ErrorKind;
use kiln_contract::redact::{is_name, serde};
use std::{collections::BTreeSet, fmt};

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

/// Digits of a column's name: more are a number of somebody's.
const MAX_DIGITS: usize = 3;

/// The names of a CSV file's columns, if its first record looks like a header: of a file without one, it is a row.
pub fn header(cells: &[String]) -> Option<&[String]> {
    let is_column = |cell: &String| {
        let digits = cell.bytes().filter(u8::is_ascii_digit).count();
        is_name(cell) && cell.parse::<f64>().is_err() && digits <= MAX_DIGITS
    };
    let distinct: BTreeSet<&String> = cells.iter().collect();
    (cells.iter().all(is_column) && distinct.len() == cells.len()).then_some(cells)
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
