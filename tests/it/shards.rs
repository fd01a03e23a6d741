//! Jobs that are spread over shards of their queue: nothing is lost whatever becomes of the shards, of the exchange or of their number.

use std::sync::atomic::{AtomicBool, Ordering};

use lapin::types::FieldTable;
use serde_json::Value;

use crate::harness::bus::{DEAD, JOBS, asking_reply};
use crate::harness::jobs::{job_ids, quick_jobs, slow_jobs};
use crate::harness::shell::Shell;
use crate::harness::stack::Stack;
use crate::harness::worker::Worker;
use crate::harness::{PATIENCE, eventually, eventually_equals};

const EXCHANGE: &str = "kiln";
const SHARDS: &str = "KILN_QUEUES__SHARDS";

fn shard(number: usize) -> String {
    format!("{JOBS}.{number}")
}

async fn worker(stack: &Stack, shards: &str) -> Worker {
    stack.worker().set(SHARDS, shards).start().await
}

/// What waits in each of four shards.
async fn waiting(stack: &Stack) -> [u32; 4] {
    let mut all = [0; 4];
    for (number, one) in all.iter_mut().enumerate() {
        let name = shard(number);
        let what = format!("what waits in {name}");
        *one = eventually(&what, PATIENCE, || stack.bus.waiting(&name)).await;
    }
    all
}

/// Publishes to the exchange, and to the queue of jobs itself, until it is asked to stop; gives the ids.
async fn produce(stack: &Stack, until: &AtomicBool) -> Vec<String> {
    let mut ids = Vec::new();
    for round in 0.. {
        if until.load(Ordering::Relaxed) {
            break;
        }
        let through = slow_jobs(&format!("through-{round}"), 16, 2);
        let direct = slow_jobs(&format!("direct-{round}"), 4, 2);
        stack.bus.publish_through(EXCHANGE, &through).await;
        stack.bus.publish_jobs(&direct).await;
        ids.extend(job_ids(&through));
        ids.extend(job_ids(&direct));
        stack.wait_for_rows(ids.len().saturating_sub(200)).await;
    }
    ids
}

/// Waits until the exchange sends to so many shards, and to no more.
async fn bound(stack: &Stack, shards: usize) {
    let queues: Vec<String> = (0..shards).map(shard).collect();
    let sends = stack.broker.wait_bound(stack.vhost(), EXCHANGE, &queues);
    sends.await;
}

async fn consumed(stack: &Stack, queue: &str) {
    let what = format!("{queue} is consumed");
    let is_consumed = || async { (stack.bus.consumers(queue).await? > 0).then_some(()) };
    eventually(&what, PATIENCE, is_consumed).await;
}

async fn flows(stack: &Stack, more: usize) {
    let done = stack.row_count().await as usize;
    stack.wait_for_rows(done + more).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_shards_and_fewer_under_load_lose_nothing() {
    let stack = Stack::shared().await;
    let until = AtomicBool::new(false);
    let one = worker(&stack, "1").await;
    let changing = async {
        flows(&stack, 50).await;
        // A worker that knows of none takes from all that others have declared.
        let none = worker(&stack, "0").await;
        let four = worker(&stack, "4").await;
        bound(&stack, 4).await;
        flows(&stack, 50).await;
        one.stop().await;
        none.stop().await;
        let again = worker(&stack, "4").await;
        flows(&stack, 50).await;
        four.stop().await;
        let one = worker(&stack, "1").await;
        again.kill();
        flows(&stack, 100).await;
        until.store(true, Ordering::Relaxed);
        one
    };
    let (mut ids, one) = tokio::join!(produce(&stack, &until), changing);
    stack.expect_done(ids.clone()).await;

    // Nobody takes: it is seen where jobs go. The last worker to start has the last word.
    one.stop().await;
    assert_eq!(waiting(&stack).await, [0; 4]);
    let four = worker(&stack, "4").await;
    bound(&stack, 4).await;
    four.stop().await;
    let spread = quick_jobs("spread", 400);
    stack.bus.publish_through(EXCHANGE, &spread).await;
    let each = waiting(&stack).await;
    assert!(each.iter().all(|one| *one > 20), "{each:?}");
    assert_eq!(each.iter().sum::<u32>(), 400);
    let one = worker(&stack, "1").await;
    ids.extend(job_ids(&spread));
    stack.expect_done(ids.clone()).await;
    bound(&stack, 1).await;
    one.stop().await;
    let narrow = quick_jobs("narrow", 40);
    stack.bus.publish_through(EXCHANGE, &narrow).await;
    assert_eq!(waiting(&stack).await, [40, 0, 0, 0]);

    // Without shards in its settings a worker takes from what is left over, and an exchange without shards sends to the queue of jobs,
    // also to one that was declared since.
    stack.bus.delete(JOBS).await;
    let none = worker(&stack, "0").await;
    ids.extend(job_ids(&narrow));
    stack.expect_done(ids.clone()).await;
    for number in 0..4 {
        stack.bus.delete(&shard(number)).await;
    }
    let unsharded = quick_jobs("unsharded", 20);
    stack.bus.publish_through(EXCHANGE, &unsharded).await;
    ids.extend(job_ids(&unsharded));
    stack.expect_done(ids.clone()).await;
    let answered = stack.bus.reply_to_each(&ids).await;
    assert!(answered.values().all(|reply| reply.status() == "ok"));
    stack.wait_for_empty(JOBS).await;
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));
    none.wait_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_are_shown_and_one_that_is_deleted_is_declared_again() {
    let stack = Stack::shared().await;
    let worker = worker(&stack, "2").await;
    consumed(&stack, &shard(0)).await;
    consumed(&stack, &shard(1)).await;
    let shell = |shards: &str| {
        let shell = Shell::on(&stack).set("KILN_RETRY__DELAYS_MS", "[100,200]");
        shell.set(SHARDS, shards)
    };
    let checks = shell("2")
        .kiln(&["doctor", "--json"])
        .await
        .with(0)
        .checks();
    for name in ["exchange kiln", "queue kiln.jobs.0", "queue kiln.jobs.1"] {
        assert_eq!(checks[name].0, "ok", "{checks:#?}");
    }
    let checks = shell("1")
        .kiln(&["doctor", "--json"])
        .await
        .with(0)
        .checks();
    let (status, found, advice) = &checks["queue kiln.jobs.1"];
    assert!(status == "warn" && found.contains("left over"), "{found}");
    assert!(advice.contains("delete_queue kiln.jobs.1"), "{advice}");

    // The broker ends its consumer; another one follows, and the exchange sends to the new queue.
    let one = shard(1);
    stack.bus.delete(&one).await;
    consumed(&stack, &one).await;
    bound(&stack, 2).await;
    worker.stop().await;
    let jobs = quick_jobs("again", 100);
    stack.bus.publish_through(EXCHANGE, &jobs).await;
    assert!(stack.bus.waiting(&one).await > Some(0));

    // One that takes little at a time shows what waits.
    let blind = stack
        .worker()
        .set(SHARDS, "2")
        .set("KILN_INTAKE__PREFETCH", "1");
    let blind = blind.start().await;
    let shown = || async {
        blind
            .metrics()
            .await
            .contains_key("kiln_shard_messages{shard=\"1\"}")
    };
    eventually_equals("the shard's depth is shown", PATIENCE, true, shown).await;
}

/// Jobs in the first queue of jobs and in the two shards.
async fn direct_jobs_flow(stack: &Stack, prefix: &str, queues: &[&str]) -> Vec<Value> {
    let mut all = Vec::new();
    for queue in queues {
        let jobs = quick_jobs(&format!("{prefix}-{queue}"), 10);
        let messages = jobs.iter().map(asking_reply).collect();
        stack.bus.publish(queue, messages).await;
        all.extend(jobs);
    }
    let replies = stack.bus.reply_to_each(&job_ids(&all)).await;
    assert!(replies.values().all(|reply| reply.status() == "ok"));
    all
}

async fn is_degraded(worker: &Worker, says: &str) {
    let what = format!("degraded: {says}");
    eventually(&what, PATIENCE, async || {
        let (status, body) = worker.get("/readyz").await?;
        assert_eq!(status, 200, "{body}");
        body.contains(says).then_some(())
    })
    .await;
}

async fn is_whole(worker: &Worker) {
    eventually("nothing is degraded", PATIENCE, async || {
        let (status, body) = worker.get("/readyz").await?;
        (status == 200 && !body.contains("degraded")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_of_another_type_is_named_and_stops_nothing() {
    let stack = Stack::shared().await;
    stack.bus.exchange(EXCHANGE, true).await;
    // Somebody else's, by its arguments.
    let foreign = shard(2);
    stack.bus.declare(&foreign, FieldTable::default()).await;
    let settings = stack.worker().set(SHARDS, "2");
    let allowed = settings
        .allow("an exchange can't be used")
        .allow("\"part\":\"queues\"");
    let worker = allowed.start().await;
    let said = worker.wait_for_line("the reason", |line| {
        line.contains("an exchange can't be used") && line.contains("with another type")
    });
    assert!(said.await.contains("queues.exchange"));
    direct_jobs_flow(&stack, "meanwhile", &[JOBS, "kiln.jobs.0", "kiln.jobs.1"]).await;
    is_degraded(&worker, "degraded: queues: exchange kiln").await;
    let shell = Shell::on(&stack).set("KILN_RETRY__DELAYS_MS", "[100,200]");
    let ended = shell.set(SHARDS, "2").kiln(&["doctor", "--json"]).await;
    let (status, found, _) = &ended.checks()["exchange kiln"];
    assert!(
        status == "fail" && found.contains("another type"),
        "{found}"
    );
    let (status, _, advice) = &ended.checks()["queue kiln.jobs.2"];
    assert!(status == "warn" && advice.contains("leave it alone"));

    stack.bus.exchange(EXCHANGE, false).await;
    is_whole(&worker).await;
    let jobs = quick_jobs("through", 20);
    stack.bus.publish_through(EXCHANGE, &jobs).await;
    stack.bus.reply_to_each(&job_ids(&jobs)).await;
    assert_eq!(stack.bus.consumers(&foreign).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_without_the_plugin_is_named_and_stops_nothing() {
    let stack = Stack::with_broker(|broker| broker.without_plugins()).await;
    let settings = stack.worker().set(SHARDS, "2");
    let allowed = settings
        .allow("an exchange can't be used")
        .allow("\"part\":\"queues\"");
    let worker = allowed.start().await;
    worker
        .wait_for_line("the reason", |line| {
            line.contains("an exchange can't be used")
                && line.contains("rabbitmq-plugins enable rabbitmq_consistent_hash_exchange")
        })
        .await;
    direct_jobs_flow(&stack, "meanwhile", &[JOBS, "kiln.jobs.0", "kiln.jobs.1"]).await;
    is_degraded(&worker, "degraded: queues: exchange kiln").await;
    assert_eq!(
        worker.metric("kiln_broker_reconnects_total", &[]).await,
        0.0
    );
    let shell = Shell::on(&stack).set("KILN_RETRY__DELAYS_MS", "[100,200]");
    let ended = shell.set(SHARDS, "2").kiln(&["doctor", "--json"]).await;
    let (status, found, _) = &ended.checks()["exchange kiln"];
    assert!(status == "fail" && found.contains("plugin"), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_cannot_be_reached_is_named_and_the_others_flow() {
    let stack = Stack::shared().await;
    let settings = stack.worker().set(SHARDS, "2");
    let allowed = settings
        .allow("a queue can't be used")
        .allow("\"part\":\"queues\"");
    let worker = allowed.clone().start().await;
    direct_jobs_flow(&stack, "before", &[JOBS, "kiln.jobs.0", "kiln.jobs.1"]).await;
    // As if the majority of its nodes were away.
    let server = |action: &str| {
        let vhost = stack.vhost();
        format!(
            "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"{vhost}\">>, queue, <<\"kiln.jobs.1\">>)), \
             ra:{action}_server(quorum_queues, amqqueue:get_pid(Q))."
        )
    };
    stack.broker.ctl(&["eval", &server("stop")]).await;
    direct_jobs_flow(&stack, "meanwhile", &[JOBS, "kiln.jobs.0"]).await;
    is_degraded(&worker, "degraded: queues: leader of kiln.jobs.1").await;
    direct_jobs_flow(&stack, "degraded", &[JOBS, "kiln.jobs.0"]).await;
    // One that starts meanwhile takes from all others and keeps its connection, and one that stops doesn't wait for the shard.
    let late = allowed.start().await;
    worker.stop().await;
    direct_jobs_flow(&stack, "late", &[JOBS, "kiln.jobs.0"]).await;
    is_degraded(&late, "kiln.jobs.1").await;
    assert_eq!(late.metric("kiln_broker_reconnects_total", &[]).await, 0.0);
    stack.broker.ctl(&["eval", &server("restart")]).await;
    is_whole(&late).await;
    direct_jobs_flow(&stack, "after", &[JOBS, "kiln.jobs.0", "kiln.jobs.1"]).await;
}
