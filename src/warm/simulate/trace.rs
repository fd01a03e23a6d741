//! Owns requests to replay, and reads them from a file. [`synthetic`](super::synthetic) generates them.

use super::rates::TrueRates;
use crate::redact::Redact;
use std::{collections::HashMap, io};

/// A request: seconds since the trace began, and the key's number.
pub type Request = (f64, u32);

/// Requests, with the number of keys that they name.
#[derive(Debug, Clone)]
pub struct RequestTrace {
    pub requests: Vec<Request>,
    pub keys: usize,
    /// Seconds.
    pub length: f64,
    /// The true rates, if it was generated.
    pub truth: Option<TrueRates>,
}

impl RequestTrace {
    /// Requests in any order, at times from any start.
    fn new(mut requests: Vec<Request>, keys: usize) -> Result<Self, BadTrace> {
        requests.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (Some(first), Some(last)) =
            (requests.first().map(|r| r.0), requests.last().map(|r| r.0))
        else {
            return Err(BadTrace::Empty);
        };
        for request in &mut requests {
            request.0 -= first;
        }
        Ok(Self {
            requests,
            keys,
            length: (last - first).max(1.0),
            truth: None,
        })
    }
}

/// What is wrong with a trace's file.
#[derive(Debug, thiserror::Error)]
pub enum BadTrace {
    #[error("line {line}: {problem}")]
    Line { line: u64, problem: String },
    #[error("{0}")]
    Read(String),
    #[error("it holds no request")]
    Empty,
}

/// Reads lines of time (seconds, or RFC 3339) and key; a first line `time,key` is skipped. Also returns the keys by number.
pub fn read(input: impl io::Read) -> Result<(RequestTrace, Vec<String>), BadTrace> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(input);
    let mut numbers: HashMap<String, u32> = HashMap::new();
    let mut names = Vec::new();
    let mut requests: Vec<Request> = Vec::new();
    for (index, record) in reader.records().enumerate() {
        let record = record.map_err(|error| BadTrace::Read(error.redacted()))?;
        let line = record
            .position()
            .map_or(index as u64 + 1, csv::Position::line);
        let wrong = |problem: &str| BadTrace::Line {
            line,
            problem: problem.to_owned(),
        };
        let (Some(time), Some(key)) = (record.get(0), record.get(1)) else {
            return Err(wrong("expected time,key"));
        };
        let seconds = match seconds(time) {
            Some(seconds) => seconds,
            // The header.
            None if index == 0 => continue,
            None => {
                return Err(wrong(
                    "`time`: expected seconds, or a time such as 2026-11-20T12:00:00Z",
                ));
            }
        };
        let number = *numbers.entry(key.to_owned()).or_insert_with(|| {
            names.push(key.to_owned());
            names.len() as u32 - 1
        });
        requests.push((seconds, number));
    }
    Ok((RequestTrace::new(requests, names.len())?, names))
}

/// Seconds, as a number or a time.
fn seconds(text: &str) -> Option<f64> {
    let number = text.parse::<f64>().ok().filter(|t| t.is_finite());
    number.or_else(|| {
        let at = chrono::DateTime::parse_from_rfc3339(text).ok()?;
        Some(at.timestamp_micros() as f64 / 1e6)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_with_times_of_either_kind() {
        let (trace, names) = read("time,key\n12.5,b\n10,a\n11,b\n".as_bytes()).expect("a trace");
        assert_eq!(trace.requests, [(0.0, 1), (1.0, 0), (2.5, 0)]);
        assert_eq!(names, ["b", "a"]);
        let (trace, _) =
            read("2026-11-20T12:00:00Z,a\n2026-11-20T12:00:01.5Z,a".as_bytes()).expect("a trace");
        assert_eq!(trace.requests, [(0.0, 0), (1.5, 0)]);
        let problem = |text: &str| read(text.as_bytes()).expect_err(text).to_string();
        assert!(problem("1,a\nsoon,b").starts_with("line 2: `time`"));
        assert!(problem("1,a\n2").contains("line 2: expected time,key"));
        assert!(problem("time,key").contains("no request"));
    }
}
