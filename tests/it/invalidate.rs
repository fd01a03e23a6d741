//! Invalidating a namespace: on every worker at once, without holding Redis up, and for good, whatever Redis loses.

use std::process::Output;
use std::time::Duration;

use ::redis::pipe;
use serde_json::{Value, json};

use crate::harness::proxy::Proxy;
use crate::harness::redis::Redis;
use crate::harness::stack::Stack;
use crate::harness::worker::Worker;
use crate::harness::{PATIENCE, eventually, eventually_equals, sandbox};

async fn invalidate(worker: &Worker, namespace: &str) -> u16 {
    let path = format!("/v1/cache/invalidate/{namespace}");
    let answer = worker.ask("POST", &path, &[], b"").await;
    answer.expect("an answer").status
}

/// Runs `kiln invalidate --json`.
fn command(namespace: &str, redis_url: &str, database_url: &str) -> Output {
    let output = tokio::task::block_in_place(|| {
        sandbox::clean_command(env!("CARGO_BIN_EXE_kiln"), &sandbox::folder("cli"))
            .args(["invalidate", namespace, "--json"])
            .env("KILN_REDIS_URL", redis_url)
            .env("KILN_DATABASE_URL", database_url)
            .output()
    });
    output.expect("kiln runs")
}

/// Whether the one input of a job was cached, as a worker says over HTTP.
async fn cached(worker: &Worker, namespace: &str, text: &str) -> bool {
    cached_under(worker, namespace, "k", text).await
}

/// The same where readers find it under another key.
async fn cached_under(worker: &Worker, namespace: &str, key: &str, text: &str) -> bool {
    let inputs = json!([{"key": key, "text": text}]);
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
    let output = command("reviews", &stack.redis.url(), &stack.database_url());
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

/// How often Redis has run a command so far.
async fn calls(redis: &Redis, command: &str) -> u64 {
    let all: String = redis.command(&["INFO", "commandstats"]).await;
    let prefix = format!("cmdstat_{command}:calls=");
    let calls = all.lines().find_map(|line| line.strip_prefix(&prefix));
    let calls = calls.and_then(|rest| rest.split(',').next()?.parse().ok());
    calls.unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_writes_long_after_its_answer_was_due_is_taken_back() {
    let stack = Stack::shared().await;
    let proxy = Proxy::start(stack.redis.port).await;
    let url = format!("redis://127.0.0.1:{}/0", proxy.port);
    let settings = stack.worker().models(&["fault"]).expect_trouble();
    let far = settings.clone().set("KILN_REDIS_URL", &url).start().await;
    let near = settings.start().await;
    let writes = || calls(&stack.redis, "psetex");
    let inputs = json!([{"key": "k", "text": "a text"}]);
    let job = json!({"model": "fault", "namespace": "feed", "named": true, "inputs": inputs});
    let body = job.to_string();
    let held = stack.hold_jobs().await;
    let scoring = far.ask("POST", "/v1/score/batch", &[], body.as_bytes());
    let delaying = async {
        let name = "kiln_stage_duration_seconds_count";
        let stage = [("stage", "score")];
        let is_scored = || far.metric(name, &stage);
        eventually_equals("it is scored", PATIENCE, 1.0, is_scored).await;
        // What readers find follows the row.
        proxy.delay(Duration::from_secs(8)).await;
        drop(held);
    };
    let (scored, ()) = tokio::join!(scoring, delaying);
    assert_eq!(scored.expect("an answer").status, 200);
    // Its entry is on its way. Everything else goes on.
    proxy.resume().await;
    assert_eq!(writes().await, 0);
    assert_eq!(invalidate(&near, "feed").await, 202);
    let removed = |line: &str| line.contains("of an invalidated namespace is removed");
    near.wait_for_line("it is removed", removed).await;
    eventually_equals("its entry is written", PATIENCE, 1, writes).await;
    eventually("it is taken back", PATIENCE, || async {
        let left = stack.redis.keys("kiln:k:*").await;
        left.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_taken_back_is_taken_back_when_redis_takes_that() {
    let stack = Stack::shared().await;
    let rules = "ACL SETUSER plain on >pw ~kiln:* +@all -unlink";
    let rules: Vec<&str> = rules.split(' ').collect();
    let _: String = stack.redis.command(&rules).await;
    let url = stack.redis.url().replace("redis://", "redis://plain:pw@");
    let settings = stack.worker().models(&["fault"]).expect_trouble();
    let near = settings.clone().start().await;
    let far = settings.set("KILN_REDIS_URL", &url).start().await;
    let inputs = json!([{"key": "k", "text": "sleep:3000 a text"}]);
    let job = json!({"model": "fault", "namespace": "feed", "named": true, "inputs": inputs});
    let body = job.to_string();
    let scoring = far.ask("POST", "/v1/score/batch", &[], body.as_bytes());
    let invalidating = async {
        let stage = [("stage", "look_up")];
        let name = "kiln_stage_duration_seconds_count";
        let looked_up = || far.metric(name, &stage);
        eventually_equals("it was looked up", PATIENCE, 1.0, looked_up).await;
        assert_eq!(invalidate(&near, "feed").await, 202);
        let removed = |line: &str| line.contains("of an invalidated namespace is removed");
        near.wait_for_line("it is removed", removed).await;
    };
    let (scored, ()) = tokio::join!(scoring, invalidating);
    assert_eq!(scored.expect("an answer").status, 200);
    assert!(stack.redis.json("kiln:k:feed:k").await.is_some());
    let _: String = stack
        .redis
        .command(&["ACL", "SETUSER", "plain", "+unlink"])
        .await;
    eventually("it is taken back", PATIENCE, || async {
        let left = stack.redis.json("kiln:k:feed:k").await;
        left.is_none().then_some(())
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

/// Texts of one part of a test.
fn texts(part: &str) -> Vec<String> {
    (0..40).map(|n| format!("{part} {n}")).collect()
}

/// What Redis holds of some keys, so that it can have it back.
struct Copies(Vec<(Vec<u8>, Vec<u8>)>);

impl Copies {
    async fn of(redis: &Redis, pattern: &str) -> Self {
        let mut copies = Vec::new();
        for key in redis.keys(pattern).await {
            let value = redis.at("GET", &key, &[]).await;
            copies.push((key, value));
        }
        Self(copies)
    }

    /// As an older replica that takes over has them; false where Redis is away.
    async fn bring_back(&self, redis: &Redis) -> bool {
        let Ok(mut connection) = redis.connection().await else {
            return false;
        };
        let mut all = pipe();
        for (key, value) in &self.0 {
            all.cmd("SET").arg(key).arg(value).arg("PX").arg(3_600_000);
        }
        all.exec_async(&mut connection).await.is_ok()
    }
}

/// Asks two workers in turn for texts that were scored before an invalidation, each once: none is served from before.
async fn expect_scored_anew(workers: [&Worker; 2], texts: &[String]) {
    for (n, text) in texts.iter().enumerate() {
        let worker = workers[n % 2];
        assert!(!cached(worker, "feed", text).await, "{text} is from before");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_older_entry_is_served_whatever_redis_loses() {
    let stack = Stack::shared().await;
    let settings = stack.worker().models(&["sentiment"]).expect_trouble();
    let (one, other) = tokio::join!(settings.clone().start(), settings.start());
    let parts = ["evicted", "marks evicted", "flushed", "restarted"];
    for text in parts.iter().flat_map(|part| texts(part)) {
        assert!(!cached(&one, "feed", &text).await);
    }
    for text in parts.iter().flat_map(|part| texts(part)) {
        assert!(cached(&other, "feed", &text).await);
    }
    let old = Copies::of(&stack.redis, "kiln:s:*").await;
    assert_eq!(old.0.len(), 160);
    assert_eq!(invalidate(&one, "feed").await, 202);
    let workers = [&one, &other];
    let redis = &stack.redis;

    // Real pressure: what isn't asked for goes. The entries are brought back again and again, and so stay; the marks aren't.
    let used: String = redis.command(&["INFO", "memory"]).await;
    let used = used
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    let used: u64 = used
        .and_then(|n| n.trim_end().parse().ok())
        .expect("a size");
    let limit = (used + (4 << 20)).to_string();
    let _: () = redis
        .command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"])
        .await;
    let _: () = redis.command(&["CONFIG", "SET", "maxmemory", &limit]).await;
    let junk = "for i = 1, 2000 do redis.call('SET', KEYS[1] .. ARGV[1] .. ':' .. i, string.rep('x', 1000)) end return 1";
    let evicted = texts("evicted");
    let reading = expect_scored_anew(workers, &evicted);
    let pressing = async {
        for round in 0.. {
            let round = format!("{round}");
            let _: i64 = redis.command(&["EVAL", junk, "1", "junk:", &round]).await;
            old.bring_back(redis).await;
        }
    };
    tokio::select! {
        () = reading => {}
        () = pressing => {}
    }
    assert!(redis.statistic("evicted_keys").await > 2_000.0);
    let _: () = redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let _: () = redis.command(&["FLUSHALL"]).await;

    // The very marks, just before each look-up.
    for (n, text) in texts("marks evicted").iter().enumerate() {
        old.bring_back(redis).await;
        let _: i64 = redis.command(&["DEL", "kiln:i", "kiln:i:feed"]).await;
        let worker = workers[n % 2];
        assert!(!cached(worker, "feed", text).await, "{text} is from before");
    }
    for text in texts("flushed") {
        let _: () = redis.command(&["FLUSHALL"]).await;
        old.bring_back(redis).await;
        expect_scored_anew(workers, &[text]).await;
    }
    let restarted = texts("restarted");
    let reading = expect_scored_anew(workers, &restarted);
    let restarting = async {
        loop {
            redis.kill();
            redis.start().await;
            old.bring_back(redis).await;
        }
    };
    tokio::select! {
        () = reading => {}
        () = restarting => {}
    }
    if !old.bring_back(redis).await {
        redis.kill();
        redis.start().await;
    }
    eventually("the marks are back", PATIENCE, || async {
        let marks = redis.keys("kiln:i*").await;
        (marks.len() == 2).then_some(())
    })
    .await;
    let mut repaired = 0.0;
    for worker in workers {
        repaired += worker
            .metric("kiln_invalidation_marks_repaired_total", &[])
            .await;
    }
    assert!(repaired > 0.0);
    // What was scored since is served as ever.
    assert!(!cached(&one, "feed", "new").await);
    eventually("it is cached", PATIENCE, || async {
        cached(&other, "feed", "new").await.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_to_an_older_replica_brings_nothing_back() {
    let stack = Stack::shared().await;
    let proxy = Proxy::start(stack.redis.port).await;
    let url = format!("redis://127.0.0.1:{}/0", proxy.port);
    let settings = stack.worker().models(&["sentiment"]).expect_trouble();
    let settings = settings.set("KILN_REDIS_URL", &url);
    let (one, other) = tokio::join!(settings.clone().start(), settings.start());
    let old = texts("old");
    for text in &old {
        assert!(!cached(&one, "feed", text).await);
    }
    assert!(!cached_under(&one, "feed", "old", "an old name").await);
    assert!(!cached(&one, "reviews", "kept").await);
    // It falls behind before the invalidation.
    let replica = Redis::prepare();
    replica.start().await;
    let port = stack.redis.port.to_string();
    let _: () = replica.command(&["REPLICAOF", "127.0.0.1", &port]).await;
    eventually("the replica has it all", PATIENCE, || async {
        let info: String = replica.command(&["INFO", "replication"]).await;
        let there = replica.json("kiln:k:feed:old").await.is_some();
        (info.contains("master_link_status:up") && there).then_some(())
    })
    .await;
    let _: () = replica.command(&["REPLICAOF", "NO", "ONE"]).await;
    assert_eq!(invalidate(&one, "feed").await, 202);
    eventually("its readers' entries are gone", PATIENCE, || async {
        let left = stack.redis.json("kiln:k:feed:old").await;
        left.is_none().then_some(())
    })
    .await;

    proxy.retarget(replica.port);
    stack.redis.kill();
    expect_scored_anew([&one, &other], &old).await;
    assert!(replica.json("kiln:k:reviews:k").await.is_some());
    eventually(
        "marks and readers' entries are as they were",
        PATIENCE,
        || async {
            let marks = replica.keys("kiln:i*").await;
            let left = replica.json("kiln:k:feed:old").await;
            (marks.len() == 2 && left.is_none()).then_some(())
        },
    )
    .await;
    assert!(replica.json("kiln:k:reviews:k").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_an_invalidation_stands_and_without_postgres_there_is_none() {
    let stack = Stack::shared().await;
    let worker = stack.worker().models(&["sentiment"]).start().await;
    let nowhere = sandbox::free_port();
    assert!(!cached(&worker, "feed", "a fact").await);

    let database = format!("postgres://kiln@127.0.0.1:{nowhere}/kiln");
    let output = command("feed", &stack.redis.url(), &database);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("nothing is invalidated: postgres"), "{said}");
    assert!(cached(&worker, "feed", "a fact").await);

    let redis = format!("redis://127.0.0.1:{nowhere}/0");
    let output = command("feed", &redis, &stack.database_url());
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("feed is invalidated all the same"), "{said}");
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(said, json!({"namespace": "feed", "removed": null}));
    eventually("the worker has heard", PATIENCE, || async {
        let mark: Option<String> = stack.redis.command(&["GET", "kiln:i:feed"]).await;
        mark
    })
    .await;
    assert!(!cached(&worker, "feed", "a fact").await);
    eventually("a worker removes what readers found", PATIENCE, || async {
        let left = stack.redis.json("kiln:k:feed:k").await;
        left.is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_release_invalidated_is_taken_over() {
    let stack = Stack::shared().await;
    let worker = stack.worker().models(&["sentiment"]).start().await;
    assert!(!cached(&worker, "feed", "a fact").await);
    // In Redis alone, by a clock that is ahead.
    let mark = format!("{}", chrono::Utc::now().timestamp_millis() + 600_000);
    for key in ["kiln:i", "kiln:i:feed"] {
        let _: () = stack.redis.command(&["SET", key, &mark]).await;
    }
    assert!(!cached(&worker, "feed", "a fact").await);
    assert!(cached(&worker, "feed", "a fact").await);
    eventually("the database has it", PATIENCE, || async {
        let kept = stack.marks().await;
        kept.contains(&("feed".to_owned(), mark.parse().expect("a number")))
            .then_some(())
    })
    .await;
    // The next one is later still, and so reaches what bears the mark of the clock that was ahead.
    assert_eq!(invalidate(&worker, "feed").await, 202);
    assert!(!cached(&worker, "feed", "a fact").await);
}
