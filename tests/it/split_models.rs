//! Two versions of a model that share its inputs: the same keys go to the same version, wherever and whenever they come.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kiln_contract::split::{Point, Share};
use serde_json::{Value, json};

use crate::compat::PARITY;
use crate::harness::jobs::job_ids;
use crate::harness::shell::Shell;
use crate::harness::stack::Stack;
use crate::harness::worker::{Answer, Worker, copy_folder, model_folder};
use crate::harness::{PATIENCE, eventually, sandbox};
use crate::models::{self, Shelf};
use crate::shadow::two_versions;
use crate::suspects::{delivered, suspicious};
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

pub fn activate(stack: &Stack, models: &Path, arguments: &[&str]) -> String {
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

/// A model that ranks pairs of texts, as two versions of which the first one is active.
fn two_rankers(stack: &Stack) -> Shelf {
    let shelf = Shelf::with(&[]);
    let folder = format!("{PARITY}/bert-reranker");
    let import = [
        "import",
        &folder,
        "--name",
        "reranker",
        "--version",
        "1",
        "--pair",
        "required",
    ];
    let (code, said) = tokio::task::block_in_place(|| shelf.kiln(stack, &import));
    assert_eq!(code, 0, "{said}");
    let versions = Path::new(shelf.path()).join("reranker");
    copy_folder(&versions.join("1"), &versions.join("2"));
    activate(stack, Path::new(shelf.path()), &["reranker@1"]);
    shelf
}

/// Waits until a worker gives a model's second version this share.
async fn shares(worker: &Worker, model: &str, share: f64) {
    eventually("the share", PATIENCE, async || {
        let labels = [("model", model)];
        let found = worker.metric("kiln_split_share_ratio", &labels).await;
        (found == share).then_some(())
    })
    .await;
}

async fn post(worker: &Worker, path: &str, key: &str, body: &Value) -> Answer {
    let headers = [("idempotency-key", key)];
    let body = body.to_string();
    let answer = worker.ask("POST", path, &headers, body.as_bytes()).await;
    answer.unwrap_or_else(|| panic!("{path}: no answer"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_is_ranked_by_one_version_and_the_same_request_again_has_its_first_result() {
    let stack = Stack::shared().await;
    let shelf = two_rankers(&stack);
    let models = Path::new(shelf.path());
    let worker = models::worker(&stack, &shelf).await;
    activate(&stack, models, &["reranker@2", "--share", "50%"]);
    shares(&worker, "reranker", 0.5).await;
    let half = Share::parse("50%").expect("a share");
    let is_second = |query: &str| half.takes(Point::of_key("reranker", query));
    let texts = ["a dog", "a fox", "a"];
    let request = |query: &str| json!({"query": query, "texts": texts});
    // Nothing but the query decides, in whichever request it comes; the row says which version ranked it.
    let (mut first, mut seconds) = (Vec::new(), 0);
    for number in 0..12 {
        let query = format!("what is {number}");
        for namespace in ["one", "two"] {
            let path = format!("/rerank?model=reranker&namespace={namespace}-{number}");
            let key = format!("{namespace}-{number}");
            let answer = post(&worker, &path, &key, &request(&query)).await;
            assert_eq!(answer.status, 200, "{}", answer.body);
            assert!(
                !answer.head.contains("idempotency-replayed"),
                "{}",
                answer.head
            );
            let row = format!("SELECT version FROM jobs WHERE namespace = '{key}'");
            let version = stack.text(&row).await;
            assert_eq!(
                version,
                if is_second(&query) { "2" } else { "1" },
                "{query}"
            );
            seconds += usize::from(version == "2");
            first.push((path, key, request(&query), answer.body));
        }
    }
    assert!((1..24).contains(&seconds), "{seconds}");
    let pairs: Vec<[String; 2]> = (0..12)
        .map(|n| [format!("pair {n}"), "a fox".into()])
        .collect();
    for (path, body) in [
        ("/predict?model=reranker", json!({"inputs": pairs})),
        (
            "/predict?model=reranker&namespace=single",
            json!({"inputs": pairs[0]}),
        ),
    ] {
        let answer = post(&worker, path, path, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        first.push((path.into(), path.into(), body, answer.body));
    }

    // Whatever the share is by then, the same request under its key is the same job.
    for arguments in [
        &["reranker@2", "--share", "100%"][..],
        &["reranker@2", "--share", "0%"],
        &["reranker@2"],
    ] {
        activate(&stack, models, arguments);
        let share = if arguments.contains(&"100%") {
            1.0
        } else {
            0.0
        };
        shares(&worker, "reranker", share).await;
        for (path, key, body, said) in &first {
            let again = post(&worker, path, key, body).await;
            assert_eq!((again.status, &again.body), (200, said), "{path}");
            assert!(
                again.head.contains("idempotency-replayed: true"),
                "{}",
                again.head
            );
        }
    }
    let (path, key, ..) = &first[0];
    let other = post(&worker, path, key, &request("another one")).await;
    assert_eq!(other.status, 422, "{}", other.body);
    let done = "SELECT count(*) FROM jobs WHERE status = 'ok'";
    assert_eq!(stack.count(done).await, first.len() as i64);
}

/// A model that fails on request, as two versions.
fn two_faults() -> PathBuf {
    let models = sandbox::folder("shelf");
    for version in ["1", "2"] {
        let folder = models.join("fault").join(version);
        copy_folder(&model_folder("fault").join("1"), &folder);
    }
    models
}

/// A job of texts for `fault`, each under a key that goes to the second of two versions which have a half each, or to the first.
fn of_versions(job_id: &str, texts: &[(bool, &str)]) -> Value {
    let half = Share::parse("50%").expect("a share");
    let key = |is_second, number: usize| {
        let mut keys = (0..).map(|n| format!("{job_id}-{number}-{n}"));
        let found = keys.find(|key| half.takes(Point::of_key("fault", key)) == is_second);
        found.expect("a key")
    };
    let texts = texts.iter().enumerate();
    let inputs = texts
        .map(|(number, (is_second, text))| json!({"key": key(*is_second, number), "text": text}));
    let inputs: Vec<Value> = inputs.collect();
    json!({"job_id": job_id, "model": "fault", "inputs": inputs})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_or_kills_is_blamed_alone_and_its_version_counts_it() {
    let stack = Stack::shared().await;
    let jobs = [
        of_versions("both", &[(false, "one"), (true, "two")]),
        of_versions("killer", &[(false, "three"), (true, "abort now")]),
    ];
    let held = delivered(&stack, &jobs).await;
    let models = two_faults();
    activate(&stack, &models, &["fault@1"]);
    activate(&stack, &models, &["fault@2", "--share", "50%"]);
    let settings = suspicious(&stack).expect_trouble();
    let path = models.to_str().expect("a plain path");
    let worker = settings.set("KILN_MODELS_DIR", path).start().await;
    drop(held);
    // In a process of its own each input goes to its version as well, and who kills that is given up alone.
    let versions = |row: &Value, version: Option<&str>| -> Vec<Value> {
        let results = row.as_array().expect("results").iter();
        let own = |result: &Value| result.get("version").cloned();
        results
            .map(|result| own(result).unwrap_or(json!(version)))
            .collect()
    };
    let both = stack.row("both").await;
    let results = both.results.expect("results");
    assert_eq!(
        versions(&results, both.version.as_deref()),
        [json!("1"), json!("2")]
    );
    assert_eq!(stack.row("killer").await.status, "rejected");
    let letter = stack.bus.dead_letters(1).await.remove(0);
    assert_eq!(
        (letter.job_id().as_str(), letter.code.as_str()),
        ("killer", "exhausted")
    );

    // A batch of both versions in which one input fails: its job is given up, the others of either version are done.
    let good: Vec<Value> = (0..10)
        .map(|n| {
            of_versions(
                &format!("good-{n}"),
                &[(n % 2 == 0, format!("text {n}").as_str())],
            )
        })
        .collect();
    let poison = of_versions("poison", &[(false, "fine"), (true, "please panic")]);
    stack
        .bus
        .publish_jobs(&[&good[..], &[poison]].concat())
        .await;
    let letter = stack.bus.dead_letters(1).await.remove(0);
    assert_eq!(
        (letter.job_id().as_str(), letter.code.as_str()),
        ("poison", "exhausted")
    );
    for (n, job) in good.iter().enumerate() {
        let row = stack.row(job["job_id"].as_str().expect("an id")).await;
        let version = if n % 2 == 0 { "2" } else { "1" };
        assert_eq!(
            (row.status.as_str(), row.version.as_deref()),
            ("ok", Some(version))
        );
    }
    let failed = async |version| {
        let labels = [
            ("model", "fault"),
            ("version", version),
            ("outcome", "failed"),
        ];
        worker.metric("kiln_split_inputs_total", &labels).await
    };
    assert_eq!((failed("1").await, failed("2").await), (0.0, 3.0), "tries");
    assert!(worker.is_alive());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_activates_shares_and_goes_back_is_noted_and_an_empty_body_changes_nothing() {
    let stack = Stack::shared().await;
    let models = two_versions();
    activate(&stack, &models, &["sentiment@1.0.0"]);
    let settings = stack.worker().models(&[]);
    // An intake that is paused while it opens its channel leaves the library with an answer to nobody.
    let settings = settings.allow("invalid channel state: Closing");
    let path = models.to_str().expect("a plain path");
    let worker = settings.set("KILN_MODELS_DIR", path).start().await;
    activate(&stack, &models, &["sentiment@2.0.0", "--share", "10%"]);
    shares(&worker, "sentiment", 0.1).await;
    let chosen = "SELECT string_agg(name || '@' || version, ' ') FROM active_models";
    let shared =
        "SELECT string_agg(name || '@' || version || ' ' || millionths, ' ') FROM model_splits";
    let before = (stack.text(chosen).await, stack.text(shared).await);
    let path = "/v1/models/sentiment/activate";
    for body in [
        json!({}),
        json!({"version": 2}),
        json!({"versions": null}),
        json!([]),
    ] {
        let refused = post(&worker, path, "k", &body).await;
        assert_eq!(refused.status, 400, "{body}: {}", refused.body);
    }
    let empty = worker.ask("POST", path, &[], b"").await.expect("an answer");
    assert_eq!(empty.status, 400, "{}", empty.body);
    assert_eq!((stack.text(chosen).await, stack.text(shared).await), before);

    activate(&stack, &models, &["sentiment@2.0.0", "--share", "0%"]);
    for body in [json!({"version": "2.0.0"}), json!({"version": null})] {
        let done = post(&worker, path, "k", &body).await;
        assert_eq!(done.status, 200, "{}", done.body);
    }
    activate(&stack, &models, &["sentiment", "--default"]);
    let shell = Shell::on(&stack);
    for command in ["pause", "pause", "resume"] {
        shell.kiln(&[command]).await.with(0);
    }
    let (status, body) = worker.get("/v1/log/actions").await.expect("an answer");
    assert_eq!(status, 200, "{body}");
    let actions: Vec<Value> = serde_json::from_str(&body).expect("JSON");
    let text = |action: &Value, field: &str| action[field].as_str().expect("a text").to_owned();
    let told = actions.iter().rev().map(|action| {
        let by = text(action, "by");
        let by = by.split(':').next().unwrap_or_default();
        format!(
            "{by}: {} {}",
            text(action, "action"),
            text(action, "detail")
        )
    });
    let expected = [
        "command: activate sentiment@1.0.0",
        "command: activate sentiment@2.0.0 for 10 %",
        "command: activate sentiment@2.0.0 for 0 %",
        "local: activate sentiment@2.0.0",
        "local: activate sentiment by default",
        "command: activate sentiment by default",
        "command: pause intake",
        "command: resume intake",
    ];
    assert_eq!(told.collect::<Vec<_>>(), expected);
}
