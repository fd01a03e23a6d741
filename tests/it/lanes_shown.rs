//! What waits in lanes is shown: by `/metrics`, by `/v1/lanes`, and by the commands, which name a lane whose jobs nobody takes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::harness::jobs::{job_ids, slow_jobs};
use super::harness::shell::Shell;
use super::harness::stack::Stack;
use super::harness::worker::Worker;
use super::harness::{PATIENCE, eventually, eventually_equals};

/// What a lane shows of itself while it is busy.
const BUSY: [&str; 9] = [
    "kiln_lane_jobs",
    "kiln_lane_waiting_inputs",
    "kiln_lane_model_seconds_in_hand",
    "kiln_lane_bytes_in_hand",
    "kiln_lane_batches_in_flight",
    "kiln_lane_queue_messages",
    "kiln_lane_longest_wait_seconds",
    "kiln_lane_moved_jobs_total",
    "kiln_lane_seconds_per_input",
];
/// Those of them that stay when it is idle.
const KEPT: [&str; 2] = ["kiln_lane_moved_jobs_total", "kiln_lane_seconds_per_input"];
const LANE: (&str, &str) = ("lane", "fault");

/// Jobs of a namespace that take a while.
fn slow_in(namespace: &str, count: usize) -> Vec<Value> {
    let mut jobs = slow_jobs(namespace, count, 20);
    for job in &mut jobs {
        job["namespace"] = json!(namespace);
    }
    jobs
}

/// The lane as `/v1/lanes` shows it.
async fn shown(worker: &Worker) -> Option<Value> {
    let (status, body) = worker.get("/v1/lanes").await?;
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).ok()?;
    assert!(answer["bytes_in_hand"].is_u64() && answer["max_bytes_in_hand"].is_u64());
    let lanes = answer["lanes"].as_array()?;
    lanes.iter().find(|lane| lane["name"] == LANE.1).cloned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_is_shown_by_metrics_and_by_the_api() {
    let stack = Stack::shared().await;
    let worker = stack
        .worker()
        .models(&["fault", "sentiment"])
        .set("KILN_LANE__MAX_SECONDS_IN_HAND", "0.5")
        .set("KILN_LANE__TURN_MS", "40")
        .set("KILN_NAMESPACES__GREEDY__WEIGHT", "2.0")
        .start()
        .await;
    for job in slow_jobs("learn", 4, 20) {
        stack.bus.answer(&job).await;
    }
    let used = |line: &str| line.contains("jobs may wait in a lane's queues");
    worker
        .wait_for_line("the lane's queues are used", used)
        .await;
    let mut jobs = slow_in("greedy", 600);
    jobs.extend(slow_in("made-up", 20));
    stack.bus.publish_jobs(&jobs).await;

    let mut left = BUSY.to_vec();
    eventually("the lane's figures", PATIENCE, async || {
        for name in std::mem::take(&mut left) {
            if worker.metric(name, &[LANE]).await <= 0.0 {
                left.push(name);
            }
        }
        left.is_empty().then_some(())
    })
    .await;
    eventually("the lane with its queues", PATIENCE, || async {
        let lane = shown(&worker).await?;
        let namespaces = lane["namespaces"].as_array()?;
        let greedy = namespaces.iter().find(|one| one["namespace"] == "greedy")?;
        assert_eq!(greedy["weight"], 2.0);
        let is_whole = lane["queue"]["messages"].as_u64()? > 0
            && lane["jobs"].as_u64()? > 0
            && lane["waiting_inputs"].as_u64()? > 0
            && lane["moved_jobs"].as_u64()? > 0
            && lane["longest_wait_seconds"].as_f64()? > 0.0;
        is_whole.then_some(())
    })
    .await;
    assert_eq!(worker.metric("kiln_lane_expensive", &[LANE]).await, 1.0);
    let consumers = async || worker.metric("kiln_lane_queue_consumers", &[LANE]).await;
    eventually_equals("one of each queue", PATIENCE, 4.0, consumers).await;
    assert!(worker.metric("kiln_bytes_in_hand", &[]).await > 0.0);

    // What is over is shown as nothing, and doesn't vanish; what producers make up is no label.
    stack.bus.reply_to_each(&job_ids(&jobs)).await;
    eventually("an idle lane", PATIENCE, || async {
        let metrics = worker.metrics().await;
        let series = metrics.iter().filter(|(name, _)| {
            let (name, labels) = name.split_once('{').unwrap_or((name, ""));
            let is_kept = KEPT.contains(&name);
            BUSY.contains(&name) && !is_kept && labels.contains("lane=\"fault\"")
        });
        let series: BTreeMap<&String, &f64> = series.collect();
        let is_idle = series.values().all(|value| **value == 0.0);
        (series.len() >= BUSY.len() - KEPT.len() && is_idle).then_some(())
    })
    .await;
    let metrics = worker.metrics().await;
    assert!(
        metrics
            .keys()
            .any(|name| name.contains("namespace=\"greedy\""))
    );
    assert!(!metrics.keys().any(|name| name.contains("made-up")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_with_jobs_and_no_worker_is_named_by_the_commands() {
    let stack = Stack::shared().await;
    let worker = stack
        .worker()
        .models(&["fault", "sentiment"])
        .set("KILN_INTAKE__LANES", "[\"sentiment\"]")
        .start()
        .await;
    let jobs = slow_in("shop", 5);
    stack.bus.publish_jobs(&jobs).await;
    let shell = Shell::on(&stack)
        .set("KILN_HTTP_ADDR", &format!("127.0.0.1:{}", worker.http_port))
        .set("KILN_RETRY__DELAYS_MS", "[100,200]");
    let lanes = async || -> BTreeMap<String, Value> {
        let ended = shell.kiln(&["lanes", "--json"]).await.with(0);
        let lines = ended.lines().into_iter();
        let by_name = lines.map(|line| (line["lane"].as_str().unwrap_or("").to_owned(), line));
        by_name.collect()
    };
    let stranded = eventually("all jobs are in the lane's queues", PATIENCE, async || {
        let lanes = lanes().await;
        let lane = lanes.get("fault")?.clone();
        // The worker is asked before the broker is.
        let moved = lane["worker"]["moved_jobs"] == 5;
        (moved && lane["queue"]["messages"] == 5).then_some(lanes)
    })
    .await;
    let lane = &stranded["fault"];
    assert_eq!(lane["stranded"], true);
    assert_eq!(lane["queue"]["consumers"], 0);
    assert_eq!(lane["worker"]["served"], false);
    assert_eq!(lane["worker"]["moved_jobs"], 5);
    assert_eq!(stranded["sentiment"]["stranded"], false);
    assert_eq!(stranded["sentiment"]["worker"]["served"], true);

    let table = shell.kiln(&["lanes"]).await.with(0);
    assert!(
        table.out.contains("no worker takes its jobs"),
        "{}",
        table.out
    );
    assert!(
        table.out.contains("kiln run --lanes fault"),
        "{}",
        table.out
    );
    assert_eq!(table.err, "");
    let checks = shell.kiln(&["doctor", "--json"]).await.with(0).checks();
    let (status, found, advice) = &checks["lane fault"];
    assert_eq!(
        (status.as_str(), found.as_str()),
        ("warn", "5 messages, 0 consumers")
    );
    assert!(advice.contains("kiln run --lanes fault"), "{advice}");
    eventually_equals("metrics say so", PATIENCE, (5.0, 0.0), || async {
        let messages = worker.metric("kiln_lane_queue_messages", &[LANE]).await;
        let consumers = worker.metric("kiln_lane_queue_consumers", &[LANE]).await;
        (messages, consumers)
    })
    .await;

    // Without a worker at the address the broker is asked all the same.
    let alone = shell.set("KILN_HTTP_ADDR", "127.0.0.1:1");
    let ended = alone.kiln(&["lanes", "--json"]).await.with(0);
    assert!(
        ended.err.contains("what is in hand isn't shown"),
        "{}",
        ended.err
    );
    let line = ended
        .lines()
        .into_iter()
        .find(|line| line["lane"] == "fault");
    assert_eq!(line.map(|line| line["stranded"].clone()), Some(json!(true)));

    let _serving = stack
        .worker()
        .set("KILN_INTAKE__LANES", "[\"fault\"]")
        .start()
        .await;
    stack.bus.reply_to_each(&job_ids(&jobs)).await;
    let ended = alone.kiln(&["lanes", "--json"]).await.with(0);
    let line = ended
        .lines()
        .into_iter()
        .find(|line| line["lane"] == "fault");
    let served = json!({"queues": 4, "messages": 0, "consumers": 4});
    assert_eq!(line.map(|line| line["queue"].clone()), Some(served));
}
