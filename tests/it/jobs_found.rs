//! Jobs are found over HTTP and by `kiln jobs`: by id and by filters, page by page, in both forms of the table; and one that has not ended is told by
//! where it is.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::bus::JOBS;
use crate::harness::shell::Shell;
use crate::harness::stack::Stack;
use crate::harness::worker::{Answer, Worker};
use crate::harness::{PATIENCE, eventually};

/// Jobs of a fleet: two hundred and fifty thousand, of 20,000 namespaces and two models, one in a thousand of them rejected, ten at each moment.
const FLEET: &str = "\
INSERT INTO jobs (job_id, status, model, version, namespace, hits, misses, results, error, elapsed_ms, body_sha256, finished_at) \
SELECT 'fleet-' || n, CASE WHEN n % 1000 = 0 THEN 'rejected' ELSE 'ok' END, CASE WHEN n % 100 < 99 THEN 'sentiment' ELSE 'ranker' END, '1.0.0', \
  'space' || n % 20000, 1, 2, '[{\"score\":1}]', CASE WHEN n % 1000 = 0 THEN '{\"code\":\"invalid\",\"field\":\"\",\"message\":\"\"}'::jsonb END, 3, \
  '\\x00', timestamptz '2026-11-01T00:00:00Z' + (n / 10) * interval '1 second' FROM generate_series(1, 250000) AS n";

async fn get(worker: &Worker, path: &str) -> Answer {
    let answer = worker.ask("GET", path, &[], b"").await;
    answer.unwrap_or_else(|| panic!("{path}: no answer"))
}

/// All that a query finds, page by page, and how many rows were looked at for it.
async fn all(worker: &Worker, query: &str) -> (Vec<Value>, u64) {
    let (mut found, mut looked_at, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let answer = get(worker, &format!("/v1/jobs?{query}{cursor}")).await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.body);
        let mut page = answer.json();
        let looked = page["looked_at"].as_u64().expect("a number");
        assert!(looked <= 216_000, "{query}: {looked}");
        looked_at += looked;
        found.append(page["jobs"].as_array_mut().expect("jobs"));
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (found, looked_at),
        }
    }
}

fn ids(jobs: &[Value]) -> Vec<&str> {
    let ids = jobs
        .iter()
        .map(|job| job["job_id"].as_str().expect("an id"));
    ids.collect()
}

async fn every_filter_finds_its_jobs(worker: &Worker) {
    let hour = "from=2026-11-01T01:00:00Z&to=2026-11-01T01:05:00Z&limit=100";
    let (jobs, looked_at) = all(worker, hour).await;
    assert_eq!(jobs.len(), 3_000);
    assert!(looked_at < 3_200, "{looked_at} rows for 3,000 jobs");
    let order: Vec<(&str, &str)> = jobs
        .iter()
        .map(|job| {
            (
                job["finished_at"].as_str().expect("a time"),
                job["job_id"].as_str().expect("an id"),
            )
        })
        .collect();
    assert!(
        order.is_sorted_by(|a, b| a > b),
        "the latest first, and none twice"
    );

    let (rejected, looked_at) = all(worker, "status=rejected&limit=500").await;
    assert_eq!(rejected.len(), 250);
    assert!(
        looked_at < 600,
        "{looked_at} rows for 250 that were rejected"
    );
    assert_eq!(
        (&rejected[0]["code"], &rejected[0]["job_id"]),
        (&json!("invalid"), &json!("fleet-250000"))
    );
    assert_eq!(all(worker, "code=invalid&limit=500").await.0.len(), 250);
    assert_eq!(all(worker, "code=expired").await.0.len(), 0);

    let (of_one, _) = all(worker, "namespace=space7&status=ok").await;
    assert_eq!(of_one.len(), 13);
    let (ranked, _) = all(worker, &format!("model=ranker@1.0.0&{hour}")).await;
    assert_eq!(ranked.len(), 30);
    assert_eq!(all(worker, "model=ranker@2&limit=500").await.0.len(), 0);

    let (by_id, looked_at) = all(worker, "id_prefix=fleet-24999&limit=4").await;
    let wanted: Vec<String> = ["".to_owned()]
        .into_iter()
        .chain((0..10).map(|n| n.to_string()))
        .map(|n| format!("fleet-24999{n}"))
        .collect();
    assert_eq!(
        (ids(&by_id), looked_at < 20),
        (wanted.iter().map(String::as_str).collect(), true)
    );
    let (within, _) = all(
        worker,
        &format!("id_prefix=fleet-3&namespace=space36000&{hour}"),
    )
    .await;
    assert_eq!(ids(&within), Vec::<&str>::new());
    let (within, _) = all(
        worker,
        &format!("id_prefix=fleet-36&namespace=space16001&{hour}"),
    )
    .await;
    assert_eq!(ids(&within), ["fleet-36001"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_found_page_by_page_whatever_the_filters_and_the_tables() {
    let stack = Stack::shared().await;
    let worker = stack.worker().models(&["sentiment"]).start().await;
    stack.execute(FLEET).await;
    every_filter_finds_its_jobs(&worker).await;
    let shell = Shell::on(&stack);
    let found = [
        "jobs", "find", "--status", "rejected", "--limit", "3", "--json",
    ];
    let found = shell.kiln(&found).await.with(0).lines();
    assert_eq!(
        ids(&found),
        ["fleet-250000", "fleet-249000", "fleet-248000"]
    );
    let table = shell
        .kiln(&["jobs", "find", "--id-prefix", "fleet-1000", "--limit", "2"])
        .await
        .with(0);
    assert!(
        table.out.contains("sentiment@1.0.0") && table.err.contains("there may be more"),
        "{} {}",
        table.out,
        table.err
    );

    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("status=queued", "status"),
        ("code=bad", "code"),
        ("namespace=No%20Name", "namespace"),
        ("model=", "model"),
        ("id_prefix=", "id_prefix"),
        ("id_prefix=%00", "id_prefix"),
        ("from=yesterday", "from"),
        ("to=0001-01-01T00:00:00Z", "to"),
        ("cursor=zz", "cursor"),
        ("nothing=1", "query"),
    ] {
        let answer = get(&worker, &format!("/v1/jobs?{query}")).await;
        let said = answer.json();
        assert_eq!(
            (answer.status, &said["error"]["field"]),
            (400, &json!(field)),
            "{query}: {said}"
        );
    }
    // A flood of ids and namespaces makes no series.
    let metrics = worker.metrics().await;
    assert!(
        !metrics
            .keys()
            .any(|name| name.contains("space1") || name.contains("fleet-"))
    );

    shell.kiln(&["migrate", "--partition"]).await.with(0);
    stack
        .bus
        .answer(&json!({"job_id": "after", "model": "sentiment", "inputs": [{"text": "fine"}]}))
        .await;
    let (after, _) = all(&worker, "from=2026-11-20T00:00:00Z&model=sentiment").await;
    assert_eq!(ids(&after), ["after"]);
    every_filter_finds_its_jobs(&worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_told_by_where_it_is_and_waited_for() {
    let stack = Stack::shared().await;
    let worker = stack.worker().models(&["sentiment"]).start().await;
    let other = stack.worker().models(&["sentiment"]).start().await;
    let post = async |id: &str, text: &str| {
        let job = json!({"job_id": id, "model": "sentiment", "namespace": "told", "named": true, "inputs": [{"key": "a", "text": text}]});
        let answer = worker
            .ask("POST", "/v1/jobs", &[], job.to_string().as_bytes())
            .await;
        answer.expect("an answer")
    };
    assert_eq!(get(&worker, "/v1/jobs/nobody").await.status, 404);
    assert_eq!(
        get(&worker, "/v1/jobs/nobody/wait?seconds=0").await.status,
        404
    );
    assert_eq!(
        get(&worker, "/v1/jobs/nobody/wait?seconds=31").await.status,
        400
    );

    other.stop().await;
    worker
        .ask("POST", "/v1/intake/pause", &[], b"")
        .await
        .expect("an answer");
    eventually("nobody takes jobs", PATIENCE, || async {
        (stack.bus.consumers(JOBS).await == Some(0)).then_some(())
    })
    .await;
    assert_eq!(post("first", "so fine").await.status, 202);
    let told = get(&worker, "/v1/jobs/first/wait?seconds=1").await;
    assert_eq!(
        (told.status, &told.json()["status"]),
        (202, &json!("queued")),
        "{}",
        told.body
    );
    let held = stack.hold_jobs().await;
    worker
        .ask("POST", "/v1/intake/resume", &[], b"")
        .await
        .expect("an answer");
    eventually("it is in hand", PATIENCE, || async {
        let told = get(&worker, "/v1/jobs/first").await;
        (told.status == 202 && told.json()["status"] == "in_hand").then_some(())
    })
    .await;
    let release = async {
        // It waits by then: two wait for one job.
        eventually("both wait", PATIENCE, || async {
            (stack.count("SELECT count(*) FROM jobs").await == 0).then_some(())
        })
        .await;
        drop(held);
    };
    let (one, two, ()) = tokio::join!(
        get(&worker, "/v1/jobs/first/wait"),
        get(&worker, "/v1/jobs/first/wait?seconds=10"),
        release
    );
    assert_eq!(
        (one.status, two.status),
        (200, 200),
        "{} {}",
        one.body,
        two.body
    );
    assert_eq!(one.json()["results"][0]["key"], "a");
    // With its inputs, where they are stored.
    let with = get(&worker, "/v1/jobs/first?inputs=true").await.json();
    assert_eq!(with["inputs"][0]["text"], "so fine", "{with}");
    assert_eq!(
        get(&worker, "/v1/jobs/first").await.json().get("inputs"),
        None
    );

    // The same again is taken, another body under its id isn't.
    assert_eq!(post("first", "so fine").await.status, 202);
    let conflict = post("first", "not so fine").await;
    assert_eq!(
        (conflict.status, &conflict.json()["error"]["code"]),
        (409, &json!("conflict"))
    );
    // One that was rejected may be posted again, better.
    stack
        .bus
        .publish_jobs(&[json!({"job_id": "second", "model": "nobody", "inputs": [{"text": "x"}]})])
        .await;
    let rejected = get(&worker, "/v1/jobs/second/wait").await.json();
    assert_eq!(
        (&rejected["status"], &rejected["error"]["code"]),
        (&json!("rejected"), &json!("unknown_model"))
    );
    assert_eq!(post("second", "fine").await.status, 202);

    let shell = Shell::on(&stack);
    let shown = shell.kiln(&["jobs", "show", "first"]).await.with(0);
    assert!(
        shown.out.contains("so fine") && shown.out.contains("sentiment@1.0.0"),
        "{}",
        shown.out
    );
    shell.kiln(&["jobs", "show", "nobody"]).await.with(1);
    let waited = shell
        .kiln(&["jobs", "wait", "first", "--json"])
        .await
        .with(0);
    assert_eq!(waited.lines()[0]["job_id"], "first");
    shell
        .kiln(&["jobs", "wait", "first", "nobody", "--timeout", "1s"])
        .await
        .with(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_wait_ask_the_database_together() {
    let stack = Stack::shared().await;
    let worker = stack.worker().models(&["sentiment"]).start().await;
    let asked = "SELECT sum(calls)::int8 FROM (SELECT xact_commit AS calls FROM pg_stat_database WHERE datname = current_database()) AS stats";
    let before = stack.count(asked).await;
    let paths: Vec<String> = (0..200)
        .map(|n| format!("/v1/jobs/nobody-{n}/wait?seconds=4"))
        .collect();
    let waits = paths.iter().map(|path| get(&worker, path));
    let job =
        json!({"job_id": "nobody-7", "model": "sentiment", "inputs": [{"text": "after all"}]});
    let (answers, ()) = tokio::join!(
        join_all(waits),
        stack.bus.publish_jobs(std::slice::from_ref(&job))
    );
    let statuses: BTreeSet<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, BTreeSet::from([200, 404]));
    assert_eq!(answers[7].status, 200);
    // Each looks once at first; then it is a question for all, some times a second. One for each of them would be a thousand.
    let questions = stack.count(asked).await - before;
    assert!(questions < 500, "{questions} transactions");
}
