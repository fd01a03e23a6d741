//! A pause of taking jobs: what is in hand is finished, however long that takes, and taking jobs goes on without waiting for it.

use std::time::Duration;

use crate::harness::bus::{JOBS, persistent};
use crate::harness::jobs::{slow_jobs, text_job};
use crate::harness::stack::Stack;
use crate::harness::worker::Worker;
use crate::harness::{PATIENCE, eventually_equals};

const LANE: &str = "kiln.lane.fault";
/// A job that takes longer than the drain limit below.
const LONG_MS: u64 = 10_000;

async fn start(stack: &Stack) -> Worker {
    let worker = stack.worker().models(&["fault", "sentiment"]);
    let worker = worker.set("KILN_DRAIN__LIMIT_SECONDS", "1");
    worker.start().await
}

/// Pauses taking jobs, and waits until the worker takes none. A consumer that was cancelled counts at the broker until all that it was given is settled.
async fn pause(worker: &Worker) {
    steer(worker, "pause").await;
    let paused = |line: &str| line.contains("taking jobs is paused");
    worker
        .wait_for_line("a worker that takes none", paused)
        .await;
}

async fn steer(worker: &Worker, what: &str) {
    let path = format!("/v1/intake/{what}");
    let answer = worker.ask("POST", &path, &[], b"{}").await;
    assert_eq!(answer.expect("an answer").status, 200);
}

async fn computed(worker: &Worker) -> f64 {
    worker
        .metric("kiln_inputs_total", &[("result", "miss")])
        .await
}

async fn wait_settled(stack: &Stack, queue: &str) {
    eventually_equals("nothing is unsettled", PATIENCE, Some(0), || {
        stack.unsettled(queue)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn taking_jobs_goes_on_while_one_from_before_the_pause_is_in_hand() {
    let stack = Stack::shared().await;
    let worker = start(&stack).await;
    stack.bus.publish_jobs(&slow_jobs("long", 1, LONG_MS)).await;
    worker.wait_in_hand(1).await;
    pause(&worker).await;
    steer(&worker, "resume").await;
    let quick = text_job("quick", "sentiment", &["I love this"]);
    stack.bus.publish_job(&quick).await;
    stack.bus.reply_to_each(&["quick".to_owned()]).await;
    assert_eq!(stack.row_count().await, 1, "the long one isn't waited for");
    stack.bus.reply_to_each(&["long-0".to_owned()]).await;
    wait_settled(&stack, JOBS).await;
    assert_eq!(computed(&worker).await, 2.0, "each once");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_hand_is_finished_during_a_pause_however_long_it_takes() {
    let stack = Stack::shared().await;
    let worker = start(&stack).await;
    stack.bus.publish_jobs(&slow_jobs("long", 1, LONG_MS)).await;
    worker.wait_in_hand(1).await;
    pause(&worker).await;
    stack.bus.reply_to_each(&["long-0".to_owned()]).await;
    wait_settled(&stack, JOBS).await;
    assert_eq!(computed(&worker).await, 1.0);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_of_a_lanes_queue_is_finished_once_whatever_is_paused_meanwhile() {
    let stack = Stack::shared().await;
    let worker = start(&stack).await;
    for job in slow_jobs("learn", 4, 20) {
        stack.bus.answer(&job).await;
    }
    let used = |line: &str| line.contains("jobs may wait in a lane's queues");
    worker.wait_for_line("the lane's queues", used).await;
    let body = text_job("long", "fault", &[&format!("sleep:{LONG_MS} long")]);
    let body = serde_json::to_vec(&body).expect("JSON");
    stack.bus.publish(LANE, vec![(body, persistent())]).await;
    worker.wait_in_hand(1).await;
    pause(&worker).await;
    steer(&worker, "resume").await;
    eventually_equals(
        "the lane's queues are taken from again",
        PATIENCE,
        2,
        async || {
            let taken = |line: &&String| line.contains("taking jobs from a lane's queues");
            worker.lines().iter().filter(taken).count()
        },
    )
    .await;
    assert_eq!(stack.row_count().await, 4, "the long one isn't waited for");
    stack.wait_for_rows(5).await;
    wait_settled(&stack, LANE).await;
    assert_eq!(computed(&worker).await, 5.0, "each once");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_during_a_pause_gives_back_what_is_unfinished_within_its_limit() {
    let stack = Stack::shared().await;
    let worker = stack.worker().allow("the drain limit passed");
    let worker = worker.set("KILN_DRAIN__LIMIT_SECONDS", "2").start().await;
    let endless = slow_jobs("endless", 1, 1_200_000);
    stack.bus.publish_jobs(&endless).await;
    worker.wait_in_hand(1).await;
    pause(&worker).await;
    worker.terminate();
    let status = worker.wait_exit(Duration::from_secs(20)).await;
    assert_eq!(status.code(), Some(0));
    eventually_equals("the job waits again", PATIENCE, Some(1), || {
        stack.bus.waiting(JOBS)
    })
    .await;
}
