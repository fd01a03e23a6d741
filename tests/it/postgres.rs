//! Postgres down, silent or slow: nothing is acknowledged, intake pauses, nothing piles up, and all of it resumes without help.

use crate::harness::bus::{DEAD, JOBS, REPLIES};
use crate::harness::jobs::{job_ids, quick_jobs, slow_jobs};
use crate::harness::proxy::Proxy;
use crate::harness::stack::{Own, Stack};
use crate::harness::worker::{Settings, Worker};
use crate::harness::{PATIENCE, eventually, eventually_equals, sandbox};
use kiln::store::{Batch, JobRow, PostgresStore, ScoreRow, Store, StoreError};
use kiln_contract::result::Finished;
use sqlx::{Connection, Executor, PgConnection};

/// The statements of batches that the server runs now, by their backends.
const RUNNING: &str = "\
SELECT coalesce(string_agg(pid::text, ' ' ORDER BY pid), '') FROM pg_stat_activity
WHERE datname = current_database() AND state = 'active' AND query ~ 'INTO (jobs|scores)' AND query !~ 'lock_timeout' AND application_name LIKE 'kiln%'";

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
        let done = finished();
        let forwards = batch(ids.iter(), &done);
        let backwards = batch(ids.iter().rev(), &done);
        let (one, other) = tokio::join!(store.insert(&forwards), store.insert(&backwards));
        assert_eq!(one.expect("kept").len(), 400, "round {round}");
        assert_eq!(other.expect("kept").len(), 400, "round {round}");
    }
}

fn finished() -> Finished {
    Finished {
        model: "m".to_owned(),
        version: "1".to_owned(),
        namespace: "n".to_owned(),
        results: "[]".to_owned(),
        hits: 0,
        misses: 1,
        elapsed_ms: 1.0,
        finished_at: kiln::clock::now(),
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_lock_a_batch_has_one_statement_at_a_time_and_nothing_is_lost() {
    const BATCHES: usize = 2;
    let stack = Stack::shared().await;
    let settings = impatient(&stack).set("KILN_INTAKE__BATCH_JOBS", "4");
    let settings = settings.set("KILN_INTAKE__BATCHES_IN_FLIGHT", &BATCHES.to_string());
    let worker = settings.start().await;
    let mut blocker = blocker(&stack, "LOCK TABLE jobs IN EXCLUSIVE MODE").await;

    let jobs = quick_jobs("locked", 16);
    stack.bus.publish_jobs(&jobs).await;
    let mut max_running = 0;
    eventually(
        "batches are cut until jobs are alone",
        PATIENCE,
        async || {
            let running = running(&stack).await.len();
            assert!(
                running <= BATCHES,
                "{running} statements of {BATCHES} batches"
            );
            max_running = max_running.max(running);
            let timeouts = worker.metric("kiln_store_timeouts_total", &[]).await;
            (timeouts >= 16.0).then_some(())
        },
    )
    .await;
    assert_eq!(max_running, BATCHES, "the batches wait for the lock");
    assert_eq!(stack.row_count().await, 0);
    assert_eq!(stack.bus.waiting(REPLIES).await, Some(0));

    end(blocker.execute("ROLLBACK").await);
    stack.expect_done(job_ids(&jobs)).await;
    stack.bus.reply_to_each(&job_ids(&jobs)).await;
    eventually_equals("what the broker holds", PATIENCE, Some(0), || {
        stack.unsettled(JOBS)
    })
    .await;
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));
    let retried = worker.metric("kiln_jobs_total", &[("outcome", "retried")]);
    assert_eq!(retried.await, 0.0, "a slow database costs no job a try");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_job_is_stored_beside_a_statement_that_waits() {
    let stack = Stack::shared().await;
    let worker = stack.worker().start().await;
    let row = "INSERT INTO jobs (job_id, status, body_sha256, finished_at) VALUES ('held-0', 'ok', '', now())";
    let mut blocker = blocker(&stack, row).await;
    stack.bus.publish_jobs(&quick_jobs("held", 1)).await;
    eventually("a statement that waits", PATIENCE, async || {
        (!running(&stack).await.is_empty()).then_some(())
    })
    .await;
    stack.bus.answer(&quick_jobs("lone", 1)[0]).await;
    assert!(!running(&stack).await.is_empty(), "it went on beside it");
    end(blocker.execute("ROLLBACK").await);
    stack
        .expect_done(vec!["held-0".to_owned(), "lone-0".to_owned()])
        .await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_cannot_be_stored_holds_up_no_other_job() {
    let stack = Stack::shared().await;
    let settings = impatient(&stack).set("KILN_INTAKE__BATCH_JOBS", "8");
    let worker = settings.allow("storing took too long").start().await;
    // Another client is about to write a row under the same id.
    let row = "INSERT INTO jobs (job_id, status, body_sha256, finished_at) VALUES ('one-3', 'ok', '', now())";
    let mut blocker = blocker(&stack, row).await;

    let jobs = quick_jobs("one", 8);
    stack.bus.publish_jobs(&jobs).await;
    let others: Vec<String> = job_ids(&jobs)
        .into_iter()
        .filter(|id| id != "one-3")
        .collect();
    let replies = stack.bus.reply_to_each(&others).await;
    assert!(replies.values().all(|reply| reply.status() == "ok"));
    assert!(!replies.contains_key("one-3"), "its row is still locked");

    end(blocker.execute("ROLLBACK").await);
    stack.bus.reply_to_each(&["one-3".to_owned()]).await;
    stack.expect_done(job_ids(&jobs)).await;
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_without_an_answer_is_ended_before_it_is_sent_again() {
    let stack = Stack::with(Own {
        broker: false,
        postgres: true,
    })
    .await;
    let settings = impatient(&stack).expect_trouble();
    let worker = settings
        .set("KILN_DATABASE__STATEMENT_TIMEOUT_MS", "800")
        .start()
        .await;
    let mut blocker = blocker(&stack, "LOCK TABLE jobs IN EXCLUSIVE MODE").await;
    let jobs = quick_jobs("frozen", 1);
    stack.bus.publish_jobs(&jobs).await;
    // The process that runs the statement is stopped: it neither ends at its limit nor says anything.
    let first = eventually("a statement that waits", PATIENCE, async || {
        let pid = running(&stack).await.first().copied()?;
        sandbox::signal(&[pid], libc::SIGSTOP);
        let still = running(&stack).await.contains(&pid);
        if !still {
            sandbox::signal(&[pid], libc::SIGCONT);
        }
        still.then_some(pid)
    })
    .await;
    // Readiness is lost because nothing is asked any more.
    worker.wait_not_ready().await;
    let waits = |answer: Option<(u16, String)>| {
        answer.is_some_and(|(_, text)| text.contains("had no answer"))
    };
    eventually("the worker says what it waits for", PATIENCE, async || {
        assert_eq!(running(&stack).await, [first], "no other is sent");
        waits(worker.get("/readyz").await).then_some(())
    })
    .await;
    assert_eq!(running(&stack).await, [first]);

    sandbox::signal(&[first], libc::SIGCONT);
    let again = eventually("the statement is sent again", PATIENCE, async || {
        let now = running(&stack).await;
        (!now.is_empty() && !now.contains(&first)).then_some(())
    });
    again.await;
    end(blocker.execute("ROLLBACK").await);
    stack.expect_done(job_ids(&jobs)).await;
    stack.bus.reply_to_each(&job_ids(&jobs)).await;
    worker.wait_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_ends_what_its_client_no_longer_waits_for() {
    let stack = Stack::shared().await;
    let settings = kiln::config::Database {
        statement_timeout_ms: 60_000,
        timeout_ms: 90_000,
        ..Default::default()
    };
    let url = kiln::secret::Secret::new(stack.database_url());
    let store = PostgresStore::new(&url, &settings).expect("a URL");
    store.migrate().await.expect("an empty database");
    let mut blocker = blocker(&stack, "LOCK TABLE jobs IN EXCLUSIVE MODE").await;
    let done = finished();
    let ids = ["abandoned".to_owned()];
    let rows = batch(ids.iter(), &done);
    let other = store.clone();
    {
        let both = Store::Postgres(store);
        let mut writing = std::pin::pin!(both.insert(&rows));
        let waiting = eventually("a statement that waits", PATIENCE, async || {
            (!running(&stack).await.is_empty()).then_some(())
        });
        tokio::select! {
            () = waiting => {}
            written = &mut writing => panic!("behind a lock: {written:?}"),
        }
        // Whoever waited for it is gone.
    }
    other.ping().await.expect("the database answers");
    assert!(running(&stack).await.is_empty(), "it was ended first");
    end(blocker.execute("ROLLBACK").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_has_its_limit_on_the_server_and_says_so() {
    let stack = Stack::shared().await;
    let settings = kiln::config::Database {
        statement_timeout_ms: 200,
        ..Default::default()
    };
    let url = kiln::secret::Secret::new(stack.database_url());
    let store = PostgresStore::new(&url, &settings).expect("a URL");
    store.migrate().await.expect("an empty database");
    let mut blocker = blocker(&stack, "LOCK TABLE jobs IN EXCLUSIVE MODE").await;
    let done = finished();
    let ids = ["late".to_owned()];
    let rows = batch(ids.iter(), &done);
    let store = Store::Postgres(store);
    let late = store.insert(&rows).await;
    assert!(
        matches!(&late, Err(StoreError::TimedOut(reason)) if reason.contains("statement timeout")),
        "{late:?}"
    );
    end(blocker.execute("ROLLBACK").await);
    assert_eq!(store.insert(&rows).await.expect("kept").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_at_the_start_is_tried_again() {
    let stack = Stack::shared().await;
    // Another client's work undoes the first two attempts to create a table.
    stack.execute("CREATE SEQUENCE attempts").await;
    let deadlock = "CREATE FUNCTION deadlock() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN \
        IF nextval('attempts') <= 2 THEN RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '40P01'; END IF; END $$";
    stack.execute(deadlock).await;
    let trigger = "CREATE EVENT TRIGGER deadlock ON ddl_command_start WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION deadlock()";
    stack.execute(trigger).await;
    let worker = stack.worker().allow("waiting for it to work").start().await;
    let jobs = quick_jobs("begun", 1);
    stack.bus.publish_jobs(&jobs).await;
    stack.expect_done(job_ids(&jobs)).await;
    assert!(stack.count("SELECT last_value FROM attempts").await > 2);
    worker.stop().await;
}

/// A worker whose statements have little time.
fn impatient(stack: &Stack) -> Settings {
    let settings = stack
        .worker()
        .allow("storing took too long")
        .allow("stopped working");
    let settings = settings.set("KILN_DATABASE__STATEMENT_TIMEOUT_MS", "300");
    settings.set("KILN_DATABASE__TIMEOUT_MS", "2000")
}

/// A transaction of somebody else's that has done `statement` and doesn't end.
async fn blocker(stack: &Stack, statement: &'static str) -> PgConnection {
    let connected = PgConnection::connect(&stack.database_url()).await;
    let mut other = connected.expect("a connection");
    end(other.execute("BEGIN").await);
    end(other.execute(statement).await);
    other
}

/// The backends that run a batch's statement.
async fn running(stack: &Stack) -> Vec<i32> {
    let pids = stack.text(RUNNING).await;
    let pids = pids.split_whitespace();
    pids.map(|pid| pid.parse().expect("a number")).collect()
}

fn end<T>(answer: sqlx::Result<T>) {
    answer
        .map(|_| ())
        .expect("a statement that the database takes");
}
