//! What the last release left behind: its tables, its keys in Redis, its queues with their arguments and messages, a warming run that was cut
//! short, settings and schedules, all kept in `tests/fixtures/releases`. A worker of this release starts on it and goes on.
//!
//! `KEEP_STATE=1` with `LAST_RELEASE` writes it anew, which is done when a release is made.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::bus::{JOBS, asking_reply};
use crate::harness::jobs::job_ids;
use crate::harness::shell::Shell;
use crate::harness::stack::Stack;
use crate::harness::worker::{Settings, Worker};
use crate::harness::{PATIENCE, eventually, eventually_equals, state};
use crate::warm::{Schedules, words};

const RELEASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/releases/0.1.0");
/// Jobs that are done, and jobs that wait.
const DONE: usize = 4;
const WAITING: usize = 3;
/// Inputs of the run that was cut short.
const WORDS: usize = 300;

/// Of one text that no other job has; every second one has its producer's own order.
fn job(prefix: &str, n: usize) -> Value {
    let mut job = json!({
        "job_id": format!("{prefix}-{n}"),
        "model": "sentiment",
        "namespace": "kept",
        "named": true,
        "inputs": [{"key": format!("{prefix}:{n}"), "text": format!("what {prefix} {n} is like")}],
        "rank": {"key": "page:1", "top": 2},
    });
    if n.is_multiple_of(2) {
        job["as_of"] = json!(1_000 + n);
    }
    job
}

/// What is in a namespace that is invalidated.
fn gone(id: &str) -> Value {
    json!({"job_id": id, "model": "sentiment", "namespace": "gone", "inputs": [{"text": "what is gone"}]})
}

fn jobs(prefix: &str, count: usize) -> Vec<Value> {
    (0..count).map(|n| job(prefix, n)).collect()
}

fn schedules() -> Schedules {
    let schedules = Schedules::new();
    let head =
        "enabled = false\ncron = \"0 0 1 1 *\"\nmodel = \"sentiment\"\nnamespace = \"warmed\"\n";
    schedules.put("cut-short", &format!("{head}{}", words(WORDS)));
    schedules
}

async fn post(worker: &Worker, path: &str) {
    let answer = worker.ask("POST", path, &[], b"").await;
    let status = answer.expect("an answer").status;
    assert!((200..300).contains(&status), "{path}: {status}");
}

/// How the run that was cut short stands.
async fn run_state(stack: &Stack) -> String {
    let state = "SELECT coalesce(max(state), 'none') FROM warm_runs WHERE schedule = 'cut-short'";
    stack.text(state).await
}

/// Has a worker of that binary leave everything that it can.
async fn leave(before: &Path) -> Stack {
    let stack = Stack::shared().await;
    let schedules = schedules();
    let settings: Settings = schedules.worker(&stack).program(before);
    let worker = settings.start().await;
    let done = jobs("done", DONE);
    stack.bus.publish_jobs(&done).await;
    stack.bus.reply_to_each(&job_ids(&done)).await;
    stack.bus.answer(&gone("gone")).await;
    post(&worker, "/v1/cache/invalidate/gone").await;
    let bad =
        json!({"job_id": "bad", "model": "sentiment", "inputs": [{"text": "a"}], "colour": "blue"});
    stack.bus.publish_jobs(&[bad]).await;
    stack.bus.reply_to_each(&["bad".to_owned()]).await;
    post(&worker, "/v1/intake/pause").await;
    eventually_equals("consumers", PATIENCE, Some(0), || stack.bus.consumers(JOBS)).await;
    let waiting = jobs("waiting", WAITING).iter().map(asking_reply).collect();
    stack.bus.publish(JOBS, waiting).await;
    post(&worker, "/v1/warm/cut-short").await;
    eventually("the run posts", PATIENCE, async || {
        (run_state(&stack).await != "queued" && stack.bus.waiting("kiln.warm").await > Some(0))
            .then_some(())
    })
    .await;
    worker.kill();
    stack
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_last_release_left_is_gone_on_with() {
    if env::var_os("KEEP_STATE").is_some() {
        let before = env::var_os("LAST_RELEASE").map(PathBuf::from);
        let stack = leave(&before.expect("LAST_RELEASE names its binary")).await;
        state::keep(&stack, Path::new(RELEASE)).await;
    }
    let stack = Stack::shared().await;
    state::restore(&stack, Path::new(RELEASE)).await;
    // As if it had been left just now.
    stack
        .execute("UPDATE warm_runs SET ends_at = now() + interval '10 minutes', lease_until = now() WHERE finished_at IS NULL")
        .await;
    let named = stack.redis.json("kiln:k:kept:done:0").await;
    assert!(named.is_some(), "readers find it");
    let schedules = schedules();
    let worker = schedules.worker(&stack).start().await;

    // What was paused stays so.
    assert_eq!(stack.bus.waiting(JOBS).await, Some(WAITING as u32));
    assert_ne!(run_state(&stack).await, "done");
    post(&worker, "/v1/intake/resume").await;
    let waiting = job_ids(&jobs("waiting", WAITING));
    let answered = stack.bus.reply_to_each(&waiting).await;
    assert!(answered.values().all(|reply| reply.status() == "ok"));

    // The run is taken over, and what it promised is there.
    eventually("the run ends", PATIENCE, async || {
        (run_state(&stack).await == "done").then_some(())
    })
    .await;
    let done = stack
        .count("SELECT done FROM warm_runs WHERE schedule = 'cut-short'")
        .await;
    assert_eq!(done, WORDS as i64);
    for n in [0, WORDS - 1] {
        let key = format!("kiln:k:warmed:k{n}");
        assert!(stack.redis.json(&key).await.is_some(), "{key}");
    }

    // A job that was done is answered from its row; its score is found by another job, and its word stands.
    let again = stack.bus.answer(&job("done", 0)).await;
    assert_eq!(
        stack.row("done-0").await.results,
        Some(again.body["results"].clone())
    );
    let mut like = job("done", 0);
    like["job_id"] = json!("like-done-0");
    like["as_of"] = json!(1);
    assert_eq!(stack.bus.answer(&like).await.body["hits"], 1);
    assert_eq!(stack.redis.json("kiln:k:kept:done:0").await, named);
    // What was invalidated isn't served.
    assert_eq!(stack.bus.answer(&gone("gone-again")).await.body["hits"], 0);
    let letter = stack.bus.dead_letters(1).await.remove(0);
    assert_eq!(
        (letter.code.as_str(), letter.job_id()),
        ("invalid", "bad".to_owned())
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_and_schedules_of_the_last_release_mean_what_they_did() {
    let settings = format!("{RELEASE}/kiln.toml");
    let shell = Shell::bare();
    let said = shell.kiln(&["config", "--config", &settings]).await.with(0);
    let count = fs::read_to_string(&settings).expect("the settings");
    // What the shell sets in the environment, as that of any worker of a test, comes before the file.
    let is_set = |line: &&str| !line.contains("addr = ") && !line.starts_with("dir = \"models\"");
    let names = count.lines().filter(|line| line.contains(" = "));
    let names = names.filter(is_set).count();
    let kept = said.out.lines().filter(|line| line.contains("kiln.toml"));
    assert!(
        kept.count() >= names,
        "each is taken from the file: {}",
        said.out
    );
    assert!(!said.err.contains("unknown"), "{}", said.err);
    let shell = shell
        .set("KILN_WARM__DIR", &format!("{RELEASE}/schedules"))
        .set(
            "KILN_MODELS_DIR",
            concat!(env!("CARGO_MANIFEST_DIR"), "/models"),
        )
        .set(
            "KILN_DATABASES__SHOP__URL",
            "postgres://shop@127.0.0.1/shop",
        );
    shell.kiln(&["schedules", "check"]).await.with(0);
}
