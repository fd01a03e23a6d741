//! What is written parses to the same job.

use super::*;
use crate::job::{Content, Input, Job, MAX_INPUTS, MAX_TTL_SECONDS, Rank};
use crate::order::{AsOf, MAX_SEQUENCE, Moment};
use proptest::prelude::*;
use std::borrow::Cow;

/// A job in the contract's order, without the fields that have their default.
fn write(job: &Job<'_>) -> Vec<u8> {
    let mut out = JobWriter::new();
    out.job_id(&job.job_id).model(&job.model);
    if let Some(namespace) = &job.namespace {
        out.namespace(namespace);
    }
    out.inputs(&job.inputs, |out, input| {
        if let Some(key) = &input.key {
            out.key(key);
        }
        match &input.content {
            Content::Text { text, pair } => {
                out.text(text);
                if let Some(pair) = pair {
                    out.text_pair(pair);
                }
            }
            Content::Features(range) => {
                out.features(job.features_of(range));
            }
            Content::Removal => {
                out.remove();
            }
            Content::Bad(_) | Content::Named(_) => unreachable!("no such input is made"),
        }
    });
    if job.named {
        out.named(true);
    }
    if let Some(rank) = &job.rank {
        out.rank(&rank.key, rank.top);
    }
    if let Some(seconds) = job.ttl_seconds {
        out.ttl_seconds(seconds);
    }
    if job.on_error != OnError::default() {
        out.on_error(job.on_error);
    }
    if job.detail {
        out.detail(true);
    }
    if let Some(as_of) = &job.as_of {
        out.as_of(as_of);
    }
    if let Some(url) = &job.callback_url {
        out.callback_url(url);
    }
    out.finish()
}

/// An input's key, its texts, and its numbers where it has no text.
type Parts = (Option<String>, Option<(String, Option<String>)>, Vec<f32>);

fn parts() -> impl Strategy<Value = Parts> {
    (
        prop::option::of("\\PC{1,20}"),
        prop::option::of((any::<String>(), prop::option::of("\\PC{0,30}"))),
        prop::collection::vec(-1e30f32..1e30, 0..6),
    )
}

fn as_ofs() -> impl Strategy<Value = Option<AsOf<'static>>> {
    prop::option::of(prop_oneof![
        (0..=MAX_SEQUENCE).prop_map(AsOf::Sequence),
        (0..1i64 << 50).prop_map(|micros| {
            let text = Moment::from_micros(micros).rfc3339();
            AsOf::moment(text).expect("a time")
        }),
    ])
}

fn job_of(parts: Vec<Parts>) -> Job<'static> {
    let mut features = Vec::new();
    let inputs = parts
        .into_iter()
        .map(|(key, text, values)| {
            let content = match text {
                // As good as any way to have some of them.
                None if key.is_some() && values.is_empty() => Content::Removal,
                Some((text, pair)) => Content::Text {
                    text: Cow::Owned(text),
                    pair: pair.map(Cow::Owned),
                },
                None => {
                    let from = features.len();
                    features.extend(values);
                    Content::Features(from..features.len())
                }
            };
            Input {
                key: key.map(Cow::Owned),
                content,
            }
        })
        .collect();
    Job {
        job_id: "j".into(),
        model: "m".into(),
        namespace: None,
        inputs,
        features,
        named: false,
        rank: None,
        ttl_seconds: None,
        on_error: OnError::Fail,
        detail: false,
        as_of: None,
        callback_url: None,
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_as_the_same_job(
        job_id in "[ -~]{1,128}", model in "\\PC{1,30}", namespace in prop::option::of("[a-z0-9_-]{1,64}"),
        inputs in prop::collection::vec(parts(), 1..6),
        rank in prop::option::of(("\\PC{1,30}", prop::option::of(1..=MAX_INPUTS))),
        ttl_seconds in prop::option::of(1..=MAX_TTL_SECONDS), named: bool, skip: bool, detail: bool,
        as_of in as_ofs(), callback_url in prop::option::of("https?://[a-z0-9.]{1,9}(:[0-9]{1,4})?(/[!-\"$-\\[\\]-~]{0,9})?"),
    ) {
        let job = Job {
            job_id: job_id.into(),
            model: model.into(),
            namespace: namespace.map(Cow::Owned),
            named,
            rank: rank.map(|(key, top)| Rank { key: key.into(), top }),
            ttl_seconds,
            on_error: if skip { OnError::Skip } else { OnError::Fail },
            detail,
            as_of,
            callback_url: callback_url.map(Cow::Owned),
            ..job_of(inputs)
        };
        let body = write(&job);
        prop_assert_eq!(Job::parse(&body, None), Ok(job));
    }
}

#[test]
fn fields_stand_in_the_order_of_the_calls() {
    let mut job = JobWriter::new();
    job.inputs([(1.5f32, "k")], |input, (value, key)| {
        input.features(&[value, 0.1]).key(key);
    });
    job.rank("r", None).model("m").detail(false);
    assert_eq!(
        job.finish(),
        br#"{"inputs":[{"features":[1.5,0.1],"key":"k"}],"rank":{"key":"r"},"model":"m","detail":false}"#
    );
    assert_eq!(JobWriter::new().finish(), b"{}");
}

#[test]
fn what_somebody_else_wrote_stays_as_it_stands() {
    let mut job = JobWriter::new();
    job.json(JobField::Model, "\"\\u0041\"");
    job.json_inputs(["{ \"text\": \"a\" }", "{}"]);
    assert_eq!(
        job.finish(),
        br#"{"model":"\u0041","inputs":[{ "text": "a" },{}]}"#
    );
    let text = input(|input| {
        input.json(InputField::Features, "[ 1 ]").key("\"");
    });
    assert_eq!(text, r#"{"features":[ 1 ],"key":"\""}"#);
    let named = input(|input| {
        input.named_features([("a", 1.5), ("b\"", 2.0)]);
    });
    assert_eq!(named, r#"{"features":{"a":1.5,"b\"":2.0}}"#);
}

#[test]
fn fields_may_precede_those_of_an_object() {
    let whole = r#"{ "inputs":[{"text":"a"}]}"#;
    assert_eq!(JobWriter::new().finish_before(whole), whole.as_bytes());
    let mut job = JobWriter::new();
    job.model("m").named(true);
    assert_eq!(
        job.finish_before(whole),
        br#"{"model":"m","named":true, "inputs":[{"text":"a"}]}"#
    );
}
