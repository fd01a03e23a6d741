//! What waits in a worker beside producers' jobs is bounded in bytes as well as in number: jobs of lanes' queues, warming jobs, and what
//! the broker set aside. What is larger than the broker takes by now ends all the same.

use std::collections::BTreeMap;

use lapin::types::AMQPValue;
use serde_json::{Value, json};

use crate::harness::bus::{DEAD, JOBS, Message, REPLIES, answered_as, asking_reply};
use crate::harness::jobs::{fault_job, job_id, job_ids, quick_jobs};
use crate::harness::stack::Stack;
use crate::harness::worker::Worker;
use crate::harness::{PATIENCE, eventually, eventually_equals};

/// The queues of the lane, the number that it has by default.
const LANE: [&str; 4] = [
    "kiln.lane.fault",
    "kiln.lane.fault.1",
    "kiln.lane.fault.2",
    "kiln.lane.fault.3",
];
const LARGE: usize = 256 << 10;
/// Messages of each queue.
const COUNT: usize = 40;

/// A worker that has little room for bytes, and whose database is held now and then.
async fn small_worker(stack: &Stack) -> Worker {
    let settings = stack
        .worker()
        .allow("lock_not_available")
        .set("KILN_LANE__EXPENSIVE_FROM_MS", "0")
        .set("KILN_LANE__MAX_BYTES_IN_HAND", "1048576")
        .set("KILN_INTAKE__MAX_BYTES_IN_HAND", "1048576");
    settings.start().await
}

/// A job whose body has so many bytes.
fn padded(job: &Value, bytes: usize) -> Message {
    let (mut body, properties) = asking_reply(job);
    body.resize(body.len().max(bytes), b' ');
    (body, properties)
}

/// Publishes jobs with bodies of so many bytes to a queue, and gives their ids.
async fn publish(stack: &Stack, queue: &str, what: &str, bytes: usize) -> Vec<String> {
    let jobs = quick_jobs(&format!("{what}-{queue}"), COUNT);
    let messages = jobs.iter().map(|job| padded(job, bytes)).collect();
    stack.bus.publish(queue, messages).await;
    job_ids(&jobs)
}

/// Waits until the broker says that so many messages of a queue are with the worker.
async fn wait_unacknowledged(stack: &Stack, queue: &str, wanted: u64) {
    let what = format!("unacknowledged messages of {queue}");
    eventually_equals(&what, PATIENCE, Some(wanted), || {
        stack.unacknowledged(queue)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_jobs_of_a_lane_are_with_a_worker_and_few_large_ones() {
    let stack = Stack::shared().await;
    let _worker = small_worker(&stack).await;
    stack.bus.answer(&quick_jobs("first", 1)[0]).await;
    for queue in LANE {
        eventually("the lane's queues are consumed", PATIENCE, async || {
            (stack.bus.consumers(queue).await? > 0).then_some(())
        })
        .await;
    }
    // By these it learns how large they are.
    for queue in LANE {
        let ids = publish(&stack, queue, "learnt", 0).await;
        stack.bus.reply_to_each(&ids).await;
    }
    for (what, bytes, window) in [("small", 0, 32), ("large", LARGE, 2)] {
        if bytes > 0 {
            for queue in LANE {
                let ids = publish(&stack, queue, "grown", bytes).await;
                stack.bus.reply_to_each(&ids).await;
            }
        }
        let held = stack.hold_jobs().await;
        let mut ids = Vec::new();
        for queue in LANE {
            ids.extend(publish(&stack, queue, what, bytes).await);
        }
        for queue in LANE {
            wait_unacknowledged(&stack, queue, window).await;
        }
        drop(held);
        stack.bus.reply_to_each(&ids).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lanes_queue_full_of_large_jobs_is_taken_from_few_at_a_time_from_the_first_on() {
    let stack = Stack::shared().await;
    let first = small_worker(&stack).await;
    stack.bus.answer(&quick_jobs("first", 1)[0]).await;
    eventually("the lane's queues are there", PATIENCE, async || {
        stack.bus.waiting(LANE[3]).await
    })
    .await;
    first.stop().await;
    let mut ids = Vec::new();
    for queue in LANE {
        ids.extend(publish(&stack, queue, "large", LARGE).await);
    }
    let held = stack.hold_jobs().await;
    let _second = small_worker(&stack).await;
    for queue in LANE {
        wait_unacknowledged(&stack, queue, 2).await;
    }
    drop(held);
    stack.bus.reply_to_each(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_large_messages_wait_in_a_worker_that_are_no_producers_jobs() {
    let stack = Stack::shared().await;
    let _worker = small_worker(&stack).await;
    let held = stack.hold_jobs().await;
    let warmed = publish(&stack, "kiln.warm", "warmed", LARGE).await;
    let jobs = quick_jobs("expired", COUNT);
    let expired = jobs.iter().map(|job| {
        let (body, _) = padded(job, LARGE);
        (body, answered_as(job_id(job)))
    });
    stack.bus.publish("kiln.expired", expired.collect()).await;
    for queue in ["kiln.warm", "kiln.expired"] {
        wait_unacknowledged(&stack, queue, 2).await;
    }
    drop(held);
    stack.bus.reply_to_each(&warmed).await;
    assert_eq!(stack.bus.dead_letters(COUNT).await.len(), COUNT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_the_broker_would_take_no_more_end_once_and_their_letters_say_what_they_lack() {
    const LIMIT: usize = 16 << 10;
    let stack = Stack::private().await;
    // The queues are there, with jobs in them, before the limit is lowered.
    let first = stack.worker().start().await;
    first.stop().await;
    let bad = json!({"job_id": "bad", "model": "fault", "inputs": []});
    let jobs = [
        bad,
        fault_job("poison", "please panic"),
        fault_job("good", "a text"),
    ];
    let messages = jobs.iter().map(|job| padded(job, 3 * LIMIT)).collect();
    stack.bus.publish(JOBS, messages).await;
    let lower = format!("application:set_env(rabbit, max_message_size, {LIMIT}).");
    stack.broker.ctl(&["eval", &lower]).await;

    let worker = stack.worker().expect_trouble().start().await;
    // The last one is that of the job that comes again until it has been tried as often as it may.
    let replies = stack.bus.replies(3).await;
    let replies: BTreeMap<_, _> = replies
        .iter()
        .map(|one| (one.job_id(), one.status()))
        .collect();
    let expected = [("bad", "rejected"), ("good", "ok"), ("poison", "rejected")];
    assert_eq!(replies, BTreeMap::from(expected), "one of each");
    for queue in [JOBS, "kiln.expired"] {
        eventually_equals("unsettled jobs", PATIENCE, Some(0), || {
            stack.unsettled(queue)
        })
        .await;
    }
    assert_eq!(
        stack.bus.waiting(REPLIES).await,
        Some(0),
        "none is told twice"
    );
    assert_eq!(stack.row("bad").await.status, "rejected");
    let said = |text: &str| {
        let lines = worker.lines();
        lines.iter().filter(|line| line.contains(text)).count()
    };
    assert_eq!(said("a job can't be moved on"), 1, "of the poison, once");

    // They stay where an operator finds them, and can't be replayed without a body.
    let answer = worker
        .ask("POST", "/v1/dead/replay", &[], b"{\"all\": true}")
        .await
        .expect("an answer");
    let answer: Value = serde_json::from_str(&answer.body).expect("JSON");
    let left = answer["left"].as_array().expect("letters");
    assert_eq!((&answer["done"], left.len()), (&json!(0), 2), "{answer}");
    let why = left[0]["why"].as_str().unwrap_or_default();
    assert!(why.contains("kiln-body-omitted"), "{why}");
    let mut codes = BTreeMap::new();
    for _ in 0..2 {
        let letter = eventually("a dead letter", PATIENCE, || stack.bus.take(DEAD)).await;
        assert!(letter.data.is_empty());
        let headers = letter.properties.headers().clone().unwrap_or_default();
        let header = |name: &str| headers.inner().get(name).cloned();
        let text = |name: &str| match header(name) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            other => panic!("{name} is {other:?}"),
        };
        let bytes = AMQPValue::LongLongInt(3 * LIMIT as i64);
        assert_eq!(header("kiln-body-omitted"), Some(bytes));
        codes.insert(text("kiln-job-id"), text("kiln-error-code"));
    }
    let expected = [("bad", "invalid"), ("poison", "exhausted")];
    let expected = expected.map(|(id, code)| (id.to_owned(), code.to_owned()));
    assert_eq!(codes, BTreeMap::from(expected));
}
