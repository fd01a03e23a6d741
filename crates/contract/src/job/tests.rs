//! What of a job is checked against its model, and what it asks for.

use super::*;
use crate::model::{Precision, Task, WeightPrecision};

fn model(input: InputKind) -> ModelInfo {
    ModelInfo {
        name: "m".into(),
        version: "1".into(),
        architecture: "bert".into(),
        task: Task::Scalar,
        input,
        feature_names: Vec::new(),
        takes_missing: false,
        output_width: 1,
        precision: Precision::Single,
        max_text_bytes: 10,
        ttl_seconds: None,
        parameters: 1,
        weights: WeightPrecision::Single,
        golden: 0,
        training: None,
    }
}

fn body(inputs: &str, more: &str) -> String {
    format!(r#"{{"job_id":"j","model":"m@1","inputs":[{inputs}]{more}}}"#)
}

/// The field and the message of an input's refusal; nothing where the model takes it.
fn refusal(input: &str, info: &ModelInfo) -> Option<(String, String)> {
    let body = body(input, "");
    let mut job = Job::parse(body.as_bytes(), None).expect("a job");
    let refused = job.check_inputs(info).err()?;
    Some((refused.field, refused.message))
}

#[test]
fn a_model_takes_the_kind_and_the_number_of_inputs_that_it_says() {
    let features = model(InputKind::Features { count: 2 });
    let text = |pair| model(InputKind::Text { pair });
    let (one, either, two) = (
        text(PairRule::None),
        text(PairRule::Optional),
        text(PairRule::Required),
    );
    let (alone, both) = (r#"{"text":"a"}"#, r#"{"text":"a","text_pair":"b"}"#);
    let (few, pair) = (r#"{"features":[1]}"#, r#"{"features":[1,2]}"#);
    let named = r#"{"features":{"age":1}}"#;
    for (input, info) in [
        (pair, &features),
        (r#"{"key":"k","remove":true}"#, &features),
        (alone, &one),
        (alone, &either),
        (both, &either),
        (both, &two),
        (r#"{"text":"a","text_pair":""}"#, &two),
    ] {
        assert_eq!(refusal(input, info), None, "{input}");
    }
    let wrong_kind = "model `m` takes `text`, not `features`";
    for (input, info, field, message) in [
        (few, &features, "features", "expected 2 numbers, found 1"),
        (
            alone,
            &features,
            "text",
            "model `m` takes `features` (2 numbers), not `text`",
        ),
        (pair, &one, "features", wrong_kind),
        (named, &one, "features", wrong_kind),
        (
            both,
            &one,
            "text_pair",
            "model `m` takes one `text` and no `text_pair`",
        ),
        (
            alone,
            &two,
            "text_pair",
            "model `m` takes `text` and `text_pair`",
        ),
    ] {
        let expected = (format!("inputs[0].{field}"), message.to_owned());
        assert_eq!(refusal(input, info), Some(expected), "{input}");
    }
}

#[test]
fn a_text_is_some_and_no_longer_than_its_model_takes() {
    let info = model(InputKind::Text {
        pair: PairRule::Optional,
    });
    let with = |text: &str| format!(r#"{{"text":"{text}"}}"#);
    let beside = |pair: &str| format!(r#"{{"text":"a","text_pair":"{pair}"}}"#);
    assert_eq!(refusal(&with("0123456789"), &info), None);
    assert_eq!(refusal(&beside("0123456789"), &info), None);
    let too_long = "expected at most 10 bytes for this model, found 11";
    let (too_long_by_two, zero) = (too_long.replace("11", "12"), "must not contain U+0000");
    for (input, field, message) in [
        (with(" \\t"), "text", "expected some text, found none"),
        (with("0123456789é"), "text", &*too_long_by_two),
        (with("01234567890"), "text", too_long),
        (beside("01234567890"), "text_pair", too_long),
        (with("a\\u0000"), "text", zero),
        (beside("a\\u0000"), "text_pair", zero),
    ] {
        let expected = (format!("inputs[0].{field}"), message.to_owned());
        assert_eq!(refusal(&input, &info), Some(expected), "{input}");
    }
}

#[test]
fn a_ranking_needs_a_key_of_every_input() {
    let info = model(InputKind::Features { count: 1 });
    let inputs = r#"{"key":"a","features":[1]},{"features":[2]}"#;
    let ranked = body(inputs, r#","rank":{"key":"r"}"#);
    let mut job = Job::parse(ranked.as_bytes(), None).expect("a job");
    let refused = job.check_inputs(&info).expect_err("no key");
    assert_eq!(refused.field, "inputs[1].key");
}

#[test]
fn a_job_is_for_readers_where_it_names_ranks_or_removes() {
    let input = r#"{"key":"a","text":"t"}"#;
    let for_readers = |inputs: &str, more: &str| {
        let body = body(inputs, more);
        let job = Job::parse(body.as_bytes(), None).expect("a job");
        job.is_for_readers()
    };
    assert!(for_readers(input, r#","named":true"#));
    assert!(for_readers(input, r#","rank":{"key":"r"}"#));
    assert!(for_readers(r#"{"key":"a","remove":true}"#, ""));
    assert!(!for_readers(input, r#","named":false,"detail":true"#));
}

#[test]
fn an_id_is_found_in_a_body_that_is_not_read() {
    let found = |body: &str| find_id(body.as_bytes()).map(Cow::into_owned);
    let long = format!(r#"{{"inputs":[{}1],"job_id":"j-1"}}"#, "0,".repeat(10_000));
    assert_eq!(found(&long).as_deref(), Some("j-1"));
    for none in ["", "{", "{}", r#"{"job_id":7}"#, r#"{"job_id":""}"#] {
        assert_eq!(found(none), None, "{none}");
    }
}

#[test]
fn a_key_has_one_to_256_bytes() {
    assert_eq!(key_problem(&"k".repeat(256)), None);
    let longer = key_problem(&"k".repeat(257));
    let expected = "expected at most 256 bytes, found 257";
    assert_eq!(longer.as_deref(), Some(expected));
    assert_eq!(key_problem("").as_deref(), Some("must not be empty"));
}
