//! Owns how a statement is asked so that the server sends no value that is too large: in its place comes NULL, and the row says so.
//!
//! Promises the same columns of the same types, and rows in the same order, with one column more. The values are measured where they are.

use crate::warm::source::MAX_ROW_BYTES;
use sqlx::{Column, Row, TypeInfo, postgres::PgColumn, postgres::PgRow};

/// The column that says whether something was left out.
const LEFT_OUT: &str = "left out";
/// Bytes of a number in a list, at the least.
const NUMBER_BYTES: usize = 4;

/// A statement that gives what this one does, which has these columns, but for values that are too large.
pub(in crate::warm::source) fn bounded(statement: &str, columns: &[PgColumn]) -> String {
    let kinds = columns
        .iter()
        .map(|column| (column.name(), column.type_info().name()));
    of(statement, kinds)
}

fn of<'c>(statement: &str, columns: impl Iterator<Item = (&'c str, &'c str)>) -> String {
    let (mut wanted, mut names, mut large) = (Vec::new(), Vec::new(), Vec::new());
    for (number, (name, kind)) in (1..).zip(columns) {
        // By its place: two columns may have one name.
        let own = format!("c{number}");
        let shown = format!("\"{}\"", name.replace('"', "\"\""));
        let is_large = match kind {
            "TEXT" | "VARCHAR" | "CHAR" | "NAME" => {
                Some(format!("octet_length({own}) > {MAX_ROW_BYTES}"))
            }
            "FLOAT4[]" | "FLOAT8[]" => {
                let max = MAX_ROW_BYTES / NUMBER_BYTES;
                Some(format!("cardinality({own}) > {max}"))
            }
            _ => None,
        };
        wanted.push(match &is_large {
            Some(is_large) => format!("CASE WHEN {is_large} THEN NULL ELSE {own} END AS {shown}"),
            None => format!("{own} AS {shown}"),
        });
        large.extend(is_large.map(|is_large| format!("({is_large}) IS TRUE")));
        names.push(own);
    }
    if large.is_empty() {
        return statement.to_owned();
    }
    // Without an offset, what gives a value might be worked out once for each time that it is named here.
    format!(
        "SELECT {}, {} AS \"{LEFT_OUT}\" FROM (SELECT * FROM (\n{statement}\n) AS stated OFFSET 0) AS stated({})",
        wanted.join(", "),
        large.join(" OR "),
        names.join(", ")
    )
}

/// Whether a value of a row was left out because it is too large.
pub(in crate::warm::source) fn has_left_out(row: &PgRow) -> bool {
    matches!(row.try_get::<bool, _>(LEFT_OUT), Ok(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_measured_where_they_are_and_columns_are_known_by_their_place() {
        let columns = [
            ("key", "TEXT"),
            ("rate", "FLOAT8"),
            ("fea\"tures", "FLOAT4[]"),
        ];
        assert_eq!(
            of("SELECT 1 -- one", columns.into_iter()),
            "SELECT CASE WHEN octet_length(c1) > 1048576 THEN NULL ELSE c1 END AS \"key\", c2 AS \"rate\", \
             CASE WHEN cardinality(c3) > 262144 THEN NULL ELSE c3 END AS \"fea\"\"tures\", \
             (octet_length(c1) > 1048576) IS TRUE OR (cardinality(c3) > 262144) IS TRUE AS \"left out\" \
             FROM (SELECT * FROM (\nSELECT 1 -- one\n) AS stated OFFSET 0) AS stated(c1, c2, c3)"
        );
        assert_eq!(of("SELECT 1", [("rate", "FLOAT8")].into_iter()), "SELECT 1");
    }
}
