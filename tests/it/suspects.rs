//! Jobs that may have killed workers: each runs alone in a process of its own, while the worker and everybody else go on.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use lapin::types::AMQPValue;
use serde_json::Value;

use crate::harness::bus::{DEAD, Delivered, JOBS, answered_as};
use crate::harness::jobs::{fault_job, job_ids, quick_jobs, text_job};
use crate::harness::stack::{Own, Stack};
use crate::harness::worker::{self, Settings, Worker};
use crate::harness::{PATIENCE, eventually, eventually_equals, sandbox};

/// Sleeps for longer than any test.
const ENDLESS: &str = "sleep:3600000";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_jobs_in_hand_at_five_kills_are_done_while_others_flow() {
    let stack = Stack::shared().await;
    let settings = stack.worker().expect_trouble();
    settings.clone().start().await.stop().await;
    // None has a row before its time: the database lets go of statements whose worker is gone.
    stack
        .execute("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET client_connection_check_interval = 50', current_database()); END $$")
        .await;
    let held = stack.hold_jobs().await;
    let jobs = quick_jobs("crash", 100);
    stack.bus.publish_jobs(&jobs).await;
    for kills in 0..5 {
        // It isn't ready while its table is locked.
        let worker = settings.clone().spawn();
        worker.wait_in_hand(jobs.len()).await;
        if kills >= 2 {
            // Each time somebody else is caught in the middle of a run.
            expect_runs(&worker, 1).await;
        }
        worker.kill();
    }
    eventually_equals("statements that wait for the table", PATIENCE, 0, || {
        stack.count("SELECT count(*) FROM pg_locks WHERE relation = 'jobs'::regclass AND NOT granted AND database = \
                     (SELECT oid FROM pg_database WHERE datname = current_database())")
    })
    .await;
    drop(held);
    assert_eq!(stack.row_count().await, 0);

    let worker = settings.start().await;
    let flowing = AtomicBool::new(true);
    let flow = async {
        let mut ids = Vec::new();
        for round in 0.. {
            let some = quick_jobs(&format!("flow-{round}"), 20);
            stack.bus.publish_jobs(&some).await;
            ids.extend(job_ids(&some));
            if !flowing.load(Ordering::Relaxed) {
                break;
            }
        }
        ids
    };
    let done = async {
        eventually_equals("the hundred that are done", PATIENCE, 100, || {
            stack.count("SELECT count(*) FROM jobs WHERE status = 'ok' AND job_id LIKE 'crash-%'")
        })
        .await;
        flowing.store(false, Ordering::Relaxed);
    };
    let (flowed, ()) = tokio::join!(flow, done);
    let all = [flowed, job_ids(&jobs)].concat();
    stack.expect_done(all.clone()).await;
    stack.bus.reply_to_each(&all).await;
    worker.wait_in_hand(0).await;
    stack.wait_for_empty(JOBS).await;
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0), "none is given up");
    assert_eq!(runs(&stack).await, 0, "none is suspected any more");
    assert!(worker.is_alive());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspect_that_kills_its_process_is_given_up_and_its_worker_lives() {
    let stack = Stack::shared().await;
    let killer = [fault_job("killer", "abort now")];
    let worker = suspicious(&stack).expect_trouble();
    let worker = redelivered(&stack, &killer, worker).await;
    expect_given_up(&stack, &worker, "killer", 3).await;
    expect_runs(&worker, 3).await;
    let lines = worker.lines();
    let unfinished = lines.iter();
    let unfinished = unfinished.filter(|line| line.contains("a suspected job didn't end"));
    assert_eq!(unfinished.count(), 3, "one line for each process");
    eventually_equals("processes that nobody needs", PATIENCE, 0, async || {
        worker.other_processes().len()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspect_that_hangs_is_given_up_and_its_worker_lives() {
    let stack = Stack::shared().await;
    let jobs = [fault_job("hung", ENDLESS), fault_job("good", "a good one")];
    let settings = suspicious(&stack)
        .expect_trouble()
        .set("KILN_INTAKE__SUSPECT_SECONDS", "1")
        .set("KILN_INTAKE__SUSPECT_RUNS", "2");
    let worker = redelivered(&stack, &jobs, settings).await;
    expect_given_up(&stack, &worker, "hung", 2).await;
    assert_eq!(stack.row("good").await.status, "ok");
    expect_runs(&worker, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_killed_leaves_no_process_behind() {
    let stack = Stack::shared().await;
    let settings = suspicious(&stack);
    let worker = redelivered(&stack, &[fault_job("hung", ENDLESS)], settings).await;
    expect_runs(&worker, 1).await;
    let others = worker.other_processes();
    assert_eq!(others.len(), 1, "one process runs suspects");
    let of_process = |file: &str| {
        let text = fs::read_to_string(format!("/proc/{}/{file}", others[0]));
        text.expect("it runs")
    };
    let score = of_process("oom_score_adj");
    assert_eq!(score.trim(), "1000", "it goes before its worker");
    let stat = of_process("stat");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
    let niceness = fields.split(' ').nth(16);
    assert_eq!(niceness, Some("10"), "it yields to its worker");
    worker.kill();
    eventually_equals("processes of a dead worker", PATIENCE, 0, async || {
        let running = others.iter().filter(|pid| sandbox::is_running(**pid));
        running.count()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspect_that_a_stop_cuts_short_is_not_blamed() {
    let stack = Stack::shared().await;
    let settings = suspicious(&stack)
        .allow("the drain limit passed")
        .set("KILN_DRAIN__LIMIT_SECONDS", "4")
        .set("KILN_INTAKE__SUSPECT_RUNS", "1");
    let hung = [fault_job("hung", ENDLESS)];
    let mut worker = redelivered(&stack, &hung, settings.clone()).await;
    for _ in 0..2 {
        expect_runs(&worker, 1).await;
        assert_eq!(runs(&stack).await, 1, "it is counted before it begins");
        let others = worker.other_processes();
        assert_eq!(others.len(), 1);
        worker.stop().await;
        assert!(others.into_iter().all(|pid| !sandbox::is_running(pid)));
        assert_eq!(runs(&stack).await, 0, "a stop is no fault of the job's");
        worker = settings.clone().start().await;
    }
    expect_runs(&worker, 1).await;
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspect_that_waits_for_the_database_is_not_blamed() {
    let stack = Stack::shared().await;
    let delivered = delivered(&stack, &[fault_job("patient", "one")]).await;
    let held = stack.hold_jobs().await;
    let settings = suspicious(&stack)
        .allow("stopped working")
        .allow("waiting for it")
        .allow("slow statement")
        .allow("storing took too long")
        .set("KILN_DATABASE__TIMEOUT_MS", "1000")
        .set("KILN_INTAKE__SUSPECT_SECONDS", "3")
        .set("KILN_INTAKE__SUSPECT_RUNS", "1");
    // It isn't ready while its table is locked.
    let worker = settings.spawn();
    worker
        .wait_for_line("it takes jobs", |line| line.contains("taking jobs"))
        .await;
    drop(delivered);
    let line = worker
        .wait_for_line("its process says that it waits", |line| {
            line.contains("stopped working") && line.contains("/suspects\"")
        })
        .await;
    assert!(line.contains("postgres"), "{line}");
    eventually_equals(
        "runs that take twice as long as they may",
        PATIENCE,
        1,
        || stack.count("SELECT count(*) FROM suspects WHERE seen_at < now() - interval '6 s'"),
    )
    .await;
    drop(held);
    assert_eq!(stack.row("patient").await.status, "ok");
    worker.wait_in_hand(0).await;
    expect_runs(&worker, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_cannot_start_is_reported_once_and_no_fault_of_the_suspects() {
    let stack = Stack::shared().await;
    let delivered = delivered(&stack, &[fault_job("innocent", "one")]).await;
    let file = sandbox::folder("settings").join("kiln.toml");
    let put = |text: &str| fs::write(&file, text).expect("a settings file");
    put("[intake]\nsuspect_after = 1\n");
    let settings = stack
        .worker()
        .allow("can't be started")
        .set("KILN_LOG", "info,kiln=debug")
        .set("KILN_CONFIG", file.to_str().expect("a plain path"));
    let worker = settings.start().await;
    put("[intake]\nsuspect_afer = 1\n");
    drop(delivered);
    let with = |text: &str| {
        let lines = worker.lines();
        let lines = lines.into_iter().filter(|line| line.contains(text));
        lines.collect::<Vec<_>>()
    };
    eventually("it is tried again and again", PATIENCE, async || {
        (with("still wait").len() >= 2).then_some(())
    })
    .await;
    let reports = with("can't be started");
    assert_eq!(reports.len(), 1, "it is reported once: {reports:?}");
    assert!(reports[0].contains("suspect_afer"), "{reports:?}");
    stack.bus.answer(&fault_job("other", "flows on")).await;
    assert_eq!(runs(&stack).await, 0, "nobody is blamed");
    put("[intake]\nsuspect_after = 1\n");
    assert_eq!(stack.row("innocent").await.status, "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_only_the_process_lacks_is_no_fault_of_its_suspects() {
    let stack = Stack::shared().await;
    let models = sandbox::folder("models");
    let (there, away) = (models.join("fault"), models.join(".fault"));
    worker::copy_folder(&worker::model_folder("fault"), &there);
    let jobs = [
        fault_job("innocent", "one"),
        text_job("unknown", "nobody", &["two"]),
    ];
    let delivered = delivered(&stack, &jobs).await;
    let settings = suspicious(&stack)
        .allow("can't load")
        .allow("the folder is gone")
        .set("KILN_MODELS_DIR", models.to_str().expect("a plain path"));
    let worker = settings.start().await;
    fs::rename(&there, &away).expect("the model's folder");
    drop(delivered);
    worker
        .wait_for_line("it is reported", |line| line.contains("can't load"))
        .await;
    stack.bus.publish_job(&fault_job("other", "flows on")).await;
    let ids = ["other".to_owned(), "unknown".to_owned()];
    let answers = stack.bus.reply_to_each(&ids).await;
    assert_eq!(answers["other"].status(), "ok");
    let letter = stack.bus.dead_letters(1).await.remove(0);
    assert_eq!(
        (letter.job_id().as_str(), letter.code.as_str()),
        ("unknown", "unknown_model")
    );
    assert!(
        letter.message.contains("known models: fault"),
        "{}",
        letter.message
    );
    eventually_equals("runs that count", PATIENCE, 0, || runs(&stack)).await;
    fs::rename(&away, &there).expect("the model's folder");
    assert_eq!(stack.row("innocent").await.status, "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspect_whose_reply_waits_for_the_broker_holds_up_no_other() {
    let own = Own {
        broker: true,
        ..Own::default()
    };
    let stack = Stack::with(own).await;
    let jobs = [fault_job("first", "one"), fault_job("second", "two")];
    let delivered = delivered(&stack, &jobs).await;
    let settings = suspicious(&stack)
        .expect_trouble()
        .set("KILN_REPLY__TIMEOUT_MS", "3600000");
    let worker = settings.start().await;
    // From now on it takes no messages; it delivers as before.
    stack.broker.block_publishers().await;
    drop(delivered);
    for id in ["first", "second"] {
        assert_eq!(stack.row(id).await.status, "ok");
    }
    worker.wait_in_hand(2).await;
    stack.broker.unblock_publishers().await;
    stack.bus.reply_to_each(&job_ids(&jobs)).await;
    worker.wait_in_hand(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspect_that_cannot_run_in_time_goes_back_and_one_that_expires_is_rejected() {
    let stack = Stack::shared().await;
    stack.worker().start().await.stop().await;
    let late = fault_job("late", "one");
    let properties = answered_as("late").with_expiration("3000".into());
    let message = (late.to_string().into_bytes(), properties);
    stack.bus.publish(JOBS, vec![message]).await;
    stack.bus.publish_job(&fault_job("kept", "two")).await;
    let delivered = stack.bus.hold(JOBS, 2).await;
    let file = sandbox::folder("settings").join("kiln.toml");
    let put = |text: &str| fs::write(&file, text).expect("a settings file");
    put("[intake]\nsuspect_after = 1\nmax_hold_seconds = 5\n");
    let settings = stack
        .worker()
        .allow("can't be started")
        .allow("in hand for too long")
        .set("KILN_CONFIG", file.to_str().expect("a plain path"));
    let worker = settings.start().await;
    put("[intake]\nsuspect_afer = 1\n");
    drop(delivered);
    let letter = stack.bus.dead_letters(1).await.remove(0);
    assert_eq!(
        (letter.job_id().as_str(), letter.code.as_str()),
        ("late", "expired")
    );
    worker
        .wait_for_line("it goes back", |line| line.contains("in hand for too long"))
        .await;
    worker.stop().await;
    let kept = stack.bus.take(JOBS).await.expect("it is in its queue");
    let headers = kept.properties.headers().clone().unwrap_or_default();
    let count = headers.inner().get("x-delivery-count").cloned();
    let Some(AMQPValue::LongLongInt(count)) = count else {
        panic!("it was delivered before: {count:?}")
    };
    assert!(count > 1, "it was delivered {count} times before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspect_of_a_lane_that_is_not_served_is_moved_with_its_suspicion() {
    let stack = Stack::shared().await;
    let settings = suspicious(&stack)
        .models(&["fault", "sentiment"])
        .set("KILN_LANE__QUEUES", "1")
        .set("KILN_INTAKE__LANES", "[\"sentiment\"]");
    let worker = redelivered(&stack, &[fault_job("elsewhere", "one")], settings).await;
    let moved = eventually("it is moved", PATIENCE, async || {
        stack.bus.take("kiln.lane.fault").await
    })
    .await;
    let headers = moved.properties.headers().clone().unwrap_or_default();
    assert_eq!(
        headers.inner().get("kiln-redeliveries"),
        Some(&AMQPValue::LongLongInt(1))
    );
    worker.wait_in_hand(0).await;
    assert_eq!(runs(&stack).await, 0, "it never ran here");
    expect_runs(&worker, 0).await;
}

/// Settings of a worker that suspects what was delivered before.
pub fn suspicious(stack: &Stack) -> Settings {
    stack.worker().set("KILN_INTAKE__SUSPECT_AFTER", "1")
}

/// Posts jobs and takes them; they are delivered again when what is given is dropped. The tables are there.
pub async fn delivered(stack: &Stack, jobs: &[Value]) -> Delivered {
    stack.worker().start().await.stop().await;
    stack.bus.publish_jobs(jobs).await;
    stack.bus.hold(JOBS, jobs.len()).await
}

/// A worker to which these jobs are delivered that were delivered to somebody else before.
async fn redelivered(stack: &Stack, jobs: &[Value], settings: Settings) -> Worker {
    drop(delivered(stack, jobs).await);
    settings.start().await
}

/// Waits until a worker has begun so many runs of suspects.
async fn expect_runs(worker: &Worker, runs: usize) {
    eventually_equals("runs of suspects", PATIENCE, runs as f64, || {
        worker.metric("kiln_batches_total", &[("reason", "alone")])
    })
    .await;
}

/// Runs of suspects that count as unfinished.
async fn runs(stack: &Stack) -> i64 {
    stack
        .count("SELECT coalesce(sum(runs), 0)::int8 FROM suspects")
        .await
}

/// Waits until a job is given up after so many runs, while its worker answers others.
async fn expect_given_up(stack: &Stack, worker: &Worker, job_id: &str, times: usize) {
    let mut round = 0;
    eventually("it is given up", PATIENCE, async || {
        round += 1;
        let id = format!("beside-{round}");
        let other = fault_job(&id, &format!("number {round}"));
        stack.bus.publish_job(&other).await;
        stack.bus.waiting(DEAD).await.filter(|letters| *letters > 0)
    })
    .await;
    let letter = stack.bus.dead_letters(1).await.remove(0);
    assert_eq!(
        (letter.job_id().as_str(), letter.code.as_str()),
        (job_id, "exhausted")
    );
    let times = format!("{times} times");
    assert!(letter.message.contains(&times), "{}", letter.message);
    assert_eq!(stack.row(job_id).await.status, "rejected");
    let others: Vec<String> = (1..=round).map(|n| format!("beside-{n}")).collect();
    let answers = stack.bus.reply_to_each(&others).await;
    assert!(others.iter().all(|id| answers[id].status() == "ok"));
    worker.wait_in_hand(0).await;
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0), "nobody else is");
    assert!(worker.is_alive());
    assert_eq!(runs(stack).await, 0, "nobody is suspected any more");
}
