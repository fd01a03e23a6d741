//! Reads access logs as people have them: CSV with or without a header, JSON lines, and what web servers write.
//!
//! Promises that an error names the line, the field and what was expected there, and no value of the log. Refuses lines of
//! more than a mebibyte.

mod fields;
mod time;

use super::trace::{Logged, RequestTrace};
use fields::{Columns, Wanted};
use regex::Regex;
use std::{
    collections::HashMap,
    io::{self, BufRead, Read},
};

/// Longest line, in bytes.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// What some programs write before a text.
const BOM: &str = "\u{feff}";

/// In which form a log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Form {
    /// JSON lines if it begins with a brace, else a server's lines if there is a pattern, else CSV.
    #[default]
    Auto,
    /// Separated by commas, semicolons or tabs, with or without a header.
    Csv,
    /// An object in every line.
    Jsonl,
    /// A web server's lines, of which a pattern says what is the key.
    Lines,
}

/// How a log is read.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    pub form: Form,
    /// What is the key, in its group `key`, and perhaps what are `namespace`, `session` and `time`: of a line, or of the key's field.
    pub pattern: Option<Regex>,
    /// Names of fields, where they aren't the usual ones.
    pub time_field: Option<String>,
    pub key_field: Option<String>,
    pub namespace_field: Option<String>,
    pub session_field: Option<String>,
    /// Only requests of this namespace.
    pub namespace: Option<String>,
}

/// What was read of a log.
#[derive(Debug)]
pub struct AccessLog {
    pub trace: RequestTrace,
    /// The keys by number.
    pub names: Vec<String>,
    /// Lines without a request: of other pages, or of another namespace.
    pub left_out: u64,
}

/// What is wrong with a log.
#[derive(Debug, thiserror::Error)]
pub enum BadLog {
    #[error("line {line}: {problem}")]
    Line { line: u64, problem: String },
    #[error("{0}")]
    Form(String),
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("it holds no request{}", .0.as_deref().map(|why| format!(": {why}")).unwrap_or_default())]
    Empty(Option<String>),
}

/// A request as a line gives it.
#[derive(Debug, Default, PartialEq)]
struct Found<'a> {
    time: Option<f64>,
    key: &'a str,
    namespace: Option<&'a str>,
    session: Option<&'a str>,
}

/// Requests so far, with numbers for names.
#[derive(Default)]
struct Collected {
    requests: Vec<Logged>,
    numbers: HashMap<String, u32>,
    names: Vec<String>,
    sessions: HashMap<String, u32>,
    left_out: u64,
}

impl Collected {
    fn add(&mut self, found: &Found<'_>, at: f64, reading: &Reading) {
        let other = |wanted: &String| found.namespace.is_some_and(|own| own != wanted);
        if reading.namespace.as_ref().is_some_and(other) {
            self.left_out += 1;
            return;
        }
        let name = match found.namespace.filter(|_| reading.namespace.is_none()) {
            Some(namespace) => format!("{namespace}\0{}", found.key),
            None => found.key.to_owned(),
        };
        let key = match self.numbers.get(&name) {
            Some(number) => *number,
            None => {
                let number = self.names.len() as u32;
                self.names.push(found.key.to_owned());
                self.numbers.insert(name, number);
                number
            }
        };
        let session = found.session.map(|name| {
            let next = self.sessions.len() as u32;
            *self.sessions.entry(name.to_owned()).or_insert(next)
        });
        self.requests.push(Logged { at, key, session });
    }
}

/// Reads a log.
pub fn read(input: impl Read, reading: &Reading) -> Result<AccessLog, BadLog> {
    if let Some(pattern) = &reading.pattern
        && !pattern.capture_names().flatten().any(|name| name == "key")
    {
        let message = "the pattern: expected a group `key`, such as /items/(?<key>[^/? ]+)";
        return Err(BadLog::Form(message.to_owned()));
    }
    let mut input = io::BufReader::new(input);
    let form = match reading.form {
        Form::Auto => detect(input.fill_buf()?, reading),
        form => form,
    };
    let mut collected = Collected::default();
    match form {
        Form::Jsonl => fields::json_lines(&mut input, reading, &mut collected)?,
        Form::Lines => lines(&mut input, reading, &mut collected)?,
        Form::Csv | Form::Auto => csv(&mut input, reading, &mut collected)?,
    }
    let why = (collected.left_out > 0).then(|| {
        let lines = collected.left_out;
        format!("{lines} lines don't fit the pattern, have no time or are of another namespace")
    });
    let trace = RequestTrace::new(collected.requests, collected.names.len());
    Ok(AccessLog {
        trace: trace.ok_or(BadLog::Empty(why))?,
        names: collected.names,
        left_out: collected.left_out,
    })
}

fn detect(start: &[u8], reading: &Reading) -> Form {
    let start = start.strip_prefix(BOM.as_bytes()).unwrap_or(start);
    let first = start.iter().find(|byte| !byte.is_ascii_whitespace());
    match first {
        Some(b'{') => Form::Jsonl,
        _ if reading.pattern.is_some() => Form::Lines,
        _ => Form::Csv,
    }
}

/// The next line without its end; nothing at the log's end. What isn't UTF-8 in it is replaced.
fn next_line(input: &mut impl BufRead, line: u64) -> Result<Option<String>, BadLog> {
    let mut bytes = Vec::new();
    input
        .take(MAX_LINE_BYTES + 1)
        .read_until(b'\n', &mut bytes)?;
    if bytes.len() as u64 > MAX_LINE_BYTES {
        let problem = format!("longer than {MAX_LINE_BYTES} bytes");
        return Err(BadLog::Line { line, problem });
    }
    let text = String::from_utf8_lossy(&bytes);
    let text = match line {
        1 => text.strip_prefix(BOM).unwrap_or(&text),
        _ => &text,
    };
    Ok((!bytes.is_empty()).then(|| text.trim_end_matches(['\n', '\r']).to_owned()))
}

/// What the pattern finds in a text; nothing if it doesn't match.
fn matched<'a>(pattern: &Regex, text: &'a str) -> Option<Found<'a>> {
    let groups = pattern.captures(text)?;
    let group = |name: &str| groups.name(name).map(|found| found.as_str());
    Some(Found {
        time: group("time").and_then(time::seconds),
        key: group("key")?,
        namespace: group("namespace"),
        session: group("session"),
    })
}

/// A server's lines. Those that don't match are of other pages.
fn lines(
    input: &mut impl BufRead,
    reading: &Reading,
    collected: &mut Collected,
) -> Result<(), BadLog> {
    let Some(pattern) = &reading.pattern else {
        let message = "expected a pattern that says what of a line is the key";
        return Err(BadLog::Form(message.to_owned()));
    };
    let mut number = 0;
    loop {
        number += 1;
        let Some(line) = next_line(input, number)? else {
            return Ok(());
        };
        let found = matched(pattern, &line);
        let at = found
            .as_ref()
            .and_then(|found| found.time.or_else(|| time::of_line(&line)));
        match (found, at) {
            (Some(found), Some(at)) => collected.add(&found, at, reading),
            _ => collected.left_out += 1,
        }
    }
}

/// What may separate the fields of a line, the likeliest first.
const SEPARATORS: [u8; 3] = [b',', b'\t', b';'];

/// Separated lines, by what gives the first one its columns. Each is read by itself: a quote that isn't closed ends with its line.
fn csv(
    input: &mut impl BufRead,
    reading: &Reading,
    collected: &mut Collected,
) -> Result<(), BadLog> {
    let mut known: Option<(u8, Columns)> = None;
    let mut line = 0;
    loop {
        line += 1;
        let Some(text) = next_line(input, line)? else {
            return Ok(());
        };
        if text.trim().is_empty() {
            continue;
        }
        let wrong = |problem: String| BadLog::Line { line, problem };
        let (separator, columns) = match &known {
            Some(known) => known,
            None => {
                let found = first_line(&text, reading).map_err(wrong)?;
                let is_header = found.1.is_header;
                let known = known.insert(found);
                if is_header {
                    continue;
                }
                known
            }
        };
        let record = record(&text, *separator).ok_or_else(|| wrong(SEPARATED.to_owned()))?;
        let (Some(time), Some(key)) = (record.get(columns.time), record.get(columns.key)) else {
            return Err(wrong("expected time,key".to_owned()));
        };
        let at = time::seconds(time).ok_or_else(|| wrong(format!("`time`: {}", time::EXPECTED)))?;
        let field = |column: Option<usize>| column.and_then(|column| record.get(column));
        let wanted = Wanted {
            key,
            namespace: field(columns.namespace),
            session: field(columns.session),
        };
        wanted.collect(at, reading, collected);
    }
}

const SEPARATED: &str = "expected text separated by commas";

/// What separates the fields of a log that begins with this line, and what they mean.
fn first_line(line: &str, reading: &Reading) -> Result<(u8, Columns), String> {
    let of = |separator: u8| {
        let record = record(line, separator).ok_or(SEPARATED)?;
        Ok::<_, String>((separator, Columns::of(&record, reading)?))
    };
    let mut all = SEPARATORS.into_iter().map(of);
    let first = all.next().unwrap_or_else(|| Err(SEPARATED.to_owned()));
    first.or_else(|problem| {
        let other = all.find_map(Result::ok);
        other.ok_or_else(|| match time::of_line(line) {
            Some(_) => format!("{problem}; of a web server's lines --pattern says what is the key"),
            None => problem,
        })
    })
}

/// The fields of a line.
fn record(line: &str, separator: u8) -> Option<csv::StringRecord> {
    if !line.contains('"') {
        let fields = line.split(char::from(separator));
        return Some(fields.map(str::trim).collect());
    }
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .delimiter(separator)
        .flexible(true)
        .trim(csv::Trim::All)
        .buffer_capacity(line.len().max(1))
        .from_reader(line.as_bytes());
    reader.records().next()?.ok()
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
