//! Owns what a dead letter says of itself, and which letters a filter means. Pure.

use crate::{
    amqp::delivery::text,
    amqp::message::{ERROR_CODE, ERROR_FIELD, ERROR_MESSAGE, FAILED_AT, JOB_ID, QUEUE},
};
use chrono::{DateTime, Utc};
use clap::Args;
use kiln_contract::failure::Code;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// What stands in a letter's headers. A message that Kiln didn't write has none of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Letter {
    pub(super) failed_at: Option<String>,
    pub(super) job_id: Option<String>,
    pub(super) code: Option<String>,
    pub(super) field: Option<String>,
    pub(super) message: Option<String>,
    /// The queue to which a replay posts it.
    pub(super) queue: Option<String>,
    pub(super) bytes: usize,
}

impl Letter {
    /// Reads the headers of a message whose body has so many bytes.
    pub(super) fn read(properties: &BasicProperties, bytes: usize) -> Self {
        let header = |name: &str| text(properties.headers().as_ref(), name);
        let message_id = || properties.message_id().as_ref().map(ToString::to_string);
        Self {
            failed_at: header(FAILED_AT),
            job_id: header(JOB_ID).or_else(message_id),
            code: header(ERROR_CODE),
            field: header(ERROR_FIELD),
            message: header(ERROR_MESSAGE),
            queue: header(QUEUE),
            bytes,
        }
    }

    fn time(&self) -> Option<DateTime<Utc>> {
        let at = DateTime::parse_from_rfc3339(self.failed_at.as_deref()?).ok()?;
        Some(at.to_utc())
    }
}

/// Which letters are meant; without any of it, all.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Filter {
    /// Only letters with this code.
    #[arg(long, value_parser = code)]
    pub(super) code: Option<Code>,
    /// Only letters of these jobs: a pattern with * and ?, or else a prefix of the id.
    #[arg(long, value_name = "PATTERN")]
    pub(super) job_id: Option<String>,
    /// Only letters older than this: a number with s, m, h or d.
    #[arg(long, value_name = "AGE", value_parser = crate::cli::age::age)]
    pub(super) older_than: Option<Duration>,
    /// At most this many letters.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) limit: Option<u64>,
}

impl Filter {
    /// Whether it leaves any letter out.
    pub(super) fn is_any(&self) -> bool {
        self.code.is_none()
            && self.job_id.is_none()
            && self.older_than.is_none()
            && self.limit.is_none()
    }

    /// Whether a letter is meant. One that doesn't say when it failed is older than nothing.
    pub(super) fn means(&self, letter: &Letter, now: DateTime<Utc>) -> bool {
        let old = |age: Duration| {
            letter
                .time()
                .is_some_and(|at| (now - at).to_std().is_ok_and(|passed| passed > age))
        };
        let named = |pattern: &String| letter.job_id.as_deref().is_some_and(|id| fits(pattern, id));
        self.code
            .is_none_or(|code| letter.code.as_deref() == Some(code.as_str()))
            && self.job_id.as_ref().is_none_or(named)
            && self.older_than.is_none_or(old)
    }
}

fn code(text: &str) -> Result<Code, String> {
    let known = Code::ALL.into_iter().find(|code| code.as_str() == text);
    known.ok_or_else(|| {
        let all: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        format!("expected one of {}", all.join(", "))
    })
}

/// Whether a text fits a pattern in which `*` stands for anything and `?` for one character. A pattern with
/// neither stands for every text that starts with it.
fn fits(pattern: &str, text: &str) -> bool {
    if !pattern.contains(['*', '?']) {
        return text.starts_with(pattern);
    }
    let (mut pattern, mut text) = (pattern.chars(), text.chars());
    // Where the last star stood, and the text that it has not swallowed yet.
    let mut star: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        match (pattern.next(), text.clone().next()) {
            (Some('*'), _) => star = Some((pattern.clone(), text.clone())),
            (None, None) => return true,
            (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
                text.next();
            }
            _ => {
                let Some((after, swallowed)) = &mut star else {
                    return false;
                };
                if swallowed.next().is_none() {
                    return false;
                }
                (pattern, text) = (after.clone(), swallowed.clone());
            }
        }
    }
}

/// A table of headers as JSON.
pub(super) fn headers_json(headers: &FieldTable) -> Value {
    let fields = headers
        .inner()
        .iter()
        .map(|(name, value)| (name.to_string(), header_json(value)));
    Value::Object(fields.collect::<Map<_, _>>())
}

fn header_json(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(v) => json!(v),
        AMQPValue::ShortShortInt(v) => json!(v),
        AMQPValue::ShortShortUInt(v) => json!(v),
        AMQPValue::ShortInt(v) => json!(v),
        AMQPValue::ShortUInt(v) => json!(v),
        AMQPValue::LongInt(v) => json!(v),
        AMQPValue::LongUInt(v) => json!(v),
        AMQPValue::LongLongInt(v) => json!(v),
        AMQPValue::Float(v) => json!(v),
        AMQPValue::Double(v) => json!(v),
        AMQPValue::DecimalValue(v) => {
            json!(f64::from(v.value) / 10f64.powi(i32::from(v.scale)))
        }
        AMQPValue::ShortString(v) => json!(v.as_str()),
        AMQPValue::LongString(v) => json!(String::from_utf8_lossy(v.as_bytes())),
        AMQPValue::FieldArray(v) => Value::Array(v.as_slice().iter().map(header_json).collect()),
        AMQPValue::Timestamp(v) => json!(v),
        AMQPValue::FieldTable(v) => headers_json(v),
        AMQPValue::ByteArray(v) => json!(hex::encode(v.as_slice())),
        AMQPValue::Void => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_mean_what_shells_mean_and_plain_text_is_a_start() {
        for (pattern, text, expected) in [
            ("job-", "job-1", true),
            ("job-1", "job-10", true),
            ("", "anything", true),
            ("job-1", "my-job-1", false),
            ("job-?", "job-1", true),
            ("job-?", "job-10", false),
            ("*-1", "job-1", true),
            ("*-1", "job-1-1", true),
            ("*-1", "job-12", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("*", "", true),
            ("?", "", false),
            ("*é?", "caféx", true),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} on {text}");
        }
    }

    proptest! {
        #[test]
        fn a_star_anywhere_still_means_the_text(text in "[ab*?]{0,12}", at in any::<prop::sample::Index>()) {
            let at = at.index(text.len() + 1);
            let pattern = format!("{}*{}", &text[..at], &text[at..]);
            prop_assert!(fits(&pattern, &text));
        }
    }

    #[test]
    fn a_filter_looks_at_code_id_and_age() {
        let now = Utc::now();
        let letter = Letter {
            failed_at: Some(crate::clock::rfc3339(now - chrono::TimeDelta::hours(2))),
            job_id: Some("reviews-7".into()),
            code: Some("invalid".into()),
            ..Letter::default()
        };
        let all = Filter::default();
        assert!(all.is_any() && all.means(&letter, now));
        let filter = |code, job_id: Option<&str>, hours: Option<u64>| Filter {
            code,
            job_id: job_id.map(str::to_owned),
            older_than: hours.map(|h| Duration::from_secs(h * 3_600)),
            limit: None,
        };
        assert!(filter(Some(Code::Invalid), Some("reviews-*"), Some(1)).means(&letter, now));
        assert!(!filter(Some(Code::Expired), None, None).means(&letter, now));
        assert!(!filter(None, Some("x"), None).means(&letter, now));
        assert!(!filter(None, None, Some(3)).means(&letter, now));
        // A message that says nothing is meant only by a filter that asks for nothing.
        let foreign = Letter::default();
        assert!(all.means(&foreign, now));
        assert!(!filter(None, Some("*"), None).means(&foreign, now));
        assert!(!filter(None, None, Some(0)).means(&foreign, now));
    }

    #[test]
    fn codes_are_the_contracts() {
        assert_eq!(code("too_large"), Ok(Code::TooLarge));
        assert!(code("bad").is_err_and(|e| e.contains("unknown_model")));
    }
}
