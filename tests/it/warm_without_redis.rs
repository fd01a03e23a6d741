//! Warming while Redis doesn't do its part: nothing is computed for readers who couldn't find it.

use crate::harness::stack::Stack;
use crate::harness::{PATIENCE, eventually};
use crate::warm::{Schedules, on_request, words};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_waits_for_redis_and_is_done_once_its_entries_are_there() {
    let stack = Stack::shared().await;
    let schedules = Schedules::new();
    schedules.put("words", &format!("{}{}", on_request(), words(50)));
    let worker = schedules.worker(&stack).expect_trouble().start().await;
    stack.redis.pause();
    let is_degraded = async || {
        let degraded = worker.metric("kiln_degraded", &[("part", "redis")]).await;
        (degraded == 1.0).then_some(())
    };
    eventually("Redis is known to be away", PATIENCE, is_degraded).await;
    let (code, _, said) =
        tokio::task::block_in_place(|| schedules.kiln(&stack, &["warm", "words", "--json"]));
    assert_eq!(code, 0, "{said}");
    // Producers' jobs go on meanwhile.
    let inputs = json!([{"text": "a nice text"}]);
    for n in 0..20 {
        let job = json!({"job_id": format!("good-{n}"), "model": "sentiment", "inputs": inputs});
        stack.bus.answer(&job).await;
    }
    assert_eq!(
        stack
            .count("SELECT count(*) FROM jobs WHERE job_id LIKE 'warm-%'")
            .await,
        0,
        "nothing is computed ahead"
    );
    let waits = "SELECT count(*) FROM warm_runs WHERE state <> 'done'";
    assert_eq!(stack.count(waits).await, 1);

    stack.redis.resume();
    let done = "SELECT coalesce(sum(done), 0)::int8 FROM warm_runs WHERE state = 'done'";
    eventually("the run is done", 2 * PATIENCE, async || {
        (stack.count(done).await == 50).then_some(())
    })
    .await;
    eventually("readers find its entries", PATIENCE, async || {
        (stack.redis.keys("kiln:k:warmed:*").await.len() == 50).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_where_workers_report_heat_gives_way_to_it() {
    let stack = Stack::shared().await;
    let schedules = Schedules::new();
    for key in ["kiln:h:warmed:sentiment", "kiln:r:warmed"] {
        let _: i64 = stack.redis.command(&["SADD", key, "x"]).await;
    }
    for key in ["kiln:h", "kiln:r"] {
        let _: String = stack.redis.command(&["SET", key, "x"]).await;
    }
    let (code, _, said) = tokio::task::block_in_place(|| schedules.kiln(&stack, &["hot"]));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("something else"), "{said}");
    let _worker = stack.worker().models(&["sentiment"]).start().await;
    let inputs = json!([{"key": "k", "text": "a nice text"}]);
    let job = json!({"job_id": "one", "model": "sentiment", "namespace": "warmed", "named": true, "inputs": inputs});
    stack.bus.answer(&job).await;
    eventually("it has reported", 2 * PATIENCE, async || {
        let (code, lines, _) =
            tokio::task::block_in_place(|| schedules.kiln(&stack, &["hot", "--json"]));
        let is_hot = lines.iter().any(|line| line["namespace"] == "warmed");
        (code == 0 && is_hot).then_some(())
    })
    .await;
    for (key, kind) in [("kiln:h", "set"), ("kiln:h:warmed:sentiment", "hash")] {
        let found: String = stack.redis.command(&["TYPE", key]).await;
        assert_eq!(found, kind, "{key}");
    }
}
