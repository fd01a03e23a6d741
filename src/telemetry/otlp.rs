//! Owns sending spans to an OpenTelemetry collector: OTLP over HTTP, as protobuf.
//!
//! Promises that a collector that is away, slow or refuses costs jobs nothing: what can't be sent is dropped and counted.

use super::{
    metrics::{Metrics, TraceOutcome},
    trace::{self, Kind, Traced, Tree},
};
use crate::redact::Redact;
use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Uri, body::Bytes, header};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::SpanKind, status::StatusCode},
};
use prost::Message;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// Jobs of one request.
const AT_A_TIME: usize = 256;
/// How long the first of them waits for company.
const COMPANY: Duration = Duration::from_millis(500);
/// Longest time of one request.
const LIMIT: Duration = Duration::from_secs(5);
/// The path that the standard adds to an endpoint.
const PATH: &str = "/v1/traces";

/// Sends what it is given until it is asked to stop, and then what is left.
pub async fn send(
    endpoint: String,
    worker: String,
    traced: Arc<Traced>,
    metrics: Metrics,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut heard = traced.0.lock().await;
    let uri = format!("{}{PATH}", endpoint.trim_end_matches('/'));
    let uri: Uri = uri.parse().context("trace.endpoint")?;
    let mut works = true;
    let mut trees = Vec::with_capacity(AT_A_TIME);
    loop {
        let first = heard.recv_many(&mut trees, AT_A_TIME);
        match stop.run_until_cancelled(first).await {
            Some(0) => bail!("nobody traces jobs any more"),
            Some(_) => {}
            None => {
                // Whatever was traced before the stop is here by now.
                while trees.len() < AT_A_TIME
                    && let Ok(tree) = heard.try_recv()
                {
                    trees.push(tree);
                }
                if trees.is_empty() {
                    return Ok(());
                }
            }
        }
        let company = async {
            while trees.len() < AT_A_TIME {
                let room = AT_A_TIME - trees.len();
                if heard.recv_many(&mut trees, room).await == 0 {
                    break;
                }
            }
        };
        // Whether it came by number or by time, it goes now.
        let company = tokio::time::timeout(COMPANY, company);
        let _by = stop.run_until_cancelled(company).await;
        let count = trees.len() as u64;
        let body = request(&worker, trees.drain(..)).encode_to_vec();
        let sent = match tokio::time::timeout(LIMIT, post(&uri, body)).await {
            Ok(sent) => sent,
            Err(_) => Err("no answer in time".to_owned()),
        };
        let outcome = if sent.is_ok() {
            TraceOutcome::Sent
        } else {
            TraceOutcome::Dropped
        };
        metrics.traces(outcome, count);
        match (works, &sent) {
            (true, Err(reason)) => {
                tracing::warn!(
                    reason,
                    "traces can't be sent to the collector; they are dropped"
                );
            }
            (false, Ok(())) => tracing::info!("the collector takes traces again"),
            _ => {}
        }
        works = sent.is_ok();
        if stop.is_cancelled() && !works {
            // A collector that is away has no more of the stop's time.
            heard.close();
            while heard.try_recv().is_ok() {
                metrics.traces(TraceOutcome::Dropped, 1);
            }
            return Ok(());
        }
    }
}

async fn post(uri: &Uri, body: Vec<u8>) -> Result<(), String> {
    let host = uri.host().unwrap_or_default();
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80)))
        .await
        .map_err(|e| e.redacted())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.redacted())?;
    let authority = uri.authority().map(|a| a.as_str()).unwrap_or_default();
    let request = Request::builder()
        .method(Method::POST)
        .uri(uri.path())
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/x-protobuf")
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| e.redacted())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        // Its answer is of no use, and reading it ends the exchange in good order.
        let _said = response.into_body().collect().await?;
        Ok::<_, hyper::Error>(status)
    };
    let (status, _ended) = tokio::join!(exchange, connection);
    let status = status.map_err(|e| e.redacted())?;
    if status.is_success() {
        Ok(())
    } else {
        Err(format!("the collector answered {status}"))
    }
}

fn request(worker: &str, trees: impl Iterator<Item = Tree>) -> ExportTraceServiceRequest {
    let text = |name: &'static str, value: &str| pair(name, &trace::Value::Text(value.to_owned()));
    let resource = Resource {
        attributes: vec![
            text("service.name", "kiln"),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("service.instance.id", worker),
        ],
        ..Resource::default()
    };
    let scope = InstrumentationScope {
        name: "kiln".to_owned(),
        ..InstrumentationScope::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope),
                spans: trees.flat_map(spans).collect(),
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
}

fn spans(tree: Tree) -> Vec<Span> {
    let trace_id = tree.trace_id;
    let root = tree.root.id;
    let span = |one: &trace::Span, parent: Vec<u8>, kind: SpanKind| Span {
        trace_id: trace_id.to_vec(),
        span_id: one.id.to_vec(),
        parent_span_id: parent,
        name: one.name.to_owned(),
        kind: kind as i32,
        start_time_unix_nano: nanos(one.begun),
        end_time_unix_nano: nanos(one.ended),
        attributes: one.attributes.iter().map(|(n, v)| pair(n, v)).collect(),
        ..Span::default()
    };
    let kind = match tree.kind {
        Kind::Consumer => SpanKind::Consumer,
        Kind::Server => SpanKind::Server,
    };
    let parent = tree.parent.map(|id| id.to_vec()).unwrap_or_default();
    let mut all = vec![Span {
        status: tree.error.map(|message| Status {
            message,
            code: StatusCode::Error as i32,
        }),
        ..span(&tree.root, parent, kind)
    }];
    let inner = |one| span(one, root.to_vec(), SpanKind::Internal);
    all.extend(tree.children.iter().map(inner));
    all
}

fn nanos(moment: SystemTime) -> u64 {
    let since = moment.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

fn pair(name: &str, value: &trace::Value) -> KeyValue {
    let value = match value {
        trace::Value::Text(text) => any_value::Value::StringValue(text.clone()),
        trace::Value::Number(number) => any_value::Value::IntValue(*number),
        trace::Value::Truth(truth) => any_value::Value::BoolValue(*truth),
    };
    KeyValue {
        key: name.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}
