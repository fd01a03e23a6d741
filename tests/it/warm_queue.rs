//! What waits of a schedule: bounded, and no longer than somebody knows the schedule.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use kiln::store::{Claimed, PostgresStore, RunState};

use crate::harness::stack::Stack;
use crate::harness::{PATIENCE, eventually};
use crate::warm::{Schedules, words};
use crate::warm_claims::store;

const LIFE: Duration = Duration::from_secs(15);
const LIMIT: Duration = Duration::from_secs(600);

/// Claims the run of `s` that is due so many minutes after a moment.
async fn claim(store: &PostgresStore, minute: i64, overlap: &str) -> Claimed {
    let first: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().expect("an instant");
    let due = first + TimeDelta::minutes(minute);
    let claimed = store.claim_run("s", due, overlap, "w", LIFE, LIMIT);
    claimed.await.expect("an answer")
}

fn is_state(claimed: Claimed, state: RunState) -> bool {
    matches!(claimed, Claimed::Set(_, set) if set == state)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_schedule_that_never_catches_up_one_due_run_waits_and_stands_for_the_later_ones() {
    let stack = Stack::shared().await;
    let store = store(&stack).await;
    assert!(matches!(claim(&store, 0, "wait").await, Claimed::Own(_)));
    assert!(is_state(claim(&store, 1, "wait").await, RunState::Queued));
    for minute in 2..5 {
        let later = claim(&store, minute, "wait").await;
        assert!(is_state(later, RunState::Skipped), "{later:?}");
    }
    let said = "SELECT count(*) FROM warm_runs WHERE state = 'skipped' AND finished_at IS NOT NULL AND message LIKE '%stands for this one'";
    assert_eq!(stack.count(said).await, 3);
    stack
        .execute(
            "UPDATE warm_runs SET state = 'done', finished_at = now() WHERE state = 'planning'",
        )
        .await;
    let known: (&[&str], &[&str]) = (&["s"], &["s"]);
    let taken = store.take_run_over("w", known, LIFE).await;
    assert!(taken.expect("an answer").is_some(), "the one that waited");
    assert!(is_state(claim(&store, 5, "wait").await, RunState::Queued));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_makes_up_for_another_has_no_row_until_there_is_room_before_it() {
    let stack = Stack::shared().await;
    let store = store(&stack).await;
    stack
        .execute(
            "INSERT INTO warm_runs (schedule, due_at, state, limit_seconds, ends_at)
             SELECT 's', '2025-01-01T00:00:00Z'::timestamptz + make_interval(secs => n), 'queued', 600, now() FROM generate_series(1, 999) AS n",
        )
        .await;
    assert!(is_state(claim(&store, 0, "queue").await, RunState::Queued));
    assert_eq!(claim(&store, 1, "queue").await, Claimed::Full);
    assert_eq!(claim(&store, 0, "queue").await, Claimed::Taken);
    let known: (&[&str], &[&str]) = (&["s"], &["s"]);
    let taken = store.take_run_over("w", known, LIFE).await;
    assert!(taken.expect("an answer").is_some());
    assert!(is_state(claim(&store, 1, "queue").await, RunState::Queued));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_a_run_while_one_that_was_asked_for_waits_gets_that_one() {
    let stack = Stack::shared().await;
    let store = store(&stack).await;
    let ask = async || store.ask_run("s", LIMIT).await.expect("an answer");
    let first = ask().await;
    assert_eq!(ask().await, first);
    let known: (&[&str], &[&str]) = (&["s"], &["s"]);
    let taken = store.take_run_over("w", known, LIFE).await;
    assert!(taken.expect("an answer").is_some());
    assert_ne!(ask().await, first, "it has begun");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_left_to_whoever_knows_its_schedule_and_ends_once_nobody_has_for_long() {
    let stack = Stack::shared().await;
    let store = store(&stack).await;
    let run = store.ask_run("s", LIMIT).await.expect("an answer");
    let end = async || store.end_unknown(&["other"]).await.expect("an answer");
    assert!(end().await.is_empty(), "it has hardly begun to wait");
    let asked = "UPDATE warm_runs SET started_at = now() - interval '1 hour'";
    stack.execute(asked).await;
    store.keep_queued(&["s"]).await.expect("an answer");
    assert!(end().await.is_empty(), "somebody knows it");
    let kept = "UPDATE warm_runs SET lease_until = now() - interval '1 second'";
    stack.execute(kept).await;
    stack
        .execute(
            "INSERT INTO workers (name, started_at, version, figures)
             VALUES ('old', now(), '0.1.0', '{\"status\": \"ready\"}'), ('new', now(), '0.2.0', '{\"keeps_queued\": true}')",
        )
        .await;
    assert!(end().await.is_empty(), "an earlier release may know it");
    let gone = "UPDATE workers SET seen_at = now() - interval '1 hour' WHERE name = 'old'";
    stack.execute(gone).await;
    assert_eq!(end().await, ["s"]);
    let row = store.run_row(run).await.expect("an answer").expect("a row");
    assert_eq!(row.state, RunState::Skipped);
    let message = row.message.expect("a reason");
    assert_eq!(message, "no worker knows its schedule any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_that_wait_of_a_schedule_that_was_removed_are_left_out_and_others_wait_on() {
    let stack = Stack::shared().await;
    store(&stack).await;
    stack
        .execute(
            "INSERT INTO warm_runs (schedule, due_at, state, limit_seconds, ends_at, started_at)
             SELECT schedule, date_trunc('second', now()) - make_interval(mins => n), 'queued', 600, now(), now() - age
             FROM generate_series(1, 3) AS n, (VALUES
               ('removed', interval '1 hour'), ('renamed', interval '1 minute'), ('off', interval '1 hour')
             ) AS runs(schedule, age)",
        )
        .await;
    let schedules = Schedules::new();
    let head = "enabled = false\ncron = \"0 0 1 1 *\"\nmodel = \"sentiment\"\n";
    schedules.put("off", &format!("{head}{}", words(3)));
    let settings = schedules.worker(&stack);
    let worker = settings
        .allow("runs that waited are left out")
        .start()
        .await;
    eventually("nothing waits of what was removed", PATIENCE, || async {
        let waiting =
            "SELECT count(*) FROM warm_runs WHERE state = 'queued' AND schedule = 'removed'";
        (stack.count(waiting).await == 0).then_some(())
    })
    .await;
    let left = stack
        .text(
            "SELECT string_agg(schedule || ' ' || state || ' ' || count, ', ' ORDER BY schedule, state)
             FROM (SELECT schedule, state, count(*) FROM warm_runs GROUP BY schedule, state) AS runs",
        )
        .await;
    let wanted = "off queued 3, removed skipped 3, renamed queued 3";
    assert_eq!(left, wanted);
    let kept = "SELECT count(*) FROM warm_runs WHERE state = 'queued' AND lease_until > now() AND schedule <> 'renamed'";
    assert_eq!(stack.count(kept).await, 3);
    worker.stop().await;
}
