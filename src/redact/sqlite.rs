//! What is said of an error of SQLite: its [result code](https://www.sqlite.org/rescode.html), and the columns that a constraint names.

use kiln_contract::redact::{is_name, names_only};
use rusqlite::Error;

/// The result codes whose meaning an operator can act on; an extended code has its primary one in its lowest byte.
const CODES: [(i64, &str); 12] = [
    (5, "the database is locked"),
    (6, "a table is locked"),
    (7, "no memory is left"),
    (8, "the file can't be written"),
    (9, "it was interrupted"),
    (10, "the disk failed"),
    (11, "the file is damaged"),
    (13, "the disk or the file is full"),
    (14, "the file can't be opened"),
    (17, "the tables have changed"),
    (19, "a constraint refuses the row"),
    (26, "the file is no SQLite database"),
];

pub(super) fn any(error: &Error) -> String {
    let (failed, message) = match error {
        Error::SqliteFailure(failed, message) => (failed, message.as_deref()),
        Error::SqlInputError { error, msg, .. } => (error, Some(msg.as_str())),
        other => return names_only(&other.to_string()),
    };
    let code = failed.extended_code.to_string();
    said(Some(&code), message.unwrap_or_default())
}

/// What a code with a message says.
pub(super) fn said(code: Option<&str>, message: &str) -> String {
    let number = code.and_then(|code| code.parse::<i64>().ok());
    let primary = number.map(|number| number & 0xff);
    let meaning = CODES.iter().find(|(known, _)| Some(*known) == primary);
    let meaning = meaning.map_or("SQLite refuses the statement", |(_, meaning)| meaning);
    let (meaning, names) = match names(message) {
        Some((absent, names)) => (absent.unwrap_or(meaning), format!(": {names}")),
        None => (meaning, String::new()),
    };
    let code = code.map_or_else(String::new, |code| format!(" (SQLite {code})"));
    format!("{meaning}{names}{code}")
}

/// The names behind the words that SQLite puts before them, with what these say where the code, which many errors share, doesn't.
fn names(message: &str) -> Option<(Option<&'static str>, &str)> {
    let heads = [
        ("UNIQUE constraint failed: ", None),
        ("NOT NULL constraint failed: ", None),
        ("CHECK constraint failed: ", None),
        ("no such table: ", Some("there is no such table")),
        ("no such column: ", Some("there is no such column")),
    ];
    let mut found = heads.into_iter().filter_map(|(head, absent)| {
        let names = message.strip_prefix(head)?;
        Some((absent, names))
    });
    found.find(|(_, names)| names.split(", ").all(is_name))
}
