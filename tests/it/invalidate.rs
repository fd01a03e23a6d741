//! Invalidating a namespace: on every worker at once, without holding Redis up.

use serde_json::{Value, json};

use crate::harness::stack::Stack;
use crate::harness::worker::Worker;
use crate::harness::{PATIENCE, eventually, eventually_equals, sandbox};

async fn invalidate(worker: &Worker, namespace: &str) -> u16 {
    let path = format!("/v1/cache/invalidate/{namespace}");
    let answer = worker.ask("POST", &path, &[], b"").await;
    answer.expect("an answer").status
}

/// Whether the one input of a job was cached, as a worker says over HTTP.
async fn cached(worker: &Worker, namespace: &str, text: &str) -> bool {
    let inputs = json!([{"key": "k", "text": text}]);
    let job =
        json!({"model": "sentiment", "namespace": namespace, "named": true, "inputs": inputs});
    let answer = worker
        .ask("POST", "/v1/score/batch", &[], job.to_string().as_bytes())
        .await;
    let said = answer.expect("an answer").json();
    said["results"][0]["cached"].as_bool().expect("a result")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_scored_anew_on_every_worker_and_no_other_is() {
    let stack = Stack::shared().await;
    // Before the workers are there: Redis answers nobody meanwhile.
    let many = "for i = 1, 50000 do redis.call('SET', KEYS[1] .. i, 'x') end return 1";
    let _: i64 = stack
        .redis
        .command(&["EVAL", many, "1", "kiln:k:feed:page:"])
        .await;
    let one = stack.worker().models(&["sentiment"]).start().await;
    let other = stack.worker().models(&["sentiment"]).start().await;
    assert!(!cached(&one, "feed", "a fact").await);
    assert!(cached(&other, "feed", "a fact").await);
    assert!(!cached(&one, "reviews", "another fact").await);

    assert_eq!(invalidate(&one, "feed").await, 202);
    assert!(!cached(&other, "feed", "a fact").await);
    assert!(cached(&one, "feed", "a fact").await);
    // Scores are shared: what one namespace holds to be worthless is a fact to the others.
    assert!(cached(&other, "reviews", "another fact").await);
    assert!(!cached(&other, "feed", "another fact").await);
    eventually("its readers' entries are gone", PATIENCE, || async {
        let left = stack.redis.keys("kiln:k:feed:page:*").await;
        left.is_empty().then_some(())
    })
    .await;
    assert!(stack.redis.json("kiln:k:reviews:k").await.is_some());
    let removed = one.metric("kiln_invalidated_entries_total", &[]).await;
    assert!((50_000.0..=50_001.0).contains(&removed), "{removed}");
    // A thousand at a time, and never a command that walks through everything at once.
    let all: String = stack.redis.command(&["INFO", "commandstats"]).await;
    let calls = all
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_unlink:calls="))
        .and_then(|rest| rest.split(',').next()?.parse::<u64>().ok());
    assert!(calls >= Some(30), "{calls:?} calls for 50,000 entries");
    assert!(one.lines().iter().any(|line| line.contains("is removed")));

    // Again, at once: each counts.
    for _ in 0..3 {
        assert_eq!(invalidate(&other, "feed").await, 202);
        assert!(!cached(&one, "feed", "a fact").await);
        assert!(cached(&other, "feed", "a fact").await);
    }
    assert_eq!(invalidate(&one, "No-Such").await, 400);
    let output = tokio::task::block_in_place(|| {
        sandbox::clean_command(env!("CARGO_BIN_EXE_kiln"), &sandbox::folder("cli"))
            .args(["invalidate", "reviews", "--json"])
            .env("KILN_REDIS_URL", stack.redis.url())
            .output()
    });
    let output = output.expect("kiln runs");
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(said, json!({"namespace": "reviews", "removed": 1}));
    assert!(!cached(&one, "reviews", "another fact").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_being_scored_meanwhile_counts_as_older() {
    let stack = Stack::shared().await;
    let worker = stack.worker().models(&["fault"]).start().await;
    let job = |id: &str| json!({"job_id": id, "model": "fault", "named": true, "inputs": [{"key": "k", "text": "sleep:1500"}]});
    stack.bus.publish_jobs(&[job("slow")]).await;
    eventually_equals("the job is in hand", PATIENCE, 1.0, || async {
        worker.metric("kiln_jobs_in_hand", &[]).await
    })
    .await;
    // Once its entries are looked up: the lease says so, or the stage's count.
    eventually_equals("it was looked up", PATIENCE, 1.0, || async {
        let stage = [("stage", "look_up")];
        worker
            .metric("kiln_stage_duration_seconds_count", &stage)
            .await
    })
    .await;
    assert_eq!(invalidate(&worker, "fault").await, 202);
    stack.wait_for_rows(1).await;
    let _slow = stack.bus.reply_within(PATIENCE).await;
    eventually("its named entry is taken back", PATIENCE, || async {
        let there = stack.redis.json("kiln:k:fault:k").await;
        let done = worker.metric("kiln_jobs_in_hand", &[]).await == 0.0;
        (there.is_none() && done).then_some(())
    })
    .await;
    let reply = stack.bus.answer(&job("next")).await;
    assert_eq!(reply.body["results"][0]["cached"], false, "{reply:?}");
    assert!(stack.redis.json("kiln:k:fault:k").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_after_an_invalidation_shares_no_score_that_was_begun_before() {
    let stack = Stack::shared().await;
    let worker = stack.worker().models(&["fault"]).start().await;
    let job =
        |id: &str| json!({"job_id": id, "model": "fault", "inputs": [{"text": "sleep:1500"}]});
    let looked_up = async |times: f64| {
        eventually_equals("it was looked up", PATIENCE, times, || async {
            let stage = [("stage", "look_up")];
            worker
                .metric("kiln_stage_duration_seconds_count", &stage)
                .await
        })
        .await;
    };
    stack.bus.publish_jobs(&[job("before")]).await;
    looked_up(1.0).await;
    assert_eq!(invalidate(&worker, "fault").await, 202);
    stack.bus.publish_jobs(&[job("after")]).await;
    stack.wait_for_rows(2).await;
    eventually_equals("each was scored", PATIENCE, 2.0, || async {
        worker
            .metric("kiln_inputs_total", &[("result", "miss")])
            .await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_worker_was_removing_another_one_removes() {
    let stack = Stack::shared().await;
    // Before the workers are there: Redis answers nobody meanwhile.
    let many = "for i = 1, 300000 do redis.call('SET', KEYS[1] .. i, 'x') end return 1";
    let _: i64 = stack
        .redis
        .command(&["EVAL", many, "1", "kiln:k:feed:page:"])
        .await;
    let one = stack.worker().models(&["sentiment"]).start().await;
    let _other = stack.worker().models(&["sentiment"]).start().await;
    assert_eq!(invalidate(&one, "feed").await, 202);
    one.kill();
    eventually("all are gone", PATIENCE, || async {
        let left: i64 = stack.redis.command(&["DBSIZE"]).await;
        let unremoved: i64 = stack.redis.command(&["SCARD", "kiln:u"]).await;
        (left < 100 && unremoved == 0).then_some(())
    })
    .await;
}
