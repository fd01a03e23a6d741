//! The database's tables while releases change: what a newer one added is no reason to stop, and jobs move into partitions while they flow.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use kiln::store::{
    Batch, Inserted, JobEnd, JobRow, Moved, PostgresStore, Rejected, RejectedRow, Store,
};
use kiln_contract::failure::{Code, Rejection};
use kiln_contract::result::Finished;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};

use crate::harness::bus::{DEAD, JOBS};
use crate::harness::jobs::{Reply, job_ids, quick_jobs, text_job};
use crate::harness::shell::Shell;
use crate::harness::stack::Stack;
use crate::harness::{PATIENCE, eventually, sandbox};

/// Rows that were there before.
const OLD: &str = "\
INSERT INTO jobs (job_id, status, model, version, namespace, hits, misses, results, error, elapsed_ms, body_sha256, finished_at)
SELECT 'old-' || n, CASE WHEN n % 10 = 0 THEN 'rejected' ELSE 'ok' END, 'm', '1', 'n', 0, 1,
  CASE WHEN n % 10 <> 0 THEN '[{\"score\": 0.5}]'::jsonb END, CASE WHEN n % 10 = 0 THEN '{\"code\": \"invalid\"}'::jsonb END, 1,
  sha256(n::text::bytea), now() - interval '90 days' + n * interval '1 second'
FROM generate_series(1, 20000) AS n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_a_newer_release_has_migrated_is_used_unless_it_says_otherwise() {
    let stack = Stack::shared().await;
    let shell = Shell::on(&stack);
    shell.kiln(&["migrate"]).await.with(0);
    stack
        .execute("INSERT INTO _sqlx_migrations VALUES (4711, 'something new', now(), true, '', 1)")
        .await;

    let worker = stack.worker().start().await;
    let said = |line: &str| line.contains("a newer release has migrated") && line.contains("4711");
    worker.wait_for_line("the newer migration", said).await;
    let jobs = quick_jobs("beside", 20);
    stack.bus.publish_jobs(&jobs).await;
    stack.expect_done(job_ids(&jobs)).await;
    let migrated = shell.kiln(&["migrate"]).await.with(0);
    assert!(migrated.out.contains("4711"), "{}", migrated.out);
    let doctor = shell.kiln(&["doctor"]).await;
    assert!(doctor.out.contains("up to 4711"), "{}", doctor.out);

    // Its own words, as the manual has them.
    stack
        .execute("CREATE TABLE IF NOT EXISTS kiln_schema (needs_migration bigint NOT NULL)")
        .await;
    stack.execute("INSERT INTO kiln_schema VALUES (4711)").await;
    let refused = shell.kiln(&["migrate"]).await.with(1);
    let reason = "needs a release that knows migration 4711";
    assert!(refused.err.contains(reason), "{}", refused.err);
    let doctor = shell.kiln(&["doctor"]).await.with(1);
    assert!(doctor.out.contains(reason), "{}", doctor.out);
    let late = stack.worker().expect_trouble().spawn();
    let ended = late.wait_exit(PATIENCE).await;
    assert!(!ended.success(), "it takes no job");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_move_into_partitions_while_they_flow_though_the_move_is_killed() {
    let stack = Stack::shared().await;
    let shell = Shell::on(&stack);
    shell.kiln(&["migrate"]).await.with(0);
    stack.execute(OLD).await;
    let worker = stack.worker().start().await;
    let first = text_job("first", "fault", &["the first"]);
    let answered = stack.bus.answer(&first).await;
    let mut connection = connect(&stack).await;

    let is_over = AtomicBool::new(false);
    let flow = async {
        let mut posted = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            let jobs = quick_jobs(&format!("flow-{}", posted.len()), 25);
            stack.bus.publish_jobs(&jobs).await;
            posted.extend(job_ids(&jobs));
            stack.wait_for_empty(JOBS).await;
        }
        posted
    };
    let move_on = async {
        // Who reads holds up its end, so that it can be killed before that.
        let mut reader = connect(&stack).await;
        let mut reading = reader.begin().await.expect("a transaction");
        reading
            .execute("SELECT FROM jobs LIMIT 1")
            .await
            .expect("rows");
        let begun = started(&shell);
        filled(&stack).await;
        killed(begun).await;
        let doctor = shell.kiln(&["doctor"]).await;
        assert!(doctor.out.contains("was begun"), "{}", doctor.out);
        reading.rollback().await.expect("an end");

        // And while it fills rows in: it is back at the start, and meets a row that somebody is writing.
        connection
            .execute("DELETE FROM job_ids_next WHERE job_id LIKE 'old-1%'; UPDATE job_partitioning SET done = 0")
            .await
            .expect("rows");
        let mut writing = reader.begin().await.expect("a transaction");
        writing
            .execute("INSERT INTO job_ids_next (job_id, status, finished_at, body_sha256) VALUES ('old-12345', 'ok', now(), '')")
            .await
            .expect("a row");
        let begun = started(&shell);
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%kiln_fill_job_ids%' AND datname = current_database()";
        eventually("the move fills rows in", PATIENCE, || async {
            (stack.count(waits).await > 0).then_some(())
        })
        .await;
        killed(begun).await;
        writing.rollback().await.expect("an end");

        let moved = shell.kiln(&["migrate", "--partition"]).await.with(0);
        assert!(moved.out.contains("in daily partitions"), "{}", moved.out);
        // Some more with all of it behind them.
        let row = stack.row_count().await;
        eventually("further jobs", PATIENCE, || async {
            (stack.row_count().await > row + 50).then_some(())
        })
        .await;
        is_over.store(true, Ordering::Relaxed);
    };
    let (posted, ()) = tokio::join!(flow, move_on);

    let all = 20_000 + posted.len() + 1;
    stack.wait_for_rows(all).await;
    let done = stack.count("SELECT count(*) FROM jobs WHERE job_id LIKE 'flow-%' AND status = 'ok' AND jsonb_array_length(results) = 1");
    assert_eq!(done.await, posted.len() as i64, "each job has its results");
    assert_eq!(stack.row_count().await, all as i64, "and none is doubled");
    let old = "SELECT count(*) FROM jobs WHERE job_id LIKE 'old-%' AND
        (status = 'ok' AND results->0->>'score' = '0.5' AND error IS NULL OR status = 'rejected' AND error->>'code' = 'invalid' AND model = 'm')
        AND body_sha256 = sha256(substr(job_id, 5)::bytea) AND misses = 1";
    assert_eq!(stack.count(old).await, 20_000, "as they were");
    let replied = stack.bus.reply_to_each(&posted).await;
    assert!(replied.values().all(|reply| reply.status() == "ok"));

    // What was known before is known.
    let again = stack.bus.answer(&first).await;
    assert_eq!(again.without_time(), answered.without_time());
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));
    let other = text_job("first", "fault", &["another one"]);
    stack.bus.publish_job(&other).await;
    assert_eq!(stack.bus.dead_letters(1).await[0].code, "conflict");
    let doctor = shell.kiln(&["doctor"]).await;
    let said = "in daily partitions, 5 of them, and what was there before";
    assert!(doctor.out.contains(said), "{}", doctor.out);
    let second = shell.kiln(&["migrate", "--partition"]).await.with(0);
    assert!(second.out.contains("already"), "{}", second.out);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jobs_row_in_partitions_is_what_it_was_in_one_table() {
    let stack = Stack::shared().await;
    let (store, plain) = (store(&stack).await, store(&stack).await);
    let now = kiln::clock::now();
    let before = done(now - TimeDelta::seconds(2), "[1]");
    let after = done(now - TimeDelta::seconds(1), "[2]");
    let is = |done: &Finished| Inserted::Same(Box::new(done.clone()));
    assert_eq!(
        insert(&plain, &[("before", &before)]).await,
        [Inserted::New]
    );
    assert_eq!(insert(&plain, &[("before", &after)]).await, [is(&before)]);
    reject(&plain, "late").await;

    let Store::Postgres(mover) = &store else {
        panic!("a Postgres");
    };
    // What a failover leaves that loses the end of the move: its beginning, and workers that know of the end.
    let mut server = connect(&stack).await;
    let begin = [
        &include_str!("../../src/store/partitions/fit.sql")
            .replace("LOCK_MODE", "SHARE ROW EXCLUSIVE"),
        include_str!("../../src/store/partitions/begin.sql"),
        "; ALTER TABLE jobs RENAME TO hidden; CREATE VIEW jobs AS SELECT * FROM hidden",
    ];
    let begin = AssertSqlSafe(begin.concat());
    server.execute(begin).await.expect("a beginning");
    mover.add_days_ahead().await.expect("it finds a view");
    let back = "DROP VIEW jobs; ALTER TABLE hidden RENAME TO jobs";
    server.execute(back).await.expect("the table");
    let lost = insert(&store, &[("lost", &before)]).await;
    assert_eq!(lost, [Inserted::New]);
    let count = stack.count("SELECT count(*) FROM jobs WHERE job_id = 'lost'");
    assert_eq!(count.await, 1, "where it is read");
    let seen = "CREATE VIEW seen AS SELECT job_id FROM jobs";
    server.execute(seen).await.expect("a view");
    let refused = mover.partition_jobs(|_, _| {}).await;
    let reason = refused.expect_err("a view").to_string();
    assert!(reason.contains("view seen"), "{reason}");
    // A publication of everything needs each table's key.
    let rest = "DROP VIEW seen; CREATE PUBLICATION everything FOR ALL TABLES";
    server.execute(rest).await.expect("no view");
    assert_eq!(mover.partition_jobs(|_, _| {}).await.ok(), Some(Moved::Now));
    // It knows the former tables, and a row over a rejection is as good as new.
    let written = insert(&plain, &[("late", &after), ("new", &after)]).await;
    assert_eq!(written, [Inserted::New, Inserted::New]);
    let same = insert(&plain, &[("before", &after), ("late", &before)]).await;
    assert_eq!(same, [is(&before), is(&after)]);
    assert_eq!(stack.count("SELECT count(*) FROM job_results").await, 2);
    assert_eq!(
        reject(&store, "new").await,
        [Rejected::Finished(Box::new(after.clone()))]
    );
    assert_eq!(reject(&store, "never").await, [Rejected::Noted]);
    let found = mover.job("never", None).await.expect("an answer");
    assert!(matches!(&found, Some(JobEnd::Rejected(error)) if error.contains("unknown_model")));
    let found = mover.job("before", None).await.expect("an answer");
    assert_eq!(found, Some(JobEnd::Done(Box::new(before))));
    mover.probe_write().await.expect("rows are taken");

    // Whatever the clocks say, and whoever was away for long.
    for days in [-400, -40, 40, 400] {
        let far = done(now + TimeDelta::days(days), "[3]");
        let id = format!("far {days}");
        assert_eq!(insert(&plain, &[(&id, &far)]).await, [Inserted::New]);
        assert_eq!(insert(&store, &[(&id, &far)]).await, [Inserted::New]);
    }
    let other = "CREATE TABLE job_results_20200101 (); SELECT kiln_add_job_day('2020-01-01')";
    let refused = server.execute(other).await.expect_err("a name in use");
    let is_named = refused.to_string().contains("job_results_20200101 is no");
    assert!(is_named, "{refused}");
    let plan = plan(&stack, "SELECT * FROM jobs WHERE job_id = 'new'").await;
    let partitions = plan.iter().filter(|line| line.contains(" on job_results_"));
    let run = partitions.filter(|line| !line.contains("never executed"));
    assert_eq!(run.count(), 1, "{plan:#?}");

    let shell = Shell::on(&stack);
    let pruned = shell
        .kiln(&["prune", "--older-than", "30d", "--json"])
        .await;
    assert!(
        pruned.with(0).out.contains("\"jobs\":2"),
        "two are that old"
    );
    let days = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'job_results'::regclass";
    assert_eq!(stack.count(days).await, 5 + 2, "their partitions are gone");
    assert_eq!(stack.count("SELECT count(*) FROM jobs_before").await, 3);
    let gone = "SELECT count(*) FROM jobs WHERE finished_at < now()";
    eventually("all that has ended is old enough", PATIENCE, || async {
        shell.kiln(&["prune", "--older-than", "1s"]).await.with(0);
        (stack.count(gone).await == 0).then_some(())
    })
    .await;
    let rest = "SELECT count(*) FROM job_results WHERE finished_at < now()";
    assert_eq!(stack.count(rest).await, 0);
    let left = "SELECT count(*) FROM pg_class WHERE relname = 'jobs_before'";
    assert_eq!(stack.count(left).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_without_a_right_to_make_tables_stores_into_partitions() {
    let stack = Stack::shared().await;
    let shell = Shell::on(&stack);
    shell.kiln(&["migrate"]).await.with(0);
    let role = format!("limited_{}", stack.database());
    for statement in [
        format!("CREATE ROLE \"{role}\" LOGIN"),
        format!(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO \"{role}\""
        ),
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC".to_owned(),
    ] {
        let mut connection = connect(&stack).await;
        let run = connection.execute(AssertSqlSafe(statement)).await;
        run.expect("rights");
    }
    not_moved_where_something_stays_behind(&stack, &shell).await;
    moved_while_pruned(&stack).await;
    shell.kiln(&["migrate", "--partition"]).await.with(0);
    let url = stack
        .database_url()
        .replacen("kiln@", &format!("{role}@"), 1);
    let limited = shell.set("KILN_DATABASE_URL", &url);
    let doctor = limited.kiln(&["doctor"]).await;
    assert!(doctor.out.contains(&role), "{}", doctor.out);
    assert!(!doctor.out.contains("may not"), "{}", doctor.out);
    let store = PostgresStore::new(&kiln::secret::Secret::new(url), &Default::default());
    let store = Store::Postgres(store.expect("a URL"));
    let far = done(kiln::clock::now() - TimeDelta::days(50), "[1]");
    assert_eq!(insert(&store, &[("far", &far)]).await, [Inserted::New]);
    assert_eq!(stack.row_count().await, 1);
    let day = Duration::from_secs(86_400);
    // And one that is written anew while it is to be deleted.
    assert_eq!(insert(&store, &[("anew", &far)]).await, [Inserted::New]);
    let mut owner = connect(&stack).await;
    let mut writing = owner.begin().await.expect("a transaction");
    let anew = "UPDATE job_ids SET finished_at = now() WHERE job_id = 'anew'";
    writing.execute(anew).await.expect("a row");
    let commit = async {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%DELETE FROM job_ids%' AND datname = current_database()";
        eventually("the deletion waits", PATIENCE, || async {
            (stack.count(waits).await > 0).then_some(())
        })
        .await;
        writing.commit().await.expect("an end");
    };
    let (pruned, ()) = tokio::join!(store.prune(30 * day, 100, |_| {}), commit);
    assert_eq!(pruned.expect("rights").jobs, 1);
    let kept = stack.count("SELECT count(*) FROM job_ids WHERE job_id = 'anew'");
    assert_eq!(kept.await, 1, "it is young");
    let days = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'job_results'::regclass";
    assert_eq!(stack.count(days).await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_knows_jobs_without_their_results() {
    let stack = Stack::shared().await;
    let worker = stack.worker().set("KILN_STORE__JOBS", "ledger");
    let worker = worker.start().await;
    for round in ["plain", "partitioned"] {
        let job = text_job(round, "fault", &["one input"]);
        let first = stack.bus.answer(&job).await;
        let row = stack.row(round).await;
        assert_eq!((row.status.as_str(), row.results), ("ok", None), "{round}");
        let again = stack.bus.answer(&job).await;
        let scored = |reply: &Reply| reply.body["results"][0]["score"].clone();
        assert_eq!(scored(&again), scored(&first), "scored again");
        assert!(scored(&again).is_number(), "{}", again.body);
        for same in [
            "finished_at",
            "elapsed_ms",
            "hits",
            "misses",
            "model",
            "version",
        ] {
            assert_eq!(again.body[same], first.body[same], "{same}");
        }
        let shown = worker.get(&format!("/v1/jobs/{round}")).await;
        let (status, body) = shown.expect("an answer");
        assert!(
            status == 200 && body.contains("\"results_omitted\":true"),
            "{body}"
        );
        let other = text_job(round, "fault", &["another input"]);
        stack.bus.publish_job(&other).await;
        assert_eq!(stack.bus.dead_letters(1).await[0].code, "conflict");
        let rejected = stack.bus.reply_within(PATIENCE).await;
        assert_eq!(rejected.status(), "rejected");
        let shell = Shell::on(&stack);
        shell.kiln(&["migrate", "--partition"]).await.with(0);
    }
    assert_eq!(stack.count("SELECT count(*) FROM job_results").await, 0);

    worker.stop().await;
}

/// Neither who reads the table by its number nor who isn't its owner is left behind.
async fn not_moved_where_something_stays_behind(stack: &Stack, shell: &Shell) {
    let mover = format!("mover_{}", stack.database());
    let mut connection = connect(stack).await;
    let others = "CREATE VIEW seen AS SELECT job_id FROM jobs; CREATE TABLE notes (job_id text REFERENCES jobs); CREATE PUBLICATION shown FOR TABLE jobs;";
    let others = format!("{others} CREATE ROLE \"{mover}\" LOGIN SUPERUSER");
    connection
        .execute(AssertSqlSafe(others))
        .await
        .expect("others");
    let refused = shell.kiln(&["migrate", "--partition"]).await.with(1);
    for other in ["view seen", "table notes", "publication shown"] {
        assert!(refused.err.contains(other), "{}", refused.err);
    }
    let gone = "DROP VIEW seen; DROP TABLE notes; DROP PUBLICATION shown";
    connection.execute(gone).await.expect("none");
    let url = stack.database_url();
    let url = url.replacen("kiln@", &format!("{mover}@"), 1);
    let shell = Shell::on(stack).set("KILN_DATABASE_URL", &url);
    let refused = shell.kiln(&["migrate", "--partition"]).await.with(1);
    let reason = "jobs belongs to kiln";
    assert!(refused.err.contains(reason), "{}", refused.err);
    let begun = "SELECT count(*) FROM pg_class WHERE relname = 'job_partitioning'";
    assert_eq!(stack.count(begun).await, 0);
}

/// Old jobs are pruned to the last one, though the move ends in the course of it.
async fn moved_while_pruned(stack: &Stack) {
    let (pruner, mover) = (store(stack).await, store(stack).await);
    let old = done(kiln::clock::now() - TimeDelta::days(50), "[1]");
    let jobs = [("old 1", &old), ("old 2", &old), ("old 3", &old)];
    insert(&pruner, &jobs).await;
    let Store::Postgres(mover) = &mover else {
        panic!("a Postgres");
    };
    let mut is_moved = false;
    let progress = |_| {
        if !std::mem::replace(&mut is_moved, true) {
            tokio::task::block_in_place(|| {
                let moved = mover.partition_jobs(|_, _| {});
                let moved = tokio::runtime::Handle::current().block_on(moved);
                assert_eq!(moved.ok(), Some(Moved::Now));
            });
        }
    };
    let age = Duration::from_secs(30 * 86_400);
    let pruned = pruner.prune(age, 1, progress).await.expect("it goes on");
    assert_eq!((pruned.jobs, stack.row_count().await), (3, 0));
}

async fn connect(stack: &Stack) -> PgConnection {
    let opened = PgConnection::connect(&stack.database_url()).await;
    opened.expect("the database")
}

async fn store(stack: &Stack) -> Store {
    let url = kiln::secret::Secret::new(stack.database_url());
    let store = PostgresStore::new(&url, &kiln::config::Database::default()).expect("a URL");
    store.migrate().await.expect("a database");
    Store::Postgres(store)
}

fn done(finished_at: DateTime<Utc>, results: &str) -> Finished {
    Finished {
        model: "m".to_owned(),
        version: "1".to_owned(),
        namespace: "n".to_owned(),
        results: results.to_owned(),
        hits: 0,
        misses: 1,
        elapsed_ms: 1.0,
        finished_at,
    }
}

async fn insert(store: &Store, jobs: &[(&str, &Finished)]) -> Vec<Inserted> {
    let jobs = jobs.iter().map(|(job_id, done)| JobRow {
        job_id,
        body_sha256: kiln_contract::key::hash_body(job_id.as_bytes()),
        done,
    });
    let batch = Batch {
        jobs: jobs.collect(),
        ..Batch::default()
    };
    store.insert(&batch).await.expect("a write")
}

async fn reject(store: &Store, job_id: &str) -> Vec<Rejected> {
    let row = RejectedRow {
        // As where one key's job came twice in a batch.
        posters: vec!["shop", "shop"],
        callback: None,
        job_id: Some(job_id),
        body_sha256: kiln_contract::key::hash_body(job_id.as_bytes()),
        model: Some("m"),
        namespace: None,
        rejection: &Rejection::new(Code::UnknownModel, "model", "no such model"),
        finished_at: kiln::clock::now(),
    };
    store.reject(&[row]).await.expect("a write")
}

/// How the server runs a statement, and has run it.
async fn plan(stack: &Stack, statement: &str) -> Vec<String> {
    let explain = format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {statement}");
    let rows = connect(stack).await.fetch_all(AssertSqlSafe(explain)).await;
    let rows = rows.expect("a plan");
    rows.iter().map(|row| row.get::<String, _>(0)).collect()
}

/// The move, as a process of its own.
fn started(shell: &Shell) -> std::process::Child {
    let mut command = sandbox::clean_command(env!("CARGO_BIN_EXE_kiln"), &shell.folder);
    command
        .args(["migrate", "--partition"])
        .envs(&shell.variables)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().expect("the binary starts")
}

async fn killed(mut child: std::process::Child) {
    child.kill().expect("it runs");
    let ended = tokio::task::spawn_blocking(move || child.wait());
    let ended = ended.await.expect("its thread").expect("it is ours");
    assert!(!ended.success(), "it was killed before its end");
}

/// Waits until all rows of before are filled in.
async fn filled(stack: &Stack) {
    let begun = "SELECT count(*) FROM pg_class WHERE relname = 'job_partitioning'";
    let done = "SELECT count(*) FROM job_partitioning WHERE done >= blocks";
    for question in [begun, done] {
        eventually("the rows are filled in", PATIENCE, || async {
            (stack.count(question).await > 0).then_some(())
        })
        .await;
    }
}
