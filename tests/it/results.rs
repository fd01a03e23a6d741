//! What a good job gives: the reply, its row, and what readers find in Redis.

use serde_json::{Value, json};

use crate::harness::jobs::text_job;
use crate::harness::stack::Stack;

const FEATURES: usize = 32;

async fn json_at(stack: &Stack, key: &str) -> Value {
    let text: Option<String> = stack.redis.command(&["GET", key]).await;
    let text = text.unwrap_or_else(|| panic!("readers find {key}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{key} is JSON: {error}: {text}"))
}

/// A ranking job of `count` items whose features differ.
fn ranking_job(id: &str, count: usize) -> Value {
    let inputs: Vec<Value> = (0..count)
        .map(|n| {
            let features: Vec<f64> = (0..FEATURES)
                .map(|f| ((n + f * 3) % 257) as f64 / 257.0)
                .collect();
            json!({"key": format!("item:{n}"), "features": features})
        })
        .collect();
    json!({"job_id": id, "model": "feed-ranker", "inputs": inputs})
}

fn score(result: &Value) -> f64 {
    result["score"]
        .as_f64()
        .unwrap_or_else(|| panic!("a score: {result}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_classifiers_reply_and_row_hold_all_that_the_contract_names() {
    let stack = Stack::shared().await;
    let worker = stack.worker().models(&["sentiment"]).start().await;
    let mut job = text_job(
        "golden",
        "sentiment",
        &[
            "I love this, it is wonderful!",
            "terrible, a waste of money",
        ],
    );
    job["inputs"][0]["key"] = json!("review:42");
    job["namespace"] = json!("reviews");
    let reply = stack.bus.answer(&job).await;

    assert_eq!(reply.correlation_id.as_deref(), Some("golden"));
    assert_eq!(reply.content_type.as_deref(), Some("application/json"));
    let body = &reply.body;
    assert_eq!(
        (&body["job_id"], &body["model"], &body["namespace"]),
        (&json!("golden"), &json!("sentiment"), &json!("reviews"))
    );
    assert_eq!((&body["hits"], &body["misses"]), (&json!(0), &json!(2)));
    assert!(body["elapsed_ms"].as_f64() > Some(0.0), "{body}");
    let finished = body["finished_at"].as_str().unwrap_or_default();
    assert!(
        chrono::DateTime::parse_from_rfc3339(finished).is_ok() && finished.ends_with('Z'),
        "{body}"
    );
    assert_eq!(body["results"].as_array().map(Vec::len), Some(2));
    assert_eq!(body["results"][0]["key"], "review:42");
    assert_eq!(
        body["results"][1].get("key"),
        None,
        "no key was given, and none is echoed"
    );
    assert_eq!(
        (&body["results"][0]["label"], &body["results"][1]["label"]),
        (&json!("positive"), &json!("negative"))
    );
    for result in [&body["results"][0], &body["results"][1]] {
        assert_eq!(result["cached"], false);
        assert!(
            (0.5..=1.0).contains(&score(result)),
            "the best of two labels: {result}"
        );
        assert_eq!(result.get("scores"), None, "only with detail");
    }

    let row = stack.row("golden").await;
    assert_eq!(row.status, "ok");
    assert_eq!(
        row.results.as_ref(),
        Some(&body["results"]),
        "the reply's parts are the row's columns"
    );
    assert_eq!(
        (row.model.as_deref(), row.namespace.as_deref()),
        (Some("sentiment"), Some("reviews"))
    );
    assert_eq!(row.version.as_deref(), body["version"].as_str());
    assert_eq!((row.hits, row.misses, row.error), (Some(0), Some(2), None));
    assert!(row.finished_at.is_some());

    assert_eq!(
        worker.metric("kiln_jobs_total", &[("outcome", "ok")]).await,
        1.0
    );
    assert_eq!(
        worker
            .metric("kiln_inputs_total", &[("result", "miss")])
            .await,
        2.0
    );
    assert_eq!(
        worker
            .metric("kiln_inputs_total", &[("result", "hit")])
            .await,
        0.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn detail_gives_every_labels_probability() {
    let stack = Stack::shared().await;
    let _worker = stack.worker().models(&["sentiment"]).start().await;
    let plain = stack
        .bus
        .answer(&text_job("plain", "sentiment", &["I love this"]))
        .await;
    let mut job = text_job("detailed", "sentiment", &["I love this"]);
    job["detail"] = json!(true);
    let result = stack.bus.answer(&job).await.body["results"][0].clone();
    let scores = result["scores"]
        .as_object()
        .unwrap_or_else(|| panic!("scores by label: {result}"));
    let sum: f64 = scores.values().filter_map(Value::as_f64).sum();
    assert!(scores.len() >= 2 && (sum - 1.0).abs() < 1e-3, "{result}");
    let best = result["label"].as_str().unwrap_or_default();
    assert_eq!(
        scores.get(best).and_then(Value::as_f64),
        Some(score(&result))
    );
    assert!(
        scores
            .values()
            .all(|one| one.as_f64() <= Some(score(&result))),
        "{result}"
    );
    assert_eq!(
        score(&result),
        score(&plain.body["results"][0]),
        "detail changes no score"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_input_is_a_hit_with_the_same_score_in_every_process_and_namespace() {
    let stack = Stack::shared().await;
    let first = stack
        .worker()
        .models(&["fault", "feed-ranker"])
        .start()
        .await;
    let cold = stack.bus.answer(&ranking_job("cold", 20)).await;
    assert_eq!(
        (&cold.body["hits"], &cold.body["misses"]),
        (&json!(0), &json!(20))
    );

    let warm = stack.bus.answer(&ranking_job("warm", 30)).await;
    assert_eq!(
        (&warm.body["hits"], &warm.body["misses"]),
        (&json!(20), &json!(10))
    );
    first.stop().await;
    drop(first);

    let second = stack
        .worker()
        .models(&["fault", "feed-ranker"])
        .start()
        .await;
    let mut elsewhere = ranking_job("elsewhere", 30);
    elsewhere["namespace"] = json!("another");
    let shared = stack.bus.answer(&elsewhere).await;
    assert_eq!(
        (&shared.body["hits"], &shared.body["misses"]),
        (&json!(30), &json!(0))
    );
    for (n, result) in shared.body["results"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        assert_eq!(
            (result["cached"].as_bool(), &result["key"]),
            (Some(true), &json!(format!("item:{n}")))
        );
        assert_eq!(
            score(result),
            score(&warm.body["results"][n]),
            "a cached score is the score"
        );
    }
    assert_eq!(
        second
            .metric("kiln_inputs_total", &[("result", "hit")])
            .await,
        30.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_find_named_entries_and_rankings() {
    let stack = Stack::shared().await;
    let _worker = stack.worker().models(&["feed-ranker"]).start().await;
    let mut job = ranking_job("ranked", 40);
    job["namespace"] = json!("feed");
    job["named"] = json!(true);
    job["rank"] = json!({"key": "feed:discover:page:1", "top": 5});
    let reply = stack.bus.answer(&job).await;
    let results = reply.body["results"]
        .as_array()
        .cloned()
        .unwrap_or_default();

    for result in &results {
        let key = result["key"].as_str().unwrap_or_default();
        let entry = json_at(&stack, &format!("kiln:k:feed:{key}")).await;
        assert!(
            (score(&entry) - score(result)).abs() < 1e-6,
            "{entry} {result}"
        );
        assert_eq!(
            (&entry["model"], &entry["version"]),
            (&json!("feed-ranker"), &reply.body["version"])
        );
        assert!(entry["scored_at"].is_string(), "{entry}");
    }

    let ranking = json_at(&stack, "kiln:k:feed:feed:discover:page:1").await;
    let mut expected: Vec<(f64, String)> = results
        .iter()
        .map(|one| {
            (
                score(one),
                one["key"].as_str().unwrap_or_default().to_owned(),
            )
        })
        .collect();
    expected.sort_by(|one, other| other.0.total_cmp(&one.0));
    let items = ranking["items"].as_array().cloned().unwrap_or_default();
    assert_eq!(items.len(), 5, "{ranking}");
    for (item, (best, _)) in items.iter().zip(&expected) {
        assert!((score(item) - best).abs() < 1e-6, "descending: {ranking}");
        let of_item = results.iter().find(|result| result["key"] == item["key"]);
        assert!(
            of_item.is_some_and(|result| (score(result) - score(item)).abs() < 1e-6),
            "its own score: {item}"
        );
    }
    assert_eq!(
        (&ranking["model"], &ranking["version"]),
        (&json!("feed-ranker"), &reply.body["version"])
    );
    assert!(ranking["scored_at"].is_string(), "{ranking}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_named_entry_is_kept_where_none_is_asked_for() {
    let stack = Stack::shared().await;
    let _worker = stack.worker().models(&["feed-ranker"]).start().await;
    stack.bus.answer(&ranking_job("plain", 3)).await;
    assert!(stack.redis.keys("kiln:k:*").await.is_empty());
    assert_eq!(stack.redis.keys("kiln:s:*").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_to_live_are_spread_by_up_to_a_tenth_downwards() {
    let stack = Stack::shared().await;
    let _worker = stack.worker().models(&["feed-ranker"]).start().await;
    let mut job = ranking_job("spread", 100);
    job["named"] = json!(true);
    job["ttl_seconds"] = json!(100_000);
    stack.bus.answer(&job).await;
    for pattern in ["kiln:s:*", "kiln:k:*"] {
        let mut lives: Vec<i64> = Vec::new();
        for key in stack.redis.keys(pattern).await {
            lives.push(stack.redis.at("PTTL", &key, &[]).await);
        }
        // Two minutes of the 100,000 seconds are for a slow machine.
        assert!(
            lives
                .iter()
                .all(|life| (89_880_000..=100_000_000).contains(life)),
            "{pattern}: {lives:?}"
        );
        let spread = lives.iter().max().unwrap_or(&0) - lives.iter().min().unwrap_or(&0);
        assert!(
            spread > 2_000_000,
            "{pattern}: what was written together does not expire together: {spread} ms"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_input_is_skipped_where_the_job_says_so() {
    let stack = Stack::shared().await;
    let _worker = stack.worker().allow("skip").start().await;
    let mut job = text_job("skipping", "fault", &["a text", "", "another text"]);
    job["on_error"] = json!("skip");
    let reply = stack.bus.answer(&job).await;
    let results = &reply.body["results"];
    assert!(
        results[0]["score"].is_number() && results[2]["score"].is_number(),
        "{results}"
    );
    assert!(
        !results[1]["error"].is_null() && results[1]["score"].is_null(),
        "{results}"
    );
    assert!(results[0].get("error").is_none());
    assert_eq!(stack.row("skipping").await.status, "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_input_many_times_is_scored_once() {
    let stack = Stack::shared().await;
    let worker = stack.worker().start().await;
    let jobs: Vec<Value> = (0..50)
        .map(|n| {
            text_job(
                &format!("same-{n}"),
                "fault",
                &["sleep:50 one text", "sleep:50 one text"],
            )
        })
        .collect();
    stack.bus.publish_jobs(&jobs).await;
    let replies = stack.bus.replies(50).await;
    let first = score(&replies[0].body["results"][0]);
    for reply in &replies {
        assert_eq!(
            (
                score(&reply.body["results"][0]),
                score(&reply.body["results"][1])
            ),
            (first, first)
        );
    }
    assert_eq!(
        worker
            .metric("kiln_inputs_total", &[("result", "miss")])
            .await,
        1.0
    );
    assert_eq!(worker.metric("kiln_inputs_total", &[]).await, 100.0);
}
