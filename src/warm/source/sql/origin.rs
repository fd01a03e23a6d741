//! Owns where a statement stands in its schedule's file, so that what the server finds wrong in it can be found there.

use crate::redact::Position;
use std::{
    ops::Range,
    path::{Path, PathBuf},
};

/// Where a statement stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Origin {
    file: PathBuf,
    /// Where the string begins that holds it.
    string: Position,
    /// Where its first character is, if it stands there as it is: without escapes, which would shift what follows.
    first: Option<Position>,
}

impl Origin {
    /// Of a statement in a file's text, in the string at `span`.
    pub fn of(file: &Path, text: &str, span: Range<usize>, statement: &str) -> Self {
        let string = text.get(span.clone()).unwrap_or_default();
        let first = string.find(statement).filter(|_| !statement.is_empty());
        Self {
            file: file.to_owned(),
            string: Position::of(text, span.start),
            first: first.map(|first| Position::of(text, span.start + first)),
        }
    }

    /// The beginning of a message on the statement, or on a position in it.
    pub fn shown(&self, within: Option<Position>) -> String {
        let file = self.file.display();
        let at = |Position { line, column }: Position| {
            format!("{file}:{line}:{column}: `source.statement`: ")
        };
        match (self.first, within) {
            (Some(first), Some(within)) => at(Position {
                line: first.line + within.line - 1,
                column: match within.line {
                    1 => first.column + within.column - 1,
                    _ => within.column,
                },
            }),
            (None, Some(within)) => format!("{}{within} of the statement: ", at(self.string)),
            (first, None) => at(first.unwrap_or(self.string)),
        }
    }
}

/// The position of a character of a statement, counted from 1 as servers do.
pub(super) fn before(statement: &str, character: usize) -> Position {
    let mut starts = statement.char_indices().map(|(at, _)| at);
    let at = starts.nth(character.saturating_sub(1));
    Position::of(statement, at.unwrap_or(statement.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, string: &str, statement: &str, character: Option<usize>) -> String {
        let start = text.find(string).expect("the string");
        let span = start..start + string.len();
        let origin = Origin::of(Path::new("s.toml"), text, span, statement);
        origin.shown(character.map(|character| before(statement, character)))
    }

    #[test]
    fn a_position_in_a_statement_is_one_of_the_file() {
        let string = "'''\n  SELECT ☃,\n    nothing\n  FROM x'''";
        let text = format!("name = \"s\"\nstatement = {string}\n");
        let statement = "SELECT ☃,\n    nothing\n  FROM x";
        let at = |character| shown(&text, string, statement, character);
        assert_eq!(at(Some(1)), "s.toml:3:3: `source.statement`: ");
        assert_eq!(at(Some(9)), "s.toml:3:11: `source.statement`: ");
        // The line's end is the tenth character.
        assert_eq!(at(Some(15)), "s.toml:4:5: `source.statement`: ");
        assert_eq!(at(None), "s.toml:3:3: `source.statement`: ");
        assert_eq!(at(Some(9_999)), "s.toml:5:9: `source.statement`: ");
    }

    #[test]
    fn with_escapes_a_position_is_one_of_the_statement() {
        let string = r#""SELECT \"a\"""#;
        let text = format!("statement = {string}");
        assert_eq!(
            shown(&text, string, "SELECT \"a\"", Some(8)),
            "s.toml:1:13: `source.statement`: line 1, column 8 of the statement: "
        );
    }
}
