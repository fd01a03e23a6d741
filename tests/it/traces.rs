//! Traces and logs: one tree of spans a job, lines that can be found again, and nothing in them that is nobody's business.

use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Value, json};

use crate::harness::collector::Collector;
use crate::harness::stack::Stack;
use crate::harness::{PATIENCE, eventually_equals};

fn attribute(span: &Span, name: &str) -> Option<String> {
    let pair = span.attributes.iter().find(|pair| pair.key == name)?;
    Some(match pair.value.as_ref()?.value.as_ref()? {
        Any::StringValue(text) => text.clone(),
        Any::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn header(trace: &str, sampled: bool) -> String {
    format!("00-{trace}-00f067aa0ba902b7-0{}", u8::from(sampled))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_traced_job_is_one_tree_of_spans_without_its_payload() {
    let collector = Collector::start().await;
    let stack = Stack::shared().await;
    let endpoint = format!("http://{}", collector.address);
    let settings = stack.worker().models(&["sentiment"]);
    let worker = settings
        .set("KILN_TRACE_ENDPOINT", &endpoint)
        .set("KILN_TRACE__SHARE", "0")
        .start()
        .await;
    let job = |id: &str| json!({"job_id": id, "model": "sentiment", "inputs": [{"text": "a secret payload"}, {"text": "b"}]});
    stack
        .bus
        .publish_traced(&job("traced"), &header(TRACE, true))
        .await;
    let reply = stack.bus.reply_within(PATIENCE).await;
    assert_eq!(
        reply.traceparent.as_deref(),
        Some(header(TRACE, true).as_str())
    );
    let spans = collector.trace(TRACE, 6).await;
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "process job",
            "intake",
            "look_up",
            "model",
            "store",
            "reply"
        ]
    );
    let root = &spans[0];
    assert_eq!(hex::encode(&root.parent_span_id), "00f067aa0ba902b7");
    assert_eq!(attribute(root, "kiln.job_id").as_deref(), Some("traced"));
    assert_eq!(attribute(root, "kiln.misses").as_deref(), Some("2"));
    assert_eq!(attribute(root, "kiln.outcome").as_deref(), Some("ok"));
    for span in &spans[1..] {
        assert_eq!(span.parent_span_id, root.span_id);
        assert!(span.start_time_unix_nano >= root.start_time_unix_nano);
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
        assert!(
            span.end_time_unix_nano <= root.end_time_unix_nano,
            "{}",
            span.name
        );
    }
    let service = collector.services.lock().expect("no panic")[0].clone();
    assert!(service.contains("kiln"), "{service}");

    // One whose producer doesn't sample it, one that fails, and one over HTTP.
    let silent = TRACE.replace("4bf9", "0000");
    stack
        .bus
        .publish_traced(&job("silent"), &header(&silent, false))
        .await;
    stack.bus.reply_within(PATIENCE).await;
    // Rubbish goes nowhere.
    for rubbish in [
        "00-1-2-01",
        "a\r\nx: y",
        &format!("{}-more", header(TRACE, true)),
    ] {
        let id = format!("rubbish-{}", rubbish.len());
        stack.bus.publish_traced(&job(&id), rubbish).await;
        let reply = stack.bus.reply_within(PATIENCE).await;
        assert_eq!(reply.traceparent, None, "{rubbish}");
    }
    let bad = TRACE.replace("4bf9", "1111");
    let unknown = json!({"job_id": "bad", "model": "nobody", "inputs": [{"text": "a"}]});
    stack
        .bus
        .publish_traced(&unknown, &header(&bad, true))
        .await;
    let failed = collector.trace(&bad, 3).await;
    let status = failed[0].status.as_ref().expect("a status");
    assert_eq!((status.code, status.message.as_str()), (2, "unknown_model"));
    let posted = TRACE.replace("4bf9", "2222");
    let body = json!({"model": "sentiment", "text": "b"}).to_string();
    let parent = header(&posted, true);
    let carried = [("traceparent", parent.as_str()), ("tracestate", "a=1,b=2")];
    let answer = worker
        .ask("POST", "/v1/score", &carried, body.as_bytes())
        .await
        .expect("an answer");
    let line = |name: &str, value: &str| answer.head.contains(&format!("{name}: {value}\r\n"));
    assert!(
        line("traceparent", &parent) && line("tracestate", "a=1,b=2"),
        "{}",
        answer.head
    );
    let rubbish = [("traceparent", "00-1-2-01"), ("tracestate", "a=1")];
    let answer = worker.ask("POST", "/v1/score", &rubbish, body.as_bytes());
    let answer = answer.await.expect("an answer");
    assert!(!answer.head.contains("trace"), "{}", answer.head);
    let spans = collector.trace(&posted, 3).await;
    assert_eq!((spans[0].name.as_str(), spans[0].kind), ("score", 2));
    let all = collector.spans.lock().expect("no panic").clone();
    assert!(all.iter().all(|span| hex::encode(&span.trace_id) != silent));
    let text = format!("{all:?}");
    assert!(!text.contains("secret payload"), "{text}");
    assert_eq!(
        worker
            .metric("kiln_traces_total", &[("outcome", "sent")])
            .await,
        3.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_costs_no_job() {
    let stack = Stack::shared().await;
    let port = crate::harness::sandbox::free_port();
    let settings = stack.worker().models(&["sentiment"]);
    let worker = settings
        .set(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            &format!("http://127.0.0.1:{port}"),
        )
        .set("KILN_TRACE__SHARE", "1")
        .allow("traces can't be sent")
        .start()
        .await;
    let jobs: Vec<Value> = (0..500)
        .map(
            |n| json!({"job_id": format!("j{n}"), "model": "sentiment", "inputs": [{"text": "a"}]}),
        )
        .collect();
    stack.bus.publish_jobs(&jobs).await;
    stack.wait_for_rows(500).await;
    eventually_equals(
        "every trace is counted as dropped",
        PATIENCE,
        500.0,
        || async {
            worker
                .metric("kiln_traces_total", &[("outcome", "dropped")])
                .await
        },
    )
    .await;
    let told = worker.lines();
    let told = told
        .iter()
        .filter(|line| line.contains("traces can't be sent"));
    assert_eq!(told.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_found_in_the_logs_by_its_ids_once_they_are_talkative() {
    let stack = Stack::shared().await;
    let worker = stack.worker().models(&["sentiment"]).start().await;
    let levels = async |levels: &str| {
        let body = json!({"levels": levels}).to_string();
        let answer = worker.ask("PUT", "/v1/log", &[], body.as_bytes()).await;
        answer.expect("an answer").status
    };
    let job = |id: &str| json!({"job_id": id, "model": "sentiment", "inputs": [{"text": "a secret payload"}]});
    let post = async |id: &str| {
        stack
            .bus
            .publish_traced(&job(id), &header(TRACE, false))
            .await;
        stack.bus.reply_within(PATIENCE).await;
    };
    post("quiet").await;
    assert_eq!(levels("trace").await, 200);
    post("talkative").await;
    let line = worker
        .wait_for_line("the job", |line| line.contains("a job is done"))
        .await;
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(
        (&line["job_id"], &line["trace_id"], &line["correlation_id"]),
        (&json!("talkative"), &json!(TRACE), &json!("talkative"))
    );
    assert_eq!(levels("kiln=loud").await, 400);
    assert_eq!(levels("warn").await, 200);
    let (_, shown) = worker.get("/v1/log").await.expect("an answer");
    assert_eq!(shown, r#"{"levels":"warn"}"#);
    let before = worker.lines().len();
    post("quiet again").await;
    let lines = worker.lines();
    assert_eq!(lines.len(), before);
    for line in &lines {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let name = line["worker"].as_str().unwrap_or_default();
        assert!(name.ends_with(&format!(":{}", worker.pid())), "{line}");
        let target = line["target"].as_str().unwrap_or_default();
        let talkative = matches!(line["level"].as_str(), Some("DEBUG" | "TRACE"));
        assert!(!talkative || target.starts_with("kiln"), "{line}");
        assert!(!line.to_string().contains("secret payload"), "{line}");
    }
    assert!(!lines.iter().any(|line| line.contains("\"quiet")));
}
