//! A job that always fails, or that kills its worker, ends among the dead letters; the jobs around it succeed.

use serde_json::Value;

use crate::harness::bus::{DEAD, JOBS};
use crate::harness::jobs::{DeadLetter, fault_job, job_ids, quick_jobs};
use crate::harness::stack::Stack;
use crate::harness::{PATIENCE, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_panics_the_model_is_given_up_and_its_neighbours_succeed() {
    let stack = Stack::shared().await;
    let worker = stack.worker().expect_trouble().start().await;
    let good = quick_jobs("good", 20);
    let poison = fault_job("poison", "please panic");
    stack.bus.publish_jobs(&among(&good, &poison)).await;

    let letter = the_only_dead_letter(&stack).await;
    assert_eq!(
        (letter.job_id().as_str(), letter.code.as_str()),
        ("poison", "exhausted")
    );
    assert!(!letter.message.is_empty());
    assert_eq!(
        letter.body,
        poison.to_string().into_bytes(),
        "it can be replayed as it was posted"
    );
    expect_good_and_rejected(&stack, &good, "poison").await;
    assert!(worker.is_alive());

    let later = quick_jobs("later", 20);
    stack.bus.publish_jobs(&later).await;
    let answers = stack.bus.reply_to_each(&job_ids(&later)).await;
    assert!(
        job_ids(&later)
            .iter()
            .all(|id| answers[id].status() == "ok"),
        "the model still works"
    );
    assert!(worker.is_ready().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_score_is_no_number_is_given_up_and_its_neighbours_succeed() {
    let stack = Stack::shared().await;
    let worker = stack.worker().expect_trouble().start().await;
    let good = quick_jobs("good", 20);
    stack
        .bus
        .publish_jobs(&among(&good, &fault_job("poison", "score it as nan")))
        .await;
    let letter = the_only_dead_letter(&stack).await;
    assert_eq!(letter.job_id(), "poison");
    expect_good_and_rejected(&stack, &good, "poison").await;
    assert!(worker.is_alive());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_kills_its_worker_is_given_up_and_its_neighbours_succeed() {
    let stack = Stack::shared().await;
    let settings = stack.worker().expect_trouble();
    let good = quick_jobs("good", 20);
    let mut worker = settings.clone().start().await;
    stack
        .bus
        .publish_jobs(&among(&good, &fault_job("killer", "abort now")))
        .await;

    // What a supervisor does. The bound only ends a test that would loop for ever.
    let mut deaths = 0;
    for _ in 0..25 {
        let over = eventually(
            "the worker dies or the job is given up",
            PATIENCE,
            async || {
                if stack.bus.waiting(DEAD).await == Some(1)
                    && stack.row_count().await > good.len() as i64
                {
                    return Some(true);
                }
                (!worker.is_alive()).then_some(false)
            },
        )
        .await;
        if over {
            break;
        }
        deaths += 1;
        worker = settings.clone().spawn();
    }
    worker.wait_ready().await;
    assert!(
        (1..=2).contains(&deaths),
        "{deaths} deaths: once it is suspected, no worker dies of it"
    );
    let letter = the_only_dead_letter(&stack).await;
    assert_eq!(
        (letter.job_id().as_str(), letter.code.as_str()),
        ("killer", "exhausted")
    );
    expect_good_and_rejected(&stack, &good, "killer").await;
    stack.wait_for_empty(JOBS).await;
    assert!(worker.is_alive());
}

/// The poison in the middle of the good ones.
fn among(good: &[Value], poison: &Value) -> Vec<Value> {
    let mut jobs = good.to_vec();
    jobs.insert(good.len() / 2, poison.clone());
    jobs
}

async fn the_only_dead_letter(stack: &Stack) -> DeadLetter {
    let letter = stack.bus.dead_letters(1).await.remove(0);
    assert_eq!(
        stack.bus.waiting(DEAD).await,
        Some(0),
        "no other job is given up"
    );
    letter
}

async fn expect_good_and_rejected(stack: &Stack, good: &[Value], rejected: &str) {
    stack.wait_for_rows(good.len() + 1).await;
    let mut succeeded = Vec::new();
    for row in stack.rows().await {
        if row.job_id == rejected {
            assert_eq!(row.status, "rejected");
        } else {
            assert_eq!(row.status, "ok", "{row:?}");
            succeeded.push(row.job_id);
        }
    }
    succeeded.sort();
    assert_eq!(succeeded, job_ids(good));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_a_queue_of_limited_length_drops_is_rejected_as_such() {
    let stack = Stack::shared().await;
    stack.worker().start().await.stop().await;
    let limit = "{\"max-length\":5,\"overflow\":\"drop-head\"}";
    let set = ["set_policy", "-p", stack.vhost(), "--apply-to", "queues"];
    let policy = ["short", "^kiln\\.jobs$", limit];
    stack.broker.ctl(&[&set[..], &policy].concat()).await;
    let jobs = quick_jobs("job", 10);
    stack.bus.publish_jobs(&jobs).await;
    let _worker = stack.worker().start().await;
    let replies = stack.bus.reply_to_each(&job_ids(&jobs)).await;
    let dropped = replies.values().filter(|one| one.status() == "rejected");
    assert_eq!(dropped.count(), 5, "{replies:?}");
    for letter in stack.bus.dead_letters(5).await {
        assert_eq!(letter.code, "expired");
        assert!(
            letter.message.contains("limited in length"),
            "{}",
            letter.message
        );
    }
}
