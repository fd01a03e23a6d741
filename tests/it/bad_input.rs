//! Jobs that can never succeed: each goes to the dead letters with a code, a field and a message to act on, leaves a
//! row, and does no harm to its neighbours.

use serde_json::{Value, json};

use crate::harness::bus::{DEAD, JOBS, Message, REPLIES, answered_as, asking_reply};
use crate::harness::jobs::{fault_job, job_id, job_ids, quick_jobs};
use crate::harness::raw::{RawProducer, RawProperties, long};
use crate::harness::stack::Stack;
use crate::harness::{PATIENCE, eventually_equals};

const BODY_LIMIT: usize = 8 * 1024 * 1024;

/// A bad body, the codes that fit it, and what its field must contain.
struct Case {
    name: &'static str,
    body: Vec<u8>,
    codes: &'static [&'static str],
    field: &'static str,
    /// Whether the job can be named, and so has a row.
    named: bool,
}

const SYNTAX: &[&str] = &["malformed"];
const SYNTAX_OR_CONTENT: &[&str] = &["malformed", "invalid"];
const CONTENT: &[&str] = &["invalid"];

fn case(
    name: &'static str,
    codes: &'static [&'static str],
    field: &'static str,
    body: impl Into<Vec<u8>>,
) -> Case {
    Case {
        name,
        body: body.into(),
        codes,
        field,
        named: true,
    }
}

fn nameless(name: &'static str, field: &'static str, body: Value) -> Case {
    Case {
        name,
        body: body.to_string().into_bytes(),
        codes: CONTENT,
        field,
        named: false,
    }
}

/// A job of the `fault` model under `name`, with `change` made to it.
fn changed(name: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut job = fault_job(name, "a text");
    change(&mut job);
    job.to_string()
}

fn ranker(name: &str, features: &str) -> String {
    format!(r#"{{"job_id":"{name}","model":"feed-ranker","inputs":[{{"features":[{features}]}}]}}"#)
}

fn cases() -> Vec<Case> {
    let with_31 = vec!["0.5"; 31].join(",");
    let bad_utf8 =
        b"{\"job_id\":\"bad-utf8\",\"model\":\"fault\",\"inputs\":[{\"text\":\"\xff\xfe\"}]}"
            .to_vec();
    let deep = format!(
        r#"{{"job_id":"deep","model":"fault","inputs":{}"#,
        "[".repeat(100_000)
    );
    let twice = r#"{"job_id":"duplicate","model":"fault","model":"fault","inputs":[{"text":"a"}]}"#;
    vec![
        case("empty-body", SYNTAX, "", ""),
        case("not-json", SYNTAX, "", "this is not JSON"),
        case(
            "cut-off",
            SYNTAX,
            "",
            r#"{"job_id":"cut-off","model":"fault","inputs":[{"te"#,
        ),
        case("bad-utf8", SYNTAX, "", bad_utf8),
        case("deep", SYNTAX_OR_CONTENT, "", deep),
        case(
            "tail",
            SYNTAX,
            "",
            format!("{} x", fault_job("tail", "a text")),
        ),
        case("an-array", SYNTAX_OR_CONTENT, "", "[]"),
        case(
            "too-great",
            SYNTAX_OR_CONTENT,
            "",
            ranker("too-great", &format!("{with_31},1e999")),
        ),
        case(
            "great-in-f32",
            CONTENT,
            "features",
            ranker("great-in-f32", &format!("{with_31},1e300")),
        ),
        case(
            "not-a-number",
            SYNTAX,
            "",
            ranker("not-a-number", &format!("{with_31},NaN")),
        ),
        case(
            "few-features",
            CONTENT,
            "features",
            ranker("few-features", &with_31),
        ),
        case(
            "word-feature",
            CONTENT,
            "features",
            ranker("word-feature", &format!("{with_31},\"one\"")),
        ),
        case(
            "number-as-text",
            CONTENT,
            "text",
            changed("number-as-text", |job| job["inputs"][0]["text"] = json!(5)),
        ),
        case(
            "inputs-object",
            CONTENT,
            "inputs",
            changed("inputs-object", |job| job["inputs"] = json!({"text": "a"})),
        ),
        case(
            "unknown-field",
            CONTENT,
            "modle",
            changed("unknown-field", |job| job["modle"] = json!("fault")),
        ),
        case(
            "unknown-inner",
            CONTENT,
            "txt",
            changed("unknown-inner", |job| job["inputs"][0]["txt"] = json!("a")),
        ),
        case("duplicate", SYNTAX_OR_CONTENT, "model", twice),
        case(
            "unknown-model",
            &["unknown_model"],
            "model",
            changed("unknown-model", |job| job["model"] = json!("nobody")),
        ),
        case(
            "unknown-version",
            &["unknown_model"],
            "model",
            changed("unknown-version", |job| job["model"] = json!("fault@999")),
        ),
        case(
            "no-model",
            CONTENT,
            "model",
            r#"{"job_id":"no-model","inputs":[{"text":"a"}]}"#,
        ),
        case(
            "no-inputs",
            CONTENT,
            "inputs",
            changed("no-inputs", |job| job["inputs"] = json!([])),
        ),
        case(
            "4097-inputs",
            &["invalid", "too_large"],
            "inputs",
            changed("4097-inputs", |job| {
                job["inputs"] = (0..4097).map(|n| json!({"text": n.to_string()})).collect();
            }),
        ),
        case(
            "empty-text",
            CONTENT,
            "text",
            changed("empty-text", |job| job["inputs"][0]["text"] = json!("")),
        ),
        case(
            "1-mb-of-text",
            &["invalid", "too_large"],
            "text",
            changed("1-mb-of-text", |job| {
                job["inputs"][0]["text"] = json!("word ".repeat(210_000));
            }),
        ),
        case(
            "text-and-features",
            CONTENT,
            "inputs",
            changed("text-and-features", |job| {
                job["inputs"][0]["features"] = json!([1.0]);
            }),
        ),
        case(
            "features-for-text",
            CONTENT,
            "inputs",
            changed("features-for-text", |job| {
                job["inputs"] = json!([{"features": [1.0]}]);
            }),
        ),
        case(
            "long-key",
            CONTENT,
            "key",
            changed("long-key", |job| {
                job["inputs"][0]["key"] = json!("k".repeat(257))
            }),
        ),
        case(
            "bad-namespace",
            CONTENT,
            "namespace",
            changed("bad-namespace", |job| job["namespace"] = json!("No Good")),
        ),
        case(
            "bad-ttl",
            CONTENT,
            "ttl_seconds",
            changed("bad-ttl", |job| job["ttl_seconds"] = json!(0)),
        ),
        case(
            "bad-on-error",
            CONTENT,
            "on_error",
            changed("bad-on-error", |job| job["on_error"] = json!("explode")),
        ),
        case(
            "one-byte-too-large",
            &["too_large"],
            "",
            padded("one-byte-too-large", BODY_LIMIT + 1),
        ),
        nameless(
            "control-character",
            "job_id",
            fault_job("bell\u{7}", "a text"),
        ),
        nameless("newline-at-the-end", "job_id", fault_job("id\n", "a text")),
        nameless("beyond-ascii", "job_id", fault_job("identität", "a text")),
        nameless("long-id", "job_id", fault_job(&"i".repeat(129), "a text")),
        nameless("empty-id", "job_id", fault_job("", "a text")),
        nameless(
            "no-id",
            "job_id",
            json!({"model": "fault", "inputs": [{"text": "a text of a job without an id"}]}),
        ),
    ]
}

/// A good job of exactly `length` bytes: blanks may follow its last brace.
fn padded(name: &str, length: usize) -> Vec<u8> {
    let mut body = fault_job(name, "a text").to_string().into_bytes();
    body.resize(length, b' ');
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_job_is_refused_with_code_field_and_message_and_harms_no_other() {
    let stack = Stack::shared().await;
    let worker = stack
        .worker()
        .models(&["fault", "feed-ranker"])
        .allow("reject")
        .start()
        .await;
    let cases = cases();
    let good = quick_jobs("good", cases.len());
    let mut messages: Vec<Message> = Vec::new();
    for (case, good) in cases.iter().zip(&good) {
        let named = answered_as(case.name);
        let named = if case.named {
            named.with_message_id(case.name.into())
        } else {
            named
        };
        messages.extend([(case.body.clone(), named), asking_reply(good)]);
    }
    stack.bus.publish(JOBS, messages).await;

    let replies = stack.bus.replies(2 * cases.len()).await;
    let letters = stack.bus.dead_letters(cases.len()).await;
    stack
        .wait_for_rows(good.len() + cases.iter().filter(|case| case.named).count())
        .await;
    let rows = stack.rows().await;
    for Case {
        name,
        body,
        codes,
        field,
        named,
    } in &cases
    {
        let reply = replies
            .iter()
            .find(|reply| reply.correlation_id.as_deref() == Some(*name));
        let reply = reply.unwrap_or_else(|| panic!("{name} is answered"));
        let error = &reply.body["error"];
        let part = |part: &str| error[part].as_str().unwrap_or_default().to_owned();
        assert_eq!(reply.status(), "rejected", "{name}: {}", reply.body);
        assert!(
            codes.contains(&part("code").as_str()),
            "{name}: the code is one of {codes:?}: {error}"
        );
        assert!(
            part("field").contains(field),
            "{name}: the field names {field}: {error}"
        );
        assert!(
            !part("message").is_empty(),
            "{name}: there is a message: {error}"
        );

        let letter = letters.iter().find(|letter| letter.body == *body);
        let letter =
            letter.unwrap_or_else(|| panic!("{name} is among the dead letters, as it was posted"));
        assert_eq!(
            (&letter.code, &letter.field, &letter.message),
            (&part("code"), &part("field"), &part("message")),
            "{name}: the headers say what the reply says"
        );
        if *named {
            let row = rows.iter().find(|row| row.job_id == *name);
            let row = row.unwrap_or_else(|| panic!("{name} has a row"));
            assert_eq!(row.status, "rejected", "{name}");
            assert_eq!(
                row.error.as_ref().map(|error| error["code"].clone()),
                Some(json!(part("code"))),
                "{name}"
            );
        }
    }
    for id in job_ids(&good) {
        assert!(
            rows.iter()
                .any(|row| row.job_id == id && row.status == "ok"),
            "the neighbour {id} succeeds"
        );
    }
    assert_eq!(
        stack.bus.waiting(DEAD).await,
        Some(0),
        "nothing else is refused"
    );
    assert!(worker.is_alive() && worker.is_ready().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_exactly_the_limit_and_4096_inputs_are_accepted() {
    let stack = Stack::shared().await;
    let _worker = stack.worker().start().await;
    let mut many = fault_job("many", "");
    many["inputs"] = (0..4096)
        .map(|n| json!({"text": format!("text {n}")}))
        .collect();
    stack
        .bus
        .publish(
            JOBS,
            vec![
                (padded("full", BODY_LIMIT), answered_as("full")),
                asking_reply(&many),
            ],
        )
        .await;
    for reply in stack.bus.replies(2).await {
        assert_eq!(reply.status(), "ok", "{}", reply.job_id());
    }
    stack
        .expect_done(vec!["full".to_owned(), "many".to_owned()])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn properties_that_no_client_can_read_cost_only_their_own_jobs() {
    let stack = Stack::shared().await;
    stack.worker().start().await.stop().await;
    let binary = || Some(b"\xff\xfe id".to_vec());
    let asking = |job: &Value| RawProperties {
        correlation_id: Some(job_id(job).into()),
        reply_to: Some(REPLIES.into()),
        ..RawProperties::default()
    };
    stack.bus.declare_replies().await;
    let mut producer = RawProducer::connect(stack.broker.port, stack.vhost()).await;
    let late = fault_job("late", "a text").to_string();
    let expiring = RawProperties {
        correlation_id: binary(),
        expiration: Some(b"1".into()),
        ..RawProperties::default()
    };
    producer.publish(JOBS, &expiring, late.as_bytes()).await;
    eventually_equals("what expired", PATIENCE, Some(1), || {
        stack.bus.waiting("kiln.expired")
    })
    .await;
    let rejected = [
        (
            "correlation_id",
            RawProperties {
                correlation_id: binary(),
                ..RawProperties::default()
            },
        ),
        (
            "message_id",
            RawProperties {
                message_id: binary(),
                ..RawProperties::default()
            },
        ),
        (
            "reply_to",
            RawProperties {
                reply_to: binary(),
                ..RawProperties::default()
            },
        ),
    ];
    let good = quick_jobs("good", 6);
    for ((field, properties), good) in rejected.iter().zip(&good) {
        let job = fault_job(&format!("bad-{field}"), "a text").to_string();
        producer.publish(JOBS, properties, job.as_bytes()).await;
        producer
            .publish(JOBS, &asking(good), good.to_string().as_bytes())
            .await;
    }
    let mut deep = b"V".to_vec();
    for _ in 0..10_000 {
        deep = [b"A".to_vec(), long(&deep)].concat();
    }
    let name = b"\x02\xff\xfe".to_vec();
    let headers = [
        [name, b"V".to_vec()].concat(),
        [b"\x04deep".to_vec(), deep].concat(),
    ];
    for (headers, good) in headers.into_iter().zip(&good[3..]) {
        let properties = RawProperties {
            headers: Some(headers),
            ..asking(good)
        };
        producer
            .publish(JOBS, &properties, good.to_string().as_bytes())
            .await;
    }
    let last = good.last().expect("a last one");
    producer
        .publish(JOBS, &asking(last), last.to_string().as_bytes())
        .await;

    let worker = stack.worker().allow("reject").start().await;
    let answers = stack.bus.reply_to_each(&job_ids(&good)).await;
    assert!(answers.values().all(|answer| answer.status() == "ok"));
    let letters = stack.bus.dead_letters(rejected.len() + 1).await;
    for letter in &letters {
        let id = job_id(&serde_json::from_slice(&letter.body).expect("its body")).to_owned();
        match id.strip_prefix("bad-") {
            Some(field) => assert_eq!(
                (letter.code.as_str(), letter.field.as_str()),
                ("invalid", field)
            ),
            None => assert_eq!((letter.code.as_str(), id.as_str()), ("expired", "late")),
        }
    }
    stack.wait_for_empty(JOBS).await;
    assert_eq!(
        worker.metric("kiln_broker_reconnects_total", &[]).await,
        0.0
    );
    assert!(worker.is_alive());
}
