//! What waits in a worker beside producers' jobs is bounded in bytes as well as in number: jobs of lanes' queues, warming jobs, and what
//! the broker set aside.

use serde_json::Value;

use crate::harness::bus::{Message, answered_as, asking_reply};
use crate::harness::jobs::{job_id, job_ids, quick_jobs};
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
