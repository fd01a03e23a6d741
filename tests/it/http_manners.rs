//! The HTTP port's manners: which names it answers to, what bodies it takes, and what a connection that is kept sees of a refusal.

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::PATIENCE;
use crate::harness::stack::Stack;
use crate::harness::worker::Worker;

/// A connection that is kept.
pub struct Kept(TcpStream);

impl Kept {
    pub async fn open(worker: &Worker) -> Self {
        let address = ("127.0.0.1", worker.http_port);
        Self(TcpStream::connect(address).await.expect("a connection"))
    }

    /// Sends a request, and gives its answer's head and body.
    pub async fn ask(&mut self, head: &str, body: &[u8]) -> (String, String) {
        let request = [head.as_bytes(), b"\r\n", body].concat();
        self.0.write_all(&request).await.expect("it is taken");
        self.answer().await
    }

    async fn answer(&mut self) -> (String, String) {
        let mut said = Vec::new();
        let answer = async {
            loop {
                let text = String::from_utf8_lossy(&said).into_owned();
                if let Some((head, body)) = text.split_once("\r\n\r\n") {
                    let head = head.to_lowercase();
                    let length = head
                        .lines()
                        .find_map(|line| line.strip_prefix("content-length: "));
                    let length: usize = length.and_then(|n| n.parse().ok()).unwrap_or(0);
                    if body.len() >= length {
                        return (head.clone(), body.to_owned());
                    }
                }
                let read = self.0.read_buf(&mut said).await.expect("no reset");
                assert!(read > 0, "closed after {text:?}");
            }
        };
        timeout(PATIENCE, answer).await.expect("an answer")
    }
}

fn post(path: &str, host: &str, more: &str, bytes: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {bytes}\r\n{more}")
}

const JSON: &str = "content-type: application/json\r\n";
const JOB: &[u8] = br#"{"model": "sentiment", "text": "fine"}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_keys_only_names_of_this_machine_are_answered() {
    let stack = Stack::shared().await;
    let worker = stack.worker().models(&["sentiment"]).start().await;
    // As a page of evil.example sends it whose name leads here by now: its origin is the host's.
    let origin = "origin: http://evil.example\r\n";
    for path in ["/v1/intake/pause", "/v1/score"] {
        let mut client = Kept::open(&worker).await;
        let head = post(path, "evil.example", &format!("{origin}{JSON}"), JOB.len());
        let (head, body) = client.ask(&head, JOB).await;
        assert!(head.starts_with("http/1.1 403 "), "{head}");
        assert!(body.contains("\"host\""), "{body}");
    }
    for (path, status) in [
        ("/metrics", 403),
        ("/", 403),
        ("/livez", 200),
        ("/readyz", 200),
    ] {
        let mut client = Kept::open(&worker).await;
        let head = format!("GET {path} HTTP/1.1\r\nhost: evil.example:9464\r\n");
        let (head, _) = client.ask(&head, b"").await;
        assert!(
            head.starts_with(&format!("http/1.1 {status} ")),
            "{path}: {head}"
        );
    }
    let mut client = Kept::open(&worker).await;
    for host in [
        "localhost",
        "127.0.0.1:9464",
        "[::1]:9464",
        "kiln.localhost",
    ] {
        let (head, _) = client
            .ask(&post("/v1/score", host, JSON, JOB.len()), JOB)
            .await;
        assert!(head.starts_with("http/1.1 200 "), "{host}: {head}");
    }
    // By a name of this machine, a page of another site changes nothing and reads nothing.
    for origin in ["http://evil.example", "null", "http://localhost:1"] {
        let foreign = format!("origin: {origin}\r\n{JSON}");
        for path in ["/v1/intake/pause", "/v1/score"] {
            let head = post(path, "localhost", &foreign, JOB.len());
            let (head, body) = client.ask(&head, JOB).await;
            assert!(head.starts_with("http/1.1 403 "), "{path}: {head}");
            assert!(body.contains("\"origin\""), "{body}");
        }
        for method in ["GET", "OPTIONS"] {
            let head = format!(
                "{method} /v1/models HTTP/1.1\r\nhost: localhost\r\norigin: {origin}\r\naccess-control-request-method: POST\r\n"
            );
            let (head, _) = client.ask(&head, b"").await;
            assert!(!head.contains("access-control"), "{method}: {head}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_kept_goes_on_after_a_refusal_or_is_told_that_it_closes() {
    let stack = Stack::shared().await;
    let worker = stack
        .worker()
        .models(&["sentiment"])
        .set("KILN_INTAKE__MAX_BODY_BYTES", "20000")
        .start()
        .await;
    let mut client = Kept::open(&worker).await;
    let some = vec![b' '; 15_000];
    let refused = [
        ("/nowhere", 404, JSON),
        ("/v1/models", 405, JSON),
        ("/v1/score", 415, "content-type: text/plain\r\n"),
    ];
    for round in 0..20 {
        for (path, status, more) in refused {
            let head = post(path, "localhost", more, some.len());
            let (head, body) = client.ask(&head, &some).await;
            let expected = format!("http/1.1 {status} ");
            assert!(head.starts_with(&expected), "{round} {path}: {head} {body}");
            assert!(!head.contains("connection: close"), "{head}");
        }
        let (head, _) = client
            .ask(&post("/v1/score", "localhost", JSON, JOB.len()), JOB)
            .await;
        assert!(head.starts_with("http/1.1 200 "), "{head}");
    }
    // More than is read of what is refused: the client hears that the connection ends.
    let much = vec![b' '; 1 << 20];
    let mut client = Kept::open(&worker).await;
    let head = post("/v1/score", "localhost", JSON, much.len());
    let head = format!("{head}expect: 100-continue\r\n");
    let (head, body) = client.ask(&head, b"").await;
    assert!(head.starts_with("http/1.1 413 "), "{head}");
    assert!(head.contains("connection: close"), "{head}");
    assert!(body.contains("20000 bytes"), "{body}");
}

/// All that is answered to these bytes until the worker closes the connection, which it has to.
async fn told(worker: &Worker, request: &str) -> String {
    let mut client = Kept::open(worker).await.0;
    // It may be cut while it still speaks.
    let _sent = client.write_all(request.as_bytes()).await;
    let mut said = Vec::new();
    let end = timeout(PATIENCE, client.read_to_end(&mut said)).await;
    assert!(end.is_ok(), "still open after {request:?}");
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_end_is_in_doubt_hides_no_other() {
    let stack = Stack::shared().await;
    let worker = stack.worker().models(&["sentiment"]).start().await;
    let hidden = "POST /v1/intake/pause HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let length = hidden.len();
    // As a proxy may pass them on that sees another end than the worker does.
    let doubtful = [
        format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("transfer-encoding: chunked\r\ncontent-length: {length}\r\n\r\n0\r\n\r\n"),
        format!("content-length: 0\r\ncontent-length: {length}\r\n\r\n"),
        format!("content-length: 0, {length}\r\n\r\n"),
        "content-length: +0\r\n\r\n".to_owned(),
        "content-length: 0x0\r\n\r\n".to_owned(),
        "content-length : 0\r\n\r\n".to_owned(),
        "transfer-encoding : chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n".to_owned(),
        "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n".to_owned(),
        "x: y\r\n z: folded\r\n\r\n".to_owned(),
        "transfer-encoding: chunked\r\n\r\n-1\r\n\r\n".to_owned(),
        "transfer-encoding: chunked\r\n\r\n0x0\r\n\r\n".to_owned(),
        "transfer-encoding: chunked\r\n\r\n10000000000000000\r\n\r\n".to_owned(),
        "transfer-encoding: chunked\r\n\r\n1\r\n{0\r\n\r\n".to_owned(),
    ];
    for rest in doubtful {
        let said = told(
            &worker,
            &format!("POST /v1/score HTTP/1.1\r\nhost: localhost\r\n{JSON}{rest}{hidden}"),
        )
        .await;
        assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{rest:?}: {said}");
        assert!(said.starts_with("HTTP/1.1 400 "), "{rest:?}: {said}");
    }
    let before = "POST /v1/score HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let said = told(&worker, &format!("{before}{hidden}")).await;
    assert!(said.contains(" 400 "), "{said}");

    // Two names of which each is somebody's.
    for other in ["evil.example", "localhost"] {
        let said = told(&worker, &format!("GET /v1/models HTTP/1.1\r\nhost: localhost\r\nhost: {other}\r\nconnection: close\r\n\r\n")).await;
        assert!(said.starts_with("HTTP/1.1 400 "), "{said}");
    }
    let actions = worker.get("/v1/log/actions").await;
    assert_eq!(actions, Some((200, "[]".to_owned())), "nothing was paused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_listed_origins_use_the_api_and_no_others() {
    let stack = Stack::shared().await;
    let worker = stack
        .worker()
        .models(&["sentiment"])
        .set(
            "KILN_HTTP__KEYS__PAGE__SHA256",
            &hex::encode(Sha256::digest("page's key")),
        )
        .set("KILN_HTTP__KEYS__PAGE__SCOPES", "[score, admin]")
        .set("KILN_HTTP__CORS_ORIGINS", "[\"https://shop.example\"]")
        .start()
        .await;
    let mut client = Kept::open(&worker).await;
    let key = "authorization: Bearer page's key\r\n";
    let asks = "access-control-request-method: POST\r\naccess-control-request-headers: authorization,content-type\r\n";
    let allowed = "access-control-allow-origin: https://shop.example\r\n";

    // Its browser asks beforehand, without the key; there is nothing to ask of a path that there isn't.
    let ask = |path: &str, origin: &str| {
        format!("OPTIONS {path} HTTP/1.1\r\nhost: kiln.example\r\norigin: {origin}\r\n{asks}")
    };
    let (head, _) = client
        .ask(&ask("/v1/score", "https://shop.example"), b"")
        .await;
    assert!(
        head.starts_with("http/1.1 204 ") && head.contains(allowed),
        "{head}"
    );
    assert!(
        head.contains("access-control-allow-headers: authorization,"),
        "{head}"
    );
    assert!(
        head.contains("vary: origin") && !head.contains("credentials"),
        "{head}"
    );

    // Then it does what its key may, and reads why not otherwise.
    let shop = "origin: https://shop.example\r\n";
    for (more, status) in [(key, 200), ("", 401)] {
        let more = format!("{shop}{JSON}{more}");
        let head = post("/v1/score", "kiln.example", &more, JOB.len());
        let (head, _) = client.ask(&head, JOB).await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{head}");
        assert!(
            head.contains(allowed) && head.contains("access-control-expose-headers"),
            "{head}"
        );
    }
    // Nobody else does, whatever is like it; and two origins are none.
    for origin in [
        "https://evil.example",
        "http://shop.example",
        "https://shop.example.evil.example",
        "null",
        "https://shop.example\r\norigin: https://evil.example",
    ] {
        let (head, _) = client.ask(&ask("/v1/score", origin), b"").await;
        assert!(head.starts_with("http/1.1 405 "), "{origin}: {head}");
        assert!(!head.contains("access-control"), "{origin}: {head}");
        let more = format!("origin: {origin}\r\n{JSON}{key}");
        for path in ["/v1/score", "/v1/intake/pause"] {
            let head = post(path, "kiln.example", &more, JOB.len());
            let (head, body) = client.ask(&head, JOB).await;
            assert!(head.starts_with("http/1.1 403 "), "{origin}: {head}");
            assert!(
                body.contains("\"origin\"") && !head.contains("access-control"),
                "{head}"
            );
        }
    }
}
