//! Redis down, silent, full or holding garbage: jobs go on, and nothing wrong is ever served.

use std::time::Duration;

use crate::harness::bus::DEAD;
use crate::harness::jobs::{Reply, fault_job, job_ids, quick_jobs};
use crate::harness::proxy::Proxy;
use crate::harness::stack::Stack;
use crate::harness::{PATIENCE, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_go_on_while_redis_is_down_and_use_it_again_when_it_is_back() {
    let stack = Stack::shared().await;
    let worker = stack.worker().expect_trouble().start().await;
    score(&stack, "before", "a text").await;

    stack.redis.kill();
    jobs_go_on(&stack, "down").await;
    assert!(worker.is_alive());

    stack.redis.start().await;
    redis_is_used_again(&stack, "back").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_go_on_while_redis_is_silent_and_use_it_again_when_it_wakes() {
    let stack = Stack::shared().await;
    let worker = stack.worker().expect_trouble().start().await;
    score(&stack, "before", "a text").await;

    stack.redis.pause();
    jobs_go_on(&stack, "silent").await;
    assert!(worker.is_alive());

    stack.redis.resume();
    redis_is_used_again(&stack, "awake").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_go_on_while_redis_is_slow_and_use_it_again_when_it_is_not() {
    let stack = Stack::shared().await;
    let proxy = Proxy::start(stack.redis.port).await;
    let url = format!("redis://127.0.0.1:{}/0", proxy.port);
    let settings = stack.worker().expect_trouble();
    let _worker = settings.set("KILN_REDIS_URL", &url).start().await;
    proxy.delay(Duration::from_secs(3)).await;
    jobs_go_on(&stack, "slow").await;
    proxy.resume().await;
    redis_is_used_again(&stack, "quick").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_go_on_while_redis_refuses_to_store() {
    let stack = Stack::shared().await;
    let _worker = stack.worker().expect_trouble().start().await;
    stack.redis.fill().await;
    jobs_go_on(&stack, "full").await;
    assert!(
        stack.redis.keys("kiln:s:*").await.is_empty(),
        "nothing fitted in"
    );

    stack.redis.make_room().await;
    redis_is_used_again(&stack, "room").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_in_redis_is_a_miss_and_is_overwritten() {
    let stack = Stack::shared().await;
    let garbage = [
        ("SET", ""),
        (
            "SET",
            "garbage that is no entry at all, and is longer than one",
        ),
        ("APPEND", "a tail on a good entry"),
        ("LPUSH", "another type"),
    ];
    let first = stack.worker().start().await;
    let original = score(&stack, "original", "a text").await;
    first.stop().await;
    drop(first);
    let keys = stack.redis.keys("kiln:s:*").await;
    let [key] = keys.as_slice() else {
        panic!("one input is one entry: {keys:?}")
    };
    let entry: Vec<u8> = stack.redis.at("GET", key, &[]).await;

    for (n, (verb, value)) in garbage.into_iter().enumerate() {
        if verb != "APPEND" {
            stack.redis.at::<()>("DEL", key, &[]).await;
        }
        stack.redis.at::<()>(verb, key, &[value]).await;

        // A new process each time: the cache inside the last one would hide what Redis holds.
        let worker = stack.worker().expect_trouble().start().await;
        let again = score(&stack, &format!("again-{n}"), "a text").await;
        assert_eq!(
            again.body["results"][0]["cached"], false,
            "{verb} {value:?} is a miss"
        );
        assert_eq!(
            again.body["results"][0]["score"],
            original.body["results"][0]["score"]
        );
        eventually("the entry is good again", PATIENCE, async || {
            let kind: String = stack.redis.at("TYPE", key, &[]).await;
            let good = kind == "string"
                && stack.redis.at::<Vec<u8>>("GET", key, &[]).await.len() == entry.len();
            good.then_some(())
        })
        .await;
        worker.stop().await;
    }

    let _last = stack.worker().start().await;
    let hit = score(&stack, "hit", "a text").await;
    assert_eq!(hit.body["results"][0]["cached"], true);
    assert_eq!(
        hit.body["results"][0]["score"],
        original.body["results"][0]["score"]
    );
}

/// New inputs are scored, and known ones found in the worker's own cache.
async fn jobs_go_on(stack: &Stack, prefix: &str) {
    let jobs = quick_jobs(prefix, 30);
    stack.bus.publish_jobs(&jobs).await;
    let replies = stack.bus.reply_to_each(&job_ids(&jobs)).await;
    assert!(
        replies.values().all(|reply| reply.status() == "ok"),
        "all are scored"
    );

    let first = score(
        stack,
        &format!("{prefix}-first"),
        &format!("{prefix} twice"),
    )
    .await;
    let second = score(
        stack,
        &format!("{prefix}-second"),
        &format!("{prefix} twice"),
    )
    .await;
    assert_eq!(
        second.body["results"][0]["cached"], true,
        "the worker remembers without Redis"
    );
    assert_eq!(
        second.body["results"][0]["score"],
        first.body["results"][0]["score"]
    );
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));
}

async fn redis_is_used_again(stack: &Stack, prefix: &str) {
    let mut n = 0;
    let before = stack.redis.keys("kiln:s:*").await.len();
    eventually("new scores are kept in Redis again", PATIENCE, async || {
        n += 1;
        score(
            stack,
            &format!("{prefix}-{n}"),
            &format!("{prefix} new text {n}"),
        )
        .await;
        (stack.redis.keys("kiln:s:*").await.len() > before).then_some(())
    })
    .await;
}

async fn score(stack: &Stack, id: &str, text: &str) -> Reply {
    let reply = stack.bus.answer(&fault_job(id, text)).await;
    assert!(
        reply.body["results"][0]["score"].is_number(),
        "{}",
        reply.body
    );
    reply
}
