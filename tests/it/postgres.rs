//! Postgres down or silent: nothing is acknowledged, intake pauses, and all of it resumes without help.

use crate::harness::bus::{DEAD, JOBS, REPLIES};
use crate::harness::jobs::{job_ids, quick_jobs, slow_jobs};
use crate::harness::proxy::Proxy;
use crate::harness::stack::{Own, Stack};
use crate::harness::worker::Worker;
use crate::harness::{PATIENCE, eventually_equals};

const PREFETCH: u32 = 32;
const JOBS_POSTED: u32 = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_acknowledged_while_postgres_is_down() {
    let stack = Stack::with(Own {
        broker: false,
        postgres: true,
    })
    .await;
    let worker = ready_worker(&stack).await;
    stack.postgres.kill();
    intake_pauses(&stack, &worker, "down").await;
    stack.postgres.start().await;
    everything_resumes(&stack, &worker, "down").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_acknowledged_while_postgres_is_silent() {
    let stack = Stack::with(Own {
        broker: false,
        postgres: true,
    })
    .await;
    let worker = ready_worker(&stack).await;
    stack.postgres.pause();
    intake_pauses(&stack, &worker, "silent").await;
    stack.postgres.resume();
    everything_resumes(&stack, &worker, "silent").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_cut_in_the_middle_of_a_write_double_nothing() {
    let stack = Stack::shared().await;
    let proxy = Proxy::start(stack.postgres.port).await;
    let settings = stack
        .worker()
        .expect_trouble()
        .set("KILN_INTAKE__BATCH_JOBS", "8");
    let _worker = settings
        .set("KILN_DATABASE_URL", &stack.database_url_at(proxy.port))
        .start()
        .await;
    let jobs = slow_jobs("cut", 300, 2);
    stack.bus.publish_jobs(&jobs).await;
    for done in [20, 80, 140, 200] {
        stack.wait_for_rows(done).await;
        proxy.cut().await;
        proxy.resume().await;
    }
    stack.expect_done(job_ids(&jobs)).await;
    stack.bus.reply_to_each(&job_ids(&jobs)).await;
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));
}

async fn ready_worker(stack: &Stack) -> Worker {
    let settings = stack
        .worker()
        .expect_trouble()
        .set("KILN_INTAKE__BATCH_JOBS", "8");
    let worker = settings
        .set("KILN_INTAKE__PREFETCH", &PREFETCH.to_string())
        .start()
        .await;
    let jobs = quick_jobs("before", 20);
    stack.bus.publish_jobs(&jobs).await;
    stack.expect_done(job_ids(&jobs)).await;
    stack.bus.reply_to_each(&job_ids(&jobs)).await;
    worker
}

async fn intake_pauses(stack: &Stack, worker: &Worker, prefix: &str) {
    stack
        .bus
        .publish_jobs(&quick_jobs(prefix, JOBS_POSTED as usize))
        .await;
    worker.wait_not_ready().await;
    let all = Some(u64::from(JOBS_POSTED));
    eventually_equals("what the broker holds", PATIENCE, all, || {
        stack.unsettled(JOBS)
    })
    .await;
    let waiting = stack.bus.waiting(JOBS).await;
    assert!(
        waiting >= Some(JOBS_POSTED - PREFETCH),
        "the worker holds what it may prefetch: {waiting:?} wait"
    );
    assert_eq!(
        stack.bus.waiting(REPLIES).await,
        Some(0),
        "no result is told before it is kept"
    );
    assert!(worker.is_alive());
}

async fn everything_resumes(stack: &Stack, worker: &Worker, prefix: &str) {
    let mut ids = job_ids(&quick_jobs(prefix, JOBS_POSTED as usize));
    let answered = stack.bus.reply_to_each(&ids).await;
    assert!(answered.values().all(|reply| reply.status() == "ok"));
    ids.extend(job_ids(&quick_jobs("before", 20)));
    stack.expect_done(ids).await;
    assert_eq!(
        stack.bus.waiting(DEAD).await,
        Some(0),
        "an outage is no fault of the jobs"
    );
    worker.wait_ready().await;
}
