//! Owns reading what workers say of a job, from its reply or its row, as the engine here would say it.
//!
//! Promises results in the bytes that a worker first gives them, also where they come from a row: Postgres keeps JSON in an order and a form of
//! its own. Pure.

use super::super::answer::Answer;
use crate::{
    pipeline::{InputCounts, Outcome},
    store::JobEnd,
};
use anyhow::Context;
use chrono::DateTime;
use kiln_contract::{
    failure::{Code, Rejection},
    result::Finished,
};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use std::collections::BTreeMap;

/// The longest reply that says so: it has no results.
const MAX_CANCELLED_BYTES: usize = 4 << 10;

/// A result's fields, in their order.
const FIELDS: [&str; 9] = [
    "key",
    "label",
    "score",
    "scores",
    "embedding",
    "version",
    "cached",
    "removed",
    "error",
];

/// What is said of a job.
pub(super) enum Reply {
    /// A reply's body.
    Message(Vec<u8>),
    /// Its row.
    Row { job_id: String, end: JobEnd },
}

/// The fields of a reply.
#[derive(Debug, Deserialize)]
struct Fields<'a> {
    #[serde(default)]
    job_id: String,
    status: String,
    #[serde(default)]
    model: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    namespace: String,
    #[serde(borrow)]
    results: Option<&'a RawValue>,
    #[serde(default)]
    hits: u32,
    #[serde(default)]
    misses: u32,
    #[serde(default)]
    elapsed_ms: f64,
    finished_at: Option<String>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// The code of a rejection; one that this release doesn't know is none.
#[derive(Debug, Deserialize)]
struct Refused {
    #[serde(default)]
    code: String,
    #[serde(default)]
    field: String,
    #[serde(default)]
    message: String,
}

impl Refused {
    /// As a result has it.
    fn json(&self) -> String {
        let Self {
            code,
            field,
            message,
        } = self;
        let (code, field, message) = (json!(code), json!(field), json!(message));
        format!("{{\"code\":{code},\"field\":{field},\"message\":{message}}}")
    }
}

/// Whether a reply says that its job's run was cancelled.
pub(super) fn is_cancelled(body: &[u8]) -> bool {
    if body.len() > MAX_CANCELLED_BYTES {
        return false;
    }
    let fields: Option<Fields<'_>> = serde_json::from_slice(body).ok();
    let error = fields.and_then(|fields| fields.error);
    let refused = error.and_then(|error| serde_json::from_str::<Refused>(error.get()).ok());
    refused.is_some_and(|refused| refused.code == Code::Cancelled.as_str())
}

/// The answer to a job that was rejected.
pub(super) fn rejected(job_id: Option<String>, rejection: Rejection) -> Answer {
    Answer {
        outcome: Outcome::Rejected { job_id, rejection },
        counts: None,
    }
}

fn refused(job_id: String, error: &str) -> Answer {
    let refused = serde_json::from_str::<Refused>(error).ok();
    let Refused {
        code,
        field,
        message,
    } = refused.unwrap_or(Refused {
        code: String::new(),
        field: String::new(),
        message: "it was rejected".to_owned(),
    });
    let known = Code::ALL.into_iter().find(|one| one.as_str() == code);
    let rejection = match known {
        Some(code) => Rejection::new(code, field, message),
        None => Rejection::invalid(field, format!("{code}: {message}")),
    };
    self::rejected(Some(job_id), rejection)
}

impl Reply {
    /// What it says. `labels` are those of a classifier, in its order.
    pub fn read(self, labels: Option<&[String]>) -> anyhow::Result<Answer> {
        match self {
            Self::Message(body) => read(&body, labels),
            Self::Row { job_id, end } => Ok(match end {
                JobEnd::Done(done) => finished(job_id, *done, labels)?,
                JobEnd::Rejected(error) => refused(job_id, &error),
            }),
        }
    }
}

fn read(body: &[u8], labels: Option<&[String]>) -> anyhow::Result<Answer> {
    let fields: Fields<'_> = serde_json::from_slice(body)
        .ok()
        .context("a reply can't be read: is a worker of another release running?")?;
    if fields.status != "ok" {
        let error = fields.error.map_or("null", RawValue::get);
        return Ok(refused(fields.job_id, error));
    }
    let results = fields.results.map(RawValue::get).unwrap_or_default();
    let done = Finished {
        model: fields.model,
        version: fields.version,
        namespace: fields.namespace,
        results: results.to_owned(),
        hits: fields.hits,
        misses: fields.misses,
        elapsed_ms: fields.elapsed_ms,
        finished_at: fields
            .finished_at
            .and_then(|text| DateTime::parse_from_rfc3339(&text).ok())
            .map(|at| at.to_utc())
            .unwrap_or_default(),
    };
    finished(fields.job_id, done, labels)
}

fn finished(
    job_id: String,
    mut done: Finished,
    labels: Option<&[String]>,
) -> anyhow::Result<Answer> {
    if done.results.is_empty() {
        // Parts of it may fit: whoever cuts it finds out.
        let message = "its results are too large for a reply, and no row has them";
        return Ok(rejected(
            Some(job_id),
            Rejection::new(Code::TooLarge, "", message),
        ));
    }
    if is_from_row(&done.results) {
        done.results = as_first_given(&done.results, labels)?;
    }
    let counts = InputCounts {
        hits: done.hits.into(),
        misses: done.misses.into(),
        ..InputCounts::default()
    };
    Ok(Answer {
        outcome: Outcome::Done {
            job_id: job_id.into(),
            result: done.into(),
            repeated: false,
        },
        counts: Some(counts),
    })
}

/// Whether results are in Postgres's form: a blank follows the first field's name. No name of a field has a quote or a colon in it.
fn is_from_row(results: &str) -> bool {
    let after = results.split_once("\":").map(|(_, after)| after);
    after.is_some_and(|after| after.starts_with(' '))
}

/// Results in the order and form in which a worker gives them first.
fn as_first_given(results: &str, labels: Option<&[String]>) -> anyhow::Result<String> {
    let rows: Vec<&RawValue> = serde_json::from_str(results)
        .ok()
        .context("a job's row can't be read")?;
    let mut out = String::with_capacity(results.len());
    for (number, row) in rows.iter().enumerate() {
        out.push(if number == 0 { '[' } else { ',' });
        one(&mut out, row.get(), labels)?;
    }
    if rows.is_empty() {
        out.push('[');
    }
    out.push(']');
    Ok(out)
}

fn one(out: &mut String, row: &str, labels: Option<&[String]>) -> anyhow::Result<()> {
    const UNREADABLE: &str = "a job's row can't be read";
    let mut rest: BTreeMap<String, &RawValue> = read_json(row).context(UNREADABLE)?;
    let mut fields: Vec<String> = Vec::new();
    for name in FIELDS {
        let Some(value) = rest.remove(name).map(RawValue::get) else {
            continue;
        };
        let value = match name {
            "key" | "label" => read_json::<String>(value).map(|text| json!(text).to_string()),
            "score" => read_json::<f32>(value).and_then(|score| written(&score)),
            "scores" => read_json(value).map(|scores| ordered(&scores, labels)),
            "embedding" => read_json::<Vec<f32>>(value).and_then(|all| written(&all)),
            "error" => read_json::<Refused>(value).map(|error| error.json()),
            _ => Some(value.to_owned()),
        };
        fields.push(format!("\"{name}\":{}", value.context(UNREADABLE)?));
    }
    // What a later release adds stays as it is.
    let others = rest.iter();
    fields.extend(others.map(|(name, value)| format!("{}:{value}", json!(name))));
    out.push('{');
    out.push_str(&fields.join(","));
    out.push('}');
    Ok(())
}

/// A value as results have it: a value of the library's own would have its floats in 64 bits.
fn written(value: &impl Serialize) -> Option<String> {
    serde_json::to_string(value).ok()
}

fn read_json<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    serde_json::from_str(text).ok()
}

/// Labels' probabilities in the model's order of labels; others come after them.
fn ordered(scores: &BTreeMap<String, f32>, labels: Option<&[String]>) -> String {
    let known = labels.unwrap_or_default();
    let first = known.iter().filter_map(|label| scores.get_key_value(label));
    let rest = scores.iter().filter(|(label, _)| !known.contains(label));
    let all: Vec<String> = first
        .chain(rest)
        .map(|(label, score)| format!("{}:{}", json!(label), written(score).unwrap_or_default()))
        .collect();
    format!("{{{}}}", all.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rows_results_have_the_bytes_that_a_reply_has() {
        let first = r#"[{"key":"r1 \"x\"","label":"positive","score":0.9812,"scores":{"positive":0.9812,"bad":0.0188},"cached":false},{"embedding":[1.0,-0.5,1e-7],"cached":true},{"score":1e+20,"cached":false},{"key":"b","error":{"code":"invalid","field":"inputs[3].text","message":"expected"}},{"key":"gone","removed":true}]"#;
        let row = r#"[{"key": "r1 \"x\"", "label": "positive", "score": 0.9812, "cached": false, "scores": {"bad": 0.0188, "positive": 0.9812}}, {"cached": true, "embedding": [1.0, -0.5, 0.0000001]}, {"score": 100000000000000000000, "cached": false}, {"key": "b", "error": {"code": "invalid", "field": "inputs[3].text", "message": "expected"}}, {"key": "gone", "removed": true}]"#;
        assert!(is_from_row(row) && !is_from_row(first) && !is_from_row("[]"));
        let labels = ["positive".to_owned(), "bad".to_owned()];
        assert_eq!(as_first_given(row, Some(&labels)).expect("results"), first);
        assert!(as_first_given("[{\"score\": \"x\"}]", None).is_err());
    }

    #[test]
    fn replies_are_read_whatever_their_code() {
        let ok = br#"{"job_id":"j","status":"ok","model":"m","version":"1","namespace":"n","results":[{"score":1.5,"cached":false}],"hits":0,"misses":1,"elapsed_ms":1.5,"finished_at":"2026-11-20T12:00:00.000Z","new":1}"#;
        let answer = read(ok, None).expect("a reply");
        let Outcome::Done { result, .. } = answer.outcome else {
            panic!("it is done");
        };
        assert_eq!(result.results, r#"[{"score":1.5,"cached":false}]"#);
        assert_eq!(answer.counts.map(|counts| counts.misses), Some(1));
        for (body, code) in [
            (&br#"{"job_id":"j","status":"rejected","error":{"code":"conflict","field":"f","message":"m"}}"#[..], Code::Conflict),
            (br#"{"job_id":"j","status":"rejected","error":{"code":"of a later release"}}"#, Code::Invalid),
            (br#"{"job_id":"j","status":"rejected"}"#, Code::Invalid),
            (br#"{"job_id":"j","status":"ok","results_omitted":true}"#, Code::TooLarge),
        ] {
            let Outcome::Rejected { rejection, .. } = read(body, None).expect("a reply").outcome
            else {
                panic!("it is rejected");
            };
            assert_eq!(rejection.code, code);
        }
        assert!(read(b"nonsense", None).is_err());
        assert!(is_cancelled(br#"{"job_id":"j","status":"rejected","error":{"code":"cancelled","field":"","message":""}}"#));
        assert!(!is_cancelled(ok) && !is_cancelled(b"nonsense"));
    }
}
