//! Owns how a result is written: a line of JSON, or a record of CSV or TSV, after the columns that the input keeps.
//!
//! Pure.

use super::{block::Keep, tally::Tally};
use crate::cli::file::Format;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

/// The fields of a result, in the order of CSV's columns.
const COLUMNS: [&str; 7] = [
    "key",
    "label",
    "score",
    "cached",
    "scores",
    "embedding",
    "error",
];

/// One input's result, its fields as JSON.
#[derive(Debug, Deserialize)]
pub(super) struct ResultRow<'a> {
    #[serde(borrow)]
    key: Option<&'a RawValue>,
    #[serde(borrow)]
    label: Option<&'a RawValue>,
    score: Option<f64>,
    cached: Option<bool>,
    #[serde(borrow)]
    scores: Option<&'a RawValue>,
    #[serde(borrow)]
    embedding: Option<&'a RawValue>,
    #[serde(borrow)]
    pub error: Option<&'a RawValue>,
}

impl ResultRow<'_> {
    /// Counts it, its score only where that is to be reported.
    pub fn count(&self, tally: &mut Tally, reports: bool) {
        if let Some(label) = self.label {
            match tally.labels.get_mut(label.get()) {
                Some(count) => *count += 1,
                None => drop(tally.labels.insert(label.get().to_owned(), 1)),
            }
        }
        if let Some(score) = self.score.filter(|_| reports) {
            tally.scores.add(score);
        }
    }

    /// The error's field and message.
    pub fn problem(&self) -> Option<(String, String)> {
        let error: Value = serde_json::from_str(self.error?.get()).ok()?;
        let part = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
        Some((part("field").to_owned(), part("message").to_owned()))
    }
}

/// How results are written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layout {
    pub format: Format,
    /// Columns of the input, where the format has a header.
    pub kept: Vec<String>,
}

impl Layout {
    /// The header; empty where the format has none.
    pub fn header(&self) -> Vec<u8> {
        let (Format::Csv | Format::Tsv) = self.format else {
            return Vec::new();
        };
        let kept = self.kept.iter().map(|name| kept_name(name));
        let names = kept.chain(COLUMNS.map(str::to_owned));
        self.record(names)
    }

    /// Appends one input's result, `raw` being its JSON.
    pub fn result(
        &self,
        out: &mut Vec<u8>,
        raw: &str,
        row: &ResultRow<'_>,
        kept: &[(String, String)],
    ) {
        match self.format {
            Format::Jsonl if kept.is_empty() => {
                out.extend_from_slice(raw.as_bytes());
                out.push(b'\n');
            }
            Format::Jsonl => {
                out.push(b'{');
                for (name, value) in kept {
                    let name = serde_json::json!(kept_name(name)).to_string();
                    out.extend_from_slice(name.as_bytes());
                    out.push(b':');
                    out.extend_from_slice(value.as_bytes());
                    out.push(b',');
                }
                out.extend_from_slice(raw.get(1..).unwrap_or_default().as_bytes());
                out.push(b'\n');
            }
            Format::Csv | Format::Tsv => {
                let kept = self.kept.iter().map(|wanted| {
                    let mut kept = kept.iter();
                    let value = kept.find(|(name, _)| name == wanted);
                    value.map(|(_, value)| cell(value)).unwrap_or_default()
                });
                let cells = kept.chain(cells(row));
                out.extend_from_slice(&self.record(cells));
            }
        }
    }

    fn record(&self, cells: impl Iterator<Item = String>) -> Vec<u8> {
        let mut writer = csv::WriterBuilder::new()
            .delimiter(self.format.delimiter())
            .from_writer(Vec::new());
        // Writing to memory fails never.
        let written = writer.write_record(cells.map(String::into_bytes));
        debug_assert!(written.is_ok());
        writer.into_inner().unwrap_or_default()
    }
}

/// A kept column's name in the output: results keep their own.
fn kept_name(name: &str) -> String {
    if COLUMNS.contains(&name) {
        format!("input_{name}")
    } else {
        name.to_owned()
    }
}

/// Whether a header can be written before the rows are known.
pub(super) fn has_known_columns(keep: &Keep, input: Format, output: Format) -> bool {
    *keep != Keep::Others || input != Format::Jsonl || output == Format::Jsonl
}

fn cells(row: &ResultRow<'_>) -> [String; 7] {
    let raw = |raw: Option<&RawValue>| raw.map(|raw| cell(raw.get())).unwrap_or_default();
    let sorted = |raw: &RawValue| {
        let value: Option<Value> = serde_json::from_str(raw.get()).ok();
        value.unwrap_or_default().to_string()
    };
    [
        raw(row.key),
        raw(row.label),
        row.score
            .map(|score| serde_json::json!(score).to_string())
            .unwrap_or_default(),
        row.cached
            .map(|cached| cached.to_string())
            .unwrap_or_default(),
        row.scores.map(sorted).unwrap_or_default(),
        raw(row.embedding),
        row.problem()
            .map(|(_, message)| message)
            .unwrap_or_default(),
    ]
}

/// A JSON value as a cell: a text without its quotes, nothing for null.
pub(super) fn cell(json: &str) -> String {
    if json.starts_with('"') {
        return serde_json::from_str(json).unwrap_or_default();
    }
    match json {
        "null" => String::new(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_columns_stand_before_the_result_and_take_none_of_its_names() {
        let raw = r#"{"key":"k","label":"positive","score":0.5,"cached":false}"#;
        let row: ResultRow<'_> = serde_json::from_str(raw).expect("a result");
        let kept = [
            ("id".to_owned(), "5".to_owned()),
            ("label".to_owned(), r#""a,\"b""#.to_owned()),
        ];
        let names: Vec<String> = kept.iter().map(|(name, _)| name.clone()).collect();
        let layout = |format| Layout {
            format,
            kept: names.clone(),
        };
        let mut out = Vec::new();
        layout(Format::Jsonl).result(&mut out, raw, &row, &kept);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "{\"id\":5,\"input_label\":\"a,\\\"b\",\"key\":\"k\",\"label\":\"positive\",\"score\":0.5,\"cached\":false}\n"
        );
        let csv = layout(Format::Csv);
        let mut out = csv.header();
        csv.result(&mut out, raw, &row, &kept);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "id,input_label,key,label,score,cached,scores,embedding,error\n5,\"a,\"\"b\",k,positive,0.5,false,,,\n"
        );
    }
}
