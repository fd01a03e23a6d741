//! Whose jobs a key sees: its own, or everybody's with the scope `read:all`; wherever the jobs are, and however they ended.

use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::bus::{JOBS, asking_reply};
use crate::harness::shell::Shell;
use crate::harness::stack::Stack;
use crate::harness::worker::{Answer, Settings, Worker};
use crate::harness::{PATIENCE, eventually, eventually_equals};

async fn ask(worker: &Worker, key: &str, method: &str, path: &str, body: &str) -> Answer {
    let bearer = format!("Bearer {key}'s secret");
    let headers = [("authorization", bearer.as_str())];
    let answer = worker.ask(method, path, &headers, body.as_bytes()).await;
    answer.unwrap_or_else(|| panic!("{path}: no answer"))
}

async fn get(worker: &Worker, key: &str, path: &str) -> Answer {
    ask(worker, key, "GET", path, "").await
}

/// The ids of all jobs that a key finds, and how many rows were looked at.
async fn found(worker: &Worker, key: &str, query: &str) -> (Vec<String>, Value) {
    let page = get(worker, key, &format!("/v1/jobs?{query}")).await.json();
    let jobs = page["jobs"].as_array().expect("jobs").iter();
    let ids = jobs.map(|job| job["job_id"].as_str().expect("an id").to_owned());
    (ids.collect(), page["looked_at"].clone())
}

fn job(id: &str) -> Value {
    json!({"job_id": id, "model": "sentiment", "namespace": "own", "named": true, "inputs": [{"key": id, "text": "so fine"}]})
}

/// A job over AMQP, of a key if one is named.
async fn publish(stack: &Stack, job: &Value, key: Option<&str>) {
    let (body, mut properties) = asking_reply(job);
    if let Some(key) = key {
        let mut headers = FieldTable::default();
        headers.insert("kiln-posted-by".into(), AMQPValue::LongString(key.into()));
        properties = properties.with_headers(headers);
    }
    stack.bus.publish(JOBS, vec![(body, properties)]).await;
}

/// What each key sees of a job: whether it is there. Whoever doesn't see it hears what is said of none, and waits as long.
async fn expect_seen(worker: &Worker, id: &str, by: &[&str]) {
    for key in ["shop", "feed", "ops"] {
        for path in ["", "?inputs=true", "/wait?seconds=0"] {
            let seen = get(worker, key, &format!("/v1/jobs/{id}{path}")).await;
            let none = get(worker, key, &format!("/v1/jobs/nobody{path}")).await;
            match by.contains(&key) {
                true => assert_eq!(seen.status, 200, "{key} {id}{path}: {}", seen.body),
                false => assert_eq!((seen.status, seen.body), (404, none.body), "{key} {id}"),
            }
        }
    }
}

/// A worker with keys of which one may see all.
fn keyed(stack: &Stack) -> Settings {
    let hash = |key: &str| hex::encode(Sha256::digest(format!("{key}'s secret")));
    stack
        .worker()
        .models(&["sentiment"])
        .set("KILN_HTTP__KEYS__SHOP__SHA256", &hash("shop"))
        .set("KILN_HTTP__KEYS__SHOP__SCOPES", "[read, score]")
        .set("KILN_HTTP__KEYS__FEED__SHA256", &hash("feed"))
        .set("KILN_HTTP__KEYS__FEED__SCOPES", "[read, score]")
        .set("KILN_HTTP__KEYS__OPS__SHA256", &hash("ops"))
        .set("KILN_HTTP__KEYS__OPS__SCOPES", "[\"read:all\", admin]")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_sees_the_jobs_that_it_posted_and_no_others() {
    let stack = Stack::shared().await;
    let worker = keyed(&stack).start().await;
    let scopes = get(&worker, "ops", "/v1/key").await.json();
    assert_eq!(scopes["scopes"], json!(["read", "read:all", "admin"]));

    // While it is in hand: another key's wait doesn't end with it.
    let held = stack.hold_jobs().await;
    let posted = ask(
        &worker,
        "shop",
        "POST",
        "/v1/jobs",
        &job("mine").to_string(),
    )
    .await;
    assert_eq!(posted.status, 202, "{}", posted.body);
    for (key, status) in [("shop", 202), ("feed", 404), ("ops", 202)] {
        let told = get(&worker, key, "/v1/jobs/mine").await;
        assert_eq!(told.status, status, "{key}: {}", told.body);
    }
    let (own, other, ()) = tokio::join!(
        get(&worker, "shop", "/v1/jobs/mine/wait?seconds=30"),
        get(&worker, "feed", "/v1/jobs/mine/wait?seconds=1"),
        async { drop(held) }
    );
    assert_eq!((own.status, other.status), (200, 404), "{}", own.body);
    expect_seen(&worker, "mine", &["shop", "ops"]).await;

    // Under its id with another body, nothing of it is to be had; with its own, it is this key's as well.
    let mut other = job("mine");
    other["namespace"] = json!("mine");
    for path in ["/v1/jobs", "/v1/score/batch"] {
        let refused = ask(&worker, "feed", "POST", path, &other.to_string()).await;
        assert!(refused.status == 409 || refused.status == 422, "{path}");
    }
    expect_seen(&worker, "mine", &["shop", "ops"]).await;
    let text = json!({"model": "sentiment", "text": "so fine"}).to_string();
    let scored = ask(&worker, "feed", "POST", "/v1/score", &text)
        .await
        .json();
    let scored = scored["job_id"].as_str().expect("an id");
    expect_seen(&worker, scored, &["feed", "ops"]).await;

    // Over AMQP it is nobody's, or the named key's; however it ends.
    publish(&stack, &job("of-nobody"), None).await;
    publish(&stack, &job("of-feed"), Some("feed")).await;
    publish(&stack, &job("of-no-name"), Some("No Name")).await;
    let mut bad = job("bad");
    bad["model"] = json!("unheard-of");
    publish(&stack, &bad, Some("shop")).await;
    eventually("all have rows", PATIENCE, || async {
        (stack.count("SELECT count(*) FROM jobs").await == 7).then_some(())
    })
    .await;
    expect_seen(&worker, "of-nobody", &["ops"]).await;
    expect_seen(&worker, "of-feed", &["feed", "ops"]).await;
    expect_seen(&worker, "of-no-name", &["ops"]).await;
    expect_seen(&worker, "bad", &["shop", "ops"]).await;
    let again = ask(
        &worker,
        "shop",
        "POST",
        "/v1/score/batch",
        &job("of-feed").to_string(),
    )
    .await;
    assert_eq!(again.status, 200, "{}", again.body);
    expect_seen(&worker, "of-feed", &["shop", "feed", "ops"]).await;

    lists_have_a_key_s_own_jobs(&worker).await;
    // What is of all jobs is for who may see all.
    for path in [
        "/v1/dead",
        "/v1/dead/bad",
        "/v1/rejections",
        "/v1/keys/own/mine",
    ] {
        let told = get(&worker, "shop", path).await;
        assert_eq!(told.status, 403, "{path}: {}", told.body);
        assert!(told.body.contains("read:all"), "{}", told.body);
        eventually(path, PATIENCE, || async {
            (get(&worker, "ops", path).await.status == 200).then_some(())
        })
        .await;
    }
    // The same where jobs are in partitions; and what is pruned leaves nothing behind.
    let shell = Shell::on(&stack);
    shell.kiln(&["migrate", "--partition"]).await.with(0);
    lists_have_a_key_s_own_jobs(&worker).await;
    let late = ask(
        &worker,
        "feed",
        "POST",
        "/v1/score/batch",
        &job("late").to_string(),
    )
    .await;
    assert_eq!(late.status, 200, "{}", late.body);
    expect_seen(&worker, "late", &["feed", "ops"]).await;
    shell.kiln(&["prune", "--older-than", "0s"]).await.with(0);
    assert_eq!(stack.count("SELECT count(*) FROM job_posters").await, 0);
}

async fn lists_have_a_key_s_own_jobs(worker: &Worker) {
    for (key, count, prefixed) in [
        ("shop", 3, vec!["of-feed"]),
        ("feed", 3, vec!["of-feed"]),
        ("ops", 7, vec!["of-feed", "of-no-name", "of-nobody"]),
    ] {
        let (all, looked_at) = found(worker, key, "").await;
        assert_eq!((all.len(), looked_at), (count, json!(count)), "{key}");
        let (begun, _) = found(worker, key, "id_prefix=of-").await;
        assert_eq!(begun, prefixed, "{key}");
        let (within, _) = found(worker, key, "namespace=own&model=sentiment").await;
        let expected = all
            .iter()
            .filter(|id| *id == "mine" || id.starts_with("of-"));
        assert_eq!(within.len(), expected.count(), "{key}: {within:?}");
        let (rejected, _) = found(worker, key, "status=rejected&limit=1").await;
        let one = if key == "feed" { "mine~" } else { "bad" };
        assert!(
            rejected.len() == 1 && rejected[0].starts_with(one),
            "{key}: {rejected:?}"
        );
        // Page by page, each once.
        let (mut paged, mut cursor) = (Vec::new(), String::new());
        while paged.len() <= count {
            let page = get(worker, key, &format!("/v1/jobs?limit=1{cursor}"))
                .await
                .json();
            let jobs = page["jobs"].as_array().expect("jobs").iter();
            paged.extend(jobs.map(|job| job["job_id"].as_str().expect("an id").to_owned()));
            match page["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(paged, all, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_knows_of_its_job_for_as_long_as_that_is_kept() {
    let stack = Stack::shared().await;
    let worker = keyed(&stack).start().await;
    let shell = Shell::on(&stack);
    let mut bad = job("bad");
    bad["model"] = json!("unheard-of");
    // The later key's try is the row's: it is younger than what the first one has of it.
    for (posters, key) in [(1, "shop"), (2, "feed")] {
        publish(&stack, &bad, Some(key)).await;
        let known = "SELECT count(*) FROM job_posters";
        eventually_equals("posters", PATIENCE, posters, || stack.count(known)).await;
    }
    stack
        .execute("UPDATE job_posters SET posted_at = now() - interval '2 hours' WHERE posted_by = 'shop'")
        .await;
    let prune = async |posters: i64| {
        let pruned = shell.kiln(&["prune", "--older-than", "1h"]).await;
        pruned.with(0);
        let left = stack.count("SELECT count(*) FROM job_posters").await;
        assert_eq!(left, posters);
    };
    prune(2).await;
    expect_seen(&worker, "bad", &["shop", "feed", "ops"]).await;
    shell.kiln(&["migrate", "--partition"]).await.with(0);
    prune(2).await;
    expect_seen(&worker, "bad", &["shop", "feed", "ops"]).await;
    // It goes with the job, and what is younger than that in its time.
    stack
        .execute("UPDATE job_ids SET finished_at = now() - interval '2 hours'")
        .await;
    prune(1).await;
    assert_eq!(stack.row_count().await, 0);
    stack
        .execute("UPDATE job_posters SET posted_at = now() - interval '2 hours'")
        .await;
    prune(0).await;
}
