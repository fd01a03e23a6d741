//! The bytes of results and replies.

use super::*;
use crate::{
    failure::Code,
    model::{InputKind, PairRule, Precision, WeightPrecision},
};

fn info(task: Task) -> ModelInfo {
    ModelInfo {
        name: "m".into(),
        version: "1".into(),
        architecture: "mlp".into(),
        task,
        input: InputKind::Text {
            pair: PairRule::None,
        },
        feature_names: Vec::new(),
        takes_missing: false,
        output_width: 2,
        precision: Precision::Single,
        max_text_bytes: 100,
        ttl_seconds: None,
        parameters: 1,
        weights: WeightPrecision::Single,
        golden: 0,
        training: None,
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("UTF-8")
}

fn finished() -> Finished {
    Finished {
        model: "m".into(),
        version: "1".into(),
        namespace: "n".into(),
        results: "[]".into(),
        hits: 1,
        misses: 2,
        elapsed_ms: 1.25,
        finished_at: DateTime::from_timestamp_millis(1_700_000_000_123).expect("an instant"),
    }
}

#[test]
fn a_result_of_another_version_than_its_jobs_names_it() {
    let own = info(Task::Scalar);
    let mut other = own.clone();
    other.version = "2\"".to_owned();
    let mut results = ResultsWriter::new(2).of_version(&own.version);
    results.scored(Some("a"), &own, &[0.5], true, false);
    results.scored(Some("b"), &other, &[0.25], false, false);
    assert_eq!(
        results.finish(),
        r#"[{"key":"a","score":0.5,"cached":true},{"key":"b","score":0.25,"version":"2\"","cached":false}]"#
    );
}

#[test]
fn results_have_the_contracts_bytes() {
    let labels = vec!["no".to_owned(), "\"yes\"".to_owned()];
    let classes = info(Task::Classification { labels });
    let mut results = ResultsWriter::new(4);
    results.scored(Some("k\n"), &classes, &[0.1, 0.9], true, false);
    results.scored(None, &classes, &[0.5, 0.5], false, true);
    results.scored(None, &info(Task::Scalar), &[1e20, 0.0], false, true);
    results.scored(None, &info(Task::Embedding), &[1.0, -0.5], false, false);
    results.skipped(Some("b"), &Rejection::invalid("inputs[4].text", "expected"));
    results.removed(Some("gone"));
    assert_eq!(
        results.finish(),
        [
            r#"[{"key":"k\n","label":"\"yes\"","score":0.9,"cached":true}"#,
            r#"{"label":"no","score":0.5,"scores":{"no":0.5,"\"yes\"":0.5},"cached":false}"#,
            r#"{"score":1e+20,"cached":false}"#,
            r#"{"embedding":[1.0,-0.5],"cached":false}"#,
            r#"{"key":"b","error":{"code":"invalid","field":"inputs[4].text","message":"expected"}}"#,
            r#"{"key":"gone","removed":true}]"#,
        ]
        .join(",")
    );
}

#[test]
fn a_reply_has_the_contracts_bytes() {
    let mut done = finished();
    assert_eq!(
        text(ok_reply("j", &done)),
        r#"{"job_id":"j","status":"ok","model":"m","version":"1","namespace":"n","results":[],"hits":1,"misses":2,"elapsed_ms":1.25,"finished_at":"2023-11-14T22:13:20.123Z"}"#
    );
    assert_eq!(
        text(ok_reply_without_results("j", &done)),
        r#"{"job_id":"j","status":"ok","model":"m","version":"1","namespace":"n","results_omitted":true,"hits":1,"misses":2,"elapsed_ms":1.25,"finished_at":"2023-11-14T22:13:20.123Z"}"#
    );
    done.results.clear();
    assert_eq!(
        ok_reply("j", &done),
        ok_reply_without_results("j", &done),
        "what wasn't kept is left out"
    );
}

#[test]
fn a_rejected_reply_is_the_same_from_its_row() {
    let rejection = Rejection::new(Code::Expired, "", "too late");
    let reply = text(rejected_reply("j \"1\"", &rejection));
    assert_eq!(
        reply,
        r#"{"job_id":"j \"1\"","status":"rejected","error":{"code":"expired","field":"","message":"too late"}}"#
    );
    let stored = serde_json::to_string(&rejection).expect("JSON");
    assert_eq!(text(stored_rejected_reply("j \"1\"", &stored)), reply);
}

#[test]
fn whole_numbers_have_no_point() {
    for precision in [Precision::Int8, Precision::Binary] {
        let info = ModelInfo {
            precision,
            ..info(Task::Embedding)
        };
        let mut results = ResultsWriter::new(1);
        results.scored(None, &info, &[0.0, 127.0], false, false);
        assert_eq!(
            results.finish(),
            r#"[{"embedding":[0,127],"cached":false}]"#
        );
    }
}

#[test]
fn a_row_means_what_its_models_task_says() {
    let labels = vec!["no".to_owned(), "yes".to_owned(), "so".to_owned()];
    let classes = info(Task::Classification { labels });
    let label = Reading::of(&classes, &[0.2, 0.4, 0.4]);
    let first_of_equals = Reading::Label {
        label: "yes",
        index: 1,
        score: 0.4,
    };
    assert_eq!(label, first_of_equals);
    assert_eq!((label.label(), label.score()), (Some("yes"), Some(0.4)));
    let scalar = info(Task::Scalar);
    let score = Reading::of(&scalar, &[-2.5]);
    assert_eq!((score.label(), score.score()), (None, Some(-2.5)));
    let embedding = info(Task::Embedding);
    let vector = Reading::of(&embedding, &[1.0, 2.0]);
    assert_eq!((vector.label(), vector.score()), (None, None));
    assert_eq!(vector, Reading::Embedding(&[1.0, 2.0]));
}

#[test]
fn two_runs_of_a_job_differ_in_when_they_ended_or_in_what_they_took() {
    let done = finished();
    let same = Finished {
        results: "[1]".into(),
        ..finished()
    };
    assert!(done.is_the_run_of(&same));
    for other in [
        Finished {
            finished_at: Default::default(),
            ..finished()
        },
        Finished {
            elapsed_ms: 1.5,
            ..finished()
        },
        Finished {
            hits: 2,
            ..finished()
        },
        Finished {
            misses: 3,
            ..finished()
        },
    ] {
        assert!(!done.is_the_run_of(&other));
    }
}
