//! What stands in other servers' forms becomes a job, and its problems are those of the request.

use super::*;

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).expect("JSON")
}

#[test]
fn a_problem_names_the_field_that_the_request_has() {
    let renamed_to = |at: &str, is_single| {
        let problem = Problem::invalid(at, "bad");
        renamed(problem, "input", is_single).field().to_owned()
    };
    assert_eq!(renamed_to("inputs[3].text", false), "input[3]");
    assert_eq!(renamed_to("inputs[0].text", true), "input");
    assert_eq!(renamed_to("inputs", false), "input");
    assert_eq!(renamed_to("model", false), "model");
}

#[test]
fn texts_are_one_or_a_list_and_never_tokens() {
    let read = |json: &str| {
        let json = raw(json);
        let (texts, is_single) =
            texts(&json, "input").map_err(|problem| problem.field().to_owned())?;
        Ok::<_, String>((texts.len(), is_single))
    };
    assert_eq!(read(r#""a""#), Ok((1, true)));
    assert_eq!(read(r#"["a","b"]"#), Ok((2, false)));
    assert_eq!(read("[]"), Ok((0, false)));
    assert_eq!(read("[[1,2],[3]]"), Err("input".to_owned()));
    assert_eq!(read("[1,2]"), Err("input".to_owned()));
}

#[test]
fn a_text_that_stands_beside_many_counts_as_often() {
    let (query, texts) = (raw(&format!("\"{}\"", "q".repeat(998))), raw("\"t\""));
    let texts = vec![
        Text {
            text: &query,
            pair: Some(&texts)
        };
        10
    ];
    let model = Model {
        info: info(),
        named: "cross@1".to_owned(),
    };
    let chosen = Chosen {
        model: None,
        namespace: None,
    };
    let job = |max| {
        job_of(&texts, "texts", &model, &chosen, max).map_err(|problem| problem.status_code())
    };
    assert!(job(10_030).is_ok());
    assert_eq!(job(10_029), Err(413));
}

fn info() -> ModelInfo {
    ModelInfo {
        name: "cross".to_owned(),
        version: "1".to_owned(),
        architecture: "encoder".to_owned(),
        task: Task::Scalar,
        input: InputKind::Text {
            pair: PairRule::Required,
        },
        feature_names: Vec::new(),
        takes_missing: false,
        output_width: 1,
        precision: kiln_contract::model::Precision::Single,
        max_text_bytes: 1000,
        ttl_seconds: None,
        parameters: 0,
        weights: kiln_contract::model::WeightPrecision::Single,
        golden: 0,
        training: None,
    }
}

#[test]
fn a_job_names_a_version_only_where_the_request_does() {
    let text = raw("\"t\"");
    let texts = [Text::single(&text)];
    let chosen = Chosen {
        model: None,
        namespace: None,
    };
    let job = |named: &str, version: &str| {
        let mut info = info();
        info.version = version.to_owned();
        let named = named.to_owned();
        job_of(&texts, "inputs", &Model { info, named }, &chosen, 100).expect("a job")
    };
    assert_eq!(
        job("cross", "1"),
        job("cross", "2"),
        "the same request, the same body"
    );
    assert_ne!(job("cross", "1"), job("cross@1", "1"));
}
