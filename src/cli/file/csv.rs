//! Owns inputs from CSV or TSV: which columns are what, and one input a record.
//!
//! Promises that a column that isn't there is an error before the first record is read, and that a record that can't be used is
//! reported with its line, one that is longer than any line may be among them.

#[cfg(test)]
use super::piece::{BadLine, Piece};
use super::{
    piece::LINE_BYTES,
    record::{Kind, Record, Records},
};
use crate::redact::{Redact, header};
use kiln_contract::job::write;
use std::{fmt, io::BufRead};

/// What is said of a record whose end isn't known.
const OPEN: &str = "a quote is left open: all that comes after it is one cell";

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
    /// Whether the columns' names are the features'. An empty cell is a missing feature either way.
    pub by_name: bool,
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

/// The records of a file.
pub struct CsvLines<R> {
    records: Records<R>,
    record: Record,
    columns: Resolved,
    /// Where the records begin that this reads: in lines, and in bytes.
    after: (u64, u64),
}

/// One record.
pub struct CsvRow {
    pub line: u64,
    /// Its input as JSON.
    pub input: Result<String, CsvProblem>,
}

/// Why nothing is read from a line on.
#[derive(Debug)]
pub struct CsvEnd {
    pub line: u64,
    pub problem: String,
}

/// Why a record can't be used.
#[derive(Debug)]
pub struct CsvProblem {
    /// The column at fault, by its name, or by its number where that is none; nothing where it is the record.
    column: Option<Result<String, usize>>,
    message: String,
}

impl CsvProblem {
    fn of_record(message: String) -> Self {
        Self {
            column: None,
            message,
        }
    }

    /// The column at fault, by its name or number.
    pub fn column(&self) -> Option<String> {
        match self.column.as_ref()? {
            Ok(name) => Some(name.clone()),
            Err(number) => Some(number.to_string()),
        }
    }
}

impl fmt::Display for CsvProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.column {
            Some(Ok(name)) => write!(f, "column `{name}`{}", self.message),
            Some(Err(number)) => write!(f, "column {number}{}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Columns by their position in a record.
struct Resolved {
    headers: Vec<String>,
    text: Option<usize>,
    text_pair: Option<usize>,
    key: Option<usize>,
    features: Vec<usize>,
    by_name: bool,
    /// What stands between two cells.
    delimiter: u8,
}

impl Resolved {
    /// A column in a message: by its name, or by its number where the first line may be no header.
    fn name(&self, at: usize) -> Result<&str, usize> {
        let name = header(&self.headers).and_then(|names| names.get(at));
        name.map(String::as_str).ok_or(at + 1)
    }
}

/// What a message says of a first line: of a file without a header, it is a row.
pub fn described(line: &[String]) -> String {
    match header(line) {
        Some(names) => format!("there are: {}", names.join(", ")),
        None => format!(
            "the first line has {} columns and doesn't look like a header",
            line.len()
        ),
    }
}

impl<R: BufRead> CsvLines<R> {
    /// Reads the header.
    pub fn new(source: R, columns: &Columns, delimiter: u8) -> Result<Self, HeaderError> {
        let mut records = Records::new(source, delimiter);
        let mut record = Record::default();
        let headers = read_header(&mut records, &mut record);
        let headers = headers.map_err(HeaderError::Unreadable)?;
        Ok(Self {
            records,
            record,
            columns: resolve(headers, columns, delimiter)?,
            after: (0, 0),
        })
    }

    /// Goes on in `source`, which stands after so many lines and bytes of the file whose header this has read.
    pub fn resume(self, source: R, delimiter: u8, lines: u64, bytes: u64) -> Self {
        Self {
            records: Records::resumed(source, delimiter),
            after: (lines, bytes),
            ..self
        }
    }

    /// The columns' names.
    pub fn headers(&self) -> &[String] {
        &self.columns.headers
    }

    /// Which of the columns no input is made of.
    pub fn others(&self) -> Vec<usize> {
        let Resolved {
            headers,
            text,
            text_pair,
            key,
            features,
            by_name: _,
            delimiter: _,
        } = &self.columns;
        let used = [*text, *text_pair, *key];
        let all = 0..headers.len();
        all.filter(|at| !used.contains(&Some(*at)) && !features.contains(at))
            .collect()
    }

    /// A cell of the last record, as far as it is there and text.
    pub fn cell(&self, at: usize) -> Option<&str> {
        std::str::from_utf8(self.record.get(at)?).ok()
    }

    /// All cells of the last record, where they are more than the header's.
    pub fn surplus(&self) -> Option<Vec<Option<&str>>> {
        let is_more = self.record.len() > self.columns.headers.len();
        is_more.then(|| (0..self.record.len()).map(|at| self.cell(at)).collect())
    }

    /// A cell of the last record that is there and is no text.
    pub fn unreadable(&self, mut of: impl Iterator<Item = usize>) -> Option<CsvProblem> {
        let at = of.find(|at| {
            let cell = self.record.get(*at);
            cell.is_some_and(|cell| std::str::from_utf8(cell).is_err())
        })?;
        Some(CsvProblem {
            column: Some(self.columns.name(at).map(str::to_owned)),
            message: " is not UTF-8".to_owned(),
        })
    }

    /// Whether the last record has cells that are held.
    pub fn is_held(&self) -> bool {
        self.record.len() > 0
    }

    /// Lines and bytes of the file up to the next record.
    pub fn position(&self) -> (u64, u64) {
        let (lines, bytes) = self.records.position();
        (self.after.0 + lines, self.after.1 + bytes)
    }

    /// The next record; an error where the file can't be read on.
    pub fn next_row(&mut self) -> Option<Result<CsvRow, CsvEnd>> {
        let read = self.records.read(&mut self.record).transpose()?;
        let line = self.after.0 + self.records.line();
        let end = |problem: String| CsvEnd { line, problem };
        let input = match read {
            Ok(Kind::Whole) => csv_input(&self.record, &self.columns),
            Ok(Kind::Long) => Err(CsvProblem::of_record(format!(
                "longer than {LINE_BYTES} bytes"
            ))),
            Ok(Kind::Open) => Err(CsvProblem::of_record(OPEN.to_owned())),
            // Nothing comes after it: a file whose first quotes are at fault is told apart from one whose last rows are.
            Ok(Kind::LongAndOpen) => {
                return Some(Err(end(format!(
                    "{OPEN}, and longer than {LINE_BYTES} bytes"
                ))));
            }
            Err(error) => return Some(Err(end(error.redacted()))),
        };
        Some(Ok(CsvRow { line, input }))
    }

    /// The next record as an input.
    #[cfg(test)]
    pub(super) fn next(&mut self) -> Option<Piece> {
        Some(match self.next_row()? {
            Ok(CsvRow { line, input }) => match input {
                Ok(input) => Piece::Inputs(vec![(line, input)]),
                Err(problem) => Piece::Bad(BadLine {
                    line,
                    problem: problem.to_string(),
                }),
            },
            Err(CsvEnd { line, problem }) => Piece::Bad(BadLine { line, problem }),
        })
    }
}

fn read_header<R: BufRead>(
    records: &mut Records<R>,
    record: &mut Record,
) -> Result<Vec<String>, String> {
    match records.read(record).map_err(|error| error.redacted())? {
        None | Some(Kind::Whole) => {}
        Some(Kind::Open) => return Err(OPEN.to_owned()),
        Some(Kind::Long | Kind::LongAndOpen) => {
            return Err(format!(
                "it is longer than {LINE_BYTES} bytes: is a quote left open?"
            ));
        }
    }
    let name = |(at, cell): (usize, &[u8])| {
        let text = std::str::from_utf8(cell);
        let text = text.map_err(|_| format!("column {} is not UTF-8", at + 1));
        text.map(|text| text.trim().to_owned())
    };
    record.iter().enumerate().map(name).collect()
}

fn resolve(
    headers: Vec<String>,
    columns: &Columns,
    delimiter: u8,
) -> Result<Resolved, HeaderError> {
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
        by_name: columns.by_name,
        delimiter,
    })
}

/// The JSON of a line's input. Ids follow from it: the order of its fields never changes.
fn csv_input(record: &Record, columns: &Resolved) -> Result<String, CsvProblem> {
    let problem = |at: usize, message: &str| CsvProblem {
        column: Some(columns.name(at).map(str::to_owned)),
        message: message.to_owned(),
    };
    let (cells, wanted) = (record.len(), columns.headers.len());
    if cells > wanted {
        // What stands beyond the header's cells is part of one of them, probably.
        let hint = match columns.delimiter {
            b'\t' => "is a tab in a cell",
            _ => "is a comma unquoted",
        };
        return Err(CsvProblem {
            column: None,
            message: format!("has {cells} cells, the header {wanted}: {hint}?"),
        });
    }
    let cell = |at: usize| {
        let bytes = record.get(at).ok_or_else(|| problem(at, " is missing"))?;
        std::str::from_utf8(bytes).map_err(|_| problem(at, " is not UTF-8"))
    };
    let key = columns.key.map(cell).transpose()?;
    let Some(at) = columns.text else {
        let mut values = Vec::with_capacity(columns.features.len());
        let mut named = Vec::new();
        for at in &columns.features {
            let text = cell(*at)?.trim();
            if text.is_empty() {
                if !columns.by_name {
                    values.push(f64::NAN);
                }
                continue;
            }
            let value: f64 = text
                .parse()
                .map_err(|_| problem(*at, ": expected a number"))?;
            if !value.is_finite() {
                return Err(problem(*at, ": expected a finite number"));
            }
            match columns.name(*at) {
                Ok(name) if columns.by_name => named.push((name, value)),
                _ => values.push(value),
            }
        }
        return Ok(write::input(|input| {
            if columns.by_name {
                input.named_features(named);
            } else {
                input.features(&values);
            }
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
