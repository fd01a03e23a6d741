//! Versions: which one a bare name means, on every worker, while folders come, break and go.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kiln_contract::order::{Moment, Order};
use serde_json::{Value, json};

use crate::harness::jobs::text_job;
use crate::harness::stack::Stack;
use crate::harness::worker::Worker;
use crate::harness::{PATIENCE, eventually, sandbox};

const TEXT: &str = "I love this, it is wonderful!";

/// A models folder of the test's own.
pub struct Shelf(PathBuf);

impl Shelf {
    pub fn with(versions: &[&str]) -> Self {
        let shelf = Self(sandbox::folder("shelf"));
        for version in versions {
            shelf.put(version);
        }
        shelf
    }

    fn folder(&self, version: &str) -> PathBuf {
        self.0.join("sentiment").join(version)
    }

    /// The shipped classifier under that version.
    pub fn put(&self, version: &str) {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/sentiment/1.0.0");
        let folder = self.folder(version);
        fs::create_dir_all(&folder).expect("a folder");
        for entry in fs::read_dir(source).expect("the shipped model") {
            let entry = entry.expect("an entry");
            fs::copy(entry.path(), folder.join(entry.file_name())).expect("a copy");
        }
    }

    pub fn path(&self) -> &str {
        self.0.to_str().expect("a plain path")
    }

    /// Runs `kiln models` on this folder and the stack's database; returns the exit code and what it said.
    pub fn kiln(&self, stack: &Stack, arguments: &[&str]) -> (i32, String) {
        let folder = sandbox::folder("cli");
        let output = sandbox::clean_command(env!("CARGO_BIN_EXE_kiln"), &folder)
            .arg("models")
            .args(arguments)
            .env("KILN_MODELS_DIR", &self.0)
            .env("KILN_DATABASE_URL", stack.database_url())
            .env("KILN_REDIS_URL", stack.redis.url())
            .env("KILN_AMQP_URL", stack.amqp_url())
            .output()
            .expect("the binary runs");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        (output.status.code().unwrap_or(-1), said)
    }

    fn activate(&self, stack: &Stack, arguments: &[&str]) {
        let (code, said) = self.kiln(stack, &[&["activate"], arguments].concat());
        assert_eq!(code, 0, "{said}");
    }
}

pub async fn worker(stack: &Stack, shelf: &Shelf) -> Worker {
    let settings = stack.worker().models(&[]).expect_trouble();
    settings.set("KILN_MODELS_DIR", shelf.path()).start().await
}

/// The version that answers such a job.
pub async fn version_of(stack: &Stack, model: &str) -> Value {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let job = text_job(&format!("asks-{number}"), model, &[TEXT]);
    let answer = stack.bus.answer(&job).await;
    answer.body["version"].clone()
}

/// Waits until jobs for the bare name are answered by `version`, many times in a row, so that every worker has had some.
pub async fn settles_on(stack: &Stack, version: &str) {
    eventually("the version is served", PATIENCE, async || {
        for _ in 0..12 {
            if version_of(stack, "sentiment").await != json!(version) {
                return None;
            }
        }
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_worker_follows_an_activation_and_goes_back() {
    let stack = Stack::shared().await;
    let shelf = Shelf::with(&["1.0.0", "2.0.0"]);
    let (one, two) = (worker(&stack, &shelf).await, worker(&stack, &shelf).await);
    settles_on(&stack, "2.0.0").await;
    shelf.activate(&stack, &["sentiment@1.0.0"]);
    for worker in [&one, &two] {
        let switched = |line: &str| line.contains("sentiment@1.0.0") && line.contains("is active");
        worker.wait_for_line("the switch", switched).await;
    }
    settles_on(&stack, "1.0.0").await;
    assert_eq!(
        version_of(&stack, "sentiment@2.0.0").await,
        json!("2.0.0"),
        "pinned"
    );

    one.stop().await;
    let again = worker(&stack, &shelf).await;
    two.stop().await;
    assert_eq!(
        version_of(&stack, "sentiment").await,
        json!("1.0.0"),
        "the first job of a new worker"
    );
    shelf.activate(&stack, &["sentiment", "--default"]);
    settles_on(&stack, "2.0.0").await;
    again.expect_clean_log();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_readers_find_never_goes_back_to_the_version_before() {
    let stack = Stack::shared().await;
    let shelf = Shelf::with(&["1.0.0", "2.0.0"]);
    shelf.activate(&stack, &["sentiment@1.0.0"]);
    let (one, two) = (worker(&stack, &shelf).await, worker(&stack, &shelf).await);
    settles_on(&stack, "1.0.0").await;
    let keys: Vec<String> = (0..5).map(|key| format!("kiln:k:shown:{key}")).collect();
    let mut last: BTreeMap<String, Order> = BTreeMap::new();
    let mut switched: Option<Moment> = None;
    let mut activating = None;
    let (mut old_after, mut number) = (0, 0);
    // Both workers are kept busy with all keys, while a reader looks.
    eventually("all are of the new version", PATIENCE, async || {
        let jobs: Vec<Value> = (0..40)
            .map(|one| {
                let inputs: Vec<Value> = (0..5)
                    .map(|key| json!({"key": key.to_string(), "text": format!("{TEXT} {number} {one} {key}")}))
                    .collect();
                json!({"job_id": format!("load-{number}-{one}"), "model": "sentiment", "namespace": "shown", "named": true, "inputs": inputs})
            })
            .collect();
        number += 1;
        stack.bus.publish_jobs(&jobs).await;
        if number == 2 {
            let folder = shelf.0.clone();
            let urls = [stack.database_url(), stack.redis.url(), stack.amqp_url()];
            activating = Some(tokio::task::spawn_blocking(move || {
                let [database, redis, amqp] = urls;
                sandbox::clean_command(env!("CARGO_BIN_EXE_kiln"), &sandbox::folder("cli"))
                    .args(["models", "activate", "sentiment@2.0.0"])
                    .env("KILN_MODELS_DIR", folder)
                    .env("KILN_DATABASE_URL", database)
                    .env("KILN_REDIS_URL", redis)
                    .env("KILN_AMQP_URL", amqp)
                    .output()
            }));
        }
        let is_new = |worker: &Worker| {
            let says = |line: &String| line.contains("sentiment@2.0.0") && line.contains("is active");
            worker.lines().iter().any(says)
        };
        if switched.is_none() && is_new(&one) && is_new(&two) {
            switched = Some(Moment::of(chrono::Utc::now()));
        }
        let mut new = 0;
        for key in &keys {
            let entry: Option<String> = stack.redis.command(&["GET", key]).await;
            let Some(entry) = entry else { continue };
            let order = Order::of_entry(entry.as_bytes()).expect("an order");
            let before = last.insert(key.clone(), order);
            assert!(before.is_none_or(|before| !before.is_newer_than(&order)), "{key}");
            let entry: Value = serde_json::from_str(&entry).expect("JSON");
            let is_old = entry["version"] == "1.0.0";
            if switched.is_some_and(|at| order.accepted() > at) {
                assert!(!is_old, "accepted after the switch: {entry}");
                new += 1;
            }
            old_after += u32::from(is_old && switched.is_some());
        }
        (new == keys.len()).then_some(())
    })
    .await;
    let ended = activating.expect("it was begun").await.expect("it ran");
    assert!(ended.expect("kiln runs").status.success());
    // What was accepted before is stored by now, and has replaced nothing.
    stack.wait_for_empty(crate::harness::bus::JOBS).await;
    one.wait_in_hand(0).await;
    two.wait_in_hand(0).await;
    for key in &keys {
        let entry = stack.redis.json(key).await.expect("an entry");
        assert_eq!(
            entry["version"], "2.0.0",
            "{old_after} looks saw an old one after the switch"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_activation_outlives_whatever_redis_loses() {
    let stack = Stack::shared().await;
    let shelf = Shelf::with(&["1.0.0", "2.0.0"]);
    let (_one, _two) = (worker(&stack, &shelf).await, worker(&stack, &shelf).await);
    settles_on(&stack, "2.0.0").await;
    let redis = &stack.redis;
    let mut before = Vec::new();
    for key in redis.keys("kiln:*").await {
        let value: Vec<u8> = redis.at("DUMP", &key, &[]).await;
        before.push((key, value));
    }
    shelf.activate(&stack, &["sentiment@1.0.0"]);
    settles_on(&stack, "1.0.0").await;
    let bring_back = async || {
        let mut all = ::redis::pipe();
        for (key, value) in &before {
            all.cmd("RESTORE").arg(key).arg(0).arg(value).arg("REPLACE");
        }
        let mut connection = redis.connection().await.expect("Redis is up");
        all.exec_async(&mut connection)
            .await
            .expect("an older copy");
    };
    let serves = async |what: &str| {
        for _ in 0..12 {
            assert_eq!(
                version_of(&stack, "sentiment").await,
                json!("1.0.0"),
                "{what}"
            );
        }
    };
    let _: () = redis.command(&["FLUSHALL"]).await;
    serves("all evicted").await;
    bring_back().await;
    serves("an older copy").await;
    redis.kill();
    serves("away").await;
    redis.start().await;
    serves("empty").await;
    bring_back().await;
    serves("an older copy after a restart").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_broken_or_elsewhere_never_becomes_active() {
    let stack = Stack::shared().await;
    let shelf = Shelf::with(&["1.0.0", "2.0.0"]);
    let weights = shelf.folder("2.0.0").join("model.safetensors");
    let whole = fs::read(&weights).expect("weights");
    fs::write(&weights, &whole[..whole.len() / 2]).expect("half of them");
    let (code, said) = shelf.kiln(&stack, &["activate", "sentiment@2.0.0"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("SHA-256"), "says why: {said}");

    let serving = worker(&stack, &shelf).await;
    settles_on(&stack, "1.0.0").await;
    // Chosen where it is whole; this worker has it broken.
    let other = Shelf::with(&["1.0.0", "2.0.0", "3.0.0"]);
    other.activate(&stack, &["sentiment@2.0.0"]);
    eventually("the choice is pending", PATIENCE, async || {
        (serving.metric("kiln_model_activations_pending", &[]).await == 1.0).then_some(())
    })
    .await;
    settles_on(&stack, "1.0.0").await;
    fs::write(&weights, &whole).expect("the whole file");
    settles_on(&stack, "2.0.0").await;
    eventually("nothing is pending", PATIENCE, async || {
        (serving.metric("kiln_model_activations_pending", &[]).await == 0.0).then_some(())
    })
    .await;

    // What is done to the folder of a version that serves changes nothing.
    fs::write(&weights, &whole[..100]).expect("a cut file");
    let refused = |line: &str| line.contains("refused") && line.contains("keeps serving");
    serving.wait_for_line("the refusal", refused).await;
    settles_on(&stack, "2.0.0").await;
    fs::remove_dir_all(shelf.folder("2.0.0")).expect("gone");
    let gone = |line: &str| line.contains("the folder is gone");
    serving.wait_for_line("that it is gone", gone).await;
    settles_on(&stack, "2.0.0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_copied_in_serves_while_the_worker_runs() {
    let stack = Stack::shared().await;
    let shelf = Shelf::with(&["1.0.0"]);
    let settings = stack.worker().models(&[]).expect_trouble();
    let settings = settings
        .set("KILN_MODELS_DIR", shelf.path())
        .set("KILN_MODELS__UNLOAD_AFTER_SECONDS", "1");
    let serving = settings.start().await;
    settles_on(&stack, "1.0.0").await;
    shelf.put("1.1.0");
    settles_on(&stack, "1.1.0").await;
    let given_back = |line: &str| line.contains("gave its memory back") && line.contains("@1.0.0");
    serving
        .wait_for_line("that 1.0.0 is idle", given_back)
        .await;
    assert_eq!(
        version_of(&stack, "sentiment@1.0.0").await,
        json!("1.0.0"),
        "loaded again"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hugging_face_folder_is_imported_and_served() {
    let stack = Stack::shared().await;
    let shelf = Shelf::with(&["1.0.0"]);
    let fixture = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/parity/models/bert-classifier"
    );
    let import = ["import", fixture, "--name", "bert", "--version", "1"];
    let (code, said) = shelf.kiln(&stack, &import);
    assert_eq!(code, 0, "{said}");
    let golden = format!("{fixture}/expected.json");
    let (code, said) = shelf.kiln(&stack, &["check", "bert@1", "--golden", &golden]);
    assert_eq!((code, said.contains("holds")), (0, true), "{said}");
    let (code, said) = shelf.kiln(
        &stack,
        &["check", "bert@1", "--golden", &golden, "--tolerance", "0"],
    );
    assert_eq!((code, said.contains("exceeded")), (1, true), "{said}");
    let (code, said) = shelf.kiln(&stack, &["list"]);
    assert_eq!((code, said.contains("encoder")), (0, true), "{said}");
    let bench = [
        "bench",
        "bert",
        "--batch",
        "1,8",
        "--words",
        "4",
        "--seconds",
        "0.1",
        "--json",
    ];
    let (code, said) = shelf.kiln(&stack, &bench);
    assert_eq!((code, said.lines().count()), (0, 2), "{said}");

    let serving = worker(&stack, &shelf).await;
    let long = "word ".repeat(200);
    let job = json!({"job_id": "bert-1", "model": "bert", "inputs": [
        {"text": "good"}, {"text": "what is a fox", "text_pair": "The quick brown fox"}, {"text": long}]});
    let answer = stack.bus.answer(&job).await.body;
    let results = answer["results"].as_array().expect("results");
    assert_eq!(results.len(), 3);
    for result in results {
        let label = result["label"].as_str().unwrap_or_default();
        assert!(
            ["negative", "neutral", "positive"].contains(&label),
            "{result}"
        );
    }
    let labels = [("model", "bert")];
    assert_eq!(
        serving.metric("kiln_texts_truncated_total", &labels).await,
        1.0
    );
    assert!(serving.metric("kiln_model_tokens_total", &labels).await > 10.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_in_int8_says_what_it_costs_and_is_activated_and_left_again() {
    let stack = Stack::shared().await;
    let shelf = Shelf::with(&["1.0.0"]);
    let fixture = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/parity/models/bert-classifier"
    );
    let kiln = |arguments: &[&str]| tokio::task::block_in_place(|| shelf.kiln(&stack, arguments));
    let import = ["import", fixture, "--name", "bert", "--version", "1"];
    let (code, said) = kiln(&import);
    assert_eq!(code, 0, "{said}");
    let file = shelf.0.join("texts.txt");
    fs::write(&file, "good\n\nwhat is a fox\na third text\n").expect("a file of texts");
    let file = file.display().to_string();
    let quantise = [
        "quantize",
        "bert@1",
        "--version",
        "1-int8",
        "--texts",
        &file,
        "--json",
    ];
    let (code, said) = kiln(&quantise);
    assert_eq!(code, 0, "{said}");
    let found: Value = serde_json::from_str(said.lines().next().expect("a line")).expect("JSON");
    assert_eq!(found["cost"]["texts"], json!(3), "{found}");
    assert_eq!(found["model"]["weights"], json!("int8"), "{found}");
    let bytes = |when: &str| found["weights_bytes"][when].as_u64().unwrap_or(0);
    assert!(0 < bytes("after") && bytes("after") < bytes("before"));
    let (code, said) = kiln(&quantise);
    assert_eq!(
        (code, said.contains("is there already")),
        (1, true),
        "{said}"
    );
    let (code, said) = kiln(&["quantize", "sentiment@1.0.0", "--version", "2"]);
    let refused = said.contains("only the architecture \"encoder\"");
    assert_eq!((code, refused), (1, true), "{said}");
    let (code, said) = kiln(&["inspect", "bert@1-int8"]);
    let shown = [
        "int8",
        "texts measured",
        "largest difference",
        "of clear ones",
    ];
    let all = shown.iter().all(|shown| said.contains(shown));
    assert_eq!((code, all), (0, true), "{said}");

    let _serving = worker(&stack, &shelf).await;
    for version in ["1-int8", "1"] {
        let (code, said) = kiln(&["activate", &format!("bert@{version}")]);
        assert_eq!(code, 0, "{said}");
        eventually("the version is served", PATIENCE, async || {
            (version_of(&stack, "bert").await == json!(version)).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_is_warm_before_it_is_switched_to_and_a_limit_stops_the_switch() {
    let stack = Stack::shared().await;
    let shelf = Shelf::with(&["1.0.0", "2.0.0"]);
    let serving = worker(&stack, &shelf).await;
    shelf.activate(&stack, &["sentiment@1.0.0"]);
    settles_on(&stack, "1.0.0").await;
    let texts: Vec<String> = (0..60)
        .map(|n| format!("a nice word, and number {n}"))
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    stack
        .bus
        .answer(&text_job("asks", "sentiment", &texts))
        .await;
    let entries = async || stack.redis.keys("kiln:s:sentiment:2.0.0:*").await.len();
    assert!(
        entries().await <= 1,
        "at most the text that tells the version"
    );

    let activate = |more: &[&str]| {
        let arguments = [
            &["activate", "sentiment@2.0.0", "--warm", "1", "--json"],
            more,
        ]
        .concat();
        tokio::task::block_in_place(|| shelf.kiln(&stack, &arguments))
    };
    let (code, said) = activate(&["--min-correlation", "nan"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("--min-correlation: expected"), "{said}");
    let (code, said) = activate(&["--min-correlation", "1.01"]);
    assert_eq!(code, 4, "{said}");
    assert!(
        said.contains("was not made active: the rank correlation is less than 1.01"),
        "{said}"
    );
    assert_eq!(
        entries().await,
        61,
        "what was asked for, and the text that told the version"
    );
    assert_eq!(version_of(&stack, "sentiment").await, json!("1.0.0"));

    let (code, said) = activate(&["--max-shift", "-0.1"]);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("scores move by 0.0000 on average"), "{said}");
    let limits = ["--max-flips", "0", "--min-correlation", "0.999"];
    let (code, said) = activate(&[&limits[..], &["--max-shift", "0"]].concat());
    assert_eq!(code, 0, "{said}");
    let found: Value = serde_json::from_str(said.lines().next().expect("a line")).expect("JSON");
    assert_eq!(
        (&found["share"], &found["hot_inputs"]),
        (&json!(1.0), &json!(61)),
        "{found}"
    );
    assert_eq!(
        (&found["shift"]["flips"], &found["shift"]["mean_absolute"]),
        (&json!(0.0), &json!(0.0)),
        "{found}"
    );
    settles_on(&stack, "2.0.0").await;
    let misses = async || {
        serving
            .metric("kiln_inputs_total", &[("result", "miss")])
            .await
    };
    let before = misses().await;
    stack
        .bus
        .answer(&text_job("asks again", "sentiment", &texts))
        .await;
    assert_eq!(
        misses().await,
        before,
        "the new version serves from the cache at once"
    );
    // Back again needs nothing: the old entries are there.
    shelf.activate(&stack, &["sentiment@1.0.0"]);
    settles_on(&stack, "1.0.0").await;
    stack
        .bus
        .answer(&text_job("asks once more", "sentiment", &texts))
        .await;
    assert_eq!(misses().await, before);
}
