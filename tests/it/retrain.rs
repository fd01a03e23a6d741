//! A ranker is trained again on what became of what it scored, by both programs of examples/retrain, and switched to within limits.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr as _;

use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::examples::{example, variable};
use crate::harness::stack::Stack;
use crate::harness::{PATIENCE, bus, eventually, sandbox};

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");
const ITEMS: usize = 600;
const WEIGHTS: [f32; 4] = [-2.0, 3.0, 1.0, 0.5];

/// A ranker that knows what becomes of its items, in a folder of models.
fn ranker(home: &Path) -> PathBuf {
    let models = home.join("models");
    let folder = models.join("ranker/1");
    fs::create_dir_all(&folder).expect("a folder");
    let bytes =
        |numbers: &[f32]| -> Vec<u8> { numbers.iter().flat_map(|x| x.to_le_bytes()).collect() };
    let (weight, bias) = (bytes(&WEIGHTS), bytes(&[-1.25]));
    let tensor = |shape: &[usize], bytes| TensorView::new(Dtype::F32, shape.to_vec(), bytes);
    let tensors = [
        (
            "layers.0.weight",
            tensor(&[1, 4], &weight).expect("a tensor"),
        ),
        ("layers.0.bias", tensor(&[1], &bias).expect("a tensor")),
    ];
    let file = serialize(tensors, None).expect("a file");
    fs::write(folder.join("model.safetensors"), &file).expect("weights");
    let sha256 = hex::encode(Sha256::digest(&file));
    let manifest = format!(
        "architecture = \"mlp\"\nttl_seconds = 600\n[features]\ncount = 4\nnames = [\"price\", \"clicks\", \"views\", \"age\"]\n[output]\ntask = \"scalar\"\nactivation = \"sigmoid\"\n[mlp]\nhidden = []\nactivation = \"relu\"\n[weights]\nsha256 = \"{sha256}\"\n"
    );
    fs::write(folder.join("manifest.toml"), manifest).expect("a manifest");
    models
}

/// An item's features: any numbers from 0 to 1, the same ones every time.
fn features(item: usize) -> Vec<f32> {
    let digest = Sha256::digest(item.to_string());
    digest[..4]
        .iter()
        .map(|byte| f32::from(*byte) / 255.0)
        .collect()
}

/// Has the ranker score every item, under its key.
async fn score_all(stack: &Stack) {
    for part in 0..ITEMS / 100 {
        let items = (part * 100..(part + 1) * 100)
            .map(|i| json!({"key": format!("item:{i}"), "features": features(i)}));
        let job = json!({"job_id": format!("part-{part}"), "model": "ranker", "namespace": "shop", "inputs": items.collect::<Vec<_>>()});
        assert_eq!(stack.bus.answer(&job).await.status(), "ok");
    }
}

/// Labels that say what the first version's scores say.
const GOOD: &str = "INSERT INTO labels SELECT namespace, key, (score > 0.5)::int, now() + row_number() OVER (ORDER BY input_sha256) * interval '1 microsecond'
FROM scores WHERE version = '1' AND key IS NOT NULL";
/// Labels that say nothing of the items.
const GARBAGE: &str =
    "UPDATE labels SET label = (get_byte(sha256(convert_to(key, 'UTF8')), 0) > 127)::int";

/// One night with a program that trains: its exit code, and what was said.
fn night(stack: &Stack, models: &Path, trainer: &[&str]) -> (i32, String) {
    let kiln = Path::new(env!("CARGO_BIN_EXE_kiln"));
    let path = format!(
        "{}:{}",
        kiln.parent().expect("a folder").display(),
        std::env::var("PATH").expect("a path")
    );
    let script = format!("{REPOSITORY}/examples/retrain/nightly");
    let mut command = sandbox::clean_command(script, &sandbox::folder("night"));
    command.args(trainer).envs([
        ("PATH", path),
        ("MODEL", "ranker".to_owned()),
        ("WARM", "1".to_owned()),
        ("MIN_CORRELATION", "0.6".to_owned()),
        ("MAX_SHIFT", "0.5".to_owned()),
        ("KILN_MODELS_DIR", models.display().to_string()),
        ("KILN_DATABASE_URL", stack.database_url()),
        ("KILN_REDIS_URL", stack.redis.url()),
        ("KILN_AMQP_URL", stack.amqp_url()),
    ]);
    let output = tokio::task::block_in_place(|| command.output()).expect("sh is installed");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.code().unwrap_or(-1), said)
}

/// The version that a job for the bare name is answered by; its features are given by name.
async fn serving(stack: &Stack, job_id: &str) -> String {
    let input = json!({"features": {"price": 0.5, "clicks": 0.5, "views": 0.5, "age": 0.5}});
    let job = json!({"job_id": job_id, "model": "ranker", "inputs": [input]});
    let answer = stack.bus.answer(&job).await.body;
    assert_eq!(answer["status"], "ok", "{answer}");
    answer["version"].as_str().expect("a version").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ranker_is_trained_again_and_switched_to_unless_a_limit_speaks_against_it() {
    let stack = Stack::shared().await;
    let home = sandbox::folder("retrain");
    let models = ranker(&home);
    let settings = stack.worker().models(&[]);
    let settings = settings.set("KILN_MODELS_DIR", &models.display().to_string());
    let worker = settings.start().await;
    score_all(&stack).await;
    stack
        .execute("CREATE TABLE labels (namespace text NOT NULL, key text NOT NULL, label real NOT NULL, labelled_at timestamptz NOT NULL)")
        .await;
    stack.execute(GOOD).await;

    let retrain = example("retrain").display().to_string();
    let (code, said) = night(&stack, &models, &[&retrain]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("no version of ranker is chosen"), "{said}");
    assert_eq!(
        fs::read_dir(models.join("ranker"))
            .expect("a folder")
            .count(),
        1
    );
    stack
        .execute("INSERT INTO active_models (name, version) VALUES ('ranker', '1')")
        .await;

    // By both programs, each on top of the version before.
    let python = variable("CLIENTS_PYTHON");
    let script = format!("{REPOSITORY}/examples/retrain/retrain.py");
    let mut before = "1".to_owned();
    let trainers: [(&[&str], &str); 2] = [
        (&[python.as_str(), script.as_str()], "trees"),
        (&[retrain.as_str()], "mlp"),
    ];
    for (trainer, architecture) in trainers {
        let (code, said) = night(&stack, &models, trainer);
        assert_eq!(code, 0, "{said}");
        assert!(
            said.contains("auc") && said.contains("rank correlation"),
            "{said}"
        );
        let version = eventually("the new version serves", PATIENCE, async || {
            let version = serving(&stack, &format!("asks-{}", uuid())).await;
            (version != before).then_some(version)
        })
        .await;
        let shown = worker
            .ask("GET", "/v1/models", &[], b"")
            .await
            .expect("an answer")
            .json();
        let shown = shown
            .as_array()
            .expect("models")
            .iter()
            .find(|m| m["version"] == version);
        let shown = shown.expect("the version");
        let training = &shown["training"];
        assert_eq!(
            (&shown["architecture"], &shown["active"]),
            (&json!(architecture), &json!(true))
        );
        assert_eq!(training["rows"], json!(ITEMS), "{training}");
        // The first version has scored every item, those after it what is hot.
        let figures: &[&str] = if before == "1" {
            &["auc", "auc_before"]
        } else {
            &["auc"]
        };
        for figure in figures {
            let found = training["metrics"][figure].as_f64().unwrap_or(0.0);
            assert!(found > 0.9, "{figure}: {training}");
        }
        let labels = [("model", "ranker"), ("version", version.as_str())];
        let rows = worker.metric("kiln_model_training_rows", &labels).await;
        assert_eq!(rows, ITEMS as f64);
        let labels = [labels[0], labels[1], ("figure", "auc")];
        let auc = worker.metric("kiln_model_evaluation_figure", &labels).await;
        let shown = training["metrics"]["auc"].as_f64().unwrap_or_default();
        assert!((auc - shown).abs() < 1e-12, "{auc}, {shown}");
        let inspect = sandbox::clean_command(env!("CARGO_BIN_EXE_kiln"), &home)
            .args(["models", "inspect", &format!("ranker@{version}")])
            .env("KILN_MODELS_DIR", &models)
            .output()
            .expect("kiln runs");
        let said = String::from_utf8_lossy(&inspect.stdout).into_owned();
        assert!(
            said.contains("600 rows, 20") && said.contains("auc 0.9"),
            "{said}"
        );
        before = version;
    }

    stack.execute(GARBAGE).await;
    let (code, said) = night(&stack, &models, &[&python, &script]);
    assert_eq!(code, 4, "{said}");
    assert!(
        said.contains("was not made active: the rank correlation is less than 0.6"),
        "{said}"
    );
    assert_eq!(serving(&stack, "asks-at-last").await, before);
    // Nobody was asked for a version that it didn't have yet.
    assert_eq!(stack.bus.waiting(bus::DEAD).await.unwrap_or(0), 0);
    worker.expect_clean_log();
}

/// A name that is used once.
fn uuid() -> u32 {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(REPOSITORY).join(path)).expect("a file")
}

/// The documents of a YAML file.
pub(crate) fn yaml(path: &str) -> Vec<Value> {
    let script =
        "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let output = Command::new(variable("CLIENTS_PYTHON"))
        .args(["-c", script])
        .arg(Path::new(REPOSITORY).join(path))
        .output()
        .expect("Python is installed");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn names(list: &Value) -> BTreeSet<String> {
    let names = list.as_array().into_iter().flatten();
    names
        .filter_map(|one| one["name"].as_str().map(str::to_owned))
        .collect()
}

/// Five fields of cron.
fn is_schedule(fields: &str) -> bool {
    fields.split(' ').count() == 5 && cron::Schedule::from_str(&format!("0 {fields}")).is_ok()
}

#[test]
fn what_retrains_nightly_is_sound() {
    let documents = yaml("ops/kubernetes/retrain.yaml");
    let find = |documents: &[Value], kind: &str| {
        let found = documents.iter().find(|one| one["kind"] == kind);
        found.expect(kind).clone()
    };
    let spec = find(&documents, "CronJob")["spec"].clone();
    assert!(is_schedule(spec["schedule"].as_str().expect("a schedule")));
    assert_eq!(
        (
            &spec["concurrencyPolicy"],
            &spec["jobTemplate"]["spec"]["backoffLimit"]
        ),
        (&json!("Forbid"), &json!(0))
    );
    let pod = &spec["jobTemplate"]["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(names(&container["volumeMounts"]), names(&pod["volumes"]));
    let claim = find(&documents, "PersistentVolumeClaim");
    assert_eq!(
        pod["volumes"][0]["persistentVolumeClaim"]["claimName"],
        claim["metadata"]["name"]
    );
    // What a worker is given, and what the script takes.
    let worker =
        find(&yaml("ops/kubernetes/base/kiln.yaml"), "Deployment")["spec"]["template"]["spec"]
            .clone();
    let given = names(&container["env"]);
    assert!(
        given.is_superset(&names(&worker["containers"][0]["env"])),
        "{given:?}"
    );
    let script = read("examples/retrain/nightly");
    let settings = given.iter().filter(|name| !name.starts_with("KILN_"));
    for name in settings {
        assert!(script.contains(&format!("${{{name}:-")), "{name}");
    }
    let secret = |pod: &Value| -> Value {
        let volumes = pod["volumes"].as_array().expect("volumes");
        let found = volumes.iter().find(|one| one["name"] == "secrets");
        found.expect("secrets")["secret"].clone()
    };
    assert_eq!(secret(pod), secret(&worker));

    // The image has what is tested.
    let (image, tested) = (read("examples/retrain/Dockerfile"), read("scripts/test"));
    let pinned = image.split_whitespace().filter(|word| word.contains("=="));
    let pinned: Vec<&str> = pinned.collect();
    assert_eq!(pinned.len(), 2);
    for package in pinned {
        assert!(tested.contains(package), "{package}");
    }
    let copied = image.lines().filter_map(|line| line.strip_prefix("COPY "));
    let copied = copied.filter(|line| !line.starts_with("--from"));
    let files: BTreeSet<&str> = copied
        .flat_map(str::split_whitespace)
        .filter(|one| *one != "./")
        .collect();
    assert_eq!(files, BTreeSet::from(["data.sql", "nightly", "retrain.py"]));

    let cron = read("ops/cron/retrain");
    let is_line = |line: &&str| line.starts_with(|c: char| c.is_ascii_digit());
    let lines: Vec<&str> = cron.lines().filter(is_line).collect();
    let [line] = lines.as_slice() else {
        panic!("one line: {lines:?}");
    };
    let fields: Vec<&str> = line.splitn(7, ' ').collect();
    assert!(is_schedule(&fields[..5].join(" ")), "{line}");
    // To cron a percent sign is the end of the line.
    assert!(fields[6].contains("./nightly") && !fields[6].contains('%'));
    let parsed = Command::new("sh").args(["-n", "-c", fields[6]]).status();
    assert!(parsed.expect("sh is installed").success());
    let variables: BTreeMap<&str, &str> = cron
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    assert_eq!(variables.get("SHELL"), Some(&"/bin/sh"));
}
