//! A table with a column that only grows: its rows, as they change.
//!
//! Promises that a row which changed is read, whichever transaction committed first, as long as it commits within the overlap; that what is read at
//! once is bounded; and that a position is exact: where one reading ends, the next begins. Refuses to decide what becomes of a row: that is for who
//! follows the table.

mod feed;
mod page;
mod rows;
mod since;

use super::BadSource;
pub(in crate::warm) use feed::Changes;
/// What positions are: numbers, or microseconds since 1970.
pub(in crate::warm) use kiln_contract::order::Kind as PositionKind;
pub(in crate::warm) use page::{Found, Page};
pub(in crate::warm) use rows::ChangedRow;
use serde::Deserialize;
use sha2::{Digest, Sha256};
pub(in crate::warm) use since::ChangesSource;
use std::time::Duration;

/// Longest name of a channel or column, in bytes: the server cuts longer ones.
const MAX_NAME_BYTES: usize = 63;

/// Where to begin in a table that was never followed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::warm) enum Beginning {
    /// With what changes from now on.
    #[default]
    Now,
    /// With its first row.
    Start,
}

/// `kind = "changes"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangesSpec {
    /// One of `[databases]`, or `kiln` for Kiln's own.
    database: String,
    /// Gives the rows after the position `$1`, and after the tie `$2` of those at it, in that order.
    statement: Option<String>,
    /// In place of a statement: a table, with its schema or without.
    table: Option<String>,
    /// Its columns.
    position: Option<String>,
    key: Option<String>,
    #[serde(default)]
    key_prefix: String,
    text: Option<String>,
    text_pair: Option<String>,
    features: Option<String>,
    removed: Option<String>,
    changed_at: Option<String>,
    /// A channel on which the database tells of changes.
    notify: Option<String>,
    #[serde(default)]
    pub(in crate::warm) from: Beginning,
    #[serde(default = "one_second")]
    poll_ms: u64,
    #[serde(default = "thirty")]
    overlap_seconds: u64,
    #[serde(default = "thirty")]
    limit_seconds: u64,
}

fn one_second() -> u64 {
    1_000
}

fn thirty() -> u64 {
    30
}

impl ChangesSpec {
    pub(super) fn check(&mut self) -> Result<(), BadSource> {
        let wrong = |field: &str, message: &str| Err(BadSource::new(field, message));
        let columns = [
            ("position", &self.position),
            ("key", &self.key),
            ("text", &self.text),
            ("text_pair", &self.text_pair),
            ("features", &self.features),
            ("removed", &self.removed),
            ("changed_at", &self.changed_at),
        ];
        match (&self.statement, &self.table) {
            (Some(_), Some(_)) | (None, None) => {
                return wrong("statement", "expected `statement` or `table`, and not both");
            }
            (Some(statement), None) => {
                if let Some((field, _)) = columns.iter().find(|(_, column)| column.is_some()) {
                    return wrong(
                        field,
                        "is only for a `table`: a statement names its own columns",
                    );
                }
                if !self.key_prefix.is_empty() {
                    return wrong("key_prefix", "is only for a `table`");
                }
                if !statement.contains("$1") {
                    return wrong(
                        "statement",
                        "expected a SELECT of the rows after the position $1",
                    );
                }
            }
            (None, Some(table)) => self.check_table(table, &columns)?,
        }
        if self
            .notify
            .as_deref()
            .is_some_and(|channel| !is_identifier(channel))
        {
            return wrong("notify", "expected a channel's name of 1 to 63 bytes");
        }
        if !(100..=60_000).contains(&self.poll_ms) {
            return wrong("poll_ms", "expected 100 to 60000");
        }
        if self.overlap_seconds > 3_600 {
            return wrong("overlap_seconds", "expected 0 to 3600");
        }
        if self.overlap_seconds > 0 && self.poll() >= self.overlap() {
            let expected = "expected less than `overlap_seconds`: what commits late is found when everything is read again";
            return wrong("poll_ms", expected);
        }
        if !(1..=3_600).contains(&self.limit_seconds) {
            return wrong("limit_seconds", "expected 1 to 3600");
        }
        Ok(())
    }

    fn check_table(
        &self,
        table: &str,
        columns: &[(&str, &Option<String>)],
    ) -> Result<(), BadSource> {
        let wrong = |field: &str, message: &str| Err(BadSource::new(field, message));
        let names = columns
            .iter()
            .filter_map(|(field, column)| Some((*field, column.as_deref()?)));
        let parts = table.split('.').map(|part| ("table", part));
        if let Some((field, _)) = names.chain(parts).find(|(_, name)| !is_identifier(name)) {
            return wrong(field, "expected a name of 1 to 63 bytes");
        }
        if table.split('.').count() > 2 {
            let expected = "expected a table, or a schema and a table with a dot between them";
            return wrong("table", expected);
        }
        if self.position.is_none() || self.key.is_none() {
            let expected = "expected the columns `position` and `key` of the table";
            return wrong("position", expected);
        }
        if self.text.is_none() && self.features.is_none() {
            return wrong("text", "expected a column `text` or `features`");
        }
        if self.key_prefix.len() > kiln_contract::job::MAX_KEY_BYTES {
            return wrong("key_prefix", "expected a short text");
        }
        Ok(())
    }

    /// The statement, without the semicolon at its end.
    fn statement(&self) -> String {
        match (&self.statement, &self.table) {
            (Some(statement), _) => statement.trim().trim_end_matches(';').trim_end().to_owned(),
            (None, Some(table)) => self.of_table(table),
            (None, None) => String::new(),
        }
    }

    /// The statement that reads a table. The key breaks ties, so that rows which changed together can be read in parts.
    fn of_table(&self, table: &str) -> String {
        let column = |name: &Option<String>| quoted(name.as_deref().unwrap_or_default());
        let (position, key) = (column(&self.position), column(&self.key));
        let key = format!("({key})::text COLLATE \"C\"");
        let mut columns = vec![format!("{position} AS position")];
        let prefix = match self.key_prefix.as_str() {
            "" => String::new(),
            prefix => format!("{} || ", literal(prefix)),
        };
        columns.push(format!("{prefix}{key} AS key"));
        columns.push(format!("{key} AS tie"));
        for (name, own, kind) in [
            (&self.text, "text", "::text"),
            (&self.text_pair, "text_pair", "::text"),
            (&self.features, "features", "::real[]"),
            (&self.removed, "removed", "::boolean"),
            (&self.changed_at, "changed_at", "::timestamptz"),
        ] {
            if name.is_some() {
                columns.push(format!("{}{kind} AS {own}", column(name)));
            }
        }
        let table: Vec<String> = table.split('.').map(quoted).collect();
        // What has no key is nobody's entry, and must not stop the others.
        format!(
            "SELECT {} FROM {} WHERE ({position}, {key}) > ($1, $2) AND {key} <> '' ORDER BY {position}, {key}",
            columns.join(", "),
            table.join(".")
        )
    }

    /// What gives its positions a meaning: the database, and the table with the column or the whole statement.
    pub(in crate::warm) fn digest(&self) -> [u8; 32] {
        let (table, position) = (self.table.as_deref(), self.position.as_deref());
        let statement = self.statement.as_ref().map(|_| self.statement());
        let parts = [Some(&*self.database), table, position, statement.as_deref()];
        let mut digest = Sha256::new();
        for part in parts {
            let part = part.unwrap_or_default();
            digest.update(part.len().to_le_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }

    /// The database's name in the settings.
    pub(super) fn database(&self) -> &str {
        &self.database
    }

    /// How often the table is read.
    pub(in crate::warm) fn poll(&self) -> Duration {
        Duration::from_millis(self.poll_ms)
    }

    /// How long after its position was passed a row may commit and still be found.
    pub(in crate::warm) fn overlap(&self) -> Duration {
        Duration::from_secs(self.overlap_seconds)
    }
}

fn is_identifier(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.contains('\0')
}

/// An identifier as SQL takes any.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as SQL takes any: with its own quotes doubled, and nothing else of it special.
fn literal(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('\'', "''");
    format!("E'{text}'")
}

/// Where a reading ended: what comes after it in the order of positions, and of keys at the same position.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::warm) struct Point {
    pub position: i64,
    pub key: String,
}

impl Point {
    /// Before every row after a position.
    pub(in crate::warm) fn after(position: i64) -> Self {
        // No tie is empty.
        Self {
            position: position.saturating_add(1),
            key: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<ChangesSpec, BadSource> {
        let mut spec: ChangesSpec =
            toml::from_str(&format!("database = \"shop\"\n{text}")).expect("a source");
        spec.check().map(|()| spec)
    }

    const TABLE: &str = "table = \"a.b\"\nposition = \"at\"\nkey = \"id\"\ntext = \"said\"\n";

    #[test]
    fn a_table_is_read_in_the_order_of_position_and_key_whatever_its_columns_are_called() {
        let spec = checked(&format!(
            "{TABLE}key_prefix = \"it's:\"\nremoved = \"go\\\"ne\""
        ))
        .expect("a table");
        assert_eq!(
            spec.statement(),
            "SELECT \"at\" AS position, E'it''s:' || (\"id\")::text COLLATE \"C\" AS key, (\"id\")::text COLLATE \"C\" AS tie, \
             \"said\"::text AS text, \"go\"\"ne\"::boolean AS removed FROM \"a\".\"b\" \
             WHERE (\"at\", (\"id\")::text COLLATE \"C\") > ($1, $2) AND (\"id\")::text COLLATE \"C\" <> '' \
             ORDER BY \"at\", (\"id\")::text COLLATE \"C\""
        );
        let spec = checked("statement = \"SELECT 1 WHERE a > $1 ;\\n\"").expect("a statement");
        assert_eq!(spec.statement(), "SELECT 1 WHERE a > $1");
        checked(&format!("{TABLE}overlap_seconds = 0")).expect("rows that commit in order");
    }

    #[test]
    fn what_gives_positions_their_meaning_has_a_digest_and_what_does_not_has_none() {
        let digest = |text: &str| checked(text).expect(text).digest();
        let own = digest(TABLE);
        assert_eq!(own, digest(&TABLE.replace("said", "told")));
        assert_eq!(own, digest(&format!("{TABLE}poll_ms = 200")));
        for (from, to) in [("a.b", "a.c"), ("\"at\"", "\"on\"")] {
            assert_ne!(own, digest(&TABLE.replace(from, to)), "{to}");
        }
        let stated = digest("statement = \"SELECT $1\"");
        assert_eq!(stated, digest("statement = \"\\nSELECT $1;\""));
        assert_ne!(stated, digest("statement = \"SELECT $1, 2\""));
    }

    #[test]
    fn a_source_names_a_statement_or_a_table_with_its_columns() {
        for (text, field) in [
            ("", "statement"),
            ("statement = \"SELECT $1\"\ntable = \"a\"", "statement"),
            ("statement = \"SELECT 1\"", "statement"),
            ("statement = \"SELECT $1\"\nkey = \"id\"", "key"),
            (
                "statement = \"SELECT $1\"\nkey_prefix = \"id\"",
                "key_prefix",
            ),
            ("table = \"a\"\nkey = \"id\"\ntext = \"t\"", "position"),
            ("table = \"a\"\nposition = \"p\"\nkey = \"id\"", "text"),
            (
                "table = \"a.b.c\"\nposition = \"p\"\nkey = \"id\"\ntext = \"t\"",
                "table",
            ),
            (
                "table = \"a.\"\nposition = \"p\"\nkey = \"id\"\ntext = \"t\"",
                "table",
            ),
            (&format!("{TABLE}removed = \"\""), "removed"),
            (&format!("{TABLE}notify = \"\""), "notify"),
            (&format!("{TABLE}poll_ms = 99"), "poll_ms"),
            (&format!("{TABLE}overlap_seconds = 3601"), "overlap_seconds"),
            (
                &format!("{TABLE}overlap_seconds = 2\npoll_ms = 2000"),
                "poll_ms",
            ),
            (&format!("{TABLE}limit_seconds = 0"), "limit_seconds"),
        ] {
            assert_eq!(checked(text).expect_err(text).field, field, "{text}");
        }
    }
}
