//! Redis down, silent, slow, full or holding garbage: jobs go on, and nothing wrong is ever served.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::bus::DEAD;
use crate::harness::jobs::{Reply, fault_job, job_ids, quick_jobs};
use crate::harness::proxy::Proxy;
use crate::harness::redis::Redis;
use crate::harness::stack::Stack;
use crate::harness::{PATIENCE, eventually, sandbox};

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
async fn a_redis_that_became_a_replica_is_left_for_the_one_that_took_its_name() {
    let stack = Stack::shared().await;
    let proxy = Proxy::start(stack.redis.port).await;
    let settings = stack.worker().expect_trouble();
    let settings = settings.set(
        "KILN_REDIS_URL",
        &format!("redis://127.0.0.1:{}/0", proxy.port),
    );
    let worker = settings.start().await;
    redis_is_used_again(&stack, "before").await;

    // What a failover does: the old one follows the new one, and the name means the new one. No connection breaks.
    let next = Redis::prepare();
    next.start().await;
    proxy.retarget(next.port);
    let replica = ["REPLICAOF", "127.0.0.1", &next.port.to_string()];
    stack.redis.command::<()>(&replica).await;
    let mut round = 0;
    eventually("the new one is used", PATIENCE, async || {
        round += 1;
        score(&stack, &format!("after-{round}"), &format!("text {round}")).await;
        let entries = next.keys("kiln:s:*").await;
        (!entries.is_empty()).then_some(())
    })
    .await;
    assert!(worker.is_alive());
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_is_far_too_large_is_a_miss_and_is_overwritten() {
    const HUGE: &str = "67108864";
    let stack = Stack::shared().await;
    let first = stack.worker().start().await;
    let original = score(&stack, "original", "a text").await;
    first.stop().await;
    drop(first);
    let keys = stack.redis.keys("kiln:s:*").await;
    let key = keys.first().expect("one input is one entry");
    let entry: Vec<u8> = stack.redis.at("GET", key, &[]).await;
    stack.redis.at::<()>("SETRANGE", key, &[HUGE, "x"]).await;

    let worker = stack.worker().expect_trouble().start().await;
    let mut round = 0;
    eventually("the entry is good again", PATIENCE, async || {
        round += 1;
        let again = score(&stack, &format!("again-{round}"), "a text").await;
        let (again, original) = (&again.body["results"][0], &original.body["results"][0]);
        assert_eq!(again["score"], original["score"]);
        let length: usize = stack.redis.at("STRLEN", key, &[]).await;
        (length == entry.len()).then_some(())
    })
    .await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_one_connection_is_slow_look_ups_go_on_hitting_on_the_others() {
    let stack = Stack::shared().await;
    let proxy = Proxy::start(stack.redis.port).await;
    let url = format!("redis://127.0.0.1:{}/0", proxy.port);
    let settings = stack.worker().set("KILN_REDIS_URL", &url);
    // Redis as such never fails: any other word of trouble fails the test.
    let settings = settings.allow("a connection to redis is lost");
    let worker = settings.start().await;
    let texts: Vec<String> = (0..10).map(|n| format!("a text of {n}")).collect();
    let mut scores = Vec::new();
    for (n, text) in texts.iter().enumerate() {
        let reply = score(&stack, &format!("first-{n}"), text).await;
        scores.push(reply.body["results"][0]["score"].clone());
    }

    proxy.delay_one(0, Duration::from_secs(3)).await;
    let mut round = 0;
    eventually("the slow connection is given up", PATIENCE, async || {
        round += 1;
        for (n, text) in texts.iter().enumerate() {
            let reply = score(&stack, &format!("slow-{round}-{n}"), text).await;
            let result = &reply.body["results"][0];
            assert_eq!(result["cached"], true, "round {round}: {}", reply.body);
            assert_eq!(result["score"], scores[n], "no answer but its own");
        }
        let lost = worker
            .metric("kiln_cache_connections_lost_total", &[])
            .await;
        (lost >= 1.0).then_some(())
    })
    .await;
    assert!(worker.is_ready().await);
    let up = worker
        .metric("kiln_server_up", &[("server", "redis")])
        .await;
    assert_eq!(up, 1.0);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_look_up_over_a_slow_network_is_no_time_out_and_holds_up_no_small_one() {
    const INPUTS: usize = 4_096;
    let stack = Stack::shared().await;
    let models = wide_model();
    let proxy = Proxy::start(stack.redis.port).await;
    let url = format!("redis://127.0.0.1:{}/0", proxy.port);
    let settings = stack.worker().set("KILN_REDIS_URL", &url);
    let settings = settings.set("KILN_MODELS_DIR", models.to_str().expect("a plain path"));
    let worker = settings.start().await;
    let inputs: Vec<Value> = (0..INPUTS)
        .map(|n| json!({"features": [n, n + 1, 1, 0]}))
        .collect();
    let job = |id: &str, inputs: &[Value]| json!({"job_id": id, "model": "wide", "inputs": inputs});
    let first = stack.bus.answer(&job("first", &inputs)).await;
    assert_eq!(first.body["misses"], INPUTS);

    // Four MiB of entries over connections that carry as much a second: twice the time that a small answer has.
    proxy.throttle(4 << 20).await;
    stack.bus.publish_job(&job("large", &inputs)).await;
    let small: Vec<Value> = (0..20)
        .map(|n| job(&format!("small-{n}"), &inputs[n..=n]))
        .collect();
    stack.bus.publish_jobs(&small).await;
    let mut ids = job_ids(&small);
    ids.push("large".to_owned());
    let replies = stack.bus.reply_to_each(&ids).await;
    for (id, reply) in &replies {
        assert_eq!(reply.body["misses"], 0, "{id} was looked up");
    }
    assert_eq!(
        replies["large"].body["results"][77]["embedding"],
        first.body["results"][77]["embedding"]
    );
    let failed = worker.metric("kiln_cache_operations_total", &[("outcome", "error")]);
    assert_eq!(failed.await, 0.0);
    let skipped = worker.metric("kiln_cache_operations_total", &[("outcome", "skipped")]);
    assert_eq!(skipped.await, 0.0);
    worker.stop().await;
    let _gone = fs::remove_dir_all(models);
}

/// A models folder with `wide`: four features in, 256 numbers out.
fn wide_model() -> PathBuf {
    let models = sandbox::folder("wide");
    let folder = models.join("wide").join("1");
    fs::create_dir_all(&folder).expect("a folder");
    let sizes = [4usize, 4, 256];
    let mut tensors = Vec::new();
    for (n, pair) in sizes.windows(2).enumerate() {
        let (inputs, outputs) = (pair[0], pair[1]);
        let bytes = |count: usize| -> Vec<u8> {
            let numbers = (0..count).map(|i| (i % 7) as f32 / 7.0);
            numbers.flat_map(f32::to_le_bytes).collect()
        };
        tensors.push((
            format!("layers.{n}.weight"),
            vec![outputs, inputs],
            bytes(outputs * inputs),
        ));
        tensors.push((format!("layers.{n}.bias"), vec![outputs], bytes(outputs)));
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        (name.as_str(), view.expect("a tensor"))
    });
    let weights = serialize(views, None).expect("a file of weights");
    let manifest = format!(
        "architecture = \"mlp\"\n[features]\ncount = 4\n[output]\ntask = \"embedding\"\nwidth = 256\n\
         [mlp]\nhidden = [4]\nactivation = \"relu\"\n[weights]\nsha256 = \"{}\"\n",
        hex::encode(Sha256::digest(&weights))
    );
    fs::write(folder.join("model.safetensors"), weights).expect("a file of weights");
    fs::write(folder.join("manifest.toml"), manifest).expect("a manifest");
    models
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
