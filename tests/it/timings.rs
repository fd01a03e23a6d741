//! Why it is slow: what took how long on every worker of the last day, over the API and on the page.

use serde_json::{Value, json};

use crate::harness::browser::Browser;
use crate::harness::stack::Stack;
use crate::harness::worker::Worker;
use crate::page::accessible;
use crate::page_fits::fits;
use crate::page_jobs::{click, says};

async fn timings(worker: &Worker, hours: u32) -> Value {
    let path = format!("/v1/timings?hours={hours}");
    let (status, body) = worker.get(&path).await.expect("an answer");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

fn part<'a>(shown: &'a Value, kind: &str, name: &str) -> Option<&'a Value> {
    let parts = shown["parts"].as_array().expect("parts");
    parts
        .iter()
        .find(|part| part["kind"] == kind && part["name"] == name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_took_how_long_outlives_its_worker_and_any_worker_tells_it() {
    let stack = Stack::shared().await;
    let first = stack.worker().models(&["sentiment"]).start().await;
    let jobs: Vec<Value> = (0..30)
        .map(|n| json!({"job_id": format!("slow-{n}"), "model": "sentiment", "inputs": [{"text": format!("text {n}")}]}))
        .collect();
    stack.bus.publish_jobs(&jobs).await;
    stack.wait_for_rows(30).await;
    // What is older than a day goes, and so does what a clock that was ahead has left.
    stack
        .execute("INSERT INTO timings SELECT now() + s * interval '26 hours', 'old', now(), '[]'::jsonb FROM unnest(ARRAY[-1, 1]) AS s")
        .await;
    first.stop().await;
    let old = "SELECT count(*) FROM timings WHERE worker = 'old'";
    assert_eq!(stack.count(old).await, 0);
    assert_eq!(stack.count("SELECT count(*) FROM timings").await, 1);

    let second = stack.worker().models(&["sentiment"]).start().await;
    let shown = timings(&second, 1).await;
    assert_eq!(shown["steps"].as_array().map(Vec::len), Some(12));
    let jobs = part(&shown, "job", "jobs").expect("jobs");
    assert_eq!(jobs["calls"], 30, "{jobs}");
    assert!(jobs["p99_ms"].as_f64() > Some(0.0), "{jobs}");
    let by_step = jobs["calls_by_step"].as_array().expect("steps");
    let sum: u64 = by_step.iter().filter_map(Value::as_u64).sum();
    assert_eq!(sum, 30, "{jobs}");
    for (kind, name) in [
        ("stage", "parse"),
        ("stage", "look_up"),
        ("stage", "score"),
        ("stage", "store"),
        ("stage", "settle"),
        ("model", "sentiment"),
        ("server", "postgres"),
        ("server", "redis get"),
        ("server", "redis set"),
        ("server", "broker reply"),
    ] {
        let part = part(&shown, kind, name);
        let part = part.unwrap_or_else(|| panic!("{kind} {name}: {shown}"));
        assert!(part["seconds"].as_f64() >= Some(0.0), "{part}");
        assert!(part["calls"].as_u64() > Some(0), "{part}");
    }
    assert_eq!(shown["verdict"]["rose"], false);
    for odd in ["2", "0", "x", "1&minutes=3"] {
        let (status, body) = second
            .get(&format!("/v1/timings?hours={odd}"))
            .await
            .expect("an answer");
        assert_eq!(status, 400, "{body}");
    }

    // A flood of workers and names, and rows that say nothing, change neither the answer's size nor its end.
    stack
        .execute(
            "INSERT INTO timings SELECT now() - interval '2 hours', 'flood' || n, now(),
             jsonb_build_array(jsonb_build_object('kind', 'model', 'name', 'm' || n, 'calls', 1, 'seconds', 1, 'buckets', '[[0.01, 1]]'::jsonb),
                               jsonb_build_object('kind', 'job', 'name', 'jobs', 'calls', 1, 'seconds', 1, 'buckets', '[[0.01, 1]]'::jsonb))
             FROM generate_series(1, 20000) AS n",
        )
        .await;
    stack
        .execute(
            "INSERT INTO timings VALUES (now() - interval '2 hours', 'odd', now(), '{\"a\": [1]}')",
        )
        .await;
    let day = timings(&second, 24).await;
    assert_eq!(day["steps"].as_array().map(Vec::len), Some(96));
    assert_eq!(part(&day, "job", "jobs").expect("jobs")["calls"], 20_030);
    let parts = day["parts"].as_array().expect("parts");
    assert!(parts.len() < 160, "{} parts", parts.len());
    // Of the models that took longest each has its own part, and the others together lose no call.
    let models = parts.iter().filter(|part| part["kind"] == "model");
    let (others, own): (Vec<&Value>, Vec<&Value>) =
        models.partition(|part| part["name"] == "(others)");
    let calls = |part: &&Value| part["calls"].as_u64().expect("calls");
    assert_eq!(others.len(), 1, "{day}");
    assert!((32..=64).contains(&own.len()), "{} models", own.len());
    let (others, own) = (calls(&others[0]), own.iter().map(calls).sum::<u64>());
    let before = part(&shown, "model", "sentiment").map_or(0, |part| calls(&part));
    assert!(others + own >= 20_000 + before, "{others} + {own}");
    assert!(others > 19_000, "{others}");
    second.stop().await;
}

/// An hour of two workers, of which one waits for its database lately.
pub(crate) const AN_HOUR: &str = "\
INSERT INTO timings (slot, worker, started_at, parts)
SELECT to_timestamp(300 * floor(extract(epoch FROM now()) / 300)) - n * interval '5 minutes', w, now() - interval '3 hours', (
  SELECT jsonb_agg(jsonb_build_object('kind', k, 'name', p, 'calls', 100, 'seconds', 100 * s, 'buckets', jsonb_build_array(jsonb_build_array(s, 100))))
  FROM (VALUES ('job', 'jobs', 0.5), ('stage', 'score', 0.025), ('stage', 'store', 0.5), ('model', 'sentiment', 0.025), ('server', 'postgres', 0.5), ('server', 'redis set', 0.001)) AS t(k, p, slow),
  LATERAL (SELECT CASE WHEN slow = 0.5 AND NOT (n < 3 AND w = 'slow:2') THEN 0.05 ELSE slow END AS s) AS u)
FROM generate_series(0, 11) AS n, unnest(ARRAY['swift:1', 'slow:2']) AS w";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_p99_that_rose_has_its_culprit_in_two_clicks() {
    let stack = Stack::shared().await;
    let worker = stack.worker().models(&["sentiment"]).start().await;
    stack.execute(AN_HOUR).await;
    let browser = Browser::open(1280, 900).await;
    let url = format!("http://127.0.0.1:{}/", worker.http_port);
    browser.go(&url).await;
    // One click, and it is said.
    click(&browser, "dt a[href='#slow']").await;
    says(&browser, "#slow-said", "The p99 of jobs rose from").await;
    let said = browser.text("#slow-said").await;
    for words in [
        "stage store",
        "within it, server postgres",
        "One worker is slower than all others: worker slow:2",
    ] {
        assert!(said.contains(words), "{said}");
    }
    // The culprit is the first of its table; another click shows it beside the jobs.
    let first = "return document.querySelector('#slow-server tbody th button').innerText";
    assert_eq!(browser.run(first).await, "postgres");
    click(&browser, "[data-does='time server postgres']").await;
    says(&browser, "#c-slow-now", "server postgres, p99").await;
    let pressed = "return document.querySelector(\"[data-does='time server postgres']\").getAttribute('aria-pressed')";
    assert_eq!(browser.run(pressed).await, "true");
    fits(&browser, "slow").await;
    accessible(&browser).await;

    // A time of the past, by the keyboard, and back to all of it.
    for _ in 0..5 {
        browser
            .run("document.querySelector('#slow-earlier').focus()")
            .await;
        browser.press("\u{E007}").await;
    }
    says(&browser, "#slow-step", "5 minutes after it").await;
    says(&browser, "#slow-server thead", "p99 then").await;
    let then = browser.text("#slow-server tbody tr:first-child").await;
    assert!(
        then.contains("200"),
        "both workers' calls of one step: {then}"
    );
    click(&browser, "#slow-all").await;
    says(&browser, "#slow-server thead", "p99 lately").await;

    // Six hours, and times in UTC.
    click(&browser, "#slow-range [value='6']").await;
    click(&browser, "#zone").await;
    says(&browser, "#c-slow-now", "UTC on").await;
    says(&browser, "#slow-said", "server postgres").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}
