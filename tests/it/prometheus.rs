//! What Prometheus and Grafana are given fits what a worker says: rules hold their own tests, and every query finds something.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::jobs::text_job;
use crate::harness::stack::Stack;
use crate::harness::worker::copy_folder;
use crate::harness::{PATIENCE, eventually, sandbox};
use crate::shadow::two_versions;
use crate::warm::Schedules;

fn ops(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("ops").join(path)
}

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(ops("prometheus"))
        .output()
        .expect("promtool is installed");
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&said)
    );
}

fn read(path: &str) -> String {
    fs::read_to_string(ops(path)).expect("a file")
}

/// What stands behind `key: ` in a YAML file of one such line each.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let behind = |line: &'a str| {
        let line = line.trim_start();
        line.strip_prefix("- ")
            .unwrap_or(line)
            .strip_prefix(key)?
            .strip_prefix(": ")
    };
    text.lines().filter_map(behind).collect()
}

/// Every panel's title and query, and every mark's.
fn panels() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for entry in fs::read_dir(ops("grafana/dashboards")).expect("a folder") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a file");
        let dashboard: Value = serde_json::from_str(&text).expect("JSON");
        let marks = dashboard["annotations"]["list"].as_array().expect("marks");
        for mark in marks {
            let title = format!("{}: {}", dashboard["title"], mark["name"]);
            queries.push((title, mark["expr"].as_str().expect("a query").to_owned()));
        }
        for panel in dashboard["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().expect("targets") {
                let title = format!("{}: {}", dashboard["title"], panel["title"]);
                let query = target["expr"].as_str().expect("a query");
                queries.push((title, query.to_owned()));
            }
        }
    }
    queries
}

/// The names of Kiln's metrics that a query holds, without those that rules record.
fn metrics(query: &str) -> BTreeSet<String> {
    let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    words
        .filter(|word| word.starts_with("kiln_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn rules_are_sound_and_each_alert_fires_when_it_should_and_is_in_the_runbook() {
    promtool(&["check", "rules", "recording.yml", "alerts.yml"]);
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["test", "rules", "tests.yml"]);
    let (alerts, tests, runbook) = (
        read("prometheus/alerts.yml"),
        read("prometheus/tests.yml"),
        read("runbook.md"),
    );
    let names = values(&alerts, "alert");
    assert!(names.len() > 15);
    for name in names {
        assert!(
            tests.contains(&format!("alertname: {name}\n")),
            "{name} has no test"
        );
        assert!(
            runbook.contains(&format!("\n## {name}\n")),
            "{name} isn't in the runbook"
        );
        let anchor = format!("runbook_url: ops/runbook.md#{}", name.to_lowercase());
        assert!(alerts.contains(&anchor), "{name} doesn't lead there");
    }
}

/// The shipped classifier in a folder, with a word on its training.
fn trained(models: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/sentiment/1.0.0");
    let folder = models.join("sentiment/1.0.0");
    copy_folder(&source, &folder);
    let file = folder.join("manifest.toml");
    let mut manifest = fs::read_to_string(&file).expect("the manifest");
    manifest += "\n[training]\nfrom = \"2026-10-28T00:00:00Z\"\nto = \"2026-11-27T00:00:00Z\"\nrows = 9\ntraining_seconds = 1.5\nevaluation_seconds = 0.5\nmetrics = { accuracy = 0.75 }\n";
    fs::write(file, manifest).expect("a manifest");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_of_the_dashboards_and_rules_finds_something() {
    let stack = Stack::shared().await;
    // A table that a schedule follows.
    stack
        .execute("CREATE TABLE followed (id bigint, said text)")
        .await;
    let schedules = Schedules::new();
    schedules.put(
        "followed",
        "model = \"sentiment\"\n[source]\nkind = \"changes\"\ndatabase = \"kiln\"\ntable = \"followed\"\nposition = \"id\"\nkey = \"id\"\ntext = \"said\"\n",
    );
    // One whose runs end.
    schedules.put(
        "listed",
        "cron = \"* * * * * *\"\nmodel = \"sentiment\"\n[source]\nkind = \"static\"\ninputs = [{ key = \"a\", text = \"nice\" }]\n",
    );
    let models = two_versions();
    trained(&models);
    let worker = schedules
        .worker(&stack)
        .set("KILN_NAMESPACES__SENTIMENT__MAX_STALENESS_SECONDS", "5")
        // A lane that the settings name has queues.
        .set("KILN_LANES__SENTIMENT__QUEUES", "2")
        .set("KILN_QUEUES__SHARDS", "2")
        // A version in the shadow of another.
        .models(&[])
        .set("KILN_MODELS_DIR", models.to_str().expect("a plain path"))
        .set("KILN_MODELS__ACTIVE__SENTIMENT", "1.0.0")
        .set("KILN_MODELS__SHADOW__SENTIMENT__VERSION", "2.0.0")
        .set("KILN_MODELS__SHADOW__SENTIMENT__SHARE", "1.0")
        // An objective, and an audit that measures it.
        .set("KILN_AUDIT__INTERVAL_SECONDS", "1")
        .set("KILN_NAMESPACES__SENTIMENT__MAX_AGE_SECONDS", "600")
        // Callbacks, of which none waits.
        .set("KILN_CALLBACKS__HOSTS", "[\"hooks.example\"]")
        .set(
            "KILN_CALLBACKS__SECRET",
            "a secret of thirty-two characters",
        )
        .expect_trouble()
        .start()
        .await;
    // Another version is chosen, and the first one again.
    let active = [
        "INSERT INTO active_models (name, version) VALUES ('sentiment', '2.0.0')",
        "DELETE FROM active_models",
    ];
    for (change, version) in active.into_iter().zip(["2.0.0", "1.0.0"]) {
        stack.execute(change).await;
        let labels = [("model", "sentiment"), ("version", version)];
        eventually("the version is in use", PATIENCE, async || {
            let at = worker.metric("kiln_model_activated_timestamp_seconds", &labels);
            (at.await > 0.0).then_some(())
        })
        .await;
    }
    // It answers some inputs as well.
    let split = "INSERT INTO model_splits VALUES ('sentiment', '2.0.0', 500000)";
    stack.execute(split).await;
    let port = sandbox::free_port();
    let folder = sandbox::folder("prometheus");
    // The second job is a node of a cluster, as far as its exporter's answering goes.
    let target = format!("127.0.0.1:{}", worker.http_port);
    let scrapes = ["kiln", "rabbitmq"]
        .map(|job| json!({"job_name": job, "static_configs": [{"targets": [&target]}]}));
    let config = json!({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [ops("prometheus/recording.yml"), ops("prometheus/alerts.yml")],
        "scrape_configs": scrapes,
    });
    fs::write(folder.join("prometheus.yml"), config.to_string()).expect("a file");
    let mut prometheus = Command::new("prometheus")
        .arg(format!(
            "--config.file={}",
            folder.join("prometheus.yml").display()
        ))
        .arg(format!(
            "--storage.tsdb.path={}",
            folder.join("data").display()
        ))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("prometheus is installed");
    let ask = async |path: String| {
        let answer = crate::harness::worker::ask(port, "GET", &path, &[], b"").await?;
        let body: Value = serde_json::from_str(&answer.body).ok()?;
        (answer.status == 200 && body["status"] == "success").then(|| body["data"].clone())
    };
    let encode =
        |text: &str| -> String { text.bytes().map(|byte| format!("%{byte:02X}")).collect() };
    // Some of everything: good and bad jobs, named entries, hints.
    let began = Instant::now();
    let mut round = 0;
    let mut left: Vec<(String, String)> = panels();
    left.extend(
        values(&read("prometheus/recording.yml"), "expr")
            .into_iter()
            .map(|q| ("a rule".to_owned(), q.to_owned())),
    );
    assert!(left.len() > 50);
    eventually(
        "every query has found something",
        2 * PATIENCE,
        async || {
            round += 1;
            let (good, bad) = (format!("good {round}"), format!("bad {round}"));
            let mut named = text_job(&good, "sentiment", &["nice", &good]);
            named["named"] = json!(true);
            named["inputs"][0]["key"] = json!("a");
            stack.bus.publish_job(&named).await;
            stack
                .bus
                .publish_job(&text_job(&bad, "nobody", &["nice"]))
                .await;
            stack
                .execute("INSERT INTO followed SELECT count(*), 'nice' FROM followed")
                .await;
            let hint = b"{\"namespace\": \"sentiment\", \"keys\": [\"a\"]}";
            worker.ask("POST", "/v1/hits", &[], hint).await?;
            let mut empty = Vec::new();
            for (title, query) in std::mem::take(&mut left) {
                let query_ = query
                    .replace("$instance", ".*")
                    .replace("$__rate_interval", "1m")
                    .replace("[6h]", "[1m]");
                let data = ask(format!("/api/v1/query?query={}", encode(&query_))).await;
                let result = data
                    .and_then(|data| data["result"].as_array().cloned())
                    .unwrap_or_default();
                // A share of nothing is no figure.
                let found = result
                    .iter()
                    .any(|one| one["value"][1].as_str().is_some_and(|v| v != "NaN"));
                if !found {
                    empty.push((title, query));
                }
            }
            left = empty;
            if !left.is_empty() && began.elapsed() > PATIENCE {
                panic!("these find nothing: {left:#?}");
            }
            left.is_empty().then_some(())
        },
    )
    .await;
    for query in values(&read("prometheus/alerts.yml"), "expr") {
        for metric in metrics(query) {
            let data = ask(format!("/api/v1/query?query={}", encode(&metric)))
                .await
                .expect("an answer");
            let count = data["result"].as_array().map_or(0, Vec::len);
            assert!(count > 0, "{metric} of {query} isn't there");
        }
    }
    // It has asked for OpenMetrics, which alone tells units, and could read all of it.
    let told = "/api/v1/targets/metadata?metric=kiln_job_duration_seconds&limit=1";
    let told = ask(told.into()).await.expect("an answer");
    assert_eq!(told[0]["unit"], "seconds", "{told}");
    let rules = ask("/api/v1/rules".into()).await.expect("an answer");
    for rule in rules["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|g| g["rules"].as_array().cloned().unwrap_or_default())
    {
        assert_ne!(rule["health"], "err", "{rule}");
    }
    let _gone_too = prometheus.kill();
    let _status = prometheus.wait();
}
