//! HTTP requests beyond what a worker may have in hand: they are turned away, and everything else goes on.

use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::jobs::text_job;
use crate::harness::stack::Stack;
use crate::harness::worker::{Answer, Worker};
use crate::harness::{PATIENCE, eventually};
use crate::http_manners::Kept;

/// A body of some 400 KB whose job takes so many milliseconds.
fn large(name: &str, milliseconds: u64) -> Value {
    let long = "x".repeat(4_000);
    let mut inputs: Vec<Value> = (0..100)
        .map(|n| json!({"text": format!("{name} {n} {long}")}))
        .collect();
    inputs.push(json!({"text": format!("sleep:{milliseconds} {name}")}));
    json!({"model": "fault", "inputs": inputs})
}

async fn ask(worker: &Worker, body: &Value) -> Answer {
    let body = body.to_string();
    let answer = worker.ask("POST", "/v1/score/batch", &[], body.as_bytes());
    answer.await.expect("an answer")
}

async fn bytes_in_hand(worker: &Worker) -> Option<u64> {
    let (_, lanes) = worker.get("/v1/lanes").await?;
    let lanes: Value = serde_json::from_str(&lanes).ok()?;
    lanes["bytes_in_hand"].as_u64()
}

fn assert_turned_away(answer: &Answer, why: &str) {
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);
    let error = &answer.json()["error"];
    assert_eq!(error["code"], "unavailable");
    let message = error["message"].as_str().unwrap_or_default();
    assert!(message.contains(why), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_the_bytes_in_hand_are_turned_away_and_the_queues_go_on() {
    let stack = Stack::shared().await;
    let max: u64 = 4 << 20;
    let settings = stack.worker().models(&["fault", "sentiment"]);
    let settings = settings.set("KILN_INTAKE__MAX_BYTES_IN_HAND", &max.to_string());
    let worker = Arc::new(settings.start().await);
    let holders: Vec<_> = (0..2)
        .map(|n| {
            let worker = Arc::clone(&worker);
            tokio::spawn(async move { ask(&worker, &large(&format!("held {n}"), 3_000)).await })
        })
        .collect();
    eventually("requests hold their half", PATIENCE, || async {
        (bytes_in_hand(&worker).await? > max / 2).then_some(())
    })
    .await;
    let small = json!({"model": "sentiment", "inputs": [{"text": "small"}]});
    assert_turned_away(&ask(&worker, &small).await, "intake.max_bytes_in_hand");
    // Whatever a large body is, it waits in memory; who has little to say is heard.
    let hits = |count: usize| json!({"namespace": "x", "keys": vec!["a key"; count]}).to_string();
    let tell = async |body: String| {
        let answer = worker.ask("POST", "/v1/hits", &[], body.as_bytes()).await;
        answer.expect("an answer")
    };
    assert_turned_away(&tell(hits(10_000)).await, "intake.max_bytes_in_hand");
    assert_eq!(tell(hits(10)).await.status, 204);
    let crowd = (0..40).map(|n| {
        let worker = Arc::clone(&worker);
        async move { ask(&worker, &large(&format!("crowd {n}"), 1)).await }
    });
    let queue = async {
        for n in 0..10 {
            let quick = text_job(&format!("quick-{n}"), "sentiment", &["I love this"]);
            assert_eq!(stack.bus.answer(&quick).await.status(), "ok");
            assert_eq!(worker.get("/livez").await.map(|a| a.0), Some(200));
            let bytes = bytes_in_hand(&worker).await.expect("a figure");
            // What was let in has room once more for itself.
            assert!(bytes < max, "{bytes}");
        }
    };
    let (crowd, ()) = tokio::join!(join_all(crowd), queue);
    for answer in crowd.iter().filter(|answer| answer.status != 200) {
        assert_turned_away(answer, "intake.max_bytes_in_hand");
    }
    assert!(crowd.iter().any(|answer| answer.status == 503));
    for holder in holders {
        assert_eq!(holder.await.expect("an answer").status, 200);
    }
    assert_eq!(ask(&worker, &small).await.status, 200);
    assert_eq!(tell(hits(1_000)).await.status, 204);
    // Who asks first hears why, and sends none of it.
    let head = "POST /v1/hits HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1048577\r\nexpect: 100-continue\r\n";
    let (head, body) = Kept::open(&worker).await.ask(head, b"").await;
    assert!(head.starts_with("http/1.1 413 "), "{head}");
    assert!(body.contains("1048576 bytes"), "{body}");
    eventually("nothing is in hand", PATIENCE, || async {
        (bytes_in_hand(&worker).await? == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_of_some_lanes_runs_nothing_of_others() {
    let stack = Stack::shared().await;
    let fault = json!({"model": "fault", "inputs": [{"text": "asked for"}]});
    let worker = |lane: &str| {
        let settings = stack.worker().models(&["fault", "sentiment"]);
        let lanes = format!("[\"{lane}\"]");
        let settings = settings.set("KILN_INTAKE__LANES", &lanes);
        settings.set("KILN_RETRY__DELAYS_MS", "[50]").start()
    };
    let first = worker("sentiment").await;
    let refused = ask(&first, &fault).await;
    assert_turned_away(&refused, "lane `fault` isn't served by this worker");
    let warming = json!({"job_id": "warming", "model": "fault", "inputs": [{"text": "warmed"}]});
    let body = warming.to_string();
    let queued = first.ask("POST", "/v1/cache/warm", &[], body.as_bytes());
    assert_eq!(queued.await.expect("an answer").status, 202);
    eventually("the warming job is given back", PATIENCE, || async {
        let postponed = [("outcome", "postponed")];
        let given_back = first.metric("kiln_jobs_total", &postponed).await;
        // The request is the first.
        (given_back > 1.0).then_some(())
    })
    .await;
    assert_eq!(stack.row_count().await, 0);
    let second = worker("fault").await;
    stack.wait_for_rows(1).await;
    assert_eq!(stack.row("warming").await.status, "ok");
    assert_eq!(ask(&second, &fault).await.status, 200);
    let rows = [("model", "fault")];
    let scored = first.metric("kiln_model_batch_rows_sum", &rows).await;
    assert_eq!(scored, 0.0);
}
