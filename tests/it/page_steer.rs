//! Steering from the page, in a real browser: schedules with their runs, what one would do, and models' versions, there and back.

use serde_json::{Value, json};

use crate::harness::browser::Browser;
use crate::harness::jobs::text_job;
use crate::harness::stack::Stack;
use crate::harness::worker::Worker;
use crate::harness::{PATIENCE, eventually};
use crate::models::{Shelf, settles_on};
use crate::page::accessible;
use crate::page_fits::fits;
use crate::page_jobs::{click, says};
use crate::warm::{Schedules, on_request, words};

async fn get(worker: &Worker, path: &str) -> Value {
    let (status, body) = worker.get(path).await.expect("an answer");
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).expect("JSON")
}

async fn post(worker: &Worker, path: &str, body: &Value) -> u16 {
    let body = body.to_string();
    let answer = worker.ask("POST", path, &[], body.as_bytes()).await;
    answer.expect("an answer").status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedules_runs_and_what_one_would_do_are_seen_on_the_page() {
    let stack = Stack::shared().await;
    let schedules = Schedules::new();
    schedules.put(
        "words",
        &format!("{}ttl_seconds = 86400\n{}", on_request(), words(40)),
    );
    schedules.put("broken", "cron = \"whenever\"\n");
    let settings = schedules.worker(&stack).expect_trouble();
    let worker = settings.start().await;
    let plan = worker.ask("POST", "/v1/warm/words/plan", &[], b"").await;
    let plan = plan.expect("an answer");
    assert_eq!(plan.status, 200, "{}", plan.body);
    let plan = plan.json();
    assert_eq!(
        (&plan["inputs"], &plan["computes"], &plan["fresh"]),
        (&json!(40), &json!(40), &json!(0)),
        "{plan}"
    );
    assert_eq!(plan["first"].as_array().map(Vec::len), Some(40));
    assert_eq!(post(&worker, "/v1/warm/nobody/plan", &json!({})).await, 404);
    assert_eq!(get(&worker, "/v1/warm/runs").await, json!([]));

    let browser = Browser::open(1280, 900).await;
    let url = format!("http://127.0.0.1:{}/#warming", worker.http_port);
    browser.go(&url).await;
    says(&browser, "#schedule-problems", "broken").await;
    click(&browser, "[data-does='plan words']").await;
    says(&browser, "#plan-facts", "40 inputs in 40 entries").await;
    says(&browser, "#plan-table", "k39").await;
    // It asks once, and says what it did.
    click(&browser, "[data-does='run words']").await;
    click(&browser, "#ask-yes").await;
    says(&browser, "#warm-said", "of words is requested").await;
    says(&browser, "#schedules-table", "done").await;
    click(&browser, "[data-does='plan words']").await;
    says(&browser, "#plan-facts", "0 inputs in 0 entries").await;
    // Its history, with one that failed in it.
    stack
        .execute("INSERT INTO warm_runs (schedule, due_at, state, limit_seconds, ends_at, message, finished_at) VALUES ('words', now() - interval '1 day', 'failed', 60, now(), 'its source doesn''t answer', now()), ('other', now(), 'done', 60, now(), NULL, now())")
        .await;
    click(&browser, "[data-does='history words']").await;
    says(&browser, "#runs-table", "failed: its source doesn't answer").await;
    says(
        &browser,
        "#runs-sum",
        "The last 2 that ended computed 40 inputs",
    )
    .await;
    let failed = "return document.querySelectorAll('#runs-table .failed').length";
    assert_eq!(browser.run(failed).await, 1);
    let runs = get(&worker, "/v1/warm/runs?schedule=words").await;
    assert_eq!(runs.as_array().map(Vec::len), Some(2), "{runs}");
    fits(&browser, "warming").await;
    accessible(&browser).await;
    click(&browser, "[data-does='pause words']").await;
    click(&browser, "#ask-yes").await;
    says(&browser, "#warm-said", "words is paused on all workers").await;
    says(&browser, "#schedules-table", "Resume").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_is_compared_warmed_and_activated_on_the_page_and_left_again() {
    let stack = Stack::shared().await;
    let shelf = Shelf::with(&["1.0.0", "2.0.0"]);
    let settings = stack.worker().models(&[]);
    let worker = settings
        .set("KILN_MODELS_DIR", shelf.path())
        .set("KILN_MODELS__ACTIVE__SENTIMENT", "1.0.0")
        .start()
        .await;
    let texts: Vec<String> = (0..30)
        .map(|n| format!("a nice word, and number {n}"))
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for round in 0..3 {
        let job = text_job(&format!("asks {round}"), "sentiment", &texts);
        stack.bus.answer(&job).await;
    }
    let path = "/v1/models/sentiment/shift?version=2.0.0";
    let shift = eventually("workers say what is hot", PATIENCE, || async {
        let shift = get(&worker, path).await;
        (shift["hot_inputs"] == 30).then_some(shift)
    })
    .await;
    assert_eq!(
        (&shift["from"], &shift["warm_share"], &shift["compared"]),
        (&json!("1.0.0"), &json!(0.0), &json!(0)),
        "{shift}"
    );
    let models = get(&worker, "/v1/models").await;
    let (one, two) = (&models[0], &models[1]);
    for version in [one, two] {
        let (numbers, bytes) = (&version["parameters"], &version["memory_bytes"]);
        let whole = numbers.as_u64().map(|numbers| 4 * numbers);
        assert_eq!(bytes.as_u64(), whole, "{version}");
    }
    assert_eq!(
        (&one["times"]["inputs"], &two["times"]),
        (&json!(30), &Value::Null)
    );
    let ms = |name: &str| one["times"][name].as_f64().expect("a time");
    assert!(
        ms("pass_p50_ms") > 0.0 && ms("pass_p50_ms") <= ms("pass_p99_ms"),
        "{one}"
    );
    assert!(ms("input_p99_ms") <= ms("pass_p99_ms"), "{one}");

    // What isn't there is not switched to.
    for (path, body) in [
        ("/v1/models/sentiment/activate", json!({"version": "3.0.0"})),
        ("/v1/models/nobody/activate", json!({"version": null})),
        ("/v1/models/sentiment/warm", json!({"version": "3.0.0"})),
    ] {
        assert_eq!(post(&worker, path, &body).await, 404, "{path} {body}");
    }
    for body in [json!({"version": null}), json!({"model": "x"}), json!([])] {
        assert_eq!(
            post(&worker, "/v1/models/sentiment/warm", &body).await,
            400,
            "{body}"
        );
    }
    assert_eq!(stack.count("SELECT count(*) FROM active_models").await, 0);

    let browser = Browser::open(1280, 900).await;
    let url = format!("http://127.0.0.1:{}/#models", worker.http_port);
    browser.go(&url).await;
    click(&browser, "[data-does='compare sentiment@2.0.0']").await;
    says(
        &browser,
        "#shift-title",
        "compared with 1.0.0, which serves",
    )
    .await;
    says(&browser, "#shift-facts", "0.0 % of the requests").await;
    click(&browser, "#shift-warm").await;
    click(&browser, "#ask-yes").await;
    says(&browser, "#models-said", "Posted 30 of 30 hot inputs").await;
    says(&browser, "#shift-facts", "100.0 % of the requests").await;
    says(
        &browser,
        "#shift-facts",
        "30 inputs that both versions scored",
    )
    .await;
    says(&browser, "#models-table tbody tr:first-child", "KiB").await;
    says(&browser, "#models-table tbody tr:first-child", "ms").await;
    says(&browser, "#models-note", "within the last 10 minutes").await;
    fits(&browser, "models").await;
    accessible(&browser).await;
    // How far scores move, and which share ends, is shown before, and the way back after.
    stack
        .execute("INSERT INTO model_splits (name, version, millionths) VALUES ('sentiment', '2.0.0', 100000)")
        .await;
    click(&browser, "[data-does='compare sentiment@2.0.0']").await;
    says(&browser, "#shift-facts", "10.0 % go to 2.0.0").await;
    click(&browser, "#shift-activate").await;
    says(&browser, "#ask-more", "To go back, activate 1.0.0").await;
    says(&browser, "#ask-more", "other labels: 0.0 %").await;
    let ends = "This ends the share of sentiment@2.0.0, 10.0 % of the inputs";
    says(&browser, "#ask-more", ends).await;
    click(&browser, "#ask-yes").await;
    says(
        &browser,
        "#models-said",
        "sentiment@2.0.0 is active; before it was 1.0.0. The share of sentiment@2.0.0, 10.0 % of the inputs, has ended.",
    )
    .await;
    assert_eq!(stack.count("SELECT count(*) FROM model_splits").await, 0);
    settles_on(&stack, "2.0.0").await;
    says(&browser, "#models-table", "2.0.0 (active)").await;
    click(&browser, "[data-does='back sentiment@1.0.0']").await;
    click(&browser, "#ask-yes").await;
    says(&browser, "#models-said", "sentiment@1.0.0 is active again").await;
    settles_on(&stack, "1.0.0").await;
    let actions = get(&worker, "/v1/log/actions").await;
    let kinds: Vec<&str> = actions
        .as_array()
        .expect("actions")
        .iter()
        .filter_map(|one| one["detail"].as_str())
        .collect();
    let expected = [
        "sentiment@1.0.0",
        "sentiment@2.0.0",
        "sentiment@2.0.0: 30 inputs to warm it",
    ];
    assert_eq!(kinds, expected);
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}
