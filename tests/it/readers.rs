//! What readers read is known without their doing anything, or from their hints, and is warmed first.

use std::fs;

use serde_json::{Value, json};

use crate::harness::bus::persistent;
use crate::harness::jobs::text_job;
use crate::harness::stack::Stack;
use crate::harness::worker::Worker;
use crate::harness::{PATIENCE, eventually, eventually_equals, sandbox};

fn named_job(id: &str, keys: &[&str]) -> Value {
    let inputs: Vec<Value> = keys
        .iter()
        .map(|key| json!({"key": key, "text": format!("a nice text of {key}")}))
        .collect();
    json!({"job_id": id, "model": "sentiment", "namespace": "warmed", "inputs": inputs, "named": true})
}

/// Runs the command line on the stack's servers; returns its output's lines as JSON.
fn kiln(stack: &Stack, folder: &str, arguments: &[&str]) -> Vec<Value> {
    let output = tokio::task::block_in_place(|| {
        sandbox::clean_command(env!("CARGO_BIN_EXE_kiln"), &sandbox::folder("cli"))
            .args(arguments)
            .env("KILN_WARM__DIR", folder)
            .env(
                "KILN_MODELS_DIR",
                concat!(env!("CARGO_MANIFEST_DIR"), "/models"),
            )
            .env("KILN_CACHE__GRACE_SECONDS", "600")
            .env("KILN_DATABASE_URL", stack.database_url())
            .env("KILN_REDIS_URL", stack.redis.url())
            .output()
            .expect("the binary runs")
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// The names of `warmed` in the order of how often they are read.
fn names(stack: &Stack) -> Vec<Value> {
    let lines = kiln(stack, ".", &["hot", "--namespace", "warmed", "--json"]);
    lines
        .into_iter()
        .filter(|line| line["name"].is_string())
        .collect()
}

async fn worker(stack: &Stack) -> Worker {
    let settings = stack.worker().models(&["sentiment"]);
    settings
        .set("KILN_CACHE__GRACE_SECONDS", "600")
        .start()
        .await
}

/// Reads `often` again and again, and `seldom` now and then, until the workers know.
async fn readers_are_known(stack: &Stack) {
    eventually("redis tells what is read", PATIENCE, || async {
        for turn in 0..400 {
            let _: String = stack.redis.command(&["GET", "kiln:k:warmed:often"]).await;
            if turn % 100 == 0 {
                let _: String = stack.redis.command(&["GET", "kiln:k:warmed:seldom"]).await;
            }
        }
        let names = names(stack);
        let first = names.first()?;
        assert!(
            names.iter().all(|name| name["name"] != "never"),
            "{names:?}"
        );
        (first["name"] == "often" && first["counted"] == false).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_itself_tells_what_readers_read() {
    let stack = Stack::shared().await;
    let _worker = worker(&stack).await;
    let policy = async |policy: &str| {
        let words = ["CONFIG", "SET", "maxmemory-policy", policy];
        let _: String = stack.redis.command(&words).await;
    };
    policy("allkeys-lru").await;
    let keys = ["never", "often", "seldom"];
    stack.bus.answer(&named_job("first", &keys)).await;
    readers_are_known(&stack).await;

    // Another Redis, one that counts.
    let _: String = stack.redis.command(&["FLUSHALL"]).await;
    policy("allkeys-lfu").await;
    stack.bus.answer(&named_job("second", &keys)).await;
    readers_are_known(&stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hints_are_counted_and_the_hottest_name_is_warmed_first() {
    let stack = Stack::shared().await;
    let settings = stack.worker().models(&["sentiment"]).expect_trouble();
    let worker = settings.start().await;
    stack.bus.answer(&named_job("all", &["a", "b", "c"])).await;
    let hint = |body: &str| (body.as_bytes().to_vec(), persistent());
    let good = r#"{"namespace": "warmed", "keys": ["b", "b", "b", "c"]}"#;
    let bad = r#"{"namespace": "warmed", "key": "b"}"#;
    let hints = vec![hint(bad), hint(good), hint(bad)];
    stack.bus.publish("kiln.hits", hints).await;
    eventually_equals("hints are taken", PATIENCE, 2.0, || {
        worker.metric("kiln_hints_total", &[("outcome", "bad")])
    })
    .await;
    assert!(
        worker
            .lines()
            .iter()
            .any(|line| line.contains("a hint is dropped") && line.contains("`key`"))
    );
    eventually("the workers have told each other", PATIENCE, || async {
        let names = names(&stack);
        let told: Vec<&Value> = names.iter().map(|name| &name["name"]).collect();
        (told == ["b", "c"] && names[0]["counted"] == true).then_some(())
    })
    .await;
    // Nobody has named the namespace in the settings: a series of its own it doesn't get.
    let labels = [("of", "reads"), ("namespace", "other")];
    assert_eq!(
        worker.metric("kiln_heat_top_share_ratio", &labels).await,
        1.0
    );

    // All are gone, the score entries, too; the budget is for one.
    let _: String = stack.redis.command(&["FLUSHALL"]).await;
    eventually(
        "the workers have told each other again",
        PATIENCE,
        || async { (names(&stack).len() == 2).then_some(()) },
    )
    .await;
    let folder = sandbox::folder("schedules");
    let text = "name = \"hot\"\nenabled = false\ncron = \"0 0 1 1 *\"\nmodel = \"sentiment\"\nnamespace = \"warmed\"\n[budget]\nrenewals = 1\n[source]\nkind = \"heat\"\n";
    fs::write(folder.join("hot.toml"), text).expect("a file");
    let folder = folder.to_str().expect("a plain path");
    let plan = kiln(&stack, folder, &["warm", "hot", "--dry-run", "--json"]);
    assert_eq!(plan[0]["inputs"], 1, "{plan:?}");
    assert_eq!(plan[0]["first"][0]["key"], "b", "{plan:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_named_entry_outlives_its_time_while_it_is_refreshed() {
    let stack = Stack::shared().await;
    let _worker = worker(&stack).await;
    let mut job = named_job("short", &["a"]);
    job["ttl_seconds"] = json!(60);
    stack.bus.answer(&job).await;
    let left = stack.redis.life("kiln:k:warmed:a").await;
    assert!((650..=660).contains(&left), "{left}");
    let folder = sandbox::folder("schedules");
    let text = "name = \"list\"\nenabled = false\ncron = \"0 0 1 1 *\"\nmodel = \"sentiment\"\nnamespace = \"warmed\"\n[source]\nkind = \"static\"\ninputs = [{ key = \"a\", text = \"a nice text of a\" }]\n";
    fs::write(folder.join("list.toml"), text).expect("a file");
    let folder = folder.to_str().expect("a plain path");
    // Half of its grace time is over.
    let _: i64 = stack
        .redis
        .command(&["EXPIRE", "kiln:k:warmed:a", "300"])
        .await;
    let plan = kiln(&stack, folder, &["warm", "list", "--dry-run", "--json"]);
    let why = plan[0]["first"][0]["why"].as_str().unwrap_or_default();
    assert!(
        why.starts_with("served in its grace time for 30"),
        "{plan:?}"
    );
    // What isn't for readers has no grace time.
    stack
        .bus
        .answer(&text_job("plain", "sentiment", &["plain"]))
        .await;
    for key in stack.redis.keys("kiln:s:*").await {
        let life: i64 = stack.redis.at("PTTL", &key, &[]).await;
        assert!(life <= 3_600_000, "{life}");
    }
}
