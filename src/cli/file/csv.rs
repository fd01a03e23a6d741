//! Owns inputs from CSV: which columns are what, and one input a record.
//!
//! Promises that a column that isn't there is an error before the first record is read, and that a record that can't be used is
//! reported with its line.

use super::piece::{BadLine, Piece};
use crate::redact::Redact;
use kiln_contract::job::write;
use kiln_contract::redact::is_name;
use std::io::BufRead;

/// Which columns of a CSV file are what.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    /// Default: `text`, where there is such a column.
    pub text: Option<String>,
    /// Default: `text_pair`, where there is such a column.
    pub text_pair: Option<String>,
    /// Default: `key`, where there is such a column.
    pub key: Option<String>,
    /// Default: without a text column, every column but the key's.
    pub features: Vec<String>,
}

/// Why no record can be read.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The first line isn't a header.
    #[error("the header can't be read: {0}")]
    Unreadable(String),
    /// A column that was named isn't there.
    #[error("no column `{wanted}`; {}", described(found))]
    NoColumn { wanted: String, found: Vec<String> },
}

/// The records of a CSV file.
pub(super) struct CsvLines<R> {
    reader: Box<csv::Reader<R>>,
    columns: Resolved,
}

/// Columns by their position in a record.
struct Resolved {
    headers: Vec<String>,
    text: Option<usize>,
    text_pair: Option<usize>,
    key: Option<usize>,
    features: Vec<usize>,
}

impl Resolved {
    /// A column in a message: by its name, or by its number where the first line may be no header.
    fn name(&self, at: usize) -> String {
        let name = self.headers.get(at).filter(|_| is_header(&self.headers));
        match name {
            Some(name) => format!("column `{name}`"),
            None => format!("column {}", at + 1),
        }
    }
}

/// Whether a first line can be shown as a header: of a file without one, it is a row.
fn is_header(line: &[String]) -> bool {
    line.iter().all(|name| is_name(name))
}

/// What a message says of a first line.
fn described(line: &[String]) -> String {
    match is_header(line) {
        true => format!("there are: {}", line.join(", ")),
        false => format!(
            "the {} of the first line aren't all names, as if it is no header",
            line.len()
        ),
    }
}

impl<R: BufRead> CsvLines<R> {
    /// Reads the header.
    pub(super) fn new(reader: R, columns: &Columns) -> Result<Self, HeaderError> {
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(reader);
        let headers = reader
            .headers()
            .map_err(|e| HeaderError::Unreadable(e.redacted()))?;
        let headers: Vec<String> = headers.iter().map(|h| h.trim().to_owned()).collect();
        Ok(Self {
            reader: Box::new(reader),
            columns: resolve(headers, columns)?,
        })
    }

    /// The next record as an input.
    pub(super) fn next(&mut self) -> Option<Piece> {
        let mut record = csv::ByteRecord::new();
        let line = self.reader.position().line();
        match self.reader.read_byte_record(&mut record) {
            Ok(false) => None,
            Ok(true) => {
                let line = record.position().map_or(line, csv::Position::line);
                Some(match csv_input(&record, &self.columns) {
                    Ok(input) => Piece::Inputs(vec![(line, input)]),
                    Err(problem) => Piece::Bad(BadLine { line, problem }),
                })
            }
            Err(error) => Some(Piece::Bad(BadLine {
                line,
                problem: error.redacted(),
            })),
        }
    }
}

fn resolve(headers: Vec<String>, columns: &Columns) -> Result<Resolved, HeaderError> {
    let find = |name: &str| headers.iter().position(|h| h == name);
    let must_find = |name: &str| {
        find(name).ok_or_else(|| HeaderError::NoColumn {
            wanted: name.to_owned(),
            found: headers.clone(),
        })
    };
    let named = |wanted: &Option<String>, default: &str| match wanted {
        Some(name) => must_find(name).map(Some),
        None => Ok(find(default)),
    };
    let key = named(&columns.key, "key")?;
    let mut features = Vec::new();
    for name in &columns.features {
        features.push(must_find(name)?);
    }
    let text = if features.is_empty() {
        named(&columns.text, "text")?
    } else {
        None
    };
    let text_pair = if text.is_some() {
        named(&columns.text_pair, "text_pair")?
    } else {
        None
    };
    if text.is_none() && features.is_empty() {
        features = (0..headers.len()).filter(|at| Some(*at) != key).collect();
    }
    Ok(Resolved {
        headers,
        text,
        text_pair,
        key,
        features,
    })
}

/// The JSON of a line's input. Ids follow from it: the order of its fields never changes.
fn csv_input(record: &csv::ByteRecord, columns: &Resolved) -> Result<String, String> {
    let cell = |at: usize| {
        let name = || columns.name(at);
        let bytes = record
            .get(at)
            .ok_or_else(|| format!("{} is missing", name()))?;
        std::str::from_utf8(bytes).map_err(|_| format!("{} is not UTF-8", name()))
    };
    let key = columns.key.map(cell).transpose()?;
    let Some(at) = columns.text else {
        let mut values = Vec::with_capacity(columns.features.len());
        for at in &columns.features {
            let text = cell(*at)?.trim();
            let value: f64 = text
                .parse()
                .map_err(|_| format!("{}: expected a number", columns.name(*at)))?;
            if !value.is_finite() {
                return Err(format!("{}: expected a finite number", columns.name(*at)));
            }
            values.push(value);
        }
        return Ok(write::input(|input| {
            input.features(&values);
            if let Some(key) = key {
                input.key(key);
            }
        }));
    };
    let text = cell(at)?;
    let pair = columns.text_pair.map(cell).transpose()?;
    Ok(write::input(|input| {
        if let Some(key) = key {
            input.key(key);
        }
        input.text(text);
        if let Some(pair) = pair {
            input.text_pair(pair);
        }
    }))
}
