//! Nothing slow, large or greedy holds up what is quick: jobs that miss wait in their model's lane, and jobs that are too many to
//! hold wait in the lane's queue.

use std::collections::BTreeMap;

use lapin::types::FieldTable;
use serde_json::{Value, json};

use crate::harness::bus::asking_reply;
use crate::harness::jobs::{job_ids, slow_jobs, text_job};
use crate::harness::stack::Stack;
use crate::harness::worker::{Settings, Worker};
use crate::harness::{PATIENCE, eventually};

/// The first of a lane's queues, and those that follow it.
const LANE: &str = "kiln.lane.fault";
/// The queues that a lane has by default.
const QUEUES: usize = 4;

fn lane_queue(number: usize) -> String {
    match number {
        0 => LANE.to_owned(),
        _ => format!("{LANE}.{number}"),
    }
}

/// Messages in all queues of the lane.
async fn in_lane_queues(stack: &Stack) -> u32 {
    let mut messages = 0;
    for number in 0..QUEUES {
        messages += stack.bus.waiting(&lane_queue(number)).await.unwrap_or(0);
    }
    messages
}

/// A worker with little room in its lanes.
fn narrow(stack: &Stack) -> Settings {
    stack
        .worker()
        .models(&["fault", "sentiment"])
        .set("KILN_LANE__MAX_SECONDS_IN_HAND", "0.3")
        .set("KILN_LANE__TURN_MS", "40")
}

async fn moved(worker: &Worker) -> f64 {
    worker
        .metric("kiln_jobs_total", &[("outcome", "moved")])
        .await
}

fn in_namespace(mut job: Value, namespace: &str) -> Value {
    job["namespace"] = json!(namespace);
    job
}

/// Jobs of one input that take so many milliseconds each, in a namespace.
fn slow_in(namespace: &str, count: usize, milliseconds: u64) -> Vec<Value> {
    let jobs = slow_jobs(namespace, count, milliseconds).into_iter();
    jobs.map(|job| in_namespace(job, namespace)).collect()
}

/// Has the worker learn what an input of the model costs, and declare the lane's queues.
async fn learn(stack: &Stack, worker: &Worker, milliseconds: u64) {
    for job in slow_jobs("learn", 4, milliseconds) {
        stack.bus.answer(&job).await;
    }
    wait_for_queues(worker).await;
}

/// Waits until jobs may be moved to the lane's queues.
async fn wait_for_queues(worker: &Worker) {
    worker
        .wait_for_line("the lane's queues are used", |line| {
            line.contains("jobs may wait in a lane's queues")
        })
        .await;
}

/// Waits until each of these jobs has its row.
async fn wait_for(stack: &Stack, jobs: &[Value]) {
    let ids = job_ids(jobs);
    eventually("a row for each job", PATIENCE, || async {
        let rows = stack.rows().await;
        let done = |id: &String| {
            rows.iter()
                .any(|row| row.job_id == *id && row.status == "ok")
        };
        ids.iter().all(done).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quick_jobs_and_hits_pass_slow_ones() {
    let stack = Stack::shared().await;
    let worker = stack.worker().models(&["fault", "sentiment"]).start().await;
    let known = text_job("known", "fault", &["sleep:1 known"]);
    stack.bus.answer(&known).await;
    let slow = slow_jobs("slow", 60, 100);
    stack.bus.publish_jobs(&slow).await;
    let hit = text_job("hit", "fault", &["sleep:1 known"]);
    let quick = text_job("quick", "sentiment", &["I love this"]);
    stack.bus.publish_jobs(&[hit, quick]).await;
    let ids = ["hit".to_owned(), "quick".to_owned()];
    stack.bus.reply_to_each(&ids).await;
    let done = stack.row_count().await;
    assert!(done < 60, "{done} rows: the slow ones were not waited for");
    wait_for(&stack, &slow).await;
    drop(worker);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_too_many_to_hold_wait_in_their_lanes_queues() {
    let stack = Stack::shared().await;
    let worker = narrow(&stack).start().await;
    learn(&stack, &worker, 20).await;
    let slow = slow_jobs("slow", 300, 20);
    stack.bus.publish_jobs(&slow).await;
    stack.wait_for_empty("kiln.jobs").await;
    let many = || async { (in_lane_queues(&stack).await > 100).then_some(()) };
    eventually("many jobs in the lane's queues", PATIENCE, many).await;
    let quick = text_job("quick", "sentiment", &["I love this"]);
    stack.bus.publish_job(&quick).await;
    stack.bus.reply_to_each(&["quick".to_owned()]).await;
    assert!(in_lane_queues(&stack).await > 0);
    wait_for(&stack, &slow).await;
    assert!(moved(&worker).await >= 200.0);
    for number in 0..QUEUES {
        stack.wait_for_empty(&lane_queue(number)).await;
    }
}

/// How often a message came to nothing, as workers count it.
fn redeliveries(headers: Option<&FieldTable>) -> i64 {
    let number = |name: &str| match headers.and_then(|headers| headers.inner().get(name)) {
        Some(lapin::types::AMQPValue::LongLongInt(number)) => *number,
        _ => 0,
    };
    number("x-delivery-count") + number("kiln-redeliveries")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_its_turn_is_no_suspect_however_often_taking_jobs_is_paused() {
    let stack = Stack::shared().await;
    let worker = narrow(&stack).start().await;
    learn(&stack, &worker, 20).await;
    let slow = slow_jobs("slow", 600, 20);
    stack.bus.publish_jobs(&slow).await;
    stack.wait_for_empty("kiln.jobs").await;
    let many = || async { (in_lane_queues(&stack).await > 200).then_some(()) };
    eventually("many jobs in the lane's queues", PATIENCE, many).await;
    let steer = async |what: &str, consumers: u32| {
        let path = format!("/v1/intake/{what}");
        worker
            .ask("POST", &path, &[], b"{}")
            .await
            .expect("an answer");
        for number in 0..QUEUES {
            let queue = lane_queue(number);
            eventually(&format!("{what}: {queue}"), PATIENCE, async || {
                (stack.bus.consumers(&queue).await == Some(consumers)).then_some(())
            })
            .await;
        }
    };
    for _ in 0..3 {
        steer("pause", 0).await;
        steer("resume", 1).await;
    }
    steer("pause", 0).await;
    let mut seen = 0;
    for number in 0..QUEUES {
        for message in stack.bus.take_all(&lane_queue(number)).await {
            let count = redeliveries(message.properties.headers().as_ref());
            assert!(count < 2, "{count}");
            seen += 1;
        }
    }
    assert!(seen > 0, "nothing waited");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_takes_along_all_that_it_has_when_it_is_moved() {
    let stack = Stack::shared().await;
    let worker = stack
        .worker()
        .models(&["fault", "sentiment"])
        .set("KILN_INTAKE__LANES", "[\"sentiment\"]")
        .start()
        .await;
    let declared = || async { stack.bus.waiting(LANE).await };
    eventually("the lane's queue is declared", PATIENCE, declared).await;
    let mut headers = FieldTable::default();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let text = |text: &str| lapin::types::AMQPValue::LongString(text.into());
    headers.insert("traceparent".into(), text(parent));
    headers.insert("kiln-tries".into(), lapin::types::AMQPValue::LongLongInt(1));
    headers.insert("shop".into(), text("own"));
    let (body, properties) = asking_reply(&text_job("j", "fault", &["one"]));
    let properties = properties
        .with_headers(headers)
        .with_message_id("j".into())
        .with_priority(7)
        .with_expiration("60000".into());
    stack
        .bus
        .publish("kiln.jobs", vec![(body.clone(), properties)])
        .await;
    let taken = eventually("the job in a queue of its lane", PATIENCE, || async {
        for number in 0..QUEUES {
            if let Some(message) = stack.bus.take(&lane_queue(number)).await {
                return Some(message);
            }
        }
        None
    })
    .await;
    assert_eq!(taken.data, body);
    let properties = &taken.properties;
    let as_text = |value: &Option<lapin::types::ShortString>| {
        value.as_ref().map(ToString::to_string).unwrap_or_default()
    };
    assert_eq!(as_text(properties.message_id()), "j");
    assert_eq!(as_text(properties.correlation_id()), "j");
    assert!(!as_text(properties.reply_to()).is_empty());
    assert_eq!(*properties.priority(), Some(7));
    assert_eq!(*properties.delivery_mode(), Some(2));
    let left: u64 = as_text(properties.expiration()).parse().expect("a number");
    assert!((1..60_000).contains(&left), "{left}");
    let headers: BTreeMap<String, String> = properties
        .headers()
        .iter()
        .flat_map(|headers| headers.inner())
        .map(|(name, value)| {
            let value = match value {
                lapin::types::AMQPValue::LongString(text) => text.to_string(),
                other => format!("{other:?}"),
            };
            (name.to_string(), value)
        })
        .collect();
    for (name, part) in [
        ("traceparent", parent),
        ("shop", "own"),
        ("kiln-tries", "1"),
        ("kiln-moves", "1"),
        ("kiln-redeliveries", "0"),
        ("kiln-accepted-at", "20"),
    ] {
        let value = headers.get(name).cloned().unwrap_or_default();
        assert!(value.contains(part), "{name}: {value}");
    }
    assert_eq!(moved(&worker).await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_is_not_served_here_waits_for_a_worker_that_serves_it() {
    let stack = Stack::shared().await;
    let only_sentiment = stack
        .worker()
        .models(&["fault", "sentiment"])
        .set("KILN_INTAKE__LANES", "[\"sentiment\"]");
    let first = only_sentiment.start().await;
    let jobs = slow_jobs("slow", 20, 1);
    stack.bus.publish_jobs(&jobs).await;
    let all_moved = || async { (in_lane_queues(&stack).await == 20).then_some(()) };
    eventually("all jobs are in the lane's queues", PATIENCE, all_moved).await;
    let quick = text_job("quick", "sentiment", &["I love this"]);
    stack.bus.publish_job(&quick).await;
    stack.bus.reply_to_each(&["quick".to_owned()]).await;
    let second = stack
        .worker()
        .set("KILN_INTAKE__LANES", "[\"fault\"]")
        .start()
        .await;
    wait_for(&stack, &jobs).await;
    drop((first, second));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_may_publish_to_a_lanes_queue() {
    let stack = Stack::shared().await;
    let _worker = stack
        .worker()
        .set("KILN_LANE__EXPENSIVE_FROM_MS", "0")
        .start()
        .await;
    stack.bus.answer(&slow_jobs("first", 1, 2)[0]).await;
    let consumed = || async { (stack.bus.consumers(LANE).await? > 0).then_some(()) };
    eventually("the lane's queue is consumed", PATIENCE, consumed).await;
    let jobs = slow_jobs("slow", 20, 1);
    let messages = jobs.iter().map(asking_reply).collect();
    stack.bus.publish(LANE, messages).await;
    stack.bus.reply_to_each(&job_ids(&jobs)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_in_a_queue_that_a_lane_has_no_more_is_still_taken() {
    let stack = Stack::shared().await;
    let worker = |queues: &str| {
        let always = stack.worker().set("KILN_LANE__EXPENSIVE_FROM_MS", "0");
        always.set("KILN_LANE__QUEUES", queues).start()
    };
    let last = lane_queue(2);
    let with_three = worker("3").await;
    stack.bus.answer(&slow_jobs("first", 1, 2)[0]).await;
    let consumed = || async { (stack.bus.consumers(&last).await? > 0).then_some(()) };
    eventually("the last queue is consumed", PATIENCE, consumed).await;
    with_three.stop().await;
    let jobs = slow_jobs("left", 20, 1);
    let messages = jobs.iter().map(asking_reply).collect();
    stack.bus.publish(&last, messages).await;
    let _with_one = worker("1").await;
    stack.bus.reply_to_each(&job_ids(&jobs)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_with_much_waiting_delays_another_by_turns() {
    let stack = Stack::shared().await;
    let worker = narrow(&stack).start().await;
    learn(&stack, &worker, 20).await;
    let greedy = slow_in("greedy", 400, 20);
    stack.bus.publish_jobs(&greedy).await;
    stack.wait_for_empty("kiln.jobs").await;
    for n in 0..3 {
        let before = stack.row_count().await;
        let small = slow_in(&format!("small-{n}"), 1, 20);
        stack.bus.publish_jobs(&small).await;
        wait_for(&stack, &small).await;
        let meanwhile = stack.row_count().await - before;
        // A turn is two inputs here, and two batches are in flight; the test itself looks late.
        assert!(
            meanwhile < 40,
            "{meanwhile} jobs of the greedy one meanwhile"
        );
    }
    assert!(stack.row_count().await < 350, "the backlog is still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_beyond_its_limit_waits_by_itself_and_in_a_queue_of_its_own() {
    let stack = Stack::shared().await;
    // Never again within the test, once its first second's worth is used up.
    let settings = narrow(&stack)
        .set("KILN_NAMESPACES__LIMITED__MAX_JOBS_PER_SECOND", "0.001")
        .set("KILN_NAMESPACES__BRISK__MAX_JOBS_PER_SECOND", "1000");
    let worker = settings.start().await;
    // Cheap ones: their lane has no queues but for this.
    let limited = slow_in("limited", 50, 0);
    stack.bus.publish_jobs(&limited).await;
    wait_for_queues(&worker).await;
    let more = slow_in("limited-too", 50, 0);
    let more: Vec<Value> = more
        .into_iter()
        .map(|job| in_namespace(job, "limited"))
        .collect();
    stack.bus.publish_jobs(&more).await;
    // The second namespace with a limit, in the order of their names.
    let own = lane_queue(QUEUES + 1);
    eventually("they wait in their own queue", PATIENCE, || async {
        (stack.bus.waiting(&own).await >= Some(40)).then_some(())
    })
    .await;
    for (namespace, milliseconds) in [("free", 0), ("brisk", 0), ("free-too", 20)] {
        let others = slow_in(namespace, 30, milliseconds);
        stack.bus.publish_jobs(&others).await;
        wait_for(&stack, &others).await;
    }
    assert_eq!(
        stack.row_count().await,
        1 + 3 * 30,
        "and one of the limited"
    );
    assert!(stack.bus.waiting(&own).await >= Some(40), "none is lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_time_passes_before_its_turn_is_rejected_unscored() {
    let stack = Stack::shared().await;
    let worker = stack.worker().start().await;
    stack.bus.answer(&slow_jobs("first", 1, 100)[0]).await;
    stack.bus.publish_jobs(&slow_jobs("slow", 20, 100)).await;
    let (body, properties) = asking_reply(&slow_jobs("late", 1, 7)[0]);
    let properties = properties.with_expiration("300".into());
    stack
        .bus
        .publish("kiln.jobs", vec![(body, properties)])
        .await;
    let replies = stack.bus.reply_to_each(&["late-0".to_owned()]).await;
    assert_eq!(replies["late-0"].body["error"]["code"], "expired");
    let letter = stack.bus.dead_letters(1).await;
    assert_eq!(letter[0].job_id(), "late-0");
    wait_for(&stack, &slow_jobs("slow", 20, 100)).await;
    let rows = worker
        .metric("kiln_model_batch_rows_sum", &[("model", "fault")])
        .await;
    assert_eq!(rows, 21.0, "the late one was not scored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_while_jobs_are_moved_lose_and_double_nothing() {
    let stack = Stack::shared().await;
    let settings = narrow(&stack)
        .set("KILN_LANE__EXPENSIVE_FROM_MS", "0")
        .expect_trouble();
    let mut worker = settings.clone().start().await;
    learn(&stack, &worker, 5).await;
    let jobs = slow_jobs("slow", 600, 5);
    let (first, rest) = jobs.split_at(200);
    stack.bus.publish_jobs(first).await;
    for part in rest.chunks(100) {
        worker.kill();
        worker = settings.clone().start().await;
        wait_for_queues(&worker).await;
        stack.bus.publish_jobs(part).await;
        let first = || async { (moved(&worker).await > 0.0).then_some(()) };
        eventually("some jobs are moved", PATIENCE, first).await;
    }
    let answered = stack.bus.reply_to_each(&job_ids(&jobs)).await;
    assert!(answered.values().all(|reply| reply.status() == "ok"));
    wait_for(&stack, &jobs).await;
    stack.wait_for_empty("kiln.jobs").await;
    for number in 0..QUEUES {
        stack.wait_for_empty(&lane_queue(number)).await;
    }
}
