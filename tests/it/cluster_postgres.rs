//! A primary that is lost, frozen or demoted: workers go on with the standby that was promoted, by themselves, and nothing that was
//! acknowledged is missing there.

use std::process::Output;

use serde_json::Value;

use crate::harness::bus::DEAD;
use crate::harness::cluster::postgres::{Pair, Replication};
use crate::harness::jobs::{job_ids, quick_jobs, slow_jobs};
use crate::harness::stack::Stack;
use crate::harness::worker::{Settings, Worker};
use crate::harness::{PATIENCE, eventually, eventually_equals, sandbox};

const MOVED: &str = "connected to another address";

/// A pair, the other servers, and a worker's settings on them.
async fn pair(replication: Replication) -> (Pair, Stack, Settings) {
    let pair = Pair::start(replication).await;
    let stack = Stack::on(pair.primary.clone()).await;
    let settings = stack.worker().expect_trouble();
    let settings = settings.set("KILN_DATABASE_URL", &pair.url(stack.database()));
    (pair, stack, settings)
}

/// Whether it said once that it moved from the primary to the standby.
async fn moved_once(worker: &Worker, pair: &Pair) {
    let line = worker
        .wait_for_line("the failover", |line| line.contains(MOVED))
        .await;
    let said: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(said["server"], "postgres");
    assert_eq!(said["from"], format!("127.0.0.1:{}", pair.primary.port));
    assert_eq!(said["to"], format!("127.0.0.1:{}", pair.standby.port));
    let lines = worker.lines();
    let times = lines.iter().filter(|line| line.contains(MOVED)).count();
    assert_eq!(times, 1, "{lines:#?}");
    let counted = worker.metric("kiln_failovers_total", &[("server", "postgres")]);
    assert_eq!(counted.await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_dies_under_load_is_followed_by_its_standby_and_nothing_is_lost() {
    let (pair, mut stack, settings) = pair(Replication::Synchronous).await;
    let settings = settings.set("KILN_INTAKE__BATCH_JOBS", "8");
    let workers = [settings.clone().start().await, settings.start().await];
    let jobs = slow_jobs("dies", 400, 2);
    stack.bus.publish_jobs(&jobs).await;
    stack.wait_for_rows(100).await;
    pair.primary.kill();
    pair.promote().await;
    stack.look_at(pair.standby.clone());
    // Nobody posts them again: what was acknowledged is there, or it never will be.
    stack.expect_done(job_ids(&jobs)).await;
    stack.bus.reply_to_each(&job_ids(&jobs)).await;
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));
    for worker in &workers {
        worker.wait_ready().await;
        moved_once(worker, &pair).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_standby_has_not_is_acknowledged_to_nobody() {
    let (pair, stack, settings) = pair(Replication::Synchronous).await;
    let settings = settings.set("KILN_DATABASE__TIMEOUT_MS", "1000");
    let worker = settings.start().await;
    pair.standby.pause();
    let job = quick_jobs("half", 1);
    stack.bus.publish_jobs(&job).await;
    // The row is seen as soon as the session that wrote it was ended, and each further try finds it.
    stack.wait_for_rows(1).await;
    let tries = worker.metric("kiln_store_timeouts_total", &[]).await + 3.0;
    eventually("it is tried again", PATIENCE, async || {
        let now = worker.metric("kiln_store_timeouts_total", &[]).await;
        (now >= tries).then_some(())
    })
    .await;
    worker.wait_in_hand(1).await;
    pair.standby.resume();
    stack.bus.reply_to_each(&job_ids(&job)).await;
    worker.wait_in_hand(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_is_frozen_is_left_once_its_standby_takes_writes() {
    let (pair, mut stack, settings) = pair(Replication::Synchronous).await;
    let worker = settings.start().await;
    let before = quick_jobs("before", 20);
    stack.bus.publish_jobs(&before).await;
    stack.expect_done(job_ids(&before)).await;
    pair.primary.pause();
    let jobs = quick_jobs("frozen", 100);
    stack.bus.publish_jobs(&jobs).await;
    pair.promote().await;
    stack.look_at(pair.standby.clone());
    let mut all = job_ids(&before);
    all.extend(job_ids(&jobs));
    stack.expect_done(all).await;
    worker.wait_ready().await;
    moved_once(&worker, &pair).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_takes_no_writes_any_more_is_left_with_all_connections_to_it() {
    let (pair, mut stack, settings) = pair(Replication::Asynchronous).await;
    let worker = settings.start().await;
    let before = quick_jobs("before", 20);
    stack.bus.publish_jobs(&before).await;
    stack.expect_done(job_ids(&before)).await;
    let reached = "SELECT count(*) FROM jobs";
    let standby = pair.standby.url(stack.database());
    let there = sqlx::PgPool::connect(&standby).await.expect("it reads");
    eventually_equals("rows on the standby", PATIENCE, Some(20), || async {
        let count = sqlx::query_scalar::<_, i64>(reached).fetch_one(&there);
        count.await.ok()
    })
    .await;
    pair.demote().await;
    pair.promote().await;
    let jobs = quick_jobs("after", 100);
    stack.bus.publish_jobs(&jobs).await;
    let held = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'kiln%'";
    eventually_equals("connections to the old one", PATIENCE, 0, || {
        stack.count(held)
    })
    .await;
    stack.look_at(pair.standby.clone());
    let mut all = job_ids(&before);
    all.extend(job_ids(&jobs));
    stack.expect_done(all).await;
    worker.wait_ready().await;
    moved_once(&worker, &pair).await;
}

/// Runs `kiln doctor --json`.
fn doctor(stack: &Stack, database_url: &str) -> Output {
    let output = tokio::task::block_in_place(|| {
        sandbox::clean_command(env!("CARGO_BIN_EXE_kiln"), &sandbox::folder("cli"))
            .args(["doctor", "--json"])
            .env("KILN_AMQP_URL", stack.amqp_url())
            .env("KILN_REDIS_URL", stack.redis.url())
            .env("KILN_DATABASE_URL", database_url)
            .output()
    });
    output.expect("kiln runs")
}

/// What it says of the database's kind.
fn kind(output: &Output) -> (String, String) {
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let checks = said["checks"].as_array().expect("checks");
    let one = checks.iter().find(|check| check["name"] == "postgres kind");
    let one = one.unwrap_or_else(|| panic!("no such check: {said}"));
    let text = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
    (text("status"), text("found"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_says_what_a_lost_primary_would_cost() {
    let (pair, stack, _) = pair(Replication::Asynchronous).await;
    let url = pair.url(stack.database());
    let (status, found) = kind(&doctor(&stack, &url));
    assert_eq!(status, "warn", "{found}");
    assert!(found.contains("asynchronous"), "{found}");
    let (status, found) = kind(&doctor(&stack, &pair.primary.url(stack.database())));
    assert!(
        status == "warn" && found.contains("asynchronous"),
        "{found}"
    );
    pair.standby.kill();
    eventually("a primary alone", PATIENCE, async || {
        let (status, found) = kind(&doctor(&stack, &url));
        (status == "ok" && found.contains("single")).then_some(())
    })
    .await;
}
