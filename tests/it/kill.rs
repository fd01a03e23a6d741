//! A worker that dies or is asked to stop: nothing is lost, and what was finished is not done again.

use std::time::Duration;

use crate::harness::bus::{DEAD, JOBS};
use crate::harness::jobs::{job_id, job_ids, quick_jobs, slow_jobs, text_job};
use crate::harness::proxy::Proxy;
use crate::harness::stack::Stack;
use crate::harness::{PATIENCE, eventually, eventually_equals};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_in_mid_batch_loses_no_job() {
    let stack = Stack::shared().await;
    let settings = stack
        .worker()
        .expect_trouble()
        .set("KILN_INTAKE__BATCH_JOBS", "4");
    let first = settings.clone().start().await;
    let jobs = slow_jobs("killed", 60, 20);
    stack.bus.publish_jobs(&jobs).await;
    stack.wait_for_rows(1).await;
    first.kill();
    assert!(
        stack.row_count().await < 60,
        "the worker was killed before it was through"
    );

    let _second = settings.start().await;
    stack.expect_done(job_ids(&jobs)).await;
    stack.bus.reply_to_each(&job_ids(&jobs)).await;
    stack.wait_for_empty(JOBS).await;
    assert_eq!(
        stack.bus.waiting(DEAD).await,
        Some(0),
        "no job was given up"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_again_and_again_still_finishes_every_job() {
    let stack = Stack::shared().await;
    let settings = stack
        .worker()
        .expect_trouble()
        .set("KILN_INTAKE__BATCH_JOBS", "8");
    let jobs = slow_jobs("often", 120, 5);
    let mut worker = settings.clone().start().await;
    stack.bus.publish_jobs(&jobs).await;
    for done in [10, 50, 90] {
        stack.wait_for_rows(done).await;
        worker.kill();
        worker = settings.clone().start().await;
    }
    stack.expect_done(job_ids(&jobs)).await;
    assert_eq!(
        stack.bus.waiting(DEAD).await,
        Some(0),
        "a crash is no fault of the jobs in hand"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_freezes_is_replaced_and_doubles_nothing_when_it_thaws() {
    let stack = Stack::shared().await;
    let settings = stack
        .worker()
        .expect_trouble()
        .set("KILN_INTAKE__BATCH_JOBS", "4");
    // Beats often enough that the broker gives the frozen one up while the test watches.
    let url = format!("{}?heartbeat=1", stack.amqp_url());
    let frozen = settings.clone().set("KILN_AMQP_URL", &url).start().await;
    let jobs = slow_jobs("frozen", 100, 10);
    stack.bus.publish_jobs(&jobs).await;
    stack.wait_for_rows(1).await;
    frozen.pause();

    let _other = settings.start().await;
    stack.wait_for_rows(jobs.len()).await;
    frozen.resume();
    let later = quick_jobs("thawed", 50);
    stack.bus.publish_jobs(&later).await;
    let all = [job_ids(&jobs), job_ids(&later)].concat();
    stack.bus.reply_to_each(&all).await;
    stack.expect_done(all).await;
    frozen.wait_ready().await;
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_asked_to_stop_finishes_what_it_holds_and_leaves_the_rest_untouched() {
    let stack = Stack::shared().await;
    let settings = stack
        .worker()
        .set("KILN_INTAKE__BATCH_JOBS", "4")
        .set("KILN_INTAKE__PREFETCH", "16");
    let worker = settings
        .set("KILN_DRAIN__LIMIT_SECONDS", "20")
        .start()
        .await;
    let jobs = slow_jobs("drained", 60, 30);
    stack.bus.publish_jobs(&jobs).await;
    stack.wait_for_rows(1).await;
    worker.terminate();
    let status = worker.wait_exit(Duration::from_secs(20)).await;
    assert_eq!(status.code(), Some(0));

    let left = stack.bus.take_all(JOBS).await;
    assert!(
        !left.is_empty(),
        "the worker was stopped before it was through"
    );
    let redelivered = left.iter().filter(|message| message.redelivered).count();
    assert_eq!(
        redelivered, 0,
        "what the worker held is finished and acknowledged"
    );
    let rows = stack.rows().await;
    let mut seen: Vec<String> = rows.iter().map(|row| row.job_id.clone()).collect();
    for message in &left {
        seen.push(job_id(&serde_json::from_slice(&message.data).expect("a job")).to_owned());
    }
    seen.sort();
    assert_eq!(
        seen,
        job_ids(&jobs),
        "each job is either finished or still queued"
    );
    let finished: Vec<String> = rows.into_iter().map(|row| row.job_id).collect();
    assert_eq!(
        stack.bus.reply_to_each(&finished).await.len(),
        finished.len(),
        "each finished job was answered"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_longer_than_the_drain_limit_goes_back_to_its_queue() {
    let stack = Stack::shared().await;
    let settings = stack
        .worker()
        .expect_trouble()
        .set("KILN_DRAIN__LIMIT_SECONDS", "3");
    let worker = settings.start().await;
    stack
        .bus
        .publish_jobs(&slow_jobs("endless", 1, 120_000))
        .await;
    eventually("the job is in the worker's hands", PATIENCE, async || {
        (stack.bus.waiting(JOBS).await == Some(0)).then_some(())
    })
    .await;
    worker.terminate();
    assert_eq!(
        worker.wait_exit(Duration::from_secs(30)).await.code(),
        Some(0)
    );
    assert!(
        worker.stop_took() <= Duration::from_secs(3),
        "the limit is kept"
    );
    eventually("the job waits again", PATIENCE, || stack.bus.take(JOBS)).await;
    assert_eq!(stack.row_count().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_worker_stops_at_once_and_another_takes_over() {
    let stack = Stack::shared().await;
    let first = stack.worker().start().await;
    let second = stack.worker().start().await;
    first.stop().await;
    let jobs = quick_jobs("later", 50);
    stack.bus.publish_jobs(&jobs).await;
    stack.expect_done(job_ids(&jobs)).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_scored_has_its_row_though_its_worker_died_before_the_commit() {
    const TEXTS: [&str; 3] = ["one", "two", "three"];
    // Without leases; and with them, where others may use an entry before its job is through.
    for lease_from_ms in ["1000000", "0"] {
        let stack = Stack::shared().await;
        let proxy = Proxy::start(stack.postgres.port).await;
        let settings = stack.worker().expect_trouble();
        let settings = settings.set("KILN_CACHE__LEASE_FROM_MS", lease_from_ms);
        let first = settings
            .clone()
            .set("KILN_DATABASE_URL", &stack.database_url_at(proxy.port))
            .start()
            .await;
        // One job before, so that what the worker asks the database at first is asked.
        stack
            .bus
            .answer(&text_job("before", "fault", &["zero"]))
            .await;
        proxy.blackhole().await;
        stack
            .bus
            .publish_job(&text_job("killed", "fault", &TEXTS))
            .await;
        eventually_equals("all are scored", PATIENCE, 2.0, || async {
            let stage = [("stage", "score")];
            first
                .metric("kiln_stage_duration_seconds_count", &stage)
                .await
        })
        .await;
        if lease_from_ms == "0" {
            // To whoever waits for them.
            eventually("their entries are there", PATIENCE, || async {
                let entries = stack.redis.keys("kiln:s:*").await;
                (entries.len() == 4).then_some(())
            })
            .await;
        }
        first.kill();

        let other = settings.start().await;
        let scores = "SELECT count(*) FROM scores";
        let reply = stack.bus.reply_within(PATIENCE).await;
        assert_eq!((reply.job_id(), reply.status()), ("killed", "ok"));
        assert_eq!(
            stack.count(scores).await,
            4,
            "lease_from_ms {lease_from_ms}"
        );
        let rows = async || {
            let table = [("table", "scores")];
            other.metric("kiln_store_rows_total", &table).await
        };
        let written = rows().await;
        for id in ["again", "and again"] {
            let reply = stack.bus.answer(&text_job(id, "fault", &TEXTS)).await;
            let cached = reply.body["results"].as_array().expect("results").iter();
            assert!(cached.clone().all(|one| one["cached"] == true), "{reply:?}");
        }
        assert_eq!(rows().await, written, "a hit costs no row");
    }
}
