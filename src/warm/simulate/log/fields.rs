//! Owns which fields of a log mean what: columns of CSV, names in JSON lines.

use super::{BadLog, Collected, Found, Reading, matched, next_line, time};
use serde_json::Value;
use std::io::BufRead;

/// Usual names of the fields, the likeliest first.
const TIME: [&str; 10] = [
    "time",
    "timestamp",
    "@timestamp",
    "ts",
    "at",
    "datetime",
    "date",
    "time_local",
    "time_iso8601",
    "msec",
];
const KEY: [&str; 9] = [
    "key",
    "name",
    "item",
    "id",
    "request_uri",
    "uri",
    "url",
    "path",
    "request",
];
const NAMESPACE: [&str; 1] = ["namespace"];
const SESSION: [&str; 4] = ["session", "session_id", "user", "user_id"];

/// Fields that were found of one request.
pub(super) struct Wanted<'a> {
    pub key: &'a str,
    pub namespace: Option<&'a str>,
    pub session: Option<&'a str>,
}

impl Wanted<'_> {
    /// Collects the request, with the key that the pattern finds in the key's field if there is one.
    pub fn collect(&self, at: f64, reading: &Reading, collected: &mut Collected) {
        let filled = |field: Option<&'_ str>| field.filter(|value| !value.is_empty()).is_some();
        let (namespace, session) = (
            self.namespace.filter(|_| filled(self.namespace)),
            self.session.filter(|_| filled(self.session)),
        );
        let found = match &reading.pattern {
            Some(pattern) => matched(pattern, self.key),
            None => Some(Found {
                key: self.key,
                ..Found::default()
            }),
        };
        match found {
            Some(found) => {
                let found = Found {
                    namespace: found.namespace.or(namespace),
                    session: found.session.or(session),
                    ..found
                };
                collected.add(&found, at, reading);
            }
            None => collected.left_out += 1,
        }
    }
}

/// Which column holds what.
pub(super) struct Columns {
    pub time: usize,
    pub key: usize,
    pub namespace: Option<usize>,
    pub session: Option<usize>,
    /// Whether they were found by their names, so that the first line is no request.
    pub is_header: bool,
}

impl Columns {
    /// Of the first line: by its names if it is a header, else time, key and perhaps a session.
    pub fn of(first: &csv::StringRecord, reading: &Reading) -> Result<Self, String> {
        let position = |own: &Option<String>, usual: &[&str]| match own {
            Some(name) => first.iter().position(|field| field == name),
            None => usual.iter().find_map(|name| {
                first
                    .iter()
                    .position(|field| field.eq_ignore_ascii_case(name))
            }),
        };
        let is_header = !first.iter().any(|field| time::seconds(field).is_some());
        if !is_header && first.len() < 2 {
            return Err("expected time,key".to_owned());
        }
        if !is_header {
            if let Some(name) = [&reading.time_field, &reading.key_field]
                .into_iter()
                .flatten()
                .next()
            {
                return Err(format!("expected a header with `{name}`"));
            }
            return Ok(Self {
                time: 0,
                key: 1,
                namespace: None,
                session: (first.len() > 2).then_some(2),
                is_header,
            });
        }
        let named = |own: &Option<String>, usual: &[&str]| {
            let expected = own
                .as_deref()
                .unwrap_or_else(|| usual.first().unwrap_or(&""));
            position(own, usual)
                .ok_or_else(|| format!("expected a line of time,key or a header with `{expected}`"))
        };
        let optional = |own: &Option<String>, usual: &[&str]| match own {
            Some(_) => named(own, usual).map(Some),
            None => Ok(position(own, usual)),
        };
        Ok(Self {
            time: named(&reading.time_field, &TIME)?,
            key: named(&reading.key_field, &KEY)?,
            namespace: optional(&reading.namespace_field, &NAMESPACE)?,
            session: optional(&reading.session_field, &SESSION)?,
            is_header,
        })
    }
}

/// Lines of JSON. A field is named by its name, or by a pointer such as `/request/path`.
pub(super) fn json_lines(
    input: &mut impl BufRead,
    reading: &Reading,
    collected: &mut Collected,
) -> Result<(), BadLog> {
    let mut line = 0;
    loop {
        line += 1;
        let Some(text) = next_line(input, line)? else {
            return Ok(());
        };
        if text.trim().is_empty() {
            continue;
        }
        let wrong = |problem: &str| BadLog::Line {
            line,
            problem: problem.to_owned(),
        };
        let object: Value =
            serde_json::from_str(&text).map_err(|_| wrong("expected a JSON object"))?;
        let field = |own: &Option<String>, usual: &[&str]| match own {
            Some(name) if name.starts_with('/') => object.pointer(name),
            Some(name) => object.get(name),
            None => usual.iter().find_map(|name| object.get(name)),
        };
        let time = match field(&reading.time_field, &TIME) {
            Some(Value::Number(number)) => number.as_f64().and_then(time::finite),
            Some(Value::String(text)) => time::seconds(text),
            _ => None,
        };
        let at = time.ok_or_else(|| wrong(&format!("`time`: {}", time::EXPECTED)))?;
        let text = |own: &Option<String>, usual: &[&str]| match field(own, usual)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let key = text(&reading.key_field, &KEY)
            .ok_or_else(|| wrong("`key`: expected a text or a number"))?;
        let namespace = text(&reading.namespace_field, &NAMESPACE);
        let session = text(&reading.session_field, &SESSION);
        let wanted = Wanted {
            key: &key,
            namespace: namespace.as_deref(),
            session: session.as_deref(),
        };
        wanted.collect(at, reading, collected);
    }
}
