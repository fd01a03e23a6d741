//! Owns how a result is written: a line of JSON, a record of CSV or TSV, or a row of a table, after the columns that the input keeps.
//!
//! Pure.

use super::{
    item::{ByName, Input, Keep},
    result::{COLUMNS, ResultRow, cell, kept_name},
    table::{Batch, Builder, Ready, Shape},
};
use crate::cli::file::Format;
use kiln_contract::model::ModelInfo;
use serde_json::{Value, value::RawValue};

/// How results are written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layout {
    pub format: Format,
    /// Columns of the input, where the format has a header.
    pub kept: Vec<String>,
    /// What a table's columns follow from.
    pub shape: Option<Shape>,
}

/// Results of some rows.
pub(super) enum Out {
    Text(Vec<u8>),
    Table(Box<Builder>),
}

/// Results that are whole.
pub(super) enum Piece {
    Text(Vec<u8>),
    Table(Ready),
}

impl Out {
    /// The results, of rows of a batch where they are that.
    pub fn finish(self, batch: Option<&Batch>) -> anyhow::Result<Piece> {
        match self {
            Self::Text(bytes) => Ok(Piece::Text(bytes)),
            Self::Table(rows) => rows.finish(batch).map(Piece::Table),
        }
    }

    /// Adds lines, where results are such.
    pub fn extend(&mut self, lines: &[u8]) {
        if let Self::Text(bytes) = self {
            bytes.extend_from_slice(lines);
        }
    }
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

    /// No results yet, of a model.
    pub fn begin(&self, model: Option<&ModelInfo>) -> Out {
        match &self.shape {
            Some(shape) => Out::Table(Box::new(Builder::new(shape, model))),
            None => Out::Text(Vec::new()),
        }
    }

    /// Appends one input's result, `raw` being its JSON; `input` is none where it is one of a whole job.
    pub fn result(
        &self,
        out: &mut Out,
        raw: &str,
        row: &ResultRow<'_>,
        input: Option<&Input>,
        batch: Option<&Batch>,
    ) {
        match (out, input) {
            (Out::Table(rows), Some(input)) => rows.push(row, input, batch),
            // Whole jobs have no row in a table.
            (Out::Table(_), None) => {}
            (Out::Text(out), input) => {
                let kept = input.map(|input| input.kept.as_slice());
                self.line(out, raw, row, kept.unwrap_or_default());
            }
        }
    }

    fn line(&self, out: &mut Vec<u8>, raw: &str, row: &ResultRow<'_>, kept: &[(String, String)]) {
        if self.format != Format::Jsonl {
            let found = ByName::new(kept);
            let kept = self.kept.iter().enumerate().map(|(at, wanted)| {
                let value = found.get(at, wanted);
                value.map(|value| cell(value)).unwrap_or_default()
            });
            let cells = kept.chain(cells(row));
            out.extend_from_slice(&self.record(cells));
            return;
        }
        if kept.is_empty() {
            out.extend_from_slice(raw.as_bytes());
        } else {
            out.push(b'{');
            for (name, value) in kept {
                let name = serde_json::json!(field_name(name, kept)).to_string();
                out.extend_from_slice(name.as_bytes());
                out.push(b':');
                out.extend_from_slice(value.as_bytes());
                out.push(b',');
            }
            out.extend_from_slice(raw.get(1..).unwrap_or_default().as_bytes());
        }
        out.push(b'\n');
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

/// A kept field's name in a line of the output, whose fields have a name each.
fn field_name(name: &str, kept: &[(String, String)]) -> String {
    let mut own = kept_name(name);
    while own != name && kept.iter().any(|(other, _)| *other == own) {
        own.insert_str(0, "input_");
    }
    own
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

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
            shape: None,
        };
        let mut out = Vec::new();
        layout(Format::Jsonl).line(&mut out, raw, &row, &kept);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "{\"id\":5,\"input_label\":\"a,\\\"b\",\"key\":\"k\",\"label\":\"positive\",\"score\":0.5,\"cached\":false}\n"
        );
        let csv = layout(Format::Csv);
        let mut out = csv.header();
        csv.line(&mut out, raw, &row, &kept);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "id,input_label,key,label,score,cached,scores,embedding,error\n5,\"a,\"\"b\",k,positive,0.5,false,,,\n"
        );
    }

    #[test]
    fn no_two_fields_of_a_line_have_one_name() {
        let raw = r#"{"label":"positive"}"#;
        let row: ResultRow<'_> = serde_json::from_str(raw).expect("a result");
        let kept = ["input_label", "label"].map(|name| (name.to_owned(), "1".to_owned()));
        let layout = Layout {
            format: Format::Jsonl,
            kept: Vec::new(),
            shape: None,
        };
        let mut out = Vec::new();
        layout.line(&mut out, raw, &row, &kept);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "{\"input_label\":1,\"input_input_label\":1,\"label\":\"positive\"}\n"
        );
    }

    #[test]
    fn twenty_thousand_columns_cost_no_square_of_them() {
        let raw = r#"{"label":"positive"}"#;
        let row: ResultRow<'_> = serde_json::from_str(raw).expect("a result");
        let named = |name: String| (name, "1".to_owned());
        // The first one isn't there, so that all others stand at another place than in the header.
        let kept: Vec<_> = (1..20_000)
            .map(|n| named(format!("column{n:08}")))
            .collect();
        let layout = Layout {
            format: Format::Csv,
            kept: (0..20_000).map(|n| format!("column{n:08}")).collect(),
            shape: None,
        };
        let (begun, mut out) = (Instant::now(), Vec::new());
        for _ in 0..20 {
            layout.line(&mut out, raw, &row, &kept);
        }
        // Looking through all for each takes four thousand million steps.
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert!(out.starts_with(b",1,1,1"));
    }
}
