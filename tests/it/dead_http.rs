//! The dead letters over HTTP: looked at and left, posted again, deleted; and the log of who did what.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::bus::DEAD;
use crate::harness::stack::Stack;
use crate::harness::worker::{Answer, Worker};
use crate::harness::{PATIENCE, eventually, eventually_equals};

async fn get(worker: &Worker, path: &str) -> Answer {
    let answer = worker.ask("GET", path, &[], b"").await;
    answer.unwrap_or_else(|| panic!("{path}: no answer"))
}

async fn post(worker: &Worker, path: &str, body: &Value) -> Answer {
    let body = body.to_string();
    let answer = worker.ask("POST", path, &[], body.as_bytes()).await;
    answer.unwrap_or_else(|| panic!("{path}: no answer"))
}

/// A job of a model that isn't there yet, or of one with a field that isn't known.
fn job(n: usize, is_early: bool) -> Value {
    match is_early {
        true => {
            json!({"job_id": format!("early-{n}"), "model": "sentiment", "namespace": "shop", "inputs": [{"text": format!("too early {n}")}]})
        }
        false => {
            json!({"job_id": format!("bad-{n}"), "model": "fault", "colour": "blue", "inputs": [{"text": "x"}]})
        }
    }
}

/// Servers with three letters of jobs that came too early, and two of bad ones.
async fn five_letters() -> Stack {
    let stack = Stack::shared().await;
    let worker = stack.worker().start().await;
    let jobs: Vec<Value> = (0..5).map(|n| job(n, n < 3)).collect();
    stack.bus.publish_jobs(&jobs).await;
    eventually_equals("letters", PATIENCE, Some(5), || stack.bus.waiting(DEAD)).await;
    worker.stop().await;
    stack
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_are_looked_at_where_they_are_posted_again_and_deleted() {
    let stack = five_letters().await;
    let worker = stack.worker().models(&["fault", "sentiment"]).start().await;
    // More often than RabbitMQ 4 would deliver a message by default.
    for _ in 0..22 {
        let seen = get(&worker, "/v1/dead").await.json();
        assert_eq!(
            (&seen["waiting"], &seen["looked_at"]),
            (&json!(5), &json!(5)),
            "{seen}"
        );
        let groups: Vec<(&str, &str, u64)> = seen["groups"]
            .as_array()
            .expect("groups")
            .iter()
            .map(|g| {
                (
                    g["code"].as_str().unwrap_or_default(),
                    g["model"].as_str().unwrap_or_default(),
                    g["letters"].as_u64().unwrap_or_default(),
                )
            })
            .collect();
        assert_eq!(
            groups,
            [("unknown_model", "sentiment", 3), ("invalid", "fault", 2)]
        );
        assert_eq!(seen["letters"].as_array().map(Vec::len), Some(5));
    }
    assert_eq!(stack.bus.waiting(DEAD).await, Some(5));
    let some = get(&worker, "/v1/dead?code=invalid&id_prefix=bad-3&limit=1")
        .await
        .json();
    assert_eq!(some["letters"][0]["job_id"], "bad-3", "{some}");
    let one = get(&worker, "/v1/dead/early-1").await.json();
    assert_eq!(
        (
            &one[0]["body"]["inputs"][0]["text"],
            &one[0]["headers"]["kiln-error-code"]
        ),
        (&json!("too early 1"), &json!("unknown_model"))
    );
    assert_eq!(get(&worker, "/v1/dead/nobody").await.status, 404);
    for bad in [
        json!({}),
        json!({"all": true, "code": "invalid"}),
        json!({"ids": []}),
        json!({"colour": "blue"}),
    ] {
        for path in ["/v1/dead/replay", "/v1/dead/purge"] {
            assert_eq!(post(&worker, path, &bad).await.status, 400, "{bad}");
        }
    }
    assert_eq!(stack.bus.waiting(DEAD).await, Some(5));

    let purged = post(
        &worker,
        "/v1/dead/purge",
        &json!({"ids": ["bad-3", "nobody"]}),
    )
    .await
    .json();
    assert_eq!(
        (&purged["done"], &purged["job_ids"]),
        (&json!(1), &json!(["bad-3"])),
        "{purged}"
    );
    let replayed = post(
        &worker,
        "/v1/dead/replay",
        &json!({"code": "unknown_model", "model": "sentiment"}),
    )
    .await
    .json();
    assert_eq!(
        (&replayed["done"], &replayed["left"]),
        (&json!(3), &json!([])),
        "{replayed}"
    );
    // What became of them is told by their ids.
    for id in replayed["job_ids"].as_array().expect("ids") {
        let path = format!("/v1/jobs/{}", id.as_str().expect("an id"));
        eventually("it is done after all", PATIENCE, || async {
            (get(&worker, &path).await.json()["status"] == "ok").then_some(())
        })
        .await;
    }
    // One that Kiln didn't write stays, and says why.
    let foreign = (b"not Kiln's".to_vec(), crate::harness::bus::persistent());
    stack.bus.publish(DEAD, vec![foreign]).await;
    let replayed = post(&worker, "/v1/dead/replay", &json!({"all": true}))
        .await
        .json();
    assert!(
        replayed["left"][0]["why"]
            .as_str()
            .is_some_and(|why| why.contains("kiln-queue")),
        "{replayed}"
    );
    let purged = eventually("both are deleted", PATIENCE, || async {
        let purged = post(&worker, "/v1/dead/purge", &json!({"all": true}))
            .await
            .json();
        (stack.bus.waiting(DEAD).await == Some(0)).then_some(purged)
    })
    .await;
    assert!(purged["done"].as_u64() >= Some(1), "{purged}");
    let actions = get(&worker, "/v1/log/actions").await.json();
    let told: Vec<(&str, &str)> = actions
        .as_array()
        .expect("a list")
        .iter()
        .map(|a| {
            (
                a["action"].as_str().expect("one"),
                a["by"].as_str().expect("one"),
            )
        })
        .collect();
    assert!(
        told.contains(&("purge", "local")) && told.contains(&("replay", "local")),
        "{told:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_did_what_is_noted_by_the_keys_name() {
    let stack = Stack::shared().await;
    let hash = |key: &str| hex::encode(Sha256::digest(key));
    let worker = stack
        .worker()
        .models(&["sentiment"])
        // An intake that is paused while it opens its channel leaves the library with an answer to nobody.
        .allow("invalid channel state: Closing")
        .set("KILN_HTTP__KEYS__WATCH__SHA256", &hash("watch's secret"))
        .set("KILN_HTTP__KEYS__WATCH__SCOPES", "[read]")
        .set("KILN_HTTP__KEYS__NIGHT__SHA256", &hash("night's secret"))
        .set("KILN_HTTP__KEYS__NIGHT__SCOPES", "[read, admin]")
        .start()
        .await;
    let watch = ("authorization", "Bearer watch's secret");
    let night = ("authorization", "Bearer night's secret");
    let ask = async |method: &str, path: &str, key, body: &str| {
        let answer = worker.ask(method, path, &[key], body.as_bytes()).await;
        answer.expect("an answer")
    };
    assert_eq!(
        ask("GET", "/v1/key", watch, "").await.json(),
        json!({"name": "watch", "scopes": ["read"]})
    );
    assert_eq!(
        ask("GET", "/v1/key", ("authorization", "Bearer guess"), "")
            .await
            .status,
        401
    );
    for path in ["/v1/dead/replay", "/v1/dead/purge", "/v1/intake/pause"] {
        assert_eq!(
            ask("POST", path, watch, "{\"all\": true}").await.status,
            403,
            "{path}"
        );
    }
    assert_eq!(
        ask("GET", "/v1/log/actions", watch, "").await.json(),
        json!([])
    );
    ask("POST", "/v1/intake/pause", night, "").await;
    ask("POST", "/v1/intake/pause", night, "").await;
    ask("POST", "/v1/intake/resume", night, "").await;
    ask("POST", "/v1/cache/invalidate/shop", night, "").await;
    ask("PUT", "/v1/log", night, "{\"levels\": \"info\"}").await;
    ask("POST", "/v1/dead/purge", night, "{\"model\": \"nobody\"}").await;
    let said = ask("GET", "/v1/log/actions", watch, "").await;
    assert!(!said.body.contains("secret") && !said.body.contains(&hash("night's secret")));
    let actions = said.json();
    let told: Vec<(&str, &str)> = actions
        .as_array()
        .expect("a list")
        .iter()
        .map(|a| {
            (
                a["action"].as_str().expect("one"),
                a["detail"].as_str().expect("one"),
            )
        })
        .collect();
    let expected = [
        ("purge", "model nobody: 0 letters"),
        ("log levels", "info"),
        ("invalidate", "shop"),
        ("resume", "intake"),
        ("pause", "intake"),
    ];
    assert_eq!(
        told, expected,
        "the latest first, and nothing that changed nothing"
    );
    assert!(
        actions
            .as_array()
            .expect("a list")
            .iter()
            .all(|a| a["by"] == "night")
    );
    let before = format!("/v1/log/actions?limit=1&before={}", actions[1]["id"]);
    assert_eq!(ask("GET", &before, watch, "").await.json()[0], actions[2]);
    // The latest 10,000 are kept.
    stack.execute("INSERT INTO actions (by_name, kind, detail) SELECT 'flood', 'pause', n::text FROM generate_series(1, 20000) AS n").await;
    ask("POST", "/v1/intake/pause", night, "").await;
    assert_eq!(stack.count("SELECT count(*) FROM actions").await, 10_000);
    ask("POST", "/v1/intake/resume", night, "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_caller_that_goes_away_has_deleted_is_noted_all_the_same() {
    let stack = Stack::shared().await;
    let worker = stack.worker().start().await;
    let jobs: Vec<Value> = (0..400).map(|n| job(n, true)).collect();
    stack.bus.publish_jobs(&jobs).await;
    eventually_equals("letters", PATIENCE, Some(400), || stack.bus.waiting(DEAD)).await;
    let request = "POST /v1/dead/purge HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 12\r\n\r\n{\"all\":true}";
    let address = ("127.0.0.1", worker.http_port);
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it is read");
    eventually("letters are taken", PATIENCE, async || {
        let left = stack.bus.waiting(DEAD).await;
        (left < Some(400)).then_some(())
    })
    .await;
    drop(stream);
    let noted = eventually("it is noted", PATIENCE, async || {
        let actions = get(&worker, "/v1/log/actions").await.json();
        let detail = actions[0]["detail"].as_str()?;
        let count = detail.strip_prefix("all: ")?.strip_suffix(" letters")?;
        count.parse::<u32>().ok()
    })
    .await;
    // A slow machine may run into the limit of one purge.
    assert!(noted > 0);
    eventually_equals("letters left", PATIENCE, Some(400 - noted), || {
        stack.bus.waiting(DEAD)
    })
    .await;
}
