//! Postgres down or silent: nothing is acknowledged, intake pauses, and all of it resumes without help.

use crate::harness::bus::{DEAD, JOBS, REPLIES};
use crate::harness::jobs::{job_ids, quick_jobs, slow_jobs};
use crate::harness::proxy::Proxy;
use crate::harness::stack::{Own, Stack};
use crate::harness::worker::Worker;
use crate::harness::{PATIENCE, eventually_equals};
use kiln::store::{Batch, JobRow, PostgresStore, ScoreRow, Store};
use kiln_contract::result::Finished;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_with_the_same_rows_in_opposite_orders_never_undo_each_other() {
    let stack = Stack::shared().await;
    let url = kiln::secret::Secret::new(stack.database_url());
    let store = PostgresStore::new(&url, &kiln::config::Database::default()).expect("a URL");
    store.migrate().await.expect("an empty database");
    let store = Store::Postgres(store);
    for round in 0..20 {
        let ids: Vec<String> = (0..400).map(|n| format!("{round}-{n}")).collect();
        let done = Finished {
            model: "m".to_owned(),
            version: "1".to_owned(),
            namespace: "n".to_owned(),
            results: "[]".to_owned(),
            hits: 0,
            misses: 1,
            elapsed_ms: 1.0,
            finished_at: kiln::clock::now(),
        };
        let forwards = batch(ids.iter(), &done);
        let backwards = batch(ids.iter().rev(), &done);
        let (one, other) = tokio::join!(store.insert(&forwards), store.insert(&backwards));
        assert_eq!(one.expect("kept").len(), 400, "round {round}");
        assert_eq!(other.expect("kept").len(), 400, "round {round}");
    }
}

/// A job with one score for each id, both in the order of the ids.
fn batch<'a>(ids: impl Iterator<Item = &'a String>, done: &'a Finished) -> Batch<'a> {
    let mut batch = Batch {
        finished_at: done.finished_at,
        ..Batch::default()
    };
    for id in ids {
        let body_sha256 = kiln_contract::key::hash_body(id.as_bytes());
        batch.jobs.push(JobRow {
            job_id: id,
            body_sha256,
            done,
        });
        batch.scores.push(ScoreRow {
            input: body_sha256,
            model: "m",
            version: "1",
            namespace: "n",
            key: None,
            label: None,
            score: Some(0.5),
            outputs: &[0.5],
            text: None,
            text_pair: None,
            features: None,
        });
    }
    batch
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
