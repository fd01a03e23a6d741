//! HTTP/2 on the port, as clients begin it that know it is spoken: the same API, within the limits that hold for HTTP/1.

use std::time::Duration;

use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Bytes, Frame as BodyFrame};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, Response, StatusCode, Version, body::Incoming, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::harness::frames::{
    CONTINUATION, DATA, Frames, GOAWAY, HEADERS, REFUSED, ROOM, RST_STREAM, WINDOW, fields, get,
    get_and_reset,
};
use crate::harness::stack::Stack;
use crate::harness::worker::Worker;
use crate::harness::{PATIENCE, eventually};

/// One that stays, and where there is much to read.
const LIVE: &str = "/v1/live";
const LARGE: &str = "/page/uplot.js";

/// A client, and what becomes of its connection.
struct Client<B> {
    client: SendRequest<B>,
    connection: JoinHandle<hyper::Result<()>>,
}

impl<B> Client<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    async fn of(worker: &Worker) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", worker.http_port)).await;
        let stream = TokioIo::new(stream.expect("a connection"));
        let shaken = http2::Builder::new(TokioExecutor::new())
            .handshake(stream)
            .await;
        let (client, connection) = shaken.expect("a handshake");
        let connection = tokio::spawn(connection);
        Self { client, connection }
    }

    async fn send(&mut self, request: Request<B>) -> hyper::Result<Response<Incoming>> {
        self.client.ready().await?;
        self.client.send_request(request).await
    }
}

impl Client<Full<Bytes>> {
    async fn get(&mut self, path: &str) -> hyper::Result<Response<Incoming>> {
        self.send(request("GET", path, Bytes::new())).await
    }

    /// The status and the JSON, or the text.
    async fn ask(&mut self, method: &str, path: &str, body: &str) -> (StatusCode, Value) {
        let request = request(method, path, Bytes::from(body.to_owned()));
        let answer = self.send(request).await.expect("an answer");
        whole(answer).await
    }
}

fn request(method: &str, path: &str, body: Bytes) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(format!("http://localhost{path}"))
        .body(Full::new(body))
        .expect("a request")
}

async fn whole(answer: Response<Incoming>) -> (StatusCode, Value) {
    assert_eq!(answer.version(), Version::HTTP_2);
    let status = answer.status();
    let body = answer
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    let text = || json!(String::from_utf8_lossy(&body));
    (
        status,
        serde_json::from_slice(&body).unwrap_or_else(|_| text()),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_posted_and_read_over_http2_with_many_requests_at_once() {
    let stack = Stack::shared().await;
    let worker = stack.worker().models(&["sentiment"]).start().await;
    let mut client = Client::of(&worker).await;
    let job = json!({"job_id": "two", "model": "sentiment", "inputs": [{"text": "so fine"}]});
    let (status, _) = client.ask("POST", "/v1/jobs", &job.to_string()).await;
    assert_eq!(status, 202);
    let (status, ended) = client.ask("GET", "/v1/jobs/two/wait?seconds=30", "").await;
    assert_eq!((status, &ended["status"]), (StatusCode::OK, &json!("ok")));
    // More than may be under way at once: the others wait for their turn.
    let mut asked = Vec::new();
    for _each in 0..100 {
        client.client.ready().await.expect("an open connection");
        let request = request("GET", "/v1/jobs/two", Bytes::new());
        asked.push(client.client.send_request(request));
    }
    for answer in futures_util::future::join_all(asked).await {
        assert_eq!(
            whole(answer.expect("an answer")).await,
            (StatusCode::OK, ended.clone())
        );
    }
    // A large body and a large answer, both in many frames.
    let many: Vec<Value> = (0..2_000)
        .map(|n| json!({"text": format!("so fine {n}")}))
        .collect();
    let batch = json!({"model": "sentiment", "inputs": many});
    let (status, scored) = client
        .ask("POST", "/v1/score/batch", &batch.to_string())
        .await;
    assert_eq!(status, 200, "{scored}");
    assert_eq!(scored["results"].as_array().map(Vec::len), Some(2_000));
    // The same port speaks HTTP/1, and answers the same.
    let (status, same) = worker.get("/v1/jobs/two").await.expect("an answer");
    assert_eq!(
        (status, serde_json::from_str(&same).ok()),
        (200, Some(ended))
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_has_one_name_and_a_head_and_a_body_their_limits() {
    let stack = Stack::shared().await;
    let settings = stack.worker().set("KILN_HTTP__TIMEOUT_MS", "1000");
    let worker = settings.start().await;
    let mut client = Client::of(&worker).await;
    let named = |authority: &str, host: Option<&str>| {
        let mut request = Request::get(format!("http://{authority}/version"));
        if let Some(host) = host {
            request = request.header(header::HOST, host);
        }
        request.body(Full::default()).expect("a request")
    };
    for (authority, host, status) in [
        ("localhost", None, 200),
        ("localhost", Some("localhost"), 200),
        ("evil.example", None, 403),
        ("localhost", Some("evil.example"), 400),
        ("evil.example", Some("localhost"), 400),
    ] {
        let answer = client.send(named(authority, host)).await;
        let status_ = answer.expect("an answer").status();
        assert_eq!(status_, status, "{authority} {host:?}");
    }
    let mut large = request("GET", "/version", Bytes::new());
    let value = "a".repeat(17 << 10).parse().expect("a value");
    large.headers_mut().insert("x-large", value);
    let answer = client.send(large).await;
    assert!(
        answer
            .as_ref()
            .map_or(true, |answer| answer.status() == 431),
        "{answer:?}"
    );
    // A body that never ends is waited for as over HTTP/1.
    let mut slow = Client::of(&worker).await;
    let begun = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from("{"))]);
    let never = futures_util::StreamExt::chain(begun, futures_util::stream::pending());
    let body = StreamBody::new(futures_util::StreamExt::map(never, |bytes| {
        bytes.map(BodyFrame::data)
    }));
    let endless = Request::post("http://localhost/v1/score").body(body);
    let answer = slow.send(endless.expect("a request")).await;
    let (status, problem) = whole(answer.expect("an answer")).await;
    assert_eq!(status, 503);
    let said = problem.to_string();
    assert!(said.contains("not done within 1000 ms"), "{said}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_a_connections_or_everybodys_are_refused_and_no_probe_waits() {
    let stack = Stack::shared().await;
    let worker = stack.worker().start().await;
    // One connection may have 32 under way.
    let mut frames = Frames::open(worker.http_port, &[]).await;
    for n in 0..33 {
        frames.get(2 * n + 1, LIVE).await.expect("a request");
    }
    let refused = frames.wait_for(|frame| frame.kind == RST_STREAM).await;
    let refused = refused.expect("one is refused");
    assert_eq!((refused.stream, refused.code()), (65, REFUSED));
    assert_eq!(worker.get("/livez").await.map(|answer| answer.0), Some(200));
    drop(frames);
    worker.stop().await;

    // All together have as many as there may be connections.
    let settings = stack.worker().set("KILN_HTTP__CONNECTIONS", "4");
    let worker = settings.start().await;
    let mut client = Client::of(&worker).await;
    let mut watching = Vec::new();
    eventually("four are under way", PATIENCE, async || {
        let answer = client.get(LIVE).await.expect("an answer");
        (answer.status() == 200).then(|| watching.push(answer));
        (watching.len() == 4).then_some(())
    })
    .await;
    let (status, problem) = client.ask("GET", "/version", "").await;
    assert_eq!(status, 503);
    assert!(
        problem.to_string().contains("http.connections"),
        "{problem}"
    );
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(worker.get(path).await.map(|a| a.0), Some(200), "{path}");
        assert_eq!(client.ask("GET", path, "").await.0, 200, "beside others");
        let mut probe = Client::of(&worker).await;
        assert_eq!(probe.ask("GET", path, "").await.0, 200, "{path}");
        let ended = tokio::time::timeout(PATIENCE, probe.connection).await;
        ended
            .expect("it is for one request")
            .expect("no panic")
            .ok();
    }
    let refused = worker.ask("GET", "/version", &[], b"").await;
    assert_eq!(refused.expect("an answer").status, 503);
    let mut other = Client::of(&worker).await;
    assert_eq!(other.ask("GET", "/version", "").await.0, 503);
    watching.pop();
    eventually("there is room on it", PATIENCE, async || {
        (client.ask("GET", "/version", "").await.0 == 200).then_some(())
    })
    .await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_no_answer_over_http2_is_cut() {
    let stack = Stack::shared().await;
    let settings = stack.worker().set("KILN_HTTP__TIMEOUT_MS", "2000");
    let worker = settings.set("KILN_HTTP__CONNECTIONS", "35").start().await;
    // It reads what comes, and never lets anything come of an answer.
    let mut closed = Frames::open(worker.http_port, &[(WINDOW, 0)]).await;
    closed.get(1, LARGE).await.expect("a request");
    closed.get(3, LARGE).await.expect("a request");
    // Not even to the last piece, which is small.
    closed.get(5, "/version").await.expect("a request");
    // It lets everything come, and reads nothing.
    let mut deaf = Frames::open(worker.http_port, &[(WINDOW, 0x7fff_ffff)]).await;
    let room = 0x7000_0000_u32.to_be_bytes();
    deaf.send(ROOM, 0, 0, &room)
        .await
        .expect("room for all of it");
    for n in 0..32 {
        deaf.get(2 * n + 1, LARGE).await.expect("a request");
    }
    let came = closed.until_the_end(PATIENCE).await;
    assert!(came.iter().any(|frame| frame.kind == HEADERS), "{came:?}");
    let data = came.iter().filter(|frame| frame.kind == DATA);
    assert_eq!(data.map(|frame| frame.payload.len()).sum::<usize>(), 0);
    let ended = came.iter().filter(|frame| frame.kind == RST_STREAM);
    assert_eq!(ended.count(), 3, "each by itself: {came:?}");
    eventually("the deaf one is cut", PATIENCE, async || {
        deaf.ping().await.is_err().then_some(())
    })
    .await;
    eventually("what they held is free", PATIENCE, async || {
        let (status, _) = worker.get("/version").await?;
        (status == 200).then_some(())
    })
    .await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_on_which_nothing_is_asked_ends_whatever_else_is_said() {
    let stack = Stack::shared().await;
    let worker = stack.worker().start().await;
    let port = worker.http_port;
    // It says that it is there, again and again.
    let chatting = async {
        let mut idle = Frames::open(port, &[]).await;
        idle.get(1, "/version").await.expect("a request");
        let (mut is_told, mut stream) = (false, 1);
        eventually("it ends", PATIENCE, async || {
            stream += 2;
            // What it asks for once it is told changes nothing.
            let said = match is_told {
                true => idle.get(stream, "/livez").await,
                false => idle.ping().await,
            };
            if said.is_err() {
                return Some(());
            }
            let frame = idle.next().await;
            is_told |= frame.as_ref().is_some_and(|frame| frame.kind == GOAWAY);
            frame.is_none().then_some(())
        })
        .await;
        assert!(is_told, "it is told before");
    };
    // It begins a request's head and doesn't go on.
    let half = async {
        let mut half = Frames::open(port, &[]).await;
        let whole = get(1, "/version");
        half.put(&whole[..12]).await.expect("a beginning");
        half.until_the_end(PATIENCE).await;
    };
    // It doesn't even say what it speaks.
    let mute = async {
        let stream = TcpStream::connect(("127.0.0.1", port)).await;
        let mut stream = stream.expect("a connection");
        let sent = tokio::io::AsyncWriteExt::write_all(&mut stream, b"PRI * HT").await;
        sent.expect("a beginning");
        let mut rest = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest);
        let ended = tokio::time::timeout(PATIENCE, read).await;
        let _in_order_or_not = ended.expect("it ends");
    };
    tokio::join!(chatting, half, mute);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_up_what_it_asks_for_or_never_ends_a_head_is_cut() {
    let stack = Stack::shared().await;
    let worker = stack.worker().start().await;
    // Each is under way before it is given up.
    let mut patient = Frames::open(worker.http_port, &[]).await;
    let mut given_up = 0;
    'asking: loop {
        let both = get_and_reset(2 * given_up + 1, "/v1/jobs/none/wait?seconds=30");
        for part in [&both[..both.len() - 13], &both[both.len() - 13..]] {
            patient.put(part).await.expect("it is there");
            let came = patient.heard().await.expect("it is told before it is cut");
            if came.iter().any(|frame| frame.kind == GOAWAY) {
                break 'asking;
            }
        }
        given_up += 1;
    }
    assert!((64..200).contains(&given_up), "{given_up}");
    patient.until_the_end(PATIENCE).await;
    // All at once, before anybody looks.
    let mut hasty = Frames::open(worker.http_port, &[]).await;
    let burst: Vec<u8> = (0..2_000)
        .flat_map(|n| get_and_reset(2 * n + 1, LIVE))
        .collect();
    let _cut = hasty.put(&burst).await;
    hasty.until_the_end(PATIENCE).await;
    // A head of many frames.
    let mut endless = Frames::open(worker.http_port, &[]).await;
    let begun = endless.send(HEADERS, 1, 1, &fields("/version")).await;
    begun.expect("a beginning");
    let field = [&[0x00, 0x01, b'a', 0x7f, 0x00][..], &[b'b'; 127]].concat();
    let mut sent = 0;
    while endless.send(CONTINUATION, 0, 1, &field).await.is_ok() {
        sent += field.len();
        assert!(sent < 64 << 20, "it takes all of it");
    }
    assert_eq!(worker.get("/livez").await.map(|answer| answer.0), Some(200));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_answers_what_is_under_way_over_http2_and_says_goodbye() {
    let stack = Stack::shared().await;
    let worker = stack.worker().start().await;
    let mut client = Client::of(&worker).await;
    let mut idle = Frames::open(worker.http_port, &[]).await;
    assert!(idle.is_heard().await);
    let slow = json!({"model": "fault", "text": "sleep:3000 a request"}).to_string();
    client.client.ready().await.expect("an open connection");
    let slow = client
        .client
        .send_request(request("POST", "/v1/score", Bytes::from(slow)));
    let slow = tokio::spawn(slow);
    let watching = client.get(LIVE).await.expect("an answer");
    worker.terminate();
    let goodbye = idle.until_the_end(PATIENCE).await;
    assert!(
        goodbye.iter().any(|frame| frame.kind == GOAWAY),
        "{goodbye:?}"
    );
    let answer = slow.await.expect("no panic").expect("an answer");
    let (status, scored) = whole(answer).await;
    assert_eq!(status, 200, "{scored}");
    // Who watches is let go in good order.
    watching
        .into_body()
        .collect()
        .await
        .expect("an orderly end");
    let ended = tokio::time::timeout(PATIENCE, client.connection).await;
    ended
        .expect("it ends")
        .expect("no panic")
        .expect("in order");
    let status = worker.wait_exit(PATIENCE + Duration::from_secs(1)).await;
    assert!(status.success(), "{status}");
    worker.expect_clean_log();
}
