//! A stand-in for an OpenTelemetry collector.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{PATIENCE, eventually};

/// Takes OTLP as a collector does, and keeps the spans.
pub struct Collector {
    pub address: String,
    pub spans: Arc<Mutex<Vec<Span>>>,
    pub services: Arc<Mutex<Vec<String>>>,
}

impl Collector {
    /// Listens on a port of its own.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let collector = Self {
            address,
            spans: Arc::default(),
            services: Arc::default(),
        };
        let (spans, services) = (collector.spans.clone(), collector.services.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (spans, services) = (spans.clone(), services.clone());
                tokio::spawn(async move {
                    let mut bytes = Vec::new();
                    let body = loop {
                        let mut more = [0; 4096];
                        let read = stream.read(&mut more).await.expect("a request");
                        bytes.extend_from_slice(&more[..read]);
                        if let Some(body) = whole(&bytes) {
                            break body;
                        }
                        assert!(read > 0, "a request cut short");
                    };
                    let request = ExportTraceServiceRequest::decode(body).expect("OTLP");
                    for resource in request.resource_spans {
                        let about = resource.resource.expect("a resource").attributes;
                        let names = about.iter().filter_map(|pair| {
                            let value = pair.value.as_ref()?.value.as_ref()?;
                            (pair.key == "service.name").then(|| format!("{value:?}"))
                        });
                        services.lock().expect("no panic").extend(names);
                        let all = resource.scope_spans.into_iter().flat_map(|s| s.spans);
                        spans.lock().expect("no panic").extend(all);
                    }
                    let answer =
                        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    stream.write_all(answer).await.expect("an answer");
                });
            }
        });
        collector
    }

    /// The spans of a trace, the root first, once there are so many.
    pub async fn trace(&self, id: &str, count: usize) -> Vec<Span> {
        eventually("the trace's spans have come", PATIENCE, || async {
            let spans = self.spans.lock().expect("no panic");
            let mut of: Vec<Span> = spans
                .iter()
                .filter(|span| hex::encode(&span.trace_id) == id)
                .cloned()
                .collect();
            of.sort_by_key(|span| (span.start_time_unix_nano, span.kind == 1));
            (of.len() >= count).then_some(of)
        })
        .await
    }
}

/// The body of a request that is there as a whole.
fn whole(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    assert!(
        head.contains("content-type: application/x-protobuf\r\n"),
        "{head}"
    );
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .and_then(|text| text.parse::<usize>().ok())?;
    bytes.get(end..end + length)
}
