//! Bodies that are packed: requests' and answers'.

use std::io::{Read, Write};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::stack::Stack;
use crate::harness::worker::Worker;
use crate::harness::{PATIENCE, eventually_equals};

fn packed(by: &str, plain: &[u8]) -> Vec<u8> {
    match by {
        "gzip" => {
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
            packer.write_all(plain).expect("packed");
            packer.finish().expect("packed")
        }
        _ => zstd::encode_all(plain, 3).expect("packed"),
    }
}

fn unpacked(by: Option<&str>, body: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    match by {
        Some("gzip") => {
            let mut read = flate2::read::GzDecoder::new(body);
            read.read_to_end(&mut plain).expect("gzip");
        }
        Some(_) => plain = zstd::decode_all(body).expect("zstd"),
        None => plain = body.to_vec(),
    }
    plain
}

/// An answer's status, head, and body as it came.
async fn ask(worker: &Worker, head: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
    let exchange = async {
        let address = ("127.0.0.1", worker.http_port);
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let length = body.len();
        let head = format!(
            "{head}host: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        stream
            .write_all(&[head.as_bytes(), body].concat())
            .await
            .expect("taken");
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.expect("an answer");
        let end = said
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .expect("a head");
        let head = String::from_utf8_lossy(&said[..end]).to_lowercase();
        let status: u16 = head
            .split(' ')
            .nth(1)
            .expect("a status")
            .parse()
            .expect("a number");
        (status, head, said[end + 4..].to_vec())
    };
    timeout(PATIENCE, exchange).await.expect("in time")
}

fn read(by: Option<&str>, body: &[u8]) -> Value {
    let plain = unpacked(by, body);
    serde_json::from_slice(&plain).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&plain)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_taken_and_given_packed() {
    let stack = Stack::shared().await;
    let worker = stack
        .worker()
        .models(&["sentiment"])
        .set("KILN_INTAKE__MAX_BODY_BYTES", "65536")
        .start()
        .await;
    let inputs: Vec<Value> = (0..100)
        .map(|n| json!({"text": format!("so fine {n}")}))
        .collect();
    let job = json!({"model": "sentiment", "inputs": inputs}).to_string();
    let post = |more: &str| format!("POST /v1/score/batch HTTP/1.1\r\n{more}");
    let (status, _, plain) = ask(&worker, &post(""), job.as_bytes()).await;
    let results = read(None, &plain)["results"]
        .as_array()
        .expect("results")
        .len();
    assert_eq!((status, results), (200, 100));
    for by in ["gzip", "zstd"] {
        let head = post(&format!(
            "content-encoding: {by}\r\naccept-encoding: {by}\r\n"
        ));
        let (status, head, body) = ask(&worker, &head, &packed(by, job.as_bytes())).await;
        assert_eq!(status, 200, "{head}");
        assert!(head.contains(&format!("content-encoding: {by}")), "{head}");
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{head}"
        );
        assert!(head.contains("vary: accept-encoding"), "{head}");
        assert!(
            body.len() < plain.len() / 2,
            "{} of {}",
            body.len(),
            plain.len()
        );
        assert_eq!(
            read(Some(by), &body)["results"].as_array().map(Vec::len),
            Some(100)
        );
    }
    // Little is sent as it is, and so is what watches the worker.
    let takes = "accept-encoding: gzip, zstd\r\n";
    for path in ["/version", "/livez", "/metrics"] {
        let (status, head, _) = ask(&worker, &format!("GET {path} HTTP/1.1\r\n{takes}"), b"").await;
        assert!(
            status == 200 && !head.contains("content-encoding"),
            "{path}: {head}"
        );
    }
    let (_, head, page) = ask(&worker, &format!("GET / HTTP/1.1\r\n{takes}"), b"").await;
    assert!(head.contains("content-encoding: zstd"), "{head}");
    assert!(unpacked(Some("zstd"), &page).starts_with(b"<!doctype html>"));

    // A bomb is told by its limit, garbage and other packings by their header.
    let bomb = vec![b' '; 8 << 20];
    for (by, body, status, said) in [
        ("gzip", packed("gzip", &bomb), 413, "65536"),
        ("zstd", packed("zstd", &bomb), 413, "65536"),
        ("gzip", job.clone().into_bytes(), 400, "content-encoding"),
        (
            "zstd",
            packed("gzip", job.as_bytes()),
            400,
            "content-encoding",
        ),
        ("br", job.clone().into_bytes(), 415, "gzip or zstd"),
        (
            "gzip, zstd",
            job.clone().into_bytes(),
            415,
            "content-encoding",
        ),
    ] {
        let head = post(&format!("content-encoding: {by}\r\n"));
        let (told, head, body) = ask(&worker, &head, &body).await;
        let body = String::from_utf8_lossy(&body);
        assert_eq!(told, status, "{by}: {head} {body}");
        assert!(body.contains(said), "{by}: {body}");
        assert_eq!(
            head.contains("accept-encoding: gzip, zstd"),
            status == 415,
            "{head}"
        );
    }
    assert_eq!(stack.count("SELECT count(*) FROM jobs").await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_take_neither_the_room_nor_the_memory_that_they_say() {
    let stack = Stack::shared().await;
    let worker = stack
        .worker()
        .models(&["sentiment"])
        .set("KILN_INTAKE__MAX_BODY_BYTES", "2097152")
        .start()
        .await;
    let before = worker.usage().await.rss_kib;
    // Unpacked they would be a gibibyte together.
    let bomb = vec![b' '; 32 << 20];
    let bombs = ["gzip", "zstd"].map(|by| (by, packed(by, &bomb)));
    let paths = ["/v1/score/batch", "/v1/jobs", "/rerank", "/v1/hits"];
    let all = paths
        .iter()
        .flat_map(|path| bombs.iter().map(move |bomb| (path, bomb)));
    let all: Vec<_> = std::iter::repeat_n(all, 4).flatten().collect();
    let asked = all.into_iter().map(|(path, (by, body))| {
        let (worker, head) = (
            &worker,
            format!("POST {path} HTTP/1.1\r\ncontent-encoding: {by}\r\n"),
        );
        async move { ask(worker, &head, body).await }
    });
    for (status, head, body) in futures_util::future::join_all(asked).await {
        let body = String::from_utf8_lossy(&body);
        assert_eq!(status, 413, "{head} {body}");
        assert!(body.contains("once it is unpacked"), "{body}");
    }
    let grown = worker.usage().await.rss_kib.saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB");
    eventually_equals("bytes in hand", PATIENCE, 0.0, || {
        worker.metric("kiln_bytes_in_hand", &[])
    })
    .await;
    // What comes next has the room.
    let job = json!({"model": "sentiment", "inputs": [{"text": "so fine"}]}).to_string();
    let head = "POST /v1/score/batch HTTP/1.1\r\ncontent-encoding: gzip\r\n";
    let (status, head, _) = ask(&worker, head, &packed("gzip", job.as_bytes())).await;
    assert_eq!(status, 200, "{head}");
}
