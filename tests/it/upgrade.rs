//! The last release's workers and this one's beside each other on one set of servers, on the way up and on the way back.
//!
//! `LAST_RELEASE` is that release's binary, which `scripts/test` builds; without it the test says that it was skipped.
//! `UPGRADE_SECONDS` says for how long both run, each time.

use std::env;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::bus::{DEAD, JOBS};
use crate::harness::jobs::{Reply, job_ids};
use crate::harness::stack::Stack;
use crate::harness::worker::{Settings, Worker};

const SECONDS: u64 = 5;
/// Texts that come again and again.
const SHARED: usize = 20;
const JOBS_AT_ONCE: usize = 40;
const LANE: &str = "kiln.lane.sentiment";

/// One of a text that no other job has and one that others have, both kept for readers, ranked, some with their producer's own order.
fn job(prefix: &str, n: usize) -> Value {
    let shared = format!("shared {}", n % SHARED);
    let mut job = json!({
        "job_id": format!("{prefix}-{n}"),
        "model": "sentiment",
        "namespace": "upgrade",
        "named": true,
        "inputs": [
            {"key": format!("own:{}", n % SHARED), "text": format!("what {prefix} {n} is like")},
            {"key": shared, "text": shared},
        ],
        "rank": {"key": "page:1", "top": 2},
    });
    if n.is_multiple_of(2) {
        job["as_of"] = json!(n);
    }
    job
}

/// Servers with all that was posted to them.
struct Load {
    stack: Stack,
    posted: Vec<String>,
}

impl Load {
    /// Posts some jobs, each of which is answered well.
    async fn post(&mut self, prefix: &str, from: usize) -> Vec<Reply> {
        let jobs: Vec<Value> = (from..from + JOBS_AT_ONCE)
            .map(|n| job(prefix, n))
            .collect();
        let ids = job_ids(&jobs);
        self.stack.bus.publish_jobs(&jobs).await;
        let answered = self.stack.bus.reply_to_each(&ids).await;
        self.posted.extend(ids);
        let replies: Vec<Reply> = answered.into_values().collect();
        assert!(replies.iter().all(|reply| reply.status() == "ok"));
        replies
    }

    /// The same for a while.
    async fn keep_posting(&mut self, prefix: &str) {
        let set = env::var("UPGRADE_SECONDS").ok();
        let seconds = set.and_then(|text| text.parse().ok()).unwrap_or(SECONDS);
        let begun = Instant::now();
        for round in 0.. {
            if begun.elapsed() > Duration::from_secs(seconds) {
                println!("{prefix}: {} jobs", round * JOBS_AT_ONCE);
                return;
            }
            self.post(prefix, round * JOBS_AT_ONCE).await;
        }
    }

    /// A job that was done is answered from its row, whichever release wrote it.
    async fn repeat(&self, prefix: &str) {
        let again = vec![job(prefix, 0)];
        self.stack.bus.publish_jobs(&again).await;
        let reply = self.stack.bus.reply_to_each(&job_ids(&again)).await;
        assert!(reply.values().all(|reply| reply.status() == "ok"));
    }
}

/// Each has done some of the jobs, and what one invalidates the other doesn't serve.
async fn work_together(load: &mut Load, one: &Worker, other: &Worker, round: &str) {
    let done = async |worker: &Worker| worker.metric("kiln_jobs_total", &[]).await;
    let (of_one, of_other) = (done(one).await, done(other).await);
    load.keep_posting(&format!("{round}-both")).await;
    assert!(done(one).await > of_one, "both take jobs");
    assert!(done(other).await > of_other, "both take jobs");
    for (number, worker) in [one, other].into_iter().enumerate() {
        let invalidated = worker.ask("POST", "/v1/cache/invalidate/upgrade", &[], b"");
        assert_eq!(invalidated.await.expect("an answer").status, 202);
        let prefix = format!("{round}-invalidated-{number}");
        load.post(&prefix, 0).await;
        // Its own rows are there, and what was kept is found again.
        let replies = load.post(&format!("{prefix}-again"), 0).await;
        let hits = replies
            .iter()
            .filter_map(|reply| reply.body["hits"].as_u64());
        assert!(
            hits.sum::<u64>() as usize >= SHARED,
            "what is shared is a hit"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_release_before_and_this_one_work_side_by_side_in_both_directions() {
    let Some(before) = env::var_os("LAST_RELEASE").map(PathBuf::from) else {
        println!("skipped: LAST_RELEASE names no binary of the last release");
        return;
    };
    let stack = Stack::shared().await;
    let this: Settings = stack
        .worker()
        .models(&["sentiment"])
        .set("KILN_INTAKE__BATCH_JOBS", "8")
        .set("KILN_INTAKE__PREFETCH", "16")
        // So that some jobs are moved from one to the other through the lane's queues.
        .set("KILN_LANE__EXPENSIVE_FROM_MS", "0")
        .set("KILN_LANE__MAX_SECONDS_IN_HAND", "0.02")
        .set("KILN_LANE__QUEUES", "1");
    let before = this.clone().program(&before);
    let mut load = Load {
        stack,
        posted: Vec::new(),
    };

    // On the way up.
    let old = before.clone().start().await;
    load.post("old", 0).await;
    let new = this.clone().start().await;
    work_together(&mut load, &old, &new, "up").await;
    old.stop().await;
    load.post("new", 0).await;
    load.repeat("old").await;

    // And back.
    let old = before.start().await;
    work_together(&mut load, &new, &old, "down").await;
    new.stop().await;
    load.post("back", 0).await;
    load.repeat("new").await;

    load.stack.expect_done(load.posted.clone()).await;
    assert_eq!(load.stack.bus.waiting(DEAD).await, Some(0), "none refused");
    load.stack.wait_for_empty(JOBS).await;
    load.stack.wait_for_empty(LANE).await;
    old.stop().await;
}
