//! What is in Redis is measured: what is right is said to be, and a corruption of each kind is found.

use serde_json::{Value, json};

use crate::harness::shell::Shell;
use crate::harness::stack::Stack;
use crate::harness::worker::{copy_folder, model_folder};
use crate::harness::{PATIENCE, eventually, sandbox};

fn job() -> Value {
    let inputs: Vec<Value> = ["a", "b", "c", "d", "e"]
        .iter()
        .map(|key| json!({"key": key, "text": format!("a nice text of {key}")}))
        .collect();
    json!({"job_id": "named", "model": "sentiment", "namespace": "shop", "inputs": inputs, "named": true, "rank": {"key": "page"}})
}

/// The counts of one kind in the jobs' namespace.
fn counts<'a>(report: &'a Value, kind: &str) -> &'a Value {
    let rows = report["rows"].as_array().expect("rows");
    let row = rows
        .iter()
        .find(|row| row["kind"] == kind && row["namespace"] == "shop");
    &row.unwrap_or_else(|| panic!("no {kind}: {report}"))["counts"]
}

fn named(key: &str) -> String {
    format!("kiln:k:shop:{key}")
}

/// Changes what readers find under a key.
async fn change(stack: &Stack, key: &str, change: impl FnOnce(&mut Value)) {
    let mut value = stack.redis.json(&named(key)).await.expect("an entry");
    change(&mut value);
    let set = ["SET", &named(key), &value.to_string(), "KEEPTTL"];
    let _: String = stack.redis.command(&set).await;
}

fn shell(stack: &Stack, models: &std::path::Path) -> Shell {
    Shell::on(stack)
        .set("KILN_MODELS_DIR", models.to_str().expect("a path"))
        .set("KILN_NAMESPACES__SHOP__MAX_AGE_SECONDS", "600")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corruption_of_each_kind_is_found_and_what_is_right_is_said_to_be() {
    let stack = Stack::shared().await;
    let worker = stack.worker().models(&["sentiment"]).start().await;
    stack.bus.answer(&job()).await;
    let models = sandbox::folder("models");
    copy_folder(&model_folder("sentiment"), &models.join("sentiment"));
    let shell = shell(&stack, &models);
    let audit = ["audit", "--namespace", "shop", "--json"];

    let clean = shell.kiln(&audit).await.with(0).lines().remove(0);
    let (names, scores) = (counts(&clean, "entry"), counts(&clean, "score"));
    for counts in [names, scores] {
        let seen = (&counts["sampled"], &counts["right"], &counts["wrong"]);
        assert_eq!(seen, (&json!(5), &json!(5), &json!(0)), "{clean}");
    }
    assert_eq!(counts(&clean, "ranking")["right"], 1, "{clean}");
    assert_eq!(
        (&clean["consistency"], &clean["in_time"]),
        (&json!(1.0), &json!(1.0))
    );

    // Readers find another score; no JSON; what is too old; what has no row; a ranking out of order.
    change(&stack, "a", |value| value["score"] = json!(0.25)).await;
    let _: String = stack.redis.command(&["SET", &named("b"), "garbage"]).await;
    change(&stack, "c", |value| {
        value["scored_at"] = json!("2020-01-01T00:00:00.000Z")
    })
    .await;
    stack.execute("DELETE FROM served WHERE key = 'd'").await;
    change(&stack, "page", |value| {
        value["items"].as_array_mut().expect("items").reverse();
    })
    .await;
    // An entry that isn't its key's, one without a row, and one whose row says otherwise.
    let entries = stack.redis.keys("kiln:s:*").await;
    let _: i64 = stack.redis.at("SETRANGE", &entries[0], &["4", "x"]).await;
    let hash = |entry: &Vec<u8>| hex::encode(&entry[entry.len() - 32..]);
    let (gone, other) = (hash(&entries[1]), hash(&entries[2]));
    stack.count(&format!("WITH gone AS (DELETE FROM scores WHERE input_sha256 = '\\x{gone}' RETURNING 1) SELECT count(*) FROM gone")).await;
    stack.count(&format!("WITH other AS (UPDATE scores SET outputs = NULL, score = 0.1, text = NULL WHERE input_sha256 = '\\x{other}' RETURNING 1) SELECT count(*) FROM other")).await;

    // Nobody knows the namespace of an entry without a row: it counts under its model's name.
    let all = ["audit", "--json"];
    let report = shell.kiln(&all).await.with(3).lines().remove(0);
    let names = counts(&report, "entry");
    assert_eq!(
        (&names["too_old"], &report["missed"]),
        (&json!(1), &json!(["shop"])),
        "{report}"
    );
    assert!(
        names["wrong"].as_u64() >= Some(2) && names["without_row"].as_u64() >= Some(1),
        "{report}"
    );
    assert_eq!(counts(&report, "ranking")["wrong"], 1, "{report}");
    let scores = counts(&report, "score");
    assert!(scores["wrong"].as_u64() >= Some(1), "{report}");
    assert!(report["consistency"].as_f64() < Some(0.8), "{report}");
    let reasons: Vec<&str> = report["examples"]
        .as_array()
        .expect("examples")
        .iter()
        .map(|one| one["why"].as_str().expect("a reason"))
        .collect();
    for reason in [
        "it isn't what Kiln writes",
        "its latest row in served says otherwise",
        "no row in served",
        "no row in scores",
        "it isn't an entry of its key",
        "its row in scores says otherwise",
    ] {
        assert!(reasons.contains(&reason), "{reason}: {report}");
    }
    let table = shell.kiln(&["audit", "--namespace", "shop"]).await.with(3);
    assert!(
        table.out.contains("measured consistency") && table.out.contains("misses its objective"),
        "{}",
        table.out
    );

    // Another version is active now; and then the one that scored is gone.
    let old = std::fs::read_dir(models.join("sentiment"))
        .expect("a folder")
        .next();
    let old = old.expect("a version").expect("a folder").path();
    copy_folder(&old, &models.join("sentiment").join("9.0.0"));
    let newer = shell.kiln(&audit).await.with(3).lines().remove(0);
    assert!(
        counts(&newer, "entry")["other_version"].as_u64() >= Some(3),
        "{newer}"
    );
    std::fs::remove_dir_all(&old).expect("removed");
    let gone = shell.kiln(&audit).await.with(3).lines().remove(0);
    assert!(
        gone["all"]["version_not_here"].as_u64() >= Some(3),
        "{gone}"
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_audits_beside_its_jobs_and_counts_what_it_finds() {
    let stack = Stack::shared().await;
    let worker = stack
        .worker()
        .models(&["sentiment"])
        .set("KILN_AUDIT__INTERVAL_SECONDS", "1")
        .set("KILN_AUDIT__SHARE", "0.02")
        .set("KILN_NAMESPACES__SHOP__MAX_AGE_SECONDS", "600")
        .start()
        .await;
    stack.bus.answer(&job()).await;
    let counted = |finding: &'static str| {
        let worker = &worker;
        async move {
            let labels = [("namespace", "shop"), ("finding", finding)];
            worker.metric("kiln_audit_findings_total", &labels).await
        }
    };
    eventually("the audit finds all of it right", PATIENCE, || async {
        (counted("right").await >= 11.0 && counted("in_time").await >= 6.0).then_some(())
    })
    .await;
    assert_eq!(
        (counted("wrong").await, counted("without_row").await),
        (0.0, 0.0)
    );
    change(&stack, "a", |value| value["score"] = json!(0.25)).await;
    eventually("the audit finds what is wrong", PATIENCE, || async {
        (counted("wrong").await >= 1.0).then_some(())
    })
    .await;
    let objective = worker.metric("kiln_max_age_objective_ratio", &[("namespace", "shop")]);
    assert_eq!(objective.await, 0.999);
}
