//! An input that many jobs miss at once is scored once, over all workers, whoever dies.

use serde_json::{Value, json};

use crate::harness::jobs::Reply;
use crate::harness::stack::Stack;
use crate::harness::worker::{Settings, Worker};
use crate::harness::{PATIENCE, eventually};

/// Thousand jobs for one text that takes long to score.
fn crowd(milliseconds: u32) -> Vec<Value> {
    (0..1_000)
        .map(|n| json!({"job_id": format!("crowd-{n}"), "model": "fault", "inputs": [{"text": format!("sleep:{milliseconds} the hot one")}]}))
        .collect()
}

/// Few jobs a batch and a small prefetch, so that every worker has its share at the same moment.
fn settings(stack: &Stack) -> Settings {
    stack
        .worker()
        .set("KILN_CACHE__LEASE_FROM_MS", "0")
        .set("KILN_INTAKE__BATCH_JOBS", "8")
        .set("KILN_INTAKE__PREFETCH", "16")
}

fn score(reply: &Reply) -> Option<f64> {
    reply.body["results"][0]["score"].as_f64()
}

async fn calls(workers: &[Worker]) -> f64 {
    let mut calls = 0.0;
    for worker in workers {
        calls += worker
            .metric("kiln_model_batch_rows_count", &[("model", "fault")])
            .await;
    }
    calls
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_over_four_workers_costs_one_model_call() {
    let stack = Stack::shared().await;
    let mut workers = Vec::new();
    for _ in 0..4 {
        workers.push(settings(&stack).start().await);
    }
    stack.bus.publish_jobs(&crowd(400)).await;
    let replies = stack.bus.replies(1_000).await;
    assert!(
        replies
            .iter()
            .all(|reply| score(reply) == score(&replies[0]))
    );
    assert_eq!(calls(&workers).await, 1.0);
    let mut shares = 0;
    for worker in &workers {
        let waited = worker
            .metric("kiln_leases_total", &[("outcome", "waited")])
            .await;
        shares += u32::from(waited > 0.0);
    }
    assert!(shares >= 2, "several workers missed it at once");
    assert_eq!(stack.count("SELECT count(*) FROM scores").await, 1);
    assert!(
        stack.redis.keys("kiln:l:*").await.is_empty(),
        "every lease was given back"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_is_answered_though_the_one_who_scores_is_killed() {
    let stack = Stack::shared().await;
    let settings = settings(&stack)
        .set("KILN_CACHE__LEASE_MS", "1500")
        .expect_trouble();
    let mut workers = Vec::new();
    for _ in 0..4 {
        workers.push(settings.clone().start().await);
    }
    stack.bus.publish_jobs(&crowd(800)).await;
    let holder = eventually("one worker scores", PATIENCE, || async {
        for (index, worker) in workers.iter().enumerate() {
            if worker
                .metric("kiln_leases_total", &[("outcome", "won")])
                .await
                > 0.0
            {
                return Some(index);
            }
        }
        None
    })
    .await;
    workers.remove(holder).kill();
    let replies = stack.bus.replies(1_000).await;
    assert!(
        replies
            .iter()
            .all(|reply| score(reply) == score(&replies[0]))
    );
    assert_eq!(calls(&workers).await, 1.0, "one of the others took it over");
    assert_eq!(stack.count("SELECT count(*) FROM scores").await, 1);
}
