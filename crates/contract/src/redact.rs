//! Owns what may be said of an error that a reader of JSON or TOML reports: everything but the values that it read.
//!
//! Promises that of such an error its kind, its position, names of fields and what was expected remain, and that a value doesn't:
//! the readers' own messages quote it. Other errors of servers and libraries are the root package's `redact`, which uses this.

use serde_path_to_error::{Path, Segment};
use std::any::Any;

/// Longest name that is shown, in bytes: PostgreSQL's longest identifier, and an IPv6 address with its port.
const MAX_NAME_BYTES: usize = 63;

/// What stands for a part that isn't shown.
pub const HIDDEN: &str = "…";

/// What a reader calls the kind of a value that it didn't expect (`serde::de::Unexpected`, and `null` of JSON). Longer ones before
/// those that they begin with.
const KINDS: [&str; 19] = [
    "boolean",
    "integer",
    "floating point",
    "character",
    "string",
    "byte array",
    "unit value",
    "unit variant",
    "null",
    "Option value",
    "newtype struct",
    "newtype variant",
    "sequence",
    "map",
    "enum",
    "tuple variant",
    "struct variant",
    "array",
    "table",
];

/// An error of the JSON reader: what was wrong, and the line and column where.
pub fn json(error: &serde_json::Error) -> String {
    if !error.is_data() {
        // What the reader says of the syntax is fixed text.
        return error.to_string();
    }
    let message = data(error);
    match error.line() {
        0 => message,
        line => format!("{message} at line {line} column {}", error.column()),
    }
}

/// [`json`] for a text that is one line of a file, whose number its reader knows: with the column only.
pub fn json_line(error: &serde_json::Error) -> String {
    json(error).replacen(" at line 1 column ", " at column ", 1)
}

/// [`json`] without line and column, for those who know the path of the field.
pub fn data(error: &serde_json::Error) -> String {
    let mut message = error.to_string();
    if let Some(at) = message.rfind(" at line ") {
        message.truncate(at);
    }
    serde(&message)
}

/// A message as `serde` words it, and with it any reader built on it (`serde::de::Error`); one that a reader words itself keeps
/// what it quotes only where that is a name.
pub fn serde(message: &str) -> String {
    // The value comes before what was expected, which is fixed text: the last comma counts.
    let expected = |rest: &str| {
        let at = rest.rfind(", expected ").or(rest.rfind(", there are no "));
        at.and_then(|at| rest.get(at..)).unwrap_or("").to_owned()
    };
    for start in ["invalid type: ", "invalid value: "] {
        if let Some(rest) = message.strip_prefix(start) {
            let kind = KINDS.iter().find(|kind| rest.starts_with(**kind));
            let kind = kind.copied().unwrap_or("another value");
            return format!("{start}{kind}{}", expected(rest));
        }
    }
    for start in [
        "unknown variant",
        "unknown field",
        "missing field",
        "duplicate field",
    ] {
        if let Some(rest) = message.strip_prefix(start) {
            let expected = expected(rest);
            let name = rest.strip_suffix(expected.as_str()).unwrap_or(rest);
            let name = name.trim_matches([' ', '`']);
            let name = if is_name(name) { name } else { HIDDEN };
            return format!("{start} `{name}`{expected}");
        }
    }
    names_only(message)
}

/// A text with each part that it quotes replaced, unless that part is a name.
pub fn names_only(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(is_opening) {
        let (before, quoted) = rest.split_at(at);
        shown.push_str(before);
        let open = quoted.chars().next().unwrap_or('"');
        let inner = quoted.get(open.len_utf8()..).unwrap_or("");
        // An apostrophe within a word quotes nothing.
        if open == '\'' && before.ends_with(char::is_alphanumeric) {
            shown.push(open);
            rest = inner;
            continue;
        }
        let close = closing(open);
        // What isn't closed, or quotes a quote, is hidden to its last one.
        let Some(end) = inner.find(close) else {
            shown.push_str(HIDDEN);
            return shown;
        };
        let (name, after) = inner.split_at(end);
        if is_name(name) {
            shown.push(open);
            shown.push_str(name);
            shown.push(close);
            rest = after.get(close.len_utf8()..).unwrap_or("");
        } else {
            shown.push_str(HIDDEN);
            let last = after.rfind(close).unwrap_or(0);
            rest = after.get(last + close.len_utf8()..).unwrap_or("");
        }
    }
    shown.push_str(rest);
    shown
}

fn is_opening(char: char) -> bool {
    matches!(char, '"' | '\'' | '`' | '«' | '»' | '„' | '“' | '‘')
}

fn closing(open: char) -> char {
    match open {
        '«' => '»',
        '»' => '«',
        '„' => '“',
        '“' => '”',
        '‘' => '’',
        other => other,
    }
}

/// How the texts of panics begin that the standard library words, of numbers alone.
const PANICS: [&str; 7] = [
    "attempt to ",
    "capacity overflow",
    "index out of bounds",
    "range end index ",
    "range start index ",
    "slice index starts at ",
    "no entry found for key",
];

/// What a panic says: a literal is the program's own text; one that was put together may quote what it failed on.
pub fn panic(payload: &(dyn Any + Send)) -> &str {
    let literal = payload.downcast_ref::<&str>().copied();
    let built = payload.downcast_ref::<String>().map(String::as_str);
    let built = built.filter(|text| PANICS.iter().any(|start| text.starts_with(start)));
    let other = match payload.is::<String>() {
        true => "its text isn't shown",
        false => "no message",
    };
    literal.or(built).unwrap_or(other)
}

/// A path to a field, such as `inputs[3].text`; empty for the whole. A step that is no name is hidden: an unknown field's may be
/// anything.
pub fn path(path: &Path) -> String {
    let mut shown = String::new();
    for segment in path {
        let name = match segment {
            Segment::Seq { index } => {
                shown.push_str(&format!("[{index}]"));
                continue;
            }
            Segment::Map { key } => key,
            Segment::Enum { variant } => variant,
            Segment::Unknown => "?",
        };
        if !shown.is_empty() {
            shown.push('.');
        }
        shown.push_str(if is_name(name) { name } else { HIDDEN });
    }
    shown
}

/// Whether a text can be shown as the name of a field, a column, a table, a queue, a user or a host.
pub fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:/$[]*#".contains(&byte);
    (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    const CANARY: &str = "anna.private@example.org";

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only read")]
    struct Row {
        rate: f64,
        #[serde(default)]
        kind: Kind,
        names: Option<Vec<String>>,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        #[default]
        Plain,
    }

    fn said(text: &str) -> String {
        json(&serde_json::from_str::<Row>(text).expect_err(text))
    }

    #[test]
    fn a_reader_of_json_says_where_and_what_was_expected_and_no_value() {
        let quoted = r#"{"rate": "\", expected `anna.private@example.org`"}"#;
        for (text, expected) in [
            (
                r#"{"rate": "anna.private@example.org"}"#,
                "invalid type: string, expected f64 at line 1 column 35",
            ),
            (
                quoted,
                "invalid type: string, expected f64 at line 1 column 50",
            ),
            (
                r#"{"rate": 1, "kind": "anna.private@example.org"}"#,
                "unknown variant `…`, expected `plain` at line 1 column 46",
            ),
            (
                r#"{"rate": 1, "anna.private@example.org": 1}"#,
                "unknown field `…`, expected one of `rate`, `kind`, `names` at line 1 column 38",
            ),
            (
                r#"{"rate": 1, "rates": 1}"#,
                "unknown field `rates`, expected one of `rate`, `kind`, `names` at line 1 column 19",
            ),
            (
                r#"{"rate": 1, "names": 4711}"#,
                "invalid type: integer, expected a sequence at line 1 column 25",
            ),
            ("{}", "missing field `rate` at line 1 column 2"),
            (
                r#"{"rate": 1, "rate": 1}"#,
                "duplicate field `rate` at line 1 column 18",
            ),
            ("anna", "expected value at line 1 column 1"),
        ] {
            let said = said(text);
            assert_eq!(said, expected, "{text}");
            assert!(!said.contains(CANARY));
        }
        let cut = serde_json::from_str::<Row>("{\"rate\": 1").expect_err("half an object");
        assert_eq!(json_line(&cut), "EOF while parsing an object at column 10");
    }

    #[test]
    fn a_text_keeps_names_and_no_other_quoted_part() {
        for (text, expected) in [
            (
                r#"column "rate" of "anna.private@example.org""#,
                r#"column "rate" of …"#,
            ),
            (
                "no queue 'kiln.jobs' in vhost '/'",
                "no queue 'kiln.jobs' in vhost '/'",
            ),
            ("can't, for 'anna b' and 'x'", "can't, for …"),
            ("a \"quote that never ends", "a …"),
            ("Spalte »rate« in »anna b«", "Spalte »rate« in …"),
            ("", ""),
        ] {
            assert_eq!(names_only(text), expected);
        }
    }

    #[test]
    fn a_panic_says_what_the_program_wrote_itself() {
        let built = |text: &str| text.to_owned();
        let index = "index out of bounds: the len is 3 but the index is 7";
        assert_eq!(panic(&"no such row"), "no such row");
        assert_eq!(panic(&built(index)), index);
        assert_eq!(
            panic(&built("bad anna.private@example.org")),
            "its text isn't shown"
        );
        assert_eq!(panic(&7), "no message");
    }
}
