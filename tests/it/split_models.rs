//! Two versions of a model that share its inputs: the same keys go to the same version, wherever and whenever they come.

use std::collections::BTreeSet;
use std::path::Path;

use kiln_contract::split::{Point, Share};
use serde_json::{Value, json};

use crate::harness::jobs::job_ids;
use crate::harness::stack::Stack;
use crate::harness::worker::Worker;
use crate::harness::{PATIENCE, eventually, sandbox};
use crate::models::{self, Shelf};
use crate::shadow::two_versions;
use crate::warm::{Schedules, on_request};

const KEYS: usize = 400;

/// Runs `kiln models`; returns the exit code and what it said.
fn kiln(stack: &Stack, models: &Path, arguments: &[&str]) -> (i32, String) {
    let output = sandbox::clean_command(env!("CARGO_BIN_EXE_kiln"), &sandbox::folder("cli"))
        .arg("models")
        .args(arguments)
        .env("KILN_MODELS_DIR", models)
        .env("KILN_DATABASE_URL", stack.database_url())
        .output()
        .expect("the binary runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.code().unwrap_or(-1), said)
}

fn activate(stack: &Stack, models: &Path, arguments: &[&str]) -> String {
    let (code, said) = kiln(stack, models, &[&["activate"], arguments].concat());
    assert_eq!(code, 0, "{said}");
    said
}

fn keys() -> Vec<String> {
    (0..KEYS).map(|n| format!("k{n}")).collect()
}

/// The keys that a share of the model's inputs has.
fn of_share(share: &str) -> BTreeSet<String> {
    let share = Share::parse(share).expect("a share");
    let takes = |key: &String| share.takes(Point::of_key("sentiment", key));
    keys().into_iter().filter(takes).collect()
}

/// The keys that the second version answers, asked for in jobs of ten; its labels are those of the first one turned around.
async fn answered_by_second(stack: &Stack, prefix: &str) -> BTreeSet<String> {
    let jobs: Vec<Value> = keys()
        .chunks(10)
        .enumerate()
        .map(|(number, keys)| {
            let inputs: Vec<Value> = keys
                .iter()
                .map(|key| json!({"key": key, "text": "I love this, it is wonderful!"}))
                .collect();
            json!({"job_id": format!("{prefix}-{number}"), "model": "sentiment", "namespace": "split", "named": true, "inputs": inputs})
        })
        .collect();
    stack.bus.publish_jobs(&jobs).await;
    let replies = stack.bus.reply_to_each(&job_ids(&jobs)).await;
    let mut second = BTreeSet::new();
    for reply in replies.values() {
        for result in reply.body["results"].as_array().expect("results") {
            let version = result.get("version").unwrap_or(&reply.body["version"]);
            let label = match version.as_str() {
                Some("1.0.0") => "positive",
                Some("2.0.0") => "negative",
                _ => panic!("{result}"),
            };
            assert_eq!(result["label"], label, "{result}");
            if label == "negative" {
                second.insert(result["key"].as_str().expect("a key").to_owned());
            }
        }
    }
    second
}

/// Readers find the word of each key's version.
async fn expect_named(stack: &Stack, namespace: &str, second: &BTreeSet<String>, keys: &[String]) {
    for key in keys {
        let entry = stack.redis.json(&format!("kiln:k:{namespace}:{key}")).await;
        let entry = entry.expect("an entry");
        let expected = match second.contains(key) {
            true => (json!("2.0.0"), json!("negative")),
            false => (json!("1.0.0"), json!("positive")),
        };
        let found = (entry["version"].clone(), entry["label"].clone());
        assert_eq!(found, expected, "{key}: {entry}");
    }
}

async fn wait_for(workers: &[&Worker], words: &str) {
    for worker in workers {
        let says = |line: &str| line.contains(words) && line.contains("sentiment@2.0.0");
        worker.wait_for_line(words, says).await;
    }
}

/// What the workers have counted of a version's inputs.
async fn counted(workers: &[&Worker], version: &str, outcome: &str) -> f64 {
    let labels = [
        ("model", "sentiment"),
        ("version", version),
        ("outcome", outcome),
    ];
    let mut sum = 0.0;
    for worker in workers {
        sum += worker.metric("kiln_split_inputs_total", &labels).await;
    }
    sum
}

const GIVEN: &str = "a share of the inputs goes to this model version";
const ENDED: &str = "no share of the inputs goes to this model version any more";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stable_share_of_the_keys_goes_to_another_version_on_every_worker_and_back() {
    let stack = Stack::shared().await;
    let models = two_versions();
    let schedules = Schedules::new();
    let inputs: Vec<String> = (0..60)
        .map(|n| format!("{{ key = \"k{n}\", text = \"I love this, it is wonderful!\" }}"))
        .collect();
    let source = format!(
        "[source]\nkind = \"static\"\ninputs = [{}]\n",
        inputs.join(", ")
    );
    schedules.put("shared", &format!("{}{source}", on_request()));
    let start = async || {
        let settings = schedules.worker(&stack).models(&[]);
        let models = models.to_str().expect("a plain path");
        settings.set("KILN_MODELS_DIR", models).start().await
    };
    activate(&stack, &models, &["sentiment@1.0.0"]);
    let (one, two) = (start().await, start().await);
    assert_eq!(answered_by_second(&stack, "before").await, BTreeSet::new());
    assert_eq!(
        counted(&[&one, &two], "1.0.0", "scored").await,
        0.0,
        "nothing is shared"
    );

    let said = activate(&stack, &models, &["sentiment@2.0.0", "--share", "10%"]);
    let expected = "10 % of the inputs of sentiment go to sentiment@2.0.0, the others to sentiment@1.0.0, which stays active; before all went to one version";
    assert!(said.contains(expected), "{said}");
    wait_for(&[&one, &two], GIVEN).await;
    let tenth = of_share("10%");
    assert!((20..=60).contains(&tenth.len()), "{}", tenth.len());
    assert_eq!(answered_by_second(&stack, "tenth").await, tenth);
    expect_named(&stack, "split", &tenth, &keys()).await;
    let second = counted(&[&one, &two], "2.0.0", "scored").await
        + counted(&[&one, &two], "2.0.0", "cached").await;
    assert_eq!(second, tenth.len() as f64);
    assert_eq!(
        counted(&[&one, &two], "1.0.0", "cached").await,
        (KEYS - tenth.len()) as f64,
        "they were scored before"
    );
    let (code, said) = kiln(&stack, &models, &["list"]);
    assert_eq!(
        (code, said.contains("10 % of the inputs")),
        (0, true),
        "{said}"
    );
    let (_, body) = one.get("/v1/models").await.expect("an answer");
    let shown: Vec<Value> = serde_json::from_str(&body).expect("JSON");
    let shares = shown
        .iter()
        .map(|one| (&one["version"], &one["active"], &one["share"]));
    let shares: Vec<_> = shares.collect();
    assert_eq!(
        shares,
        [
            (&json!("1.0.0"), &json!(true), &Value::Null),
            (&json!("2.0.0"), &json!(false), &json!(0.1))
        ]
    );
    // What is warmed goes to its key's version as well.
    let (code, ran) = schedules.run_now(&stack, "shared").await;
    assert_eq!(code, 0, "{ran}");
    expect_named(&stack, "warmed", &tenth, &keys()[..60]).await;

    // A worker that starts now does so with its first job, and a larger share keeps what the smaller one had.
    two.stop().await;
    let three = start().await;
    one.stop().await;
    assert_eq!(answered_by_second(&stack, "again").await, tenth);
    activate(&stack, &models, &["sentiment@2.0.0", "--share", "0.2"]);
    eventually("a fifth", PATIENCE, async || {
        let share = three
            .metric("kiln_split_share_ratio", &[("model", "sentiment")])
            .await;
        (share == 0.2).then_some(())
    })
    .await;
    let fifth = answered_by_second(&stack, "fifth").await;
    assert_eq!(fifth, of_share("20%"));
    assert!(fifth.is_superset(&tenth));

    let said = activate(&stack, &models, &["sentiment@2.0.0", "--share", "0%"]);
    let expected = "all inputs of sentiment go to sentiment@1.0.0; before sentiment@2.0.0 had 20 %";
    assert!(said.contains(expected), "{said}");
    wait_for(&[&three], ENDED).await;
    assert_eq!(answered_by_second(&stack, "after").await, BTreeSet::new());
    expect_named(&stack, "split", &BTreeSet::new(), &keys()).await;
    three.stop().await;
    three.expect_clean_log();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_that_cannot_be_given_is_refused_and_a_worker_without_the_version_says_so() {
    let stack = Stack::shared().await;
    let here = Shelf::with(&["1.0.0"]);
    let there = Shelf::with(&["1.0.0", "2.0.0"]);
    let serving = models::worker(&stack, &here).await;
    let activate = |arguments: &[&str]| {
        let arguments = [&["activate"], arguments].concat();
        tokio::task::block_in_place(|| there.kiln(&stack, &arguments))
    };
    let (code, said) = activate(&["sentiment@1.0.0"]);
    assert_eq!(code, 0, "{said}");
    for (arguments, expected) in [
        (
            ["sentiment@2.0.0", "--share", "101%"],
            "expected a percentage from 0% to 100%",
        ),
        (["sentiment@2.0.0", "--share", "1"], "or a number below 1"),
        (
            ["sentiment@1.0.0", "--share", "10%"],
            "can't have a share of the inputs: it is the active version",
        ),
        (["sentiment@9", "--share", "10%"], "is not known"),
        (["sentiment", "--share", "10%"], "expected name@version"),
    ] {
        let (code, said) = activate(&arguments);
        assert!(code != 0 && said.contains(expected), "{code}: {said}");
    }
    let (code, said) = activate(&["sentiment@2.0.0", "--share", "100%"]);
    assert_eq!(code, 0, "{said}");
    eventually("the share is pending", PATIENCE, async || {
        (serving.metric("kiln_model_activations_pending", &[]).await == 1.0).then_some(())
    })
    .await;
    let says = |line: &str| line.contains("sentiment@2.0.0") && line.contains("isn't loaded here");
    serving.wait_for_line("that it lacks it", says).await;
    assert_eq!(
        models::version_of(&stack, "sentiment").await,
        json!("1.0.0")
    );
    let (code, said) = activate(&["sentiment@3.0.0", "--share", "0%"]);
    assert!(
        code == 1 && said.contains("sentiment@2.0.0 has 100 %"),
        "{said}"
    );
    here.put("2.0.0");
    models::settles_on(&stack, "2.0.0").await;
    assert_eq!(
        models::version_of(&stack, "sentiment@1.0.0").await,
        json!("1.0.0"),
        "pinned"
    );

    // Making a version active ends the share.
    let (code, said) = activate(&["sentiment@1.0.0"]);
    assert!(
        code == 0 && said.contains("this ends the share of sentiment@2.0.0, 100 % of the inputs"),
        "{said}"
    );
    models::settles_on(&stack, "1.0.0").await;
}
