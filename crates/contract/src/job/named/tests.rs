//! Features by name and by place are the same inputs; what is missing or unknown is told by its name.

use super::{are_close, edits};
use crate::{
    failure::Rejection,
    job::{Content, Job},
    key::hash_features,
    model::{InputKind, ModelInfo, Precision, Task, WeightPrecision},
};

fn model(takes_missing: bool, names: &[&str]) -> ModelInfo {
    ModelInfo {
        name: "ranker".into(),
        version: "1".into(),
        architecture: "trees".into(),
        task: Task::Scalar,
        input: InputKind::Features { count: 3 },
        feature_names: names.iter().map(|name| (*name).to_owned()).collect(),
        takes_missing,
        output_width: 1,
        precision: Precision::Single,
        weights: WeightPrecision::Single,
        max_text_bytes: 0,
        ttl_seconds: None,
        parameters: 1,
        golden: 0,
        training: None,
    }
}

const NAMES: [&str; 3] = ["price", "age", "clicks"];

fn body(inputs: &str) -> String {
    format!(r#"{{"job_id":"j","model":"ranker","inputs":[{inputs}]}}"#)
}

fn checked(inputs: &str, info: &ModelInfo) -> Result<Vec<Vec<f32>>, Rejection> {
    let body = body(inputs);
    let mut job = Job::parse(body.as_bytes(), None).map_err(|bad| bad.rejection)?;
    job.check_inputs(info)?;
    let rows = job.inputs.iter().map(|input| match &input.content {
        Content::Features(range) => job.features_of(range).to_vec(),
        other => panic!("{other:?}"),
    });
    Ok(rows.collect())
}

fn refusal(inputs: &str, info: &ModelInfo) -> (String, String) {
    let rejection = checked(inputs, info).unwrap_err();
    (rejection.field, rejection.message)
}

#[test]
fn names_in_any_order_and_places_are_the_same_input() {
    let info = model(true, &NAMES);
    let rows = checked(
        r#"{"features":{"clicks":3,"price":3.5,"age":-0.0}},{"features":[3.5,0,3]},
           {"features":{"pric\u0065":3.5,"clicks":3}},{"features":{"price":3.5,"age":null,"clicks":3}},{"features":[3.5, null ,3]},
           {"features":{}},{"features":[null,null,null]}"#,
        &info,
    )
    .unwrap();
    let hashes: Vec<_> = rows.iter().map(|row| hash_features(row)).collect();
    assert_eq!(hashes[0], hashes[1]);
    assert_eq!(hashes[2], hashes[3]);
    assert_eq!(hashes[2], hashes[4]);
    assert_eq!(hashes[5], hashes[6]);
    assert_ne!(hashes[0], hashes[2]);
    assert_eq!(rows[0], [3.5, 0.0, 3.0]);
    assert!(rows[2][1].is_nan() && rows[2][1].to_bits() == f32::NAN.to_bits());
}

#[test]
fn a_model_that_takes_no_missing_features_says_which_is() {
    let info = model(false, &NAMES);
    assert!(checked(r#"{"features":{"age":1,"price":2,"clicks":3}}"#, &info).is_ok());
    let missing = "expected a finite 32-bit float: no feature of model `ranker` may be missing";
    for input in [
        r#"{"features":{"price":2,"clicks":3}}"#,
        r#"{"features":{"price":2,"clicks":3,"age":null}}"#,
    ] {
        let found = refusal(input, &info);
        assert_eq!(
            found,
            ("inputs[0].features.age".to_owned(), missing.to_owned())
        );
    }
    // As it was before there were missing ones.
    let (field, message) = refusal(r#"{"features":[1,2,3]},{"features":[1,null,3]}"#, &info);
    assert_eq!(field, "inputs[1].features[1]");
    assert_eq!(
        message,
        "invalid type: null, expected a finite 32-bit float"
    );
}

#[test]
fn an_unknown_name_is_told_with_those_that_are_close() {
    let info = model(true, &NAMES);
    for (name, expected) in [
        ("prise", "is no feature of this model: is it price?"),
        ("Clicks", "is no feature of this model: is it clicks?"),
        (
            "weight",
            "is no feature of this model, which has price, age, clicks",
        ),
    ] {
        let (field, message) = refusal(&format!(r#"{{"features":{{"age":1,"{name}":2}}}}"#), &info);
        assert_eq!(
            (field, message.as_str()),
            (format!("inputs[0].features.{name}"), expected)
        );
    }
    // What is no name isn't repeated.
    let (field, message) = refusal(r#"{"features":{"anna at example.org":2}}"#, &info);
    assert_eq!(field, "inputs[0].features");
    assert!(!message.contains("anna"), "{message}");
}

#[test]
fn what_is_wrong_with_a_named_feature_is_told_at_its_name() {
    let info = model(true, &NAMES);
    let (field, message) = refusal(r#"{"features":{"age":1,"age":2}}"#, &info);
    assert_eq!(
        (field.as_str(), message.as_str()),
        ("inputs[0].features.age", "is there twice")
    );
    let (field, message) = refusal(r#"{"features":{"age":"old"}}"#, &info);
    assert_eq!(field, "inputs[0].features.age");
    assert!(
        message.ends_with("expected a finite 32-bit float"),
        "{message}"
    );
    let (field, _) = refusal(r#"{"features":{"age":1e300}}"#, &info);
    assert_eq!(field, "inputs[0].features.age");
    let (field, message) = refusal(r#"{"features":7}"#, &info);
    assert_eq!(field, "inputs[0].features");
    assert!(
        message.ends_with("expected an array of numbers, or an object of numbers by feature"),
        "{message}"
    );
    let (field, message) = refusal(r#"{"features":{"age":1}}"#, &model(true, &[]));
    assert_eq!(field, "inputs[0].features");
    assert!(
        message.ends_with("has no names for its features: expected an array of 3 numbers"),
        "{message}"
    );
}

#[test]
fn a_bad_name_is_skipped_where_the_job_says_so() {
    let body = r#"{"job_id":"j","model":"ranker","on_error":"skip","inputs":[{"key":"a","features":{"agee":1}},{"key":"b","features":{"age":1}}]}"#;
    let mut job = Job::parse(body.as_bytes(), None).unwrap();
    job.check_inputs(&model(true, &NAMES)).unwrap();
    assert!(matches!(&job.inputs[0].content, Content::Bad(bad) if bad.field == "features.agee"));
    let Content::Features(range) = &job.inputs[1].content else {
        panic!("{:?}", job.inputs[1]);
    };
    assert_eq!(job.features_of(range)[1], 1.0);
    assert_eq!(job.features.len(), 3);
}

#[test]
fn a_message_lists_five_names_and_compares_those_that_are_not_long() {
    let long = "l".repeat(64);
    let names = ["a", "b", "c", "d", &long];
    let said = |names: &[&str], name: &str| {
        let input = format!(r#"{{"features":{{"{name}":1}}}}"#);
        refusal(&input, &model(true, names)).1
    };
    let shown = format!("is no feature of this model, which has a, b, c, d, {long}");
    assert_eq!(said(&names, "weight"), shown);
    let others = format!("{shown} and others");
    let six = [&names[..], &["f"]].concat();
    assert_eq!(said(&six, "weight"), others);
    let near = format!("{}i", &long[1..]);
    let close = format!("is no feature of this model: is it {long}?");
    assert_eq!(said(&names, &near), close);
    let longer = format!("{long}l");
    assert_eq!(said(&names, &longer), shown, "too long to be compared");
}

#[test]
fn names_are_close_that_few_edits_make_alike() {
    for (a, b, count) in [
        ("", "abc", 3),
        ("abc", "", 3),
        ("b", "ab", 1),
        ("ab", "b", 1),
        ("flaw", "lawn", 2),
        ("kitten", "sitting", 3),
    ] {
        assert_eq!(edits(a.as_bytes(), b.as_bytes()), count, "{a} {b}");
    }
    for (a, b) in [("abc", "abd"), ("AB", "ab"), ("abcdef12", "abcdef")] {
        assert!(are_close(a, b), "{a} {b}");
    }
    for (a, b) in [("ab", "ac"), ("abc", "ade"), ("abcdefghi", "abcdef")] {
        assert!(!are_close(a, b), "{a} {b}");
    }
}

#[test]
fn what_is_left_out_takes_bounded_memory() {
    let names: Vec<String> = (0..4_096).map(|i| format!("f{i}")).collect();
    let mut info = model(true, &NAMES);
    info.input = InputKind::Features { count: 4_096 };
    info.feature_names = names;
    let inputs = vec![r#"{"features":{}}"#; 1_025].join(",");
    let (field, message) = refusal(&inputs, &info);
    assert_eq!(field, "inputs[1024].features");
    assert_eq!(
        message,
        "expected at most 4194304 features in a job, found more"
    );
}

#[test]
fn missing_features_are_written_as_they_are_read() {
    let mut job = crate::job::JobWriter::new();
    job.job_id("j").model("ranker");
    job.inputs([[1.5f32, f32::NAN, 2.0]], |input, row| {
        input.features(&row);
    });
    let body = job.finish();
    let job = Job::parse(&body, None).unwrap();
    assert!(job.features[1].is_nan());
    assert_eq!((job.features[0], job.features[2]), (1.5, 2.0));
}
