//! Which runs are claimed: those that were missed, and beside those that are asked for.

use std::time::Duration;

use chrono::{DateTime, Utc};
use kiln::store::PostgresStore;

use crate::harness::stack::Stack;
use crate::harness::{PATIENCE, eventually};
use crate::warm::{Schedules, words};

async fn store(stack: &Stack) -> PostgresStore {
    let url = kiln::secret::Secret::new(stack.database_url());
    let store = PostgresStore::new(&url, &kiln::config::Database::default()).expect("a URL");
    store.migrate().await.expect("an empty database");
    store
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_asked_for_leaves_what_is_due_as_it_was() {
    let stack = Stack::shared().await;
    let store = store(&stack).await;
    let due: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().expect("an instant");
    let (life, limit) = (Duration::from_secs(15), Duration::from_secs(600));
    let claimed = store.claim_run("s", due, "allow", "w", life, limit);
    claimed.await.expect("an answer");
    store.ask_run("s", limit).await.expect("an answer");
    let last = store.last_due(&["s"]).await.expect("an answer");
    assert_eq!(last.get("s"), Some(&due));
    assert_eq!(stack.count("SELECT count(*) FROM warm_runs").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_runs_that_were_missed_are_made_up_for_and_the_newest_comes_after_them() {
    let stack = Stack::shared().await;
    store(&stack).await;
    stack
        .execute(
            "INSERT INTO warm_runs (schedule, due_at, state, limit_seconds, ends_at, finished_at)
             VALUES ('often', date_trunc('minute', now()) - interval '4 minutes', 'done', 600, now(), now())",
        )
        .await;
    let schedules = Schedules::new();
    let head = "cron = \"* * * * *\"\nmissed = \"all\"\nmodel = \"sentiment\"\n";
    schedules.put("often", &format!("{head}{}", words(3)));
    let worker = schedules.worker(&stack).start().await;
    eventually("each has run", PATIENCE, || async {
        let done = "SELECT count(*) FROM warm_runs WHERE state = 'done'";
        (stack.count(done).await >= 5).then_some(())
    })
    .await;
    let skipped = "SELECT count(*) FROM warm_runs WHERE state = 'skipped'";
    assert_eq!(stack.count(skipped).await, 0);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_at_the_start_runs_where_there_is_room_for_one_at_a_time() {
    let stack = Stack::shared().await;
    let schedules = Schedules::new();
    let head = "cron = \"0 0 1 1 *\"\nat_start = true\nmodel = \"sentiment\"\n";
    let names = ["first", "second", "third"];
    for name in names {
        schedules.put(name, &format!("{head}{}", words(3)));
    }
    let worker = schedules
        .worker(&stack)
        .set("KILN_WARM__RUNS_AT_ONCE", "1")
        .start()
        .await;
    eventually("each has run", PATIENCE, || async {
        let done = "SELECT count(*) FROM warm_runs WHERE state = 'done'";
        (stack.count(done).await >= names.len() as i64).then_some(())
    })
    .await;
    worker.stop().await;
}
