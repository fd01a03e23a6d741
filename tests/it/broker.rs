//! RabbitMQ restarted, cut off, silent or short of memory; and a queue that is not Kiln's.

use std::time::Duration;

use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;

use crate::harness::bus::{DEAD, JOBS, persistent};
use crate::harness::jobs::{fault_job, job_ids, quick_jobs, slow_jobs, text_job};
use crate::harness::proxy::Proxy;
use crate::harness::stack::{Own, Stack};
use crate::harness::{PATIENCE, eventually, eventually_equals};

/// How soon after the broker's return a posted job must be answered: a promise, and so a deadline.
const RETURN_LIMIT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_consumes_again_within_ten_seconds_of_the_brokers_return() {
    let stack = Stack::with(Own {
        broker: true,
        postgres: false,
    })
    .await;
    let worker = stack
        .worker()
        .expect_trouble()
        .set("KILN_INTAKE__BATCH_JOBS", "8")
        .start()
        .await;
    let mut ids = Vec::new();
    stack.bus.declare_replies().await;
    stack.broker.flush_declarations().await;

    for (round, graceful) in [("killed", false), ("restarted", true)] {
        let jobs = slow_jobs(round, 100, 5);
        stack.bus.publish_jobs(&jobs).await;
        stack.wait_for_rows(ids.len() + 1).await;
        if graceful {
            stack.broker.stop().await;
        } else {
            stack.broker.kill();
        }
        stack.broker.start().await;
        batches_flow_again(&stack, round).await;
        ids.extend(job_ids(&jobs));
        ids.extend(job_ids(&probe_jobs(round)));
        stack.expect_done(ids.clone()).await;
        stack.wait_for_empty(JOBS).await;
    }
    assert!(worker.is_alive());
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_connection_is_cut_consumes_again_within_ten_seconds() {
    let stack = Stack::shared().await;
    let proxy = Proxy::start(stack.broker.port).await;
    let settings = stack
        .worker()
        .expect_trouble()
        .set("KILN_INTAKE__BATCH_JOBS", "8");
    let worker = settings
        .set("KILN_AMQP_URL", &stack.amqp_url_at(proxy.port))
        .start()
        .await;
    let mut ids = Vec::new();
    for round in ["cut", "cut-again"] {
        let jobs = slow_jobs(round, 100, 5);
        stack.bus.publish_jobs(&jobs).await;
        stack.wait_for_rows(ids.len() + 1).await;
        proxy.cut().await;
        worker.wait_not_ready().await;
        proxy.resume().await;
        batches_flow_again(&stack, round).await;
        ids.extend(job_ids(&jobs));
        ids.extend(job_ids(&probe_jobs(round)));
        stack.expect_done(ids.clone()).await;
    }
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_connection_is_swallowed_notices_and_connects_anew() {
    let stack = Stack::shared().await;
    let proxy = Proxy::start(stack.broker.port).await;
    let url = format!("{}?heartbeat=2", stack.amqp_url_at(proxy.port));
    let settings = stack
        .worker()
        .expect_trouble()
        .set("KILN_INTAKE__BATCH_JOBS", "8");
    let _worker = settings.set("KILN_AMQP_URL", &url).start().await;
    let jobs = slow_jobs("swallowed", 100, 5);
    stack.bus.publish_jobs(&jobs).await;
    stack.wait_for_rows(1).await;
    let connections = proxy.accepted();
    proxy.blackhole().await;
    eventually(
        "the worker tries another connection",
        PATIENCE,
        async || (proxy.accepted() > connections).then_some(()),
    )
    .await;
    proxy.resume().await;
    batches_flow_again(&stack, "swallowed").await;
    let mut ids = job_ids(&jobs);
    ids.extend(job_ids(&probe_jobs("swallowed")));
    stack.expect_done(ids).await;
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_lost_while_there_is_no_room_for_jobs_is_made_anew() {
    let stack = Stack::shared().await;
    let proxy = Proxy::start(stack.broker.port).await;
    let settings = stack
        .worker()
        .expect_trouble()
        .set("KILN_INTAKE__MAX_BYTES_IN_HAND", &(1 << 20).to_string());
    let worker = settings
        .set("KILN_AMQP_URL", &stack.amqp_url_at(proxy.port))
        .start()
        .await;
    let held = stack.hold_jobs().await;
    let texts: Vec<String> = (0..4_000).map(|n| format!("{n:0100}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let jobs = [text_job("large", "fault", &texts)];
    stack.bus.publish_jobs(&jobs).await;
    worker.wait_in_hand(1).await;
    proxy.cut().await;
    let consumers = async || stack.bus.consumers(JOBS).await;
    eventually_equals(
        "consumers of a lost connection",
        PATIENCE,
        Some(0),
        consumers,
    )
    .await;
    proxy.resume().await;
    eventually_equals("consumers of the next one", PATIENCE, Some(1), consumers).await;
    worker.wait_in_hand(1).await;
    held.rollback().await.expect("the lock is let go of");
    stack.expect_done(job_ids(&jobs)).await;
    stack.wait_for_empty(JOBS).await;
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_blocks_publishers_delays_replies_and_loses_none() {
    let stack = Stack::with(Own {
        broker: true,
        postgres: false,
    })
    .await;
    let worker = stack
        .worker()
        .expect_trouble()
        .set("KILN_INTAKE__BATCH_JOBS", "4")
        .start()
        .await;
    // As long as it takes to block the broker, and longer.
    let jobs = slow_jobs("blocked", 80, 100);
    stack.bus.publish_jobs(&jobs).await;
    stack.wait_for_rows(1).await;
    stack.broker.block_publishers().await;
    eventually(
        "the worker's publishing connection is blocked",
        PATIENCE,
        async || {
            let states = stack
                .broker
                .ctl(&["list_connections", "--no-table-headers", "state"])
                .await;
            states.lines().any(|state| state == "blocked").then_some(())
        },
    )
    .await;
    assert!(worker.is_alive());
    stack.broker.unblock_publishers().await;

    let answered = stack.bus.reply_to_each(&job_ids(&jobs)).await;
    assert!(answered.values().all(|reply| reply.status() == "ok"));
    stack.expect_done(job_ids(&jobs)).await;
    stack.wait_for_empty(JOBS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_with_other_arguments_is_refused_by_name() {
    let stack = Stack::shared().await;
    stack.bus.declare(JOBS, FieldTable::default()).await;
    let worker = stack.worker().expect_trouble().spawn();
    let wanted = |line: &str| line.contains(JOBS) && line.contains("argument");
    worker
        .wait_for_line("an error that names the queue and what is wrong", wanted)
        .await;
    let status = worker.wait_exit(PATIENCE).await;
    assert!(
        !status.success() && status.code().is_some(),
        "it gives up in good order: {status}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_deleted_under_a_worker_is_declared_again() {
    let stack = Stack::shared().await;
    let _worker = stack.worker().expect_trouble().start().await;
    stack.bus.delete(JOBS).await;
    // Publishing insists on a queue to arrive in, and so waits for the worker to declare it.
    let jobs = quick_jobs("deleted", 20);
    stack.bus.publish_jobs(&jobs).await;
    stack.expect_done(job_ids(&jobs)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_jobs_do_not_need_stops_none() {
    let stack = Stack::shared().await;
    let text = |text: &str| AMQPValue::LongString(text.into());
    // As earlier releases declared it.
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("classic"));
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(10_000));
    arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(60_000));
    stack.bus.declare("kiln.hits", arguments).await;
    let settings = stack
        .worker()
        .allow("the queue of hints isn't the quorum queue");
    let worker = settings.allow("jobs go on without it").start().await;
    let hint = json!({"namespace": "feed", "keys": ["page:1"]});
    let hint = vec![(hint.to_string().into_bytes(), persistent())];
    stack.bus.publish("kiln.hits", hint.clone()).await;
    eventually("a hint is counted", PATIENCE, async || {
        let counted = worker.metric("kiln_hints_total", &[("outcome", "ok")]);
        (counted.await == 1.0).then_some(())
    })
    .await;

    let rejections = [DEAD, "kiln.retry.jobs.100ms", "kiln.retry.warm.200ms"];
    for queue in ["kiln.warm", "kiln.expired", "kiln.hits"]
        .into_iter()
        .chain(rejections)
    {
        stack.bus.delete(queue).await;
    }
    let jobs = quick_jobs("unneeded", 20);
    stack.bus.publish_jobs(&jobs).await;
    stack.expect_done(job_ids(&jobs)).await;
    let reconnects = worker.metric("kiln_broker_reconnects_total", &[]);
    assert_eq!(
        reconnects.await,
        0.0,
        "jobs are taken on the same connection"
    );
    // Publishing insists on a queue to arrive in: it is declared anew.
    stack.bus.publish("kiln.hits", hint).await;
    eventually("another hint is counted", PATIENCE, async || {
        let counted = worker.metric("kiln_hints_total", &[("outcome", "ok")]);
        (counted.await == 2.0).then_some(())
    })
    .await;
    let warming = fault_job("warming", "warmed on a queue that was deleted");
    let warming = vec![(warming.to_string().into_bytes(), persistent())];
    stack.bus.publish("kiln.warm", warming).await;
    assert_eq!(stack.row("warming").await.status, "ok");
    for queue in rejections {
        eventually(&format!("{queue} is there again"), PATIENCE, async || {
            stack.bus.waiting(queue).await
        })
        .await;
    }
    stack
        .bus
        .publish(JOBS, vec![(b"no job".to_vec(), persistent())])
        .await;
    stack.bus.dead_letters(1).await;
}

fn probe_jobs(round: &str) -> Vec<serde_json::Value> {
    let mut jobs = quick_jobs(&format!("{round}-probe"), 200);
    jobs.insert(
        0,
        fault_job(&format!("{round}-first"), "the first after the return"),
    );
    jobs
}

/// Not only is the connection up: a new job is answered in time, and after it whole batches.
async fn batches_flow_again(stack: &Stack, round: &str) {
    let jobs = probe_jobs(round);
    let first = jobs[..1].to_vec();
    let answered = async {
        stack.bus.publish_jobs(&first).await;
        stack.bus.reply_to_each(&job_ids(&first)).await
    };
    let answered = tokio::time::timeout(RETURN_LIMIT, answered).await;
    assert!(
        answered.is_ok(),
        "a job is answered within {RETURN_LIMIT:?} of the broker's return"
    );
    stack.bus.publish_jobs(&jobs[1..]).await;
    stack.bus.reply_to_each(&job_ids(&jobs[1..])).await;
}
