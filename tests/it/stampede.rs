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

/// 27,000 reads of twenty inputs whose entries live a second, over four workers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expires_again_and_again_is_hardly_ever_scored_twice() {
    const ROUND: usize = 300;
    let stack = Stack::shared().await;
    let mut workers = Vec::new();
    for _ in 0..4 {
        workers.push(settings(&stack).start().await);
    }
    let mut scores: [Option<f64>; 20] = [None; 20];
    for round in 0..27_000 / ROUND {
        let jobs: Vec<Value> = (0..ROUND)
            .map(|n| {
                let text = format!("sleep:60 number {}", n % 20);
                json!({"job_id": format!("read-{round}-{n}"), "model": "fault", "inputs": [{"text": text}], "ttl_seconds": 1})
            })
            .collect();
        stack.bus.publish_jobs(&jobs).await;
        for reply in stack.bus.replies(ROUND).await {
            let (_, number) = reply.job_id().rsplit_once('-').expect("an id of ours");
            let of = number.parse::<usize>().expect("a number") % 20;
            let first = *scores[of].get_or_insert(score(&reply).unwrap_or_default());
            assert_eq!(score(&reply), Some(first), "number {of}");
        }
    }
    let mut different: Vec<u64> = scores.iter().flatten().map(|s| s.to_bits()).collect();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), 20, "each has a score of its own");
    eventually("the last entries have expired", PATIENCE, || async {
        // A walk takes away what has expired; asking for the keys only leaves it out.
        let walk = ["SCAN", "0", "MATCH", "kiln:s:*", "COUNT", "100000"];
        let (_, left): (String, Vec<Vec<u8>>) = stack.redis.command(&walk).await;
        left.is_empty().then_some(())
    })
    .await;
    let mut scored = 0.0;
    for worker in &workers {
        scored += worker
            .metric("kiln_model_batch_rows_sum", &[("model", "fault")])
            .await;
    }
    // Every entry that ever was has expired since, and had to be scored once.
    let expired = stack.redis.statistic("expired_keys").await;
    assert!(
        expired > 100.0,
        "entries expired while they were read: {expired}"
    );
    let needless = scored - expired;

    assert!(
        (0.0..=17.0).contains(&needless),
        "{scored} scored, {expired} expired"
    );
}
