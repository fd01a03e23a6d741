//! Owns which columns a statement may have, and converts its rows.

use super::bounded::has_left_out;
use crate::{
    redact::Redact,
    warm::source::{MAX_ROW_BYTES, Row, RowContent},
};
use kiln_contract::{
    job,
    redact::{HIDDEN, is_name},
};
use sqlx::{
    Column, Row as _, TypeInfo, ValueRef,
    postgres::{PgColumn, PgRow},
};

const COLUMNS: [&str; 6] = ["key", "text", "text_pair", "features", "group", "rate"];

/// Refuses columns with other names or types.
pub(super) fn check_columns(columns: &[PgColumn]) -> Result<(), String> {
    for column in columns {
        let name = column.name();
        let kind = column.type_info().name();
        let fits = match name {
            "features" => matches!(kind, "FLOAT4[]" | "FLOAT8[]"),
            "rate" => kind == "FLOAT8",
            _ => matches!(kind, "TEXT" | "VARCHAR" | "CHAR" | "NAME"),
        };
        if !COLUMNS.contains(&name) {
            let shown = if is_name(name) { name } else { HIDDEN };
            let known = COLUMNS.join(", ");
            return Err(format!(
                "column `{shown}` is unknown; expected some of {known}"
            ));
        }
        if !fits {
            let wanted = match name {
                "features" => "real[] or double precision[]: write (…)::real[]",
                "rate" => "double precision: write (…)::float8",
                _ => "text: write (…)::text",
            };
            return Err(format!("column `{name}` is {kind}, expected {wanted}"));
        }
    }
    let has = |name: &str| columns.iter().any(|c| c.name() == name);
    if !has("text") && !has("features") {
        return Err("expected a column `text` or `features`".into());
    }
    Ok(())
}

/// Bytes of a row's values, as they came.
pub(in crate::warm::source) fn bytes(row: &PgRow) -> usize {
    let columns = 0..row.columns().len();
    let sizes = columns.map(|at| {
        let value = row.try_get_raw(at).ok();
        value
            .and_then(|value| value.as_bytes().ok())
            .map_or(0, <[u8]>::len)
    });
    sizes.sum()
}

/// Reads one row; an error says what is wrong with it.
pub(super) fn read(row: &PgRow) -> Result<Row, String> {
    if has_left_out(row) || bytes(row) > MAX_ROW_BYTES {
        return Err(format!("longer than {MAX_ROW_BYTES} bytes"));
    }
    let text = |name: &str| -> Result<Option<String>, String> {
        if row.columns().iter().all(|c| c.name() != name) {
            return Ok(None);
        }
        row.try_get::<Option<String>, _>(name)
            .map_err(|e| format!("`{name}`: {}", e.redacted()))
    };
    for name in ["key", "group"] {
        if let Some(problem) = text(name)?.as_deref().and_then(job::key_problem) {
            return Err(format!("`{name}` {problem}"));
        }
    }
    let absent = "expected `text` or `features`, found NULL";
    let content = RowContent::new(text("text")?, text("text_pair")?, features(row)?, absent)?;
    let rate = match row.try_get_raw("rate") {
        Ok(value) if !value.is_null() => row
            .try_get::<f64, _>("rate")
            .ok()
            .filter(|r| r.is_finite() && *r >= 0.0),
        _ => None,
    };
    Ok(Row {
        key: text("key")?,
        group: text("group")?,
        content,
        rate,
    })
}

fn features(row: &PgRow) -> Result<Option<Vec<f32>>, String> {
    let Some(column) = row.columns().iter().find(|c| c.name() == "features") else {
        return Ok(None);
    };
    let wrong = |e: sqlx::Error| format!("`features`: {}", e.redacted());
    if column.type_info().name() == "FLOAT8[]" {
        let wide: Option<Vec<f64>> = row.try_get("features").map_err(wrong)?;
        return Ok(wide.map(|values| values.into_iter().map(|v| v as f32).collect()));
    }
    row.try_get("features").map_err(wrong)
}
