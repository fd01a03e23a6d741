//! Owns which columns a followed table may have, and converts its rows. An error names a column, and never a value.

use super::PositionKind;
use crate::warm::source::{MAX_ROW_BYTES, RowContent, SourceError, sql};
use kiln_contract::{
    job,
    redact::{HIDDEN, is_name},
};
use sqlx::{
    Column, Row, TypeInfo,
    postgres::{PgColumn, PgRow},
};

const COLUMNS: [&str; 8] = [
    "position",
    "key",
    "tie",
    "text",
    "text_pair",
    "features",
    "removed",
    "changed_at",
];
/// Microseconds from 1970 to 2000, from which the server counts.
const EPOCH_US: i64 = 946_684_800_000_000;

/// One row as it stands.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::warm) struct ChangedRow {
    pub position: i64,
    pub key: Option<String>,
    /// Nothing where the row was removed.
    pub content: Option<RowContent>,
    /// When it changed, in microseconds since 1970, where a column says so.
    pub changed_us: Option<i64>,
}

/// Refuses columns with other names or types, and those that lack what ties are `parted` by.
pub(super) fn check_columns(
    columns: &[PgColumn],
    kind: PositionKind,
    parted: bool,
) -> Result<(), SourceError> {
    let is_there = |name: &str| columns.iter().any(|column| column.name() == name);
    for column in columns {
        let (name, found) = (column.name(), column.type_info().name());
        if !COLUMNS.contains(&name) {
            let shown = if is_name(name) { name } else { HIDDEN };
            return Err(SourceError(format!(
                "column `{shown}` is unknown; expected some of {}",
                COLUMNS.join(", ")
            )));
        }
        let (fits, wanted) = match name {
            "position" if kind == PositionKind::Sequence => (
                matches!(found, "INT8" | "INT4" | "INT2"),
                "bigint, as $1 is",
            ),
            "position" => (found == "TIMESTAMPTZ", "timestamptz, as $1 is"),
            "changed_at" => (
                found == "TIMESTAMPTZ",
                "timestamptz: write (…)::timestamptz",
            ),
            "removed" => (found == "BOOL", "boolean: write (…)::boolean"),
            "features" => (
                matches!(found, "FLOAT4[]" | "FLOAT8[]"),
                "real[] or double precision[]: write (…)::real[]",
            ),
            _ => (
                matches!(found, "TEXT" | "VARCHAR" | "CHAR" | "NAME"),
                "text: write (…)::text",
            ),
        };
        if !fits {
            return Err(SourceError(format!(
                "column `{name}` is {found}, expected {wanted}"
            )));
        }
    }
    if !is_there("position") {
        return Err(SourceError("expected a column `position`".into()));
    }
    if parted && !is_there("tie") {
        return Err(SourceError(
            "expected a column `tie`: what $2 is compared with, without the key's prefix".into(),
        ));
    }
    if !is_there("text") && !is_there("features") {
        return Err(SourceError("expected a column `text` or `features`".into()));
    }
    Ok(())
}

/// Where a row stands. The raw number is read: a moment may be one that no calendar here has.
pub(super) fn position(row: &PgRow, kind: PositionKind) -> Result<i64, SourceError> {
    match micros_or_number(row, "position", kind) {
        Some(position) => Ok(position),
        None => Err(SourceError("a row without a position".into())),
    }
}

fn micros_or_number(row: &PgRow, name: &str, kind: PositionKind) -> Option<i64> {
    let raw: Option<i64> = row.try_get_unchecked(name).ok()?;
    match kind {
        PositionKind::Sequence => raw,
        PositionKind::Moment => raw.map(|raw| raw.saturating_add(EPOCH_US)),
    }
}

fn text(row: &PgRow, name: &str) -> Result<Option<String>, String> {
    if row.columns().iter().all(|column| column.name() != name) {
        return Ok(None);
    }
    let text: Option<String> = row
        .try_get(name)
        .map_err(|_| format!("`{name}`: expected text"))?;
    match text {
        Some(text) if text.len() > MAX_ROW_BYTES => {
            Err(format!("`{name}`: longer than {MAX_ROW_BYTES} bytes"))
        }
        text => Ok(text),
    }
}

fn flag(row: &PgRow, name: &str) -> bool {
    matches!(row.try_get::<Option<bool>, _>(name), Ok(Some(true)))
}

/// What breaks ties: the column of that name, or else the key; nothing of a row that has none where ties are `parted`.
pub(super) fn tie(row: &PgRow, parted: bool) -> Result<Option<String>, SourceError> {
    let own = text(row, "tie").ok().flatten();
    if parted {
        let own = own.filter(|tie| !tie.is_empty());
        // What comes after it can't be asked for.
        return match own.is_none() && sql::has_left_out(row) {
            true => Err(SourceError("a row with a very long `tie`".into())),
            false => Ok(own),
        };
    }
    let own = own.or_else(|| text(row, "key").ok().flatten());
    Ok(Some(own.unwrap_or_default()))
}

/// Reads one row that stands at `position`; an error says what is wrong with it.
pub(super) fn read(row: &PgRow, position: i64, kind: PositionKind) -> Result<ChangedRow, String> {
    let is_moment = kind == PositionKind::Moment;
    if position < 0 || is_moment && position > MAX_MOMENT_US {
        return Err("`position`: expected 0 or more, or a time from 1970 to 2286".to_owned());
    }
    if sql::has_left_out(row) || sql::row_bytes(row) > MAX_ROW_BYTES {
        return Err(format!("longer than {MAX_ROW_BYTES} bytes"));
    }
    let key = text(row, "key")?;
    if let Some(problem) = key.as_deref().and_then(job::key_problem) {
        return Err(format!("`key` {problem}"));
    }
    let content = if flag(row, "removed") {
        None
    } else {
        let absent = "expected `text` or `features`, found NULL";
        let (one, pair) = (text(row, "text")?, text(row, "text_pair")?);
        Some(RowContent::new(one, pair, features(row)?, absent)?)
    };
    let own = is_moment.then_some(position);
    Ok(ChangedRow {
        position,
        key,
        content,
        changed_us: micros_or_number(row, "changed_at", PositionKind::Moment).or(own),
    })
}

/// The last moment that an order can hold, in microseconds since 1970.
const MAX_MOMENT_US: i64 = 9_999_999_999_999_999;

fn features(row: &PgRow) -> Result<Option<Vec<f32>>, String> {
    let Some(column) = row
        .columns()
        .iter()
        .find(|column| column.name() == "features")
    else {
        return Ok(None);
    };
    let wrong = |_| "`features`: expected numbers without NULL".to_owned();
    if column.type_info().name() == "FLOAT8[]" {
        let wide: Option<Vec<f64>> = row.try_get("features").map_err(wrong)?;
        return Ok(wide.map(|values| values.into_iter().map(|value| value as f32).collect()));
    }
    row.try_get("features").map_err(wrong)
}
