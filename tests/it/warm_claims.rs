//! Which runs are claimed: those that were missed, and beside those that are asked for.

use std::time::Duration;

use chrono::{DateTime, Utc};
use kiln::store::{Claimed, PostgresStore};

use crate::harness::bus::persistent;
use crate::harness::stack::Stack;
use crate::harness::{PATIENCE, eventually};
use crate::warm::{Schedules, on_request, words};

pub(crate) async fn store(stack: &Stack) -> PostgresStore {
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
    let last = store.last_due(&["s"], Utc::now()).await;
    assert_eq!(last.expect("an answer").get("s"), Some(&due));
    assert_eq!(stack.count("SELECT count(*) FROM warm_runs").await, 2);
    // A clock that was ahead claimed what isn't due yet.
    let ahead = "2999-01-01T00:00:00Z".parse().expect("an instant");
    let claimed = store.claim_run("s", ahead, "allow", "w", life, limit);
    claimed.await.expect("an answer");
    let last = store.last_due(&["s"], Utc::now()).await;
    assert_eq!(last.expect("an answer").get("s"), Some(&due));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_of_a_schedule_that_is_paused_waits_on_but_for_what_is_asked_for() {
    let stack = Stack::shared().await;
    let store = store(&stack).await;
    stack
        .execute(
            "INSERT INTO warm_runs (schedule, due_at, state, limit_seconds, ends_at)
             VALUES ('s', date_trunc('second', now()) - interval '1 minute', 'queued', 600, now())",
        )
        .await;
    let asked = store.ask_run("s", Duration::from_secs(600)).await;
    let asked = asked.expect("an answer");
    let take = async |running: &[&str]| {
        let taken = store.take_run_over("w", (&["s"], running), Duration::from_secs(600));
        taken.await.expect("an answer").map(|taken| taken.claim.id)
    };
    assert_eq!(take(&[]).await, Some(asked));
    assert_eq!(take(&[]).await, None);
    let ended = "UPDATE warm_runs SET state = 'done', finished_at = now() WHERE state <> 'queued'";
    stack.execute(ended).await;
    assert_eq!(take(&[]).await, None);
    assert!(take(&["s"]).await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_latest_run_that_was_due_is_never_pruned() {
    let stack = Stack::shared().await;
    store(&stack).await;
    stack
        .execute(
            "INSERT INTO warm_runs (schedule, due_at, state, limit_seconds, ends_at, finished_at)
             SELECT 'monthly', date_trunc('second', now()) - age, 'done', 600, now(), now() - interval '1 day'
             FROM unnest(ARRAY[interval '3 minutes', interval '2 minutes', interval '1 minute' + interval '7 microseconds']) AS age",
        )
        .await;
    let schedules = Schedules::new();
    let prune = ["prune", "--older-than", "1h", "--json"];
    let (_, lines, said) = tokio::task::block_in_place(|| schedules.kiln(&stack, &prune));
    let line = lines.first().unwrap_or_else(|| panic!("no result: {said}"));
    assert_eq!(line["runs"], 2, "{line}");
    let left = "SELECT count(*) FROM warm_runs WHERE due_at < now() - interval '90 seconds'";
    assert_eq!(stack.count(left).await, 1);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_from_before_a_restore_counts_for_no_run_after_it() {
    let stack = Stack::shared().await;
    let schedules = Schedules::new();
    schedules.put("words", &format!("{}{}", on_request(), words(3)));
    let worker = schedules.worker(&stack).start().await;
    // What a run of the former database posted, which began to count at 1 as this one does.
    let body = br#"{"model": "sentiment", "namespace": "warmed", "inputs": [{"text": "former"}]}"#;
    let properties = persistent().with_message_id("warm-1-0".into());
    let former = vec![(body.to_vec(), properties)];
    stack.bus.publish("kiln.warm", former).await;
    stack.wait_for_rows(1).await;
    let (code, run) = schedules.run_now(&stack, "words").await;
    assert_eq!(
        (code, &run["done"], &run["failed"]),
        (0, &3.into(), &0.into()),
        "{run}"
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_number_of_a_run_comes_again_after_a_restore() {
    let stack = Stack::shared().await;
    let store = store(&stack).await;
    let (life, limit) = (Duration::from_secs(15), Duration::from_secs(600));
    let numbers = async || {
        let due: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().expect("an instant");
        let claimed = store.claim_run("due", due, "allow", "w", life, limit);
        let Ok(Claimed::Own(due)) = claimed.await else {
            panic!("it was claimed");
        };
        let asked = store.ask_run("asked", limit).await.expect("an answer");
        let follows = store.claim_following("follows", "w", life, limit).await;
        let follows = follows.expect("an answer").expect("it was claimed");
        [due.id, asked, follows.id]
    };
    let before = numbers().await;
    // As a dump from before these runs leaves it.
    let restored = "TRUNCATE warm_runs RESTART IDENTITY CASCADE";
    stack.execute(restored).await;
    let after = numbers().await;
    let again = after.iter().filter(|id| before.contains(id));
    assert_eq!(again.count(), 0, "{before:?} {after:?}");
}
