//! What a worker with nothing to do costs its servers, and how it hears what operators want.

use std::fs;
use std::time::Instant;

use kiln::secret::Secret;
use kiln::store::{INTAKE, Listener, PostgresStore};
use tokio::time::timeout;

use crate::harness::jobs::{job_ids, slow_jobs};
use crate::harness::stack::{Own, Stack};
use crate::harness::{PATIENCE, eventually, sandbox};

/// Statements, each a transaction of its own, and commands a second.
const BOUND: f64 = 2.0;
/// So many statements are waited for.
const COUNTED: usize = 24;
/// After so many more, what was read before is in the server's counters: it writes them down once a second.
const SETTLED: usize = 8;

/// Has the server log every statement with its client's name: its own counters tell some transactions late, or never.
const LOGGED: [&str; 3] = [
    "ALTER SYSTEM SET log_line_prefix = '[%a] '",
    "ALTER SYSTEM SET log_statement = 'all'",
    "SELECT pg_reload_conf()",
];

/// A worker's connections to a database.
const HELD: &str = "\
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'kiln%'";

/// Rows of a long history, and of runs that are over.
const HISTORY: [&str; 4] = [
    "INSERT INTO jobs (job_id, status, model, body_sha256, finished_at) \
     SELECT 'old-' || n, 'ok', 'm', '', now() - interval '1 day' FROM generate_series(1, 50000) AS n",
    "INSERT INTO warm_runs (schedule, due_at, state, limit_seconds, ends_at, finished_at) \
     SELECT 'yearly', now() - make_interval(secs => n), 'done', 60, now(), now() FROM generate_series(1, 20000) AS n",
    "INSERT INTO served (namespace, key, served_from, job_id, model, version, order_kind, order_value, accepted_us) \
     SELECT 'old', 'k' || n, now(), 'j', 'm', '1', 't', n, n FROM generate_series(1, 20000) AS n",
    "ANALYZE",
];

/// Statements that workers have sent so far, by the server's log.
fn statements(stack: &Stack) -> usize {
    let log = fs::read_to_string(stack.postgres.folder().join("output"));
    let log = log.expect("the server's log");
    let is_theirs = |line: &&str| {
        let is_one = line.contains("LOG:  statement: ") || line.contains("LOG:  execute ");
        line.starts_with("[kiln") && is_one
    };
    log.lines().filter(is_theirs).count()
}

/// Rows of the history that were read one after the other.
async fn history_read(stack: &Stack) -> i64 {
    let read = "SELECT coalesce(sum(seq_tup_read), 0)::int8 FROM pg_stat_user_tables \
                WHERE relname IN ('jobs', 'scores', 'served', 'warm_runs', 'warm_posts')";
    stack.count(read).await
}

/// Commands that this Redis has run, but for those of the tests' connections.
async fn commands(stack: &Stack) -> f64 {
    let all: String = stack.redis.command(&["INFO", "commandstats"]).await;
    let counted = all.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let calls: f64 = rest.split(',').next()?.parse().ok()?;
        let is_ours = ["client|setinfo", "hello"].contains(&name);
        (!is_ours).then_some(calls)
    });
    counted.sum()
}

/// What Redis loses of an invalidation is there again with the next check, of which there is more than one a second.
async fn expect_marks_back(stack: &Stack) {
    let marks = ["kiln:i", "kiln:i:fault"];
    let looks = async || {
        let all: String = stack.redis.command(&["INFO", "commandstats"]).await;
        let calls = all.split_once("cmdstat_mget:calls=");
        let calls = calls.and_then(|(_, rest)| rest.split(',').next()?.parse().ok());
        calls.unwrap_or(0)
    };
    for _ in 0..5 {
        let before: u64 = looks().await;
        let _: i64 = stack.redis.command(&["DEL", marks[0], marks[1]]).await;
        let after = eventually("the marks are back", PATIENCE, async || {
            let looks = looks().await;
            (stack.redis.keys("kiln:i*").await.len() == marks.len()).then_some(looks)
        })
        .await;
        // One may have been on its way.
        assert!(after <= before + 2, "{} looks", after - before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_worker_asks_little_of_its_servers_whatever_the_history() {
    let stack = Stack::with(Own {
        broker: false,
        postgres: true,
    })
    .await;
    let schedules = sandbox::folder("schedules");
    let yearly = "name = \"yearly\"\ncron = \"0 0 29 2 *\"\nmissed = \"skip\"\nmodel = \"fault\"\n\
                  [source]\nkind = \"static\"\ninputs = [{ key = \"k\", text = \"t\" }]\n";
    fs::write(schedules.join("yearly.toml"), yearly).expect("a schedule");
    let settings = stack.worker().models(&["fault"]);
    let settings = settings.set("KILN_WARM__DIR", schedules.to_str().expect("a plain path"));
    let settings = settings.set("KILN_INTAKE__BATCH_JOBS", "4");
    let busy = settings.clone().start().await;
    let jobs = slow_jobs("before", 200, 2);
    stack.bus.publish_jobs(&jobs).await;
    stack.expect_done(job_ids(&jobs)).await;
    let invalidated = busy.ask("POST", "/v1/cache/invalidate/fault", &[], b"");
    assert_eq!(invalidated.await.expect("an answer").status, 202);
    // What was needed for the jobs is given back.
    eventually("few connections are held", PATIENCE, async || {
        (stack.count(HELD).await <= 4).then_some(())
    })
    .await;
    busy.stop().await;

    for statement in HISTORY.into_iter().chain(LOGGED) {
        stack.execute(statement).await;
    }
    let worker = settings.start().await;
    // What the start read is counted once the server has gathered it.
    let begun = statements(&stack);
    eventually("some statements", PATIENCE, async || {
        (statements(&stack) - begun >= SETTLED).then_some(())
    })
    .await;
    let read = history_read(&stack).await;
    let sent = statements(&stack);
    let (asked, begun) = (commands(&stack).await, Instant::now());
    let sent = eventually("statements", PATIENCE, async || {
        let now = statements(&stack) - sent;
        (now >= COUNTED).then_some(now)
    })
    .await;
    let seconds = begun.elapsed().as_secs_f64();
    let statements = sent as f64 / seconds;
    // The first question was counted after its answer.
    let commands = (commands(&stack).await - asked - 1.0) / seconds;
    println!("idle, a second: {statements:.2} statements, {commands:.2} commands of Redis");
    assert!(statements <= BOUND, "{statements} statements a second");
    assert!(commands <= BOUND, "{commands} commands of Redis a second");
    // A look through a table of the history reads 20,000 rows at least; what was read before it was there may be counted late.
    let read = history_read(&stack).await - read;
    assert!(read < 20_000, "{read} rows of the history were read");
    expect_marks_back(&stack).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_that_operators_make_is_told_at_once() {
    let stack = Stack::shared().await;
    let url = Secret::new(stack.database_url());
    let store = PostgresStore::new(&url, &kiln::config::Database::default()).expect("a URL");
    store.migrate().await.expect("an empty database");
    store.ping().await.expect("it answers");
    let mut listener = Listener::new(store.clone());
    listener.news(-1).await.expect("an answer");
    let told = async |listener: &mut Listener| {
        let heard = async {
            // Without a word of the database's, this only ever says that the time is up.
            while !listener.changed().await {}
        };
        timeout(PATIENCE, heard).await.expect("it is told");
        listener.news(-1).await.expect("an answer")
    };
    store.pause(INTAKE, "a test").await.expect("paused");
    assert_eq!(told(&mut listener).await.paused[0].by, "a test");
    store.resume(INTAKE).await.expect("resumed");
    assert!(told(&mut listener).await.paused.is_empty());
    store.choose_model("m", "2").await.expect("chosen");
    assert_eq!(told(&mut listener).await.chosen.active["m"], "2");
    let share = kiln_contract::split::Share::from_millionths(1);
    let share = share.expect("a share");
    store.split_model("m", "3", share).await.expect("shared");
    let chosen = told(&mut listener).await.chosen;
    assert_eq!(chosen.splits["m"].share, share, "{chosen:?}");
    store.unsplit_model("m").await.expect("taken back");
    assert!(told(&mut listener).await.chosen.splits.is_empty());
    store.unchoose_model("m").await.expect("taken back");
    assert!(told(&mut listener).await.chosen.active.is_empty());
    let stamp = store.invalidate("feed", 0).await.expect("invalidated");
    let news = told(&mut listener).await;
    assert!(
        news.marks
            .iter()
            .any(|mark| mark.namespace == "feed" && mark.stamp == stamp),
        "{news:?}"
    );
    store.adopt_mark("feed", stamp + 1).await.expect("adopted");
    let marks = told(&mut listener).await.marks;
    assert!(
        marks.iter().all(|mark| mark.stamp == stamp + 1),
        "{marks:?}"
    );
    let limit = std::time::Duration::from_secs(60);
    store.ask_run("s", limit).await.expect("asked for");
    assert!(told(&mut listener).await.is_run_waiting);
}
