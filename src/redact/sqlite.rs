//! What is said of an error of SQLite: its [result code](https://www.sqlite.org/rescode.html), and the columns that a constraint names.

use kiln_contract::redact::is_name;

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

/// What a code with a message says.
pub(super) fn said(code: Option<&str>, message: &str) -> String {
    let number = code.and_then(|code| code.parse::<i64>().ok());
    let primary = number.map(|number| number & 0xff);
    let meaning = CODES.iter().find(|(known, _)| Some(*known) == primary);
    let meaning = meaning.map_or("SQLite refuses the statement", |(_, meaning)| meaning);
    let names = names(message).map_or_else(String::new, |names| format!(": {names}"));
    let code = code.map_or_else(String::new, |code| format!(" (SQLite {code})"));
    format!("{meaning}{names}{code}")
}

/// The names behind the words that SQLite puts before them.
fn names(message: &str) -> Option<&str> {
    let heads = [
        "UNIQUE constraint failed: ",
        "NOT NULL constraint failed: ",
        "CHECK constraint failed: ",
        "no such table: ",
        "no such column: ",
    ];
    let found = heads.iter().find_map(|head| message.strip_prefix(head));
    found.filter(|names| names.split(", ").all(is_name))
}
