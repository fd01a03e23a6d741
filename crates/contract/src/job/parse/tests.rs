//! What the parser takes and refuses, field by field.

use super::*;
use crate::{
    failure::Code,
    job::{Content, MAX_CALLBACK_URL_BYTES, MAX_KEY_BYTES, MAX_TTL_SECONDS},
    order::AsOf,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn rejection(body: &str) -> Rejection {
    job(body.as_bytes(), None).expect_err(body).rejection
}

fn assert_rejects(body: &str, code: Code, field: &str, says: &str) {
    let r = rejection(body);
    assert_eq!((r.code, r.field.as_str()), (code, field), "{body}: {r}");
    assert!(r.message.contains(says), "{body}: {r}");
}

fn with(field: &str, value: Value) -> String {
    let mut body = json!({"job_id": "j", "model": "m", "inputs": [{"text": "a"}]});
    body[field] = value;
    body.to_string()
}

#[test]
fn a_body_without_a_name_takes_the_one_it_is_given() {
    let named = |body: &str, message_id| {
        let job = job_or_named(body.as_bytes(), message_id, Some("new"));
        job.map(|job| job.job_id.into_owned())
            .map_err(|bad| bad.rejection.field)
    };
    let own = with("named", json!(false));
    let none = r#"{"model":"m","inputs":[{"text":"a"}]}"#;
    assert_eq!(named(&own, None), Ok("j".into()));
    assert_eq!(named(none, None), Ok("new".into()));
    assert_eq!(named(none, Some("message")), Ok("message".into()));
    assert_eq!(named(&own, Some("message")), Err("job_id".into()));
    assert_eq!(
        named(&with("job_id", json!("")), None),
        Err("job_id".into())
    );
}

#[test]
fn reads_the_contract() {
    let body =
        br#"{"job_id":"j-1","model":"m@1.2","namespace":"n","inputs":[{"key":"a","text":"x"},
        {"key":"b\u0041","text":"q","text_pair":"p"},{"features":[1,-0.0,2.5]}],"named":true,
        "rank":{"key":"r","top":2},"ttl_seconds":60,"on_error":"skip","detail":true}"#;
    let job = job(body, Some("j-1")).expect("parses");
    assert_eq!(
        (job.job_id.as_ref(), job.model_name(), job.namespace()),
        ("j-1", "m", "n")
    );
    assert_eq!(job.inputs[1].key.as_deref(), Some("bA"));
    assert_eq!(job.features, [1.0, 0.0, 2.5]);
    assert!(job.features[1].is_sign_positive(), "-0 and 0 are one input");
    assert_eq!(
        job.rank,
        Some(Rank {
            key: "r".into(),
            top: Some(2)
        })
    );
    assert!(
        matches!(job.inputs[0].key, Some(Cow::Borrowed(_))),
        "borrowed where nothing is escaped"
    );
}

#[test]
fn names_what_is_wrong_with_a_body() {
    for (body, says) in [
        ("", "not JSON"),
        ("{", "not JSON"),
        (r#"{"job_id": "a""#, "not JSON"),
        ("nonsense", "not JSON"),
        (r#"{"job_id": NaN}"#, "not JSON"),
        (
            r#"{"job_id":"j","model":"m","inputs":[{"text":"a"}]} x"#,
            "nothing after",
        ),
    ] {
        assert_rejects(body, Code::Malformed, rejection(body).field.as_str(), says);
    }
    let bad_utf8 = job(b"{\"job_id\":\"\xff\"}", None)
        .expect_err("utf-8")
        .rejection;
    assert_eq!(bad_utf8.code, Code::Malformed);
    assert!(bad_utf8.message.contains("byte 11"), "{bad_utf8}");
    let deep = format!(r#"{{"job_id":"j","inputs":{}"#, "[".repeat(100_000));
    assert!(matches!(
        rejection(&deep).code,
        Code::Malformed | Code::Invalid
    ));
    assert_rejects("[]", Code::Invalid, "", "a job: a JSON object");
    assert_rejects(r#"["j","m"]"#, Code::Invalid, "", "a job: a JSON object");
}

fn invalid(body: &str, field: &str, says: &str) {
    assert_rejects(body, Code::Invalid, field, says);
}

#[test]
fn names_the_field_of_a_job_that_breaks_the_contract() {
    invalid("{}", "job_id", "missing");
    invalid(
        r#"{"job_id":"j","inputs":[{"text":"a"}]}"#,
        "model",
        "missing",
    );
    invalid(r#"{"job_id":"j","model":"m"}"#, "inputs", "missing");
    invalid(&with("modle", json!(1)), "modle", "unknown field");
    invalid(
        r#"{"job_id":"j","job_id":"j"}"#,
        "job_id",
        "duplicate field",
    );
    invalid(
        &with("job_id", json!("a\u{7}")),
        "job_id",
        "printable ASCII",
    );
    invalid(&with("job_id", json!("")), "job_id", "1 to 128");
    invalid(
        &with("job_id", json!("x".repeat(129))),
        "job_id",
        "1 to 128",
    );
    invalid(&with("job_id", json!(7)), "job_id", "expected a string");
    invalid(
        &with("model", json!(null)),
        "model",
        "expected a model's name",
    );
    invalid(&with("namespace", json!("Feed!")), "namespace", "a-z");
    invalid(&with("ttl_seconds", json!(0)), "ttl_seconds", "from 1 to");
    invalid(&with("ttl_seconds", json!(-5)), "ttl_seconds", "from 1 to");
    invalid(
        &with("ttl_seconds", json!(1.5)),
        "ttl_seconds",
        "whole number",
    );
    invalid(&with("on_error", json!("ignore")), "on_error", "\"skip\"");
    invalid(&with("named", json!("yes")), "named", "boolean");
}

#[test]
fn names_the_field_of_a_ranking_that_breaks_the_contract() {
    invalid(
        &with("rank", json!({"top": 3})),
        "rank.key",
        "missing field",
    );
    invalid(
        &with("rank", json!({"key": "k", "top": 0})),
        "rank.top",
        "from 1 to",
    );
    invalid(
        &with("rank", json!({"key": "k", "size": 1})),
        "rank.size",
        "unknown field",
    );
}

#[test]
fn names_the_field_of_an_input_that_breaks_the_contract() {
    invalid(&with("inputs", json!([])), "inputs", "found none");
    invalid(
        &with("inputs", json!(vec![json!({"text": "a"}); MAX_INPUTS + 1])),
        "inputs",
        "found more",
    );
    invalid(
        &with("inputs", json!([["k", "text"]])),
        "inputs[0]",
        "an object",
    );
    invalid(
        &with("inputs", json!([{"text": "a"}, {}])),
        "inputs[1]",
        "neither",
    );
    invalid(
        &with("inputs", json!([{"text": "a", "features": [1]}])),
        "inputs[0]",
        "both",
    );
    invalid(
        &with("inputs", json!([{"text_pair": "a"}])),
        "inputs[0]",
        "beside `text_pair`",
    );
    invalid(
        &with("inputs", json!([{"text": 5}])),
        "inputs[0].text",
        "a string",
    );
    invalid(
        &with("inputs", json!([{"txt": "a"}])),
        "inputs[0].txt",
        "unknown field",
    );
    invalid(
        &with("inputs", json!([{"features": [1, "2"]}])),
        "inputs[0].features[1]",
        "32-bit float",
    );
    invalid(
        &with("inputs", json!([{"features": [1e300]}])),
        "inputs[0].features[0]",
        "finite",
    );
    let beyond = r#"{"job_id":"j","model":"m","inputs":[{"features":[0.5,1e999]}]}"#;
    invalid(beyond, "inputs[0].features[1]", "finite");
    invalid(
        &with(
            "inputs",
            json!([{"text": "a", "key": "k".repeat(MAX_KEY_BYTES + 1)}]),
        ),
        "inputs[0].key",
        "256",
    );
    invalid(
        &with("inputs", json!([{"text": "a", "key": "a\u{0}"}])),
        "inputs[0].key",
        "U+0000",
    );
}

#[test]
fn a_job_has_up_to_4096_inputs_and_a_model_of_up_to_128_bytes() {
    // The general pass reads what is escaped, the quick one all else.
    for key in ["A", "\\u0041"] {
        let inputs = |count| vec![format!(r#"{{"key":"{key}","text":"a"}}"#); count].join(",");
        let body = |count| {
            let inputs = inputs(count);
            format!(r#"{{"job_id":"j","model":"m","inputs":[{inputs}]}}"#)
        };
        assert!(job(body(4_096).as_bytes(), None).is_ok());
        invalid(
            &body(4_097),
            "inputs",
            "expected 1 to 4096 inputs, found more",
        );
        let model = |name: &str| {
            format!(
                r#"{{"job_id":"j","model":"{name}","inputs":[{}]}}"#,
                inputs(1)
            )
        };
        assert!(job(model(&"m".repeat(128)).as_bytes(), None).is_ok());
        for bad in ["", "a\\nb", &"m".repeat(129)] {
            invalid(&model(bad), "model", "expected a model's name");
        }
    }
    invalid(&with("inputs", json!(7)), "inputs", "an array of 1 to 4096");
    invalid(&with("rank", json!(7)), "rank", "an object with `key` and");
}

#[test]
fn what_comes_first_is_to_blame_unless_bad_inputs_are_skipped() {
    let body = |more| {
        format!(r#"{{"job_id":"j","inputs":[{{}},{{"text":"z"}}],"model":"m","model":"n"{more}}}"#)
    };
    invalid(&body(""), "inputs[0]", "neither");
    invalid(&body(r#","on_error":"fail""#), "inputs[0]", "neither");
    invalid(&body(r#","on_error":"skip""#), "model", "duplicate field");
}

#[test]
fn a_job_may_say_where_its_end_is_posted_to() {
    let longest = format!("https://a/{}", "b".repeat(MAX_CALLBACK_URL_BYTES - 10));
    for good in [
        "https://hooks.example",
        "http://[::1]:8080/a/b?c=@d",
        longest.as_str(),
    ] {
        let body = with("callback_url", json!(good));
        let job = job(body.as_bytes(), None).expect("parses");
        assert_eq!(job.callback_url.as_deref(), Some(good));
    }
    let a_host = "expected http:// or https:// with a host";
    let longer = format!("{longest}b");
    for (bad, expected) in [
        (json!(""), a_host),
        (json!("hooks.example/a"), a_host),
        (json!("ftp://hooks.example"), a_host),
        (json!("HTTPS://hooks.example"), a_host),
        (json!("https://"), a_host),
        (json!("https:///a"), a_host),
        (json!("https://:80/"), a_host),
        (json!("https://a:hunter2@b/"), "no user and password"),
        (json!("https://b/#hunter2"), "no fragment"),
        (json!("https://b\\@c/"), "printable ASCII"),
        (json!("https://b/\r\nhunter2: c"), "printable ASCII"),
        (json!("https://b\u{fc}cher/"), "printable ASCII"),
        (json!(longer), "at most 2048 bytes, found 2049"),
        (json!(null), "an http:// or https:// URL"),
        (json!(["https://b/"]), "an http:// or https:// URL"),
    ] {
        let body = with("callback_url", bad);
        invalid(&body, "callback_url", expected);
        let said = rejection(&body).message;
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn a_word_may_say_how_new_it_is() {
    for (value, expected) in [
        (json!(0), AsOf::Sequence(0)),
        (
            json!(9_223_372_036_854_775_807u64),
            AsOf::Sequence(9_223_372_036_854_775_807),
        ),
        (
            json!("2026-11-20T13:00:00.5+01:00"),
            AsOf::moment("2026-11-20T13:00:00.5+01:00").expect("a time"),
        ),
    ] {
        let body = with("as_of", value);
        let job = job(body.as_bytes(), None).expect("parses");
        assert_eq!(job.as_of, Some(expected));
    }
    for value in [
        json!(-1),
        json!(1.5),
        json!(9_223_372_036_854_775_808u64),
        json!("7"),
        json!("2026-11-20"),
        json!(format!("2026-11-20T13:00:00.{}Z", "0".repeat(1_000))),
        json!(null),
        json!([7]),
    ] {
        invalid(&with("as_of", value), "as_of", "an RFC 3339 time from");
    }
}

#[test]
fn an_input_may_be_the_removal_of_its_key() {
    let body = with(
        "inputs",
        json!([{"key": "a", "remove": true}, {"text": "b", "remove": false}]),
    );
    let removing = job(body.as_bytes(), None).expect("parses");
    assert_eq!(removing.inputs[0].content, Content::Removal);
    assert!(matches!(removing.inputs[1].content, Content::Text { .. }));
    assert!(removing.is_for_readers());
    let plain = with("detail", json!(true));
    assert!(
        !job(plain.as_bytes(), None)
            .expect("parses")
            .is_for_readers()
    );
    for (input, says) in [
        (json!({"remove": true}), "expected `key` beside `remove`"),
        (
            json!({"key": "a", "text": "t", "remove": true}),
            "nothing but `key`",
        ),
        (
            json!({"key": "a", "features": [1], "remove": true}),
            "nothing but `key`",
        ),
        (json!({"key": "a", "remove": false}), "neither"),
    ] {
        invalid(&with("inputs", json!([input])), "inputs[0]", says);
    }
    invalid(
        &with("inputs", json!([{"key": "a", "remove": 1}])),
        "inputs[0].remove",
        "boolean",
    );
}

#[test]
fn the_id_may_come_from_the_message_and_must_agree() {
    let body = br#"{"model":"m","inputs":[{"text":"a"}]}"#;
    assert_eq!(
        job(body, Some("from-message")).expect("parses").job_id,
        "from-message"
    );
    let both = with("model", json!("m"));
    let bad = job(both.as_bytes(), Some("other")).expect_err("differs");
    assert_eq!(
        (bad.job_id.as_deref(), bad.rejection.field.as_str()),
        (Some("j"), "job_id")
    );
    assert_eq!(
        job(b"{", Some("kept"))
            .expect_err("malformed")
            .job_id
            .as_deref(),
        Some("kept")
    );
    assert_eq!(
        job(b"{}", Some("bad\u{1}")).expect_err("control").job_id,
        None
    );
}

#[test]
fn skip_keeps_the_good_inputs_of_a_job_with_bad_ones() {
    let body = json!({"job_id": "j", "model": "m", "on_error": "skip", "inputs": [
        {"key": "a", "features": [1.0, 2.0]}, {"key": "b", "features": [3.0, "x"]}, {"key": "c", "text": null},
        {"key": "d", "features": [4.0, 5.0]}]})
    .to_string();
    let job = job(body.as_bytes(), None).expect("parses");
    assert_eq!(job.features, [1.0, 2.0, 4.0, 5.0]);
    assert_eq!(job.inputs[3].content, Content::Features(2..4));
    let Content::Bad(bad) = &job.inputs[1].content else {
        panic!("{:?}", job.inputs[1])
    };
    assert_eq!(bad.field, "features[1]");
    assert!(matches!(&job.inputs[2].content, Content::Bad(bad) if bad.field == "text"));
    assert_eq!(job.inputs[2].key.as_deref(), Some("c"));
}

#[test]
fn skip_marks_an_input_whose_number_is_beyond_any_float() {
    let body = br#"{"job_id":"j","model":"m","on_error":"skip","inputs":[{"key":"a","features":[1,1e999]},{"text":7,"key":"b","features":[1e999]},{"text":"c"}]}"#;
    let job = job(body, None).expect("parses");
    let bad: Vec<_> = job
        .inputs
        .iter()
        .map(|input| match &input.content {
            Content::Bad(bad) => (input.key.as_deref(), bad.field.as_str()),
            _ => (input.key.as_deref(), ""),
        })
        .collect();
    assert_eq!(
        bad,
        [(Some("a"), "features[1]"), (Some("b"), "text"), (None, "")]
    );
    let Content::Bad(first) = &job.inputs[0].content else {
        panic!("{:?}", job.inputs[0])
    };
    assert_eq!(first.message, "expected a finite 32-bit float");
}

#[test]
fn skip_marks_an_input_with_half_a_character() {
    let inputs = r#"[{"key":"a","text":"cut \ud83d"},{"key":"b","text":"whole \ud83d\ude00"}]"#;
    let body = format!(r#"{{"job_id":"j","model":"m","inputs":{inputs},"on_error":"skip"}}"#);
    let skipped = job(body.as_bytes(), None).expect("parses");
    let Content::Bad(bad) = &skipped.inputs[0].content else {
        panic!("{:?}", skipped.inputs[0])
    };
    assert_eq!(bad.field, "text");
    assert_eq!(skipped.inputs[0].key.as_deref(), Some("a"));
    assert!(
        matches!(&skipped.inputs[1].content, Content::Text { text, .. } if text == "whole \u{1f600}")
    );
    // What is no JSON in its form costs the job.
    for broken in [
        body.replace("\\ud83d\"", "\\ud83\""),
        body.replace("skip", "fail"),
    ] {
        let refused = job(broken.as_bytes(), None).expect_err("no JSON");
        assert_eq!(refused.rejection.code, Code::Malformed);
    }
}

#[test]
fn skip_marks_an_input_with_a_repeated_field() {
    let body = br#"{"job_id":"j","model":"m","on_error":"skip","inputs":[{"key":"a","text":"x","text":"y"},{"text":"z"}]}"#;
    let job = job(body, None).expect("parses");
    let Content::Bad(bad) = &job.inputs[0].content else {
        panic!("{:?}", job.inputs[0])
    };
    assert_eq!(
        (bad.field.as_str(), bad.message.as_str()),
        ("text", "duplicate field `text`")
    );
    assert_eq!(job.inputs[0].key.as_deref(), Some("a"));
    assert!(matches!(
        &job.inputs[1].content,
        Content::Text {
            text: Cow::Borrowed("z"),
            ..
        }
    ));
    // Behind the inputs, too.
    let body =
        br#"{"job_id":"j","on_error":"skip","inputs":[{},{"text":"z"}],"model":"m","model":"n"}"#;
    assert_eq!(
        super::job(body, None)
            .expect_err("repeated")
            .rejection
            .field,
        "model",
        "the inputs would be skipped: what is wrong beside them is to blame"
    );
}

proptest! {
    #[test]
    fn what_is_printed_is_read(
        id in "[ -~]{1,128}", keys in prop::collection::vec("\\PC{1,20}", 1..8),
        texts in prop::collection::vec("\\PC{0,60}", 8), numbers in prop::collection::vec(-1e6f32..1e6, 0..12),
        named: bool, ttl in prop::option::of(1u64..=MAX_TTL_SECONDS),
    ) {
        let mut inputs: Vec<Value> = keys.iter().zip(&texts).map(|(k, t)| json!({"key": k, "text": t})).collect();
        inputs.push(json!({"features": numbers}));
        let mut body = json!({"job_id": id, "model": "m", "inputs": inputs, "named": named});
        if let Some(ttl) = ttl { body["ttl_seconds"] = json!(ttl); }
        let body = body.to_string();
        let job = job(body.as_bytes(), None).expect("parses");
        prop_assert_eq!(job.job_id.as_ref(), id);
        prop_assert_eq!((job.named, job.ttl_seconds), (named, ttl));
        prop_assert_eq!(&job.features, &numbers);
        for (input, (key, text)) in job.inputs.iter().zip(keys.iter().zip(&texts)) {
            prop_assert_eq!(input.key.as_deref(), Some(key.as_str()));
            let same = matches!(&input.content, Content::Text { text: t, .. } if t == text);
            prop_assert!(same);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _outcome = job(&bytes, None);
    }

    #[test]
    fn no_mangled_job_makes_it_panic(at in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>()) {
        let mut body = with("rank", json!({"key": "k", "top": 3})).into_bytes();
        let at = at.index(body.len());
        body[at] = byte;
        let _outcome = job(&body, Some("id"));
        body.truncate(cut.index(body.len()));
        let _outcome = job(&body, None);
    }
}

/// Bodies of parts that are mostly plain: what the quick pass is for, and what it has to leave alone.
fn nearly_plain() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        8 => any::<f32>().prop_filter("finite", |x| x.is_finite()).prop_map(|x| x.to_string()),
        8 => any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(|x| format!("{x:e}")),
        8 => (-1e4f64..1e4).prop_map(|x| x.to_string()),
        8 => "-?(0|[1-9][0-9]{0,19})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?",
        1 => "[-+0-9.eE]{1,6}",
    ];
    let numbers = prop::collection::vec(number, 0..6);
    let text = prop_oneof![
        4 => "[ -~é日]{0,20}".prop_map(|text| serde_json::to_string(&text).expect("a text")),
        1 => "\"[ -~\n\u{1}]{0,12}\"",
    ];
    let space = || prop_oneof![6 => Just(""), 1 => Just(" "), 1 => Just("\n\t")];
    let input = prop_oneof![
        (text.clone(), numbers.clone(), space()).prop_map(|(key, numbers, space)| format!(
            "{{\"key\":{space}{key},\"features\"{space}:[{}{space}]}}",
            numbers.join(&format!(",{space}"))
        )),
        (text.clone(), text.clone())
            .prop_map(|(text, pair)| format!("{{\"text\":{text},\"text_pair\":{pair}}}")),
        text.clone()
            .prop_map(|text| format!("{{ \"text\" : {text} }}")),
        (text.clone(), "true|false|1", "|,\"text\":\"a\"")
            .prop_map(|(key, remove, more)| format!("{{\"key\":{key},\"remove\":{remove}{more}}}")),
    ];
    let inputs = prop::collection::vec(input, 0..4).prop_map(|all| format!("[{}]", all.join(",")));
    let field = prop_oneof![
        text.clone().prop_map(|text| format!("\"job_id\":{text}")),
        text.clone().prop_map(|text| format!("\"model\":{text}")),
        "[a-zA-Z_]{1,3}".prop_map(|name| format!("\"namespace\":\"{name}\"")),
        inputs.prop_map(|inputs| format!("\"inputs\":{inputs}")),
        "true|false|null|tru".prop_map(|truth| format!("\"named\":{truth}")),
        "(true|false)x?".prop_map(|truth| format!("\"detail\" :{truth}")),
        "0?[0-9]{1,9}(\\.0)?".prop_map(|seconds| format!("\"ttl_seconds\":{seconds}")),
        "fail|skip|none".prop_map(|what| format!("\"on_error\":\"{what}\"")),
        "\"20[0-9]{2}-11-[0-9]{2}T12:00:00(\\.[0-9]{1,9})?(Z|\\+01:00)\"|-?[0-9]{1,20}(\\.0)?|null"
            .prop_map(|as_of| format!("\"as_of\":{as_of}")),
        "https?:/{1,2}[a@]{0,3}[:#]?[0-9]{0,2}/\\\\?[a-z]{0,3}"
            .prop_map(|url| format!("\"callback_url\":\"{url}\"")),
        (text, 0u32..5000)
            .prop_map(|(key, top)| format!("\"rank\":{{\"key\":{key},\"top\":{top}}}")),
    ];
    let ends = prop_oneof![12 => Just(""), 1 => Just(" "), 1 => Just(","), 1 => Just("x")];
    (prop::collection::vec(field, 0..7), ends)
        .prop_map(|(fields, end)| format!("{{{}}}{end}", fields.join(",")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]
    #[test]
    fn the_quick_pass_reads_what_the_general_one_reads(body in nearly_plain()) {
        let general = serde_json::from_slice::<RawJob<'_>>(body.as_bytes());
        if let Some(quick) = plain::job(body.as_bytes()) {
            prop_assert_eq!(Some(quick), general.ok());
        }
    }
}

#[test]
fn the_quick_pass_reads_what_producers_send() {
    for body in [
        r#"{"job_id":"bench-1-1","model":"feed-ranker","inputs":[{"key":"item:1","features":[0.1234,0.5,1,-2.75,0.0,1e-05,0.12345678901234567]},{"key":"item:2","features":[ 3.0, 4 ] }]}"#,
        r#"{"job_id": "j", "model": "m@1.2", "namespace": "n", "inputs": [{"key": "k", "text": "größer, \u2014 no", "text_pair": "b"}], "named": true, "detail": false}"#
            .replace("\\u2014 ", "")
            .as_str(),
        "{\n\t\"model\": \"m\",\r\n \"inputs\": [{\"text\": \"\"}], \"rank\": {\"key\": \"r\", \"top\": 4096}, \"ttl_seconds\": 60, \"on_error\": \"skip\"\n}\n",
        r#"{"job_id":"j","model":"m","inputs":[{"key":"k","remove":true},{"text":"t","remove":false}],"as_of":"2026-11-20T12:00:00Z"}"#,
        r#"{"job_id":"j","model":"m","inputs":[{"text":"t"}],"as_of": 17, "callback_url": "https://a:8/b?c"}"#,
    ] {
        let general = serde_json::from_str::<RawJob<'_>>(body).expect("it is a job");
        assert_eq!(plain::job(body.as_bytes()), Some(general), "{body}");
    }
}
