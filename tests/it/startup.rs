//! Started before its servers: the worker waits, says which and why, and is ready when they are.

use crate::harness::jobs::{job_ids, quick_jobs};
use crate::harness::sandbox::free_port;
use crate::harness::stack::Stack;
use crate::harness::worker::Worker;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_started_before_its_servers_waits_for_them() {
    let stack = Stack::stopped().await;
    let worker = stack.worker().expect_trouble().spawn();
    worker.wait_not_ready().await;
    assert!(
        matches!(worker.get("/livez").await, Some((200, _))),
        "waiting is not being dead"
    );
    let pid = worker.pid();

    tokio::join!(stack.redis.start(), stack.postgres.start());
    assert!(!worker.is_ready().await, "the broker is still missing");
    says_which_and_why(&worker, &["rabbitmq", "amqp", "broker"]).await;
    stack.broker.start().await;
    worker.wait_ready().await;
    assert_eq!(worker.pid(), pid);

    let jobs = quick_jobs("early", 20);
    stack.bus.publish_jobs(&jobs).await;
    stack.expect_done(job_ids(&jobs)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_names_the_database_it_waits_for() {
    let stack = Stack::shared().await;
    let nobody = free_port();
    let settings = stack.worker().expect_trouble();
    let worker = settings
        .set("KILN_DATABASE_URL", &stack.database_url_at(nobody))
        .spawn();
    worker.wait_not_ready().await;
    says_which_and_why(&worker, &["postgres", "database"]).await;
    assert!(worker.is_alive(), "no crash loop");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_started_at_once_on_an_empty_database_are_both_ready() {
    let stack = Stack::shared().await;
    let (first, second) = tokio::join!(stack.worker().start(), stack.worker().start());
    let jobs = quick_jobs("together", 20);
    stack.bus.publish_jobs(&jobs).await;
    stack.expect_done(job_ids(&jobs)).await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_password_is_ever_logged() {
    let stack = Stack::shared().await;
    let nobody = free_port();
    let secret = "hunter2-is-secret";
    let settings = stack.worker().expect_trouble();
    let settings = settings.set(
        "KILN_AMQP_URL",
        &format!("amqp://guest:{secret}@127.0.0.1:{nobody}/%2f"),
    );
    let settings = settings.set(
        "KILN_DATABASE_URL",
        &format!("postgres://kiln:{secret}@127.0.0.1:{nobody}/kiln"),
    );
    let worker = settings
        .set(
            "KILN_REDIS_URL",
            &format!("redis://:{secret}@127.0.0.1:{nobody}/0"),
        )
        .spawn();
    worker.wait_not_ready().await;
    worker
        .wait_for_line("a line about a server", |line| {
            line.to_lowercase().contains("refused")
        })
        .await;
    assert!(
        worker.lines().iter().all(|line| !line.contains(secret)),
        "{:#?}",
        worker.lines()
    );
}

async fn says_which_and_why(worker: &Worker, names: &[&str]) {
    let what = format!("a line that names {names:?} and the reason");
    let wanted = |line: &str| {
        let line = line.to_lowercase();
        names.iter().any(|name| line.contains(name)) && line.contains("refused")
    };
    worker.wait_for_line(&what, wanted).await;
}
