//! What readers find under a name is explained, with its history; and jobs that name nothing leave none.

use serde_json::{Value, json};

use crate::harness::jobs::text_job;
use crate::harness::shell::Shell;
use crate::harness::stack::Stack;

/// A key of characters that paths and shells have meanings for.
const KEY: &str = "item/7 ?é%";
const PATH: &str = "/v1/keys/shop/item%2F7%20%3F%C3%A9%25";

fn naming(id: &str, inputs: Value) -> Value {
    json!({"job_id": id, "model": "sentiment", "namespace": "shop", "inputs": inputs, "named": true})
}

fn said(explained: &Value) -> Vec<(&str, &str, bool)> {
    let rows = explained["history"].as_array().expect("rows").iter();
    rows.map(|row| {
        (
            row["job_id"].as_str().expect("an id"),
            row["label"].as_str().unwrap_or("a ranking"),
            row["is_now"] == true,
        )
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_explained_with_everything_that_was_served_under_it() {
    let stack = Stack::shared().await;
    let settings = stack.worker().models(&["sentiment"]);
    let worker = settings
        .set("KILN_CACHE__GRACE_SECONDS", "600")
        .start()
        .await;
    let shell = Shell::on(&stack).set("KILN_CACHE__GRACE_SECONDS", "600");
    let (good, bad) = ("I love this", "I hate this");
    let first = naming("first", json!([{"key": KEY, "text": good}]));
    stack.bus.answer(&first).await;
    // Renewals say the same; so does the repeat.
    stack
        .bus
        .answer(&naming("renewal", json!([{"key": KEY, "text": good}])))
        .await;
    let mut ranking = naming(
        "second",
        json!([{"key": KEY, "text": bad}, {"key": "other", "text": good}]),
    );
    ranking["rank"] = json!({"key": "page:1", "top": 1});
    stack.bus.answer(&ranking).await;
    stack.bus.answer(&ranking).await;
    stack
        .bus
        .answer(&text_job("nameless", "sentiment", &["x", "y"]))
        .await;
    assert_eq!(stack.count("SELECT count(*) FROM served").await, 4);

    let asked = worker.get(PATH).await.expect("an answer");
    assert_eq!(asked.0, 200, "{}", asked.1);
    let explained: Value = serde_json::from_str(&asked.1).expect("JSON");
    let history = said(&explained);
    assert_eq!(history.len(), 2, "{explained}");
    assert_eq!((history[0].0, history[0].1), ("second", "negative"));
    assert_eq!(history[1], ("first", "positive", false));
    let rows = &explained["history"];
    assert_eq!(
        (&rows[0]["until"], &rows[1]["until"]),
        (&json!(null), &rows[0]["from"])
    );
    assert_eq!(rows[0]["input_sha256"], explained["input"]["input_sha256"]);
    assert_eq!(explained["input"]["text"], "i hate this");
    let now = &explained["now"];
    assert_eq!(
        (&now["state"], &now["version"]),
        (&json!("entry"), &rows[0]["version"])
    );
    let ttl = now["ttl_ms"].as_u64().expect("a TTL");
    assert!(ttl > 3_000_000 && now["grace_ms"] == 600_000, "{now}");
    assert!(
        explained["unknown"].as_array().is_some_and(Vec::is_empty),
        "{explained}"
    );

    // The command says the same; a ranking has its items.
    let command = shell
        .kiln(&["explain", "shop", KEY, "--json"])
        .await
        .with(0);
    assert_eq!(said(&command.lines()[0]), history);
    let page = shell
        .kiln(&["explain", "shop", "page:1", "--json"])
        .await
        .with(0);
    let page = page.lines().remove(0);
    assert_eq!(
        (&page["now"]["state"], said(&page)[0].1),
        (&json!("ranking"), "a ranking")
    );
    assert_eq!(page["history"][0]["items"], page["now"]["value"]["items"]);
    let shown = shell.kiln(&["explain", "shop", "page:1"]).await.with(0);
    assert!(
        shown.out.contains(&format!("{KEY} 0.")) && shown.out.contains("second"),
        "{}",
        shown.out
    );

    // Nothing is known.
    let nobody = shell.kiln(&["explain", "shop", "nobody"]).await.with(1);
    assert!(nobody.err.contains("nothing is known"), "{}", nobody.err);
    let nobody = worker.get("/v1/keys/shop/nobody").await.expect("an answer");
    assert_eq!(nobody.0, 404, "{}", nobody.1);

    // What is gone from Redis has its history still, and the latest row of each name is never pruned.
    let _: i64 = stack
        .redis
        .command(&["DEL", &format!("kiln:k:shop:{KEY}")])
        .await;
    let gone = shell
        .kiln(&["explain", "shop", KEY, "--json"])
        .await
        .with(0);
    assert_eq!(gone.lines()[0]["now"]["state"], "absent");
    assert!(!said(&gone.lines()[0])[0].2);
    let pruned = shell
        .kiln(&["prune", "--older-than", "0s", "--json"])
        .await
        .with(0);
    assert_eq!(pruned.lines()[0]["served"], 1);
    assert_eq!(stack.count("SELECT count(*) FROM served").await, 3);
    let kept = shell
        .kiln(&["explain", "shop", KEY, "--json"])
        .await
        .with(0);
    assert_eq!(said(&kept.lines()[0]), [("second", "negative", false)]);
}
