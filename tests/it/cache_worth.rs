//! What a model scores faster than it is looked up isn't looked up, where that is asked for; what costs more is kept as ever.

use serde_json::{Value, json};

use crate::harness::jobs::{slow_jobs, text_job};
use crate::harness::stack::Stack;
use crate::harness::worker::{Settings, Worker};
use crate::harness::{PATIENCE, eventually, eventually_equals};

async fn inputs(worker: &Worker, result: &str) -> f64 {
    worker
        .metric("kiln_inputs_total", &[("result", result)])
        .await
}

fn auto(stack: &Stack) -> Settings {
    stack
        .worker()
        .models(&["fault", "sentiment"])
        .set("KILN_CACHE__MODE", "auto")
}

/// Posts jobs of one text each until some of them weren't looked up.
async fn until_uncached(stack: &Stack, worker: &Worker) {
    let mut number = 0;
    while inputs(worker, "uncached").await == 0.0 {
        assert!(number < 1_000, "every one was looked up");
        let id = format!("first-{number}");
        stack
            .bus
            .answer(&text_job(&id, "sentiment", &[&format!("text {number}")]))
            .await;
        number += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cheap_model_scores_without_look_ups_and_a_slow_one_is_kept() {
    let stack = Stack::shared().await;
    let worker = auto(&stack).start().await;
    for job in slow_jobs("slow", 3, 20) {
        stack.bus.answer(&job).await;
    }
    until_uncached(&stack, &worker).await;
    // One batch in 64 is looked up all the same: of two after another at least one isn't.
    let mut unkept = String::new();
    for number in 0..2 {
        let id = format!("named-{number}");
        let mut job = text_job(&id, "sentiment", &[&format!("a name of its own {number}")]);
        job["named"] = json!(true);
        job["namespace"] = json!("shop");
        job["inputs"][0]["key"] = json!(id);
        let reply: Value = stack.bus.answer(&job).await.body;
        assert_eq!(reply["results"][0]["cached"], json!(false));
        let rows = format!("SELECT count(*) FROM scores WHERE key = '{id}'");
        if stack.count(&rows).await == 0 {
            unkept = id;
        }
    }
    assert!(!unkept.is_empty(), "one of them wasn't looked up");
    // Its job has its row, and its name its entry and its history.
    assert_eq!(stack.row(&unkept).await.status, "ok");
    let keys = stack.redis.keys("kiln:k:shop:*").await;
    let named = format!("kiln:k:shop:{unkept}").into_bytes();
    assert!(keys.contains(&named), "its entry is there");
    let names = format!("SELECT count(*) FROM served WHERE key = '{unkept}'");
    assert_eq!(stack.count(&names).await, 1);
    // The slow model's are found again.
    let hits = inputs(&worker, "hit").await;
    let mut again = slow_jobs("slow", 3, 20);
    for (number, job) in again.iter_mut().enumerate() {
        job["job_id"] = json!(format!("again-{number}"));
        let reply = stack.bus.answer(job).await;
        assert_eq!(reply.body["results"][0]["cached"], json!(true));
    }
    let counted = async || inputs(&worker, "hit").await;
    eventually_equals("hits", PATIENCE, hits + 3.0, counted).await;
    assert_eq!(
        stack
            .count("SELECT count(*) FROM scores WHERE model = 'fault'")
            .await,
        3
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_default_all_are_kept_and_what_would_pay_is_said() {
    let stack = Stack::shared().await;
    let worker = stack.worker().models(&["sentiment"]).start().await;
    let job = text_job("one", "sentiment", &["a text"]);
    stack.bus.answer(&job).await;
    let again = text_job("two", "sentiment", &["a text"]);
    let reply = stack.bus.answer(&again).await;
    assert_eq!(reply.body["results"][0]["cached"], json!(true));
    assert_eq!(inputs(&worker, "uncached").await, 0.0);
    let mut number = 0;
    let says = async || {
        number += 1;
        let text = format!("more {number}");
        let job = text_job(&format!("more-{number}"), "sentiment", &[&text]);
        stack.bus.answer(&job).await;
        let (_, body) = worker.get("/v1/cache/health").await?;
        body.contains("cache.models.sentiment").then_some(())
    };
    eventually("advice by what was measured", PATIENCE, says).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_scores_that_cost_more_than_a_look_up_have_rows_where_that_is_asked_for() {
    let stack = Stack::shared().await;
    let worker = stack
        .worker()
        .models(&["fault", "sentiment"])
        .set("KILN_STORE__SCORES", "dear")
        .start()
        .await;
    for job in slow_jobs("slow", 2, 20) {
        stack.bus.answer(&job).await;
    }
    let rows = "SELECT count(*) FROM scores WHERE model = 'sentiment'";
    let mut number = 0;
    // Before a look-up and the model were measured, a score has its row.
    loop {
        assert!(number < 1_000, "every score has a row");
        let before = stack.count(rows).await;
        let id = format!("cheap-{number}");
        let text = format!("cheap {number}");
        stack
            .bus
            .answer(&text_job(&id, "sentiment", &[&text]))
            .await;
        if stack.count(rows).await == before {
            let again = text_job(&format!("again-{number}"), "sentiment", &[&text]);
            let reply = stack.bus.answer(&again).await;
            assert_eq!(
                reply.body["results"][0]["cached"],
                json!(true),
                "it is in the cache"
            );
            break;
        }
        number += 1;
    }
    assert_eq!(
        stack
            .count("SELECT count(*) FROM scores WHERE model = 'fault'")
            .await,
        2
    );
    drop(worker);
}
