//! Versions that score beside the active ones: what is known of them, and that nothing else comes of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::jobs::{job_ids, text_job};
use crate::harness::stack::Stack;
use crate::harness::worker::{Worker, copy_folder, model_folder};
use crate::harness::{PATIENCE, eventually, sandbox};

/// The shipped classifier as two versions: the second one turns the labels around.
pub fn two_versions() -> PathBuf {
    let models = sandbox::folder("shelf");
    let turned = r#"["positive", "neutral", "negative"]"#;
    let labels = (r#"["negative", "neutral", "positive"]"#, turned);
    put(&models, "sentiment", ("1.0.0", "1.0.0"), ("", ""));
    put(&models, "sentiment", ("1.0.0", "2.0.0"), labels);
    models
}

/// The version `from` of a model as `to`, in a folder of the test's own, with a line of its manifest changed.
fn put(models: &Path, model: &str, (from, to): (&str, &str), change: (&str, &str)) {
    let folder = models.join(model).join(to);
    copy_folder(&model_folder(model).join(from), &folder);
    let manifest = folder.join("manifest.toml");
    let text = fs::read_to_string(&manifest).expect("a manifest");
    assert!(text.contains(change.0), "{text}");
    fs::write(manifest, text.replace(change.0, change.1)).expect("a manifest");
}

fn jobs(prefix: &str, model: &str, count: usize) -> Vec<Value> {
    let text = |n| format!("I love number {n}, it is wonderful!");
    (0..count)
        .map(|n| text_job(&format!("{prefix}-{n}"), model, &[&text(n)]))
        .collect()
}

async fn shadow(worker: &Worker, model: &str) -> Value {
    let (status, body) = worker.get("/v1/models").await.expect("an answer");
    assert_eq!(status, 200, "{body}");
    let models: Vec<Value> = serde_json::from_str(&body).expect("JSON");
    let active = |one: &&Value| one["name"] == model && one["active"] == true;
    models.iter().find(active).expect("active")["shadow"].clone()
}

async fn scored(worker: &Worker, model: &str, count: u64) -> Value {
    eventually("what the shadow has scored", PATIENCE, || async {
        let shadow = shadow(worker, model).await;
        (shadow["scored"] == count).then_some(shadow)
    })
    .await
}

fn inspect(stack: &Stack, models: &PathBuf, worker: &Worker) -> String {
    let folder = sandbox::folder("cli");
    let output = sandbox::clean_command(env!("CARGO_BIN_EXE_kiln"), &folder)
        .args(["models", "inspect", "sentiment@2.0.0"])
        .env("KILN_MODELS_DIR", models)
        .env("KILN_MODELS__SHADOW__SENTIMENT__VERSION", "2.0.0")
        .env("KILN_MODELS__SHADOW__SENTIMENT__SHARE", "1.0")
        .env("KILN_DATABASE_URL", stack.database_url())
        .env("KILN_HTTP_ADDR", format!("127.0.0.1:{}", worker.http_port))
        .output()
        .expect("the binary runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_in_the_shadow_is_compared_and_nothing_else_comes_of_it() {
    let stack = Stack::shared().await;
    let models = two_versions();
    let settings = stack.worker().models(&[]);
    let worker = settings
        .set("KILN_MODELS_DIR", models.to_str().expect("a plain path"))
        .set("KILN_MODELS__ACTIVE__SENTIMENT", "1.0.0")
        .set("KILN_MODELS__SHADOW__SENTIMENT__VERSION", "2.0.0")
        .set("KILN_MODELS__SHADOW__SENTIMENT__SHARE", "1.0")
        .start()
        .await;
    let first = jobs("first", "sentiment", 30);
    stack.bus.publish_jobs(&first).await;
    let replies = stack.bus.reply_to_each(&job_ids(&first)).await;
    assert!(
        replies
            .values()
            .all(|reply| reply.body["version"] == "1.0.0")
    );
    let shown = scored(&worker, "sentiment", 30).await;
    assert_eq!(
        (&shown["version"], &shown["share"]),
        (&json!("2.0.0"), &json!(1.0))
    );
    assert_eq!(
        (&shown["compared"], &shown["trouble"]),
        (&json!(30), &Value::Null)
    );
    assert_eq!(
        (&shown["mean"], &shown["max_absolute"]),
        (&json!(0.0), &json!(0.0))
    );
    assert_eq!(shown["flips"], 1.0, "every label is the other one: {shown}");
    assert!(shown["rank_correlation"].as_f64() > Some(0.999), "{shown}");

    // What is in the cache is compared as well; what pins a version isn't, nor a repeat.
    let again = jobs("again", "sentiment", 30);
    let pinned = jobs("pinned", "sentiment@1.0.0", 5);
    stack
        .bus
        .publish_jobs(&[again.clone(), pinned.clone()].concat())
        .await;
    let ids = [job_ids(&again), job_ids(&pinned)].concat();
    let replies = stack.bus.reply_to_each(&ids).await;
    assert!(replies.values().all(|reply| reply.body["hits"] == 1));
    stack.bus.publish_jobs(&first).await;
    stack.bus.reply_to_each(&job_ids(&first)).await;
    scored(&worker, "sentiment", 60).await;

    let entries = stack.redis.keys("kiln:s:*2.0.0*").await;
    assert!(entries.is_empty(), "{entries:?}");
    let rows = |of: &str| format!("SELECT count(*) FROM scores WHERE version = '{of}'");
    assert_eq!(stack.count(&rows("2.0.0")).await, 0);
    assert_eq!(stack.count(&rows("1.0.0")).await, 30);
    let labels = [
        ("model", "sentiment"),
        ("version", "2.0.0"),
        ("outcome", "scored"),
    ];
    eventually("the metric", PATIENCE, || async {
        let scored = worker.metric("kiln_shadow_inputs_total", &labels).await;
        (scored == 60.0).then_some(())
    })
    .await;
    assert_eq!(
        worker.metric("kiln_shadow_flips_ratio", &labels[..2]).await,
        1.0
    );
    let said = inspect(&stack, &models, &worker);
    for part in ["2.0.0, of 100.0 % of inputs", "60 scored", "100.00 %"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    worker.stop().await;
    worker.expect_clean_log();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_that_fails_is_slow_or_missing_harms_nothing_and_is_said_once() {
    let stack = Stack::shared().await;
    let models = sandbox::folder("shelf");
    // What is written in capitals asks the second version for trouble, and the first one for nothing.
    let lower = ("max_bytes = 8192", "max_bytes = 8192\nlowercase = true");
    put(&models, "fault", ("1", "plain"), ("", ""));
    put(&models, "fault", ("1", "lower"), lower);
    put(&models, "sentiment", ("1.0.0", "1.0.0"), ("", ""));
    let settings = stack.worker().models(&[]).expect_trouble();
    let worker = settings
        .set("KILN_MODELS_DIR", models.to_str().expect("a plain path"))
        .set("KILN_MODELS__ACTIVE__FAULT", "plain")
        .set("KILN_MODELS__SHADOW__FAULT__VERSION", "lower")
        .set("KILN_MODELS__SHADOW__FAULT__SHARE", "1.0")
        .set("KILN_MODELS__SHADOW__SENTIMENT__VERSION", "9.9.9")
        .set("KILN_MODELS__SHADOW__SENTIMENT__SHARE", "0.5")
        .start()
        .await;
    for (id, text) in [("a", "PANIC"), ("b", "NAN"), ("c", "PANIC again")] {
        stack.bus.answer(&text_job(id, "fault", &[text])).await;
    }
    let ask = text_job("sentiment", "sentiment", &["fine"]);
    stack.bus.answer(&ask).await;
    eventually("three failures", PATIENCE, || async {
        let shadow = shadow(&worker, "fault").await;
        (shadow["failed"] == 3).then_some(())
    })
    .await;
    let missing = shadow(&worker, "sentiment").await;
    assert_eq!(missing["trouble"], "it isn't loaded here");
    // It works again, and then takes longer for one input than anybody would wait; what finds no room meanwhile is dropped.
    stack.bus.answer(&text_job("d", "fault", &["Well"])).await;
    eventually("a score", PATIENCE, || async {
        let shadow = shadow(&worker, "fault").await;
        (shadow["scored"].as_u64() > Some(0) && shadow["trouble"].is_null()).then_some(())
    })
    .await;
    stack
        .bus
        .answer(&text_job("slow", "fault", &["SLEEP:60000"]))
        .await;
    let texts: Vec<String> = (0..3_000).map(|n| format!("Many of {n}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for id in ["many", "more"] {
        stack.bus.answer(&text_job(id, "fault", &texts)).await;
    }
    eventually("what found no room", PATIENCE, || async {
        let full = shadow(&worker, "fault").await;
        (full["dropped"].as_u64() > Some(1_500)).then_some(())
    })
    .await;
    let said = |what: &str| {
        let lines = worker.lines();
        let says = |line: &&String| {
            line.contains("a shadow version scores nothing") && line.contains(what)
        };
        lines.iter().filter(says).count()
    };
    assert_eq!((said("it fails"), said("it isn't loaded here")), (1, 1));
    worker.stop().await;
    assert!(worker.stop_took() < Duration::from_secs(5));
    assert_eq!(
        stack
            .count("SELECT count(*) FROM jobs WHERE status <> 'ok'")
            .await,
        0
    );
    assert_eq!(
        stack
            .count("SELECT count(*) FROM scores WHERE version = 'lower'")
            .await,
        0
    );
}
