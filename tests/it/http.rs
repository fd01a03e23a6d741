//! The HTTP API: scoring while the caller waits, jobs, steering; and who may do what.

use std::fs;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::stack::Stack;
use crate::harness::worker::{Answer, Worker};
use crate::harness::{PATIENCE, eventually, sandbox};

async fn post(worker: &Worker, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let body = body.to_string();
    let answer = worker.ask("POST", path, headers, body.as_bytes()).await;
    answer.expect("an answer")
}

fn code(answer: &Answer) -> String {
    answer.json()["error"]["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn text(text: &str) -> Value {
    json!({"model": "sentiment", "key": "k", "text": text})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_scored_over_http_is_cached_stored_and_answered_again() {
    let stack = Stack::shared().await;
    let worker = stack.worker().models(&["sentiment"]).start().await;
    let first = post(&worker, "/v1/score", &[], &text("I love this")).await;
    let result = &first.json()["results"][0];
    assert_eq!(
        (first.status, &result["cached"], &result["key"]),
        (200, &json!(false), &json!("k")),
        "{}",
        first.body
    );
    assert!(result["latency_ms"].as_f64().is_some_and(|ms| ms > 0.0));
    let again = post(&worker, "/v1/score", &[], &text("I love this")).await;
    assert_eq!(again.json()["results"][0]["cached"], true);
    assert_eq!(again.json()["results"][0]["score"], result["score"]);

    // A mix of hits and misses, some of them bad.
    let inputs = json!([{"text": "I love this"}, {"text": "another one"}, {"features": [1.0]}]);
    let batch = json!({"model": "sentiment", "inputs": inputs, "on_error": "skip"});
    let batch = post(&worker, "/v1/score/batch", &[], &batch).await;
    let said = batch.json();
    assert_eq!(
        (&said["hits"], &said["misses"]),
        (&json!(1), &json!(1)),
        "{said}"
    );
    assert_eq!(said["results"][2]["error"]["field"], "inputs[2].features");

    // The same idempotency key: the first answer; with another body: refused.
    let key = [("idempotency-key", "order-17")];
    let one = post(&worker, "/v1/score", &key, &text("for the first time")).await;
    let two = post(&worker, "/v1/score", &key, &text("for the first time")).await;
    assert_eq!(one.json()["finished_at"], two.json()["finished_at"]);
    assert!(two.head.contains("idempotency-replayed: true") && !one.head.contains("replayed"));
    let other = post(&worker, "/v1/score", &key, &text("something else")).await;
    assert_eq!(
        (other.status, code(&other).as_str()),
        (422, "conflict"),
        "{}",
        other.body
    );
    assert_eq!(
        stack
            .count("SELECT count(*) FROM jobs WHERE status = 'ok'")
            .await,
        4
    );

    // Through the queue.
    let job = json!({"model": "sentiment", "inputs": [{"text": "through the queue"}]});
    let queued = post(&worker, "/v1/jobs", &[], &job).await;
    assert_eq!(
        (queued.status, &queued.json()["status"]),
        (202, &json!("queued"))
    );
    let id = queued.json()["job_id"].as_str().expect("an id").to_owned();
    let done = eventually("the job is done", PATIENCE, || async {
        let (status, body) = worker.get(&format!("/v1/jobs/{id}")).await?;
        (status == 200).then_some(body)
    })
    .await;
    let done: Value = serde_json::from_str(&done).expect("JSON");
    assert_eq!((&done["job_id"], &done["misses"]), (&json!(id), &json!(1)));
    assert_eq!(worker.get("/v1/jobs/nobody").await.map(|a| a.0), Some(404));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_request_is_told_by_its_field_and_leaves_nothing_behind() {
    let stack = Stack::shared().await;
    let settings = stack.worker().models(&["sentiment"]);
    let worker = settings
        .set("KILN_INTAKE__MAX_BODY_BYTES", "20000")
        .start()
        .await;
    let job = |inputs: Value| json!({"model": "sentiment", "inputs": inputs});
    for (path, body, status, code_, field) in [
        (
            "/v1/score",
            json!({"model": "sentiment", "txt": "a"}),
            400,
            "invalid",
            "",
        ),
        (
            "/v1/score",
            json!({"model": "nobody", "text": "a"}),
            404,
            "unknown_model",
            "model",
        ),
        ("/v1/score", json!({"text": "a"}), 400, "invalid", "model"),
        (
            "/v1/score",
            json!({"model": "sentiment", "text": "x".repeat(30_000)}),
            413,
            "too_large",
            "",
        ),
        ("/v1/score/batch", job(json!([])), 400, "invalid", "inputs"),
        (
            "/v1/score/batch",
            job(json!([{"text": 7}])),
            400,
            "invalid",
            "inputs[0].text",
        ),
        (
            "/v1/jobs",
            job(json!([{"text": "a", "features": [1]}])),
            400,
            "invalid",
            "inputs[0]",
        ),
        ("/v1/hits", json!({"namespace": "feed"}), 400, "invalid", ""),
    ] {
        let answer = post(&worker, path, &[], &body).await;
        let error = answer.json()["error"].clone();
        assert_eq!(
            (answer.status, &error["code"], &error["field"]),
            (status, &json!(code_), &json!(field)),
            "{path} {}",
            answer.body
        );
    }
    let malformed = worker
        .ask("POST", "/v1/score", &[], b"{")
        .await
        .expect("an answer");
    assert_eq!(
        (malformed.status, code(&malformed).as_str()),
        (400, "malformed")
    );
    assert_eq!(worker.get("/nowhere").await.map(|a| a.0), Some(404));
    assert_eq!(
        worker
            .ask("DELETE", "/v1/score", &[], b"")
            .await
            .map(|a| a.status),
        Some(405)
    );
    assert_eq!(stack.count("SELECT count(*) FROM jobs").await, 0);
    assert_eq!(stack.bus.waiting("kiln.dead").await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_decide_who_may_do_what() {
    let stack = Stack::shared().await;
    let settings = stack.worker().models(&["sentiment"]);
    let hash = |key: &str| hex::encode(Sha256::digest(key));
    let worker = settings
        .set("KILN_HTTP__KEYS__SHOP__SHA256", &hash("shop's key"))
        .set("KILN_HTTP__KEYS__SHOP__SCOPES", "[read, score]")
        .set("KILN_HTTP__KEYS__OPS__SHA256", &hash("ops' key"))
        .set("KILN_HTTP__KEYS__OPS__SCOPES", "[admin]")
        .set("KILN_HTTP__KEYS__OPS__REQUESTS_PER_SECOND", "1")
        .start()
        .await;
    let shop = ("authorization", "Bearer shop's key");
    let ops = ("authorization", "Bearer ops' key");
    let love = text("I love this");
    assert_eq!(post(&worker, "/v1/score", &[], &love).await.status, 401);
    assert_eq!(
        post(
            &worker,
            "/v1/score",
            &[("authorization", "Bearer guess")],
            &love
        )
        .await
        .status,
        401
    );
    assert_eq!(post(&worker, "/v1/score", &[shop], &love).await.status, 200);
    let pause = post(&worker, "/v1/intake/pause", &[shop], &json!({})).await;
    assert_eq!((pause.status, code(&pause).as_str()), (403, "forbidden"));
    assert_eq!(
        post(&worker, "/v1/intake/resume", &[ops], &json!({}))
            .await
            .status,
        200
    );
    let limited = post(&worker, "/v1/intake/resume", &[ops], &json!({})).await;
    assert_eq!(limited.status, 429);
    assert!(limited.head.contains("retry-after: 1"));
    // A page of another site that has the key all the same.
    let foreign = [shop, ("origin", "http://evil.example")];
    assert_eq!(
        post(&worker, "/v1/score", &foreign, &love).await.status,
        403
    );
    for open in ["/livez", "/metrics", "/health", "/version", "/openapi.json"] {
        assert_eq!(worker.get(open).await.map(|a| a.0), Some(200), "{open}");
    }
    assert!(
        worker
            .lines()
            .iter()
            .all(|line| !line.contains("shop's key"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_key_nobody_listens_to_the_network() {
    let stack = Stack::shared().await;
    let run = |settings: &[(&str, &str)]| {
        let output = sandbox::clean_command(env!("CARGO_BIN_EXE_kiln"), &sandbox::folder("cli"))
            .arg("config")
            .envs(settings.iter().copied())
            .env("KILN_HTTP_ADDR", "0.0.0.0:9464")
            .env("KILN_REDIS_URL", stack.redis.url())
            .output()
            .expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let (code, said) = run(&[]);
    assert_eq!(code, Some(2));
    assert!(
        said.contains("setting `http.addr`: 0.0.0.0:9464 can be reached from other machines"),
        "{said}"
    );
    assert_eq!(run(&[("KILN_HTTP__API", "false")]).0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intake_and_schedules_pause_and_go_on_everywhere() {
    let stack = Stack::shared().await;
    let folder = sandbox::folder("schedules");
    let schedule = "name = \"ticks\"\noverlap = \"allow\"\ncron = \"* * * * * *\"\nmodel = \"sentiment\"\n[source]\nkind = \"static\"\ninputs = [{ key = \"a\", text = \"a\" }]\n";
    fs::write(folder.join("ticks.toml"), schedule).expect("a file");
    let folder = folder.to_str().expect("a plain path");
    let settings = stack
        .worker()
        .models(&["sentiment"])
        .set("KILN_WARM__DIR", folder);
    let one = settings.clone().start().await;
    let other = settings.start().await;
    assert_eq!(
        post(&one, "/v1/schedules/nobody/pause", &[], &json!({}))
            .await
            .status,
        404
    );
    eventually("the schedules were read", PATIENCE, || async {
        let (_, body) = one.get("/v1/schedules").await?;
        body.contains("\"ticks\"").then_some(())
    })
    .await;
    for path in ["/v1/intake/pause", "/v1/schedules/ticks/pause"] {
        let answer = post(&one, path, &[], &json!({})).await;
        assert_eq!(
            answer.json(),
            json!({"paused": true, "changed": true}),
            "{path}"
        );
    }
    for worker in [&one, &other] {
        eventually("every worker is paused", PATIENCE, || async {
            let (status, health) = worker.get("/health").await?;
            let schedules = worker.get("/v1/schedules").await?.1;
            let health: Value = serde_json::from_str(&health).ok()?;
            (status == 200 && health["status"] == "paused" && schedules.contains("\"paused\":true"))
                .then_some(())
        })
        .await;
        assert_eq!(worker.metric("kiln_schedules_paused", &[]).await, 1.0);
    }
    eventually("nobody takes jobs", PATIENCE, || async {
        (stack.bus.consumers("kiln.jobs").await == Some(0)).then_some(())
    })
    .await;
    let job = json!({"job_id": "waits", "model": "sentiment", "inputs": [{"text": "a while"}]});
    stack.bus.publish_job(&job).await;
    // Nor does one that starts meanwhile, and it is ready.
    let late = stack.worker().models(&["sentiment"]).start().await;
    assert_eq!(
        late.get("/health").await.map(|(status, _)| status),
        Some(200)
    );
    late.stop().await;
    assert_eq!(stack.bus.waiting("kiln.jobs").await, Some(1));
    // Scoring over HTTP goes on: it takes nothing from the queue.
    assert_eq!(post(&one, "/v1/score", &[], &text("now")).await.status, 200);
    let runs = stack.count("SELECT count(*) FROM warm_runs").await;

    let said = tokio::task::block_in_place(|| {
        sandbox::clean_command(env!("CARGO_BIN_EXE_kiln"), &sandbox::folder("cli"))
            .args(["resume", "--json"])
            .env("KILN_DATABASE_URL", stack.database_url())
            .output()
            .expect("the binary runs")
    });
    let said: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    assert_eq!(
        said,
        json!({"what": "intake", "paused": false, "changed": true})
    );
    assert_eq!(stack.bus.reply_within(PATIENCE).await.job_id(), "waits");
    assert_eq!(
        stack.count("SELECT count(*) FROM warm_runs").await,
        runs,
        "the schedule is still paused"
    );
    post(&other, "/v1/schedules/ticks/resume", &[], &json!({})).await;
    eventually("the schedule runs again", PATIENCE, || async {
        let now = stack.count("SELECT count(*) FROM warm_runs").await;
        (now > runs).then_some(())
    })
    .await;
    let asked = post(&one, "/v1/warm/ticks", &[], &json!({})).await;
    assert_eq!(asked.status, 202);
    let run = &asked.json()["run"];
    eventually("the run is shown", PATIENCE, || async {
        let (_, runs) = one.get("/v1/warm/runs?limit=100").await?;
        let runs: Value = serde_json::from_str(&runs).ok()?;
        runs.as_array()?
            .iter()
            .find(|one| one["run"] == *run && one["state"] == "done")
            .map(|_| ())
    })
    .await;
    assert_eq!(
        one.get("/v1/warm/runs?limit=0").await.map(|a| a.0),
        Some(400)
    );
    assert_eq!(
        one.get("/v1/warm/runs?limt=1").await.map(|a| a.0),
        Some(400)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_slow_or_says_too_much_is_cut_and_keeps_nobody_waiting() {
    let stack = Stack::shared().await;
    let settings = stack.worker().models(&["sentiment"]);
    let worker = settings.set("KILN_HTTP__TIMEOUT_MS", "1000").start().await;
    let half_a_head = b"GET /livez HTTP/1.1\r\nhost: ".to_vec();
    let half_a_body =
        b"POST /v1/score HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900\r\n\r\n{\"model\""
            .to_vec();
    let mut too_much = b"GET /livez HTTP/1.1\r\nhost: a\r\nx: ".to_vec();
    too_much.resize(1 << 20, b'x');
    let cut = async |request: &[u8]| {
        let address = ("127.0.0.1", worker.http_port);
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        // It may be cut while it still speaks.
        let _sent = stream.write_all(request).await;
        let mut said = Vec::new();
        let end = timeout(PATIENCE, stream.read_to_end(&mut said)).await;
        assert!(end.is_ok(), "a slow client is still there");
        String::from_utf8_lossy(&said).into_owned()
    };
    let slow = async { tokio::join!(cut(&half_a_head), cut(&half_a_body), cut(&too_much)) };
    let others = async {
        for _ in 0..20 {
            assert_eq!(worker.get("/livez").await.map(|a| a.0), Some(200));
        }
    };
    let ((head, body, much), ()) = tokio::join!(slow, others);
    assert!(!head.contains(" 200 "), "{head}");
    assert!(body.starts_with("HTTP/1.1 503 "), "{body}");
    assert!(!much.contains(" 200 "), "{much}");
}

/// Asks every path that the document names, and holds each answer to it: a status that is documented, no fault of the worker's
/// own, and where something is missing, words that say what. Returns who answered 503.
async fn each_route_answers(worker: &Worker) -> Vec<String> {
    let (_, document) = worker.get("/openapi.json").await.expect("the document");
    let document: Value = serde_json::from_str(&document).expect("JSON");
    let mut missing = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        // It streams for as long as somebody listens.
        if path == "/v1/live" {
            continue;
        }
        let asked = path
            .replace("{name}", "nobody")
            .replace("{id}", "nobody")
            .replace("{namespace}", "nobody");
        for (method, said) in methods.as_object().expect("methods") {
            let body = match path.as_str() {
                "/v1/score" => text("while it lasts"),
                "/v1/score/batch" | "/v1/jobs" | "/v1/cache/warm" => {
                    json!({"model": "sentiment", "inputs": [{"text": "while it lasts"}]})
                }
                "/v1/hits" => json!({"namespace": "feed", "keys": ["a"]}),
                "/v1/log" => json!({"levels": "info,lapin=off"}),
                _ => json!({}),
            };
            let method = method.to_uppercase();
            let answer = worker
                .ask(&method, &asked, &[], body.to_string().as_bytes())
                .await;
            let answer = answer.unwrap_or_else(|| panic!("{method} {asked}: no answer"));
            let status = answer.status.to_string();
            assert!(
                said["responses"].get(&status).is_some() && status != "500",
                "{method} {asked}: {status} {}",
                answer.body
            );
            if answer.status == 503 && path != "/health" {
                let error = &answer.json()["error"];
                let words = error["message"].as_str().unwrap_or_default();
                assert!(
                    ["redis", "postgres", "not done within", "no answer"]
                        .iter()
                        .any(|word| words.contains(word)),
                    "{method} {asked}: {words}"
                );
                missing.push(format!("{method} {path}"));
            }
        }
    }
    missing
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_answers_as_documented_under_load_and_while_servers_are_down() {
    let stack = Stack::private().await;
    let settings = stack.worker().models(&["sentiment"]).expect_trouble();
    let worker = settings.set("KILN_HTTP__TIMEOUT_MS", "1500").start().await;
    let jobs: Vec<Value> = (0..3_000)
        .map(|n| json!({"job_id": format!("j{n}"), "model": "sentiment", "inputs": [{"text": format!("text {n}")}]}))
        .collect();
    let (missing, ()) = tokio::join!(each_route_answers(&worker), stack.bus.publish_jobs(&jobs));
    assert_eq!(missing, Vec::<String>::new());
    post(&worker, "/v1/intake/resume", &[], &json!({})).await;
    stack.redis.kill();
    eventually("redis is missed", PATIENCE, || async {
        let (_, body) = worker.get("/readyz").await?;
        body.contains("redis: ").then_some(())
    })
    .await;
    assert_eq!(
        each_route_answers(&worker).await,
        ["GET /v1/keys/{namespace}/{key}"],
        "an invalidation lives in the database"
    );
    stack.postgres.kill();
    eventually("postgres is missed", PATIENCE, || async {
        let (_, body) = worker.get("/readyz").await?;
        body.contains("postgres: ").then_some(())
    })
    .await;
    let missing = each_route_answers(&worker).await;
    for route in [
        "POST /v1/score",
        "POST /v1/cache/invalidate/{namespace}",
        "POST /v1/intake/pause",
        "GET /v1/schedules",
        "GET /v1/jobs/{id}",
    ] {
        assert!(
            missing.iter().any(|one| one == route),
            "{route}: {missing:?}"
        );
    }
    for path in ["/livez", "/metrics", "/"] {
        assert_eq!(worker.get(path).await.map(|a| a.0), Some(200), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_server_is_down_each_route_says_so_or_goes_on() {
    let stack = Stack::private().await;
    let settings = stack.worker().models(&["sentiment"]).expect_trouble();
    let worker = settings.set("KILN_HTTP__TIMEOUT_MS", "1500").start().await;
    stack.redis.kill();
    assert_eq!(
        post(&worker, "/v1/score", &[], &text("without redis"))
            .await
            .status,
        200
    );
    stack.postgres.kill();
    let late = post(&worker, "/v1/score", &[], &text("without postgres")).await;
    assert_eq!(
        (late.status, code(&late).as_str()),
        (503, "unavailable"),
        "{}",
        late.body
    );
    for path in ["/v1/jobs/anything", "/v1/schedules", "/v1/warm/runs"] {
        let (status, body) = worker.get(path).await.expect("an answer");
        assert_eq!(status, 503, "{path}: {body}");
        assert!(
            body.contains("postgres") || body.contains("not done within"),
            "{body}"
        );
    }
    for path in ["/livez", "/metrics", "/version", "/v1/models"] {
        assert_eq!(worker.get(path).await.map(|a| a.0), Some(200), "{path}");
    }
    eventually("health says what is missing", PATIENCE, || async {
        let (status, body) = worker.get("/health").await?;
        let health: Value = serde_json::from_str(&body).ok()?;
        let named = |kind: &str, part: &str| health[kind][part].is_string();
        (status == 503 && named("missing", "postgres") && named("degraded", "redis")).then_some(())
    })
    .await;
    let folder = sandbox::folder("cli");
    let readiness = sandbox::clean_command(env!("CARGO_BIN_EXE_kiln"), &folder)
        .args([
            "health",
            "--addr",
            &format!("127.0.0.1:{}", worker.http_port),
        ])
        .output()
        .expect("the binary runs");
    assert_eq!(readiness.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&readiness.stdout).contains("postgres: "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_are_told_by_namespace_and_kind_of_key_with_advice_from_them() {
    let stack = Stack::shared().await;
    let settings = stack.worker().models(&["sentiment"]);
    let worker = settings
        .set("KILN_CACHE__HEALTH__P95_MS", "10000")
        .set("KILN_CACHE__HEALTH__MEAN_MS", "10000")
        .start()
        .await;
    let show = async |path: &str| {
        let (status, body) = worker.get(path).await.expect("an answer");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(status, 200, "{path}: {body}");
        body
    };
    assert_eq!(show("/v1/cache/health").await["status"], "idle");
    let ask = async |id: &str, namespace: &str, kind: &str, texts: std::ops::Range<usize>| {
        let inputs: Vec<Value> = texts
            .map(|n| json!({"key": format!("{kind}:{n}"), "text": format!("nice text {n}")}))
            .collect();
        let job =
            json!({"job_id": id, "model": "sentiment", "namespace": namespace, "inputs": inputs});
        stack.bus.answer(&job).await;
    };
    ask("cold", "feed", "page", 0..400).await;
    for n in 0..3 {
        ask(&format!("warm {n}"), "feed", "page", 0..400).await;
    }
    ask("other", "reviews", "review", 400..600).await;

    let total = show("/v1/cache/stats?minutes=30").await;
    assert_eq!(
        (&total["hits"], &total["misses"], &total["requests"]),
        (&json!(1_200), &json!(600), &json!(5)),
        "{total}"
    );
    let patterns = show("/v1/cache/stats/patterns").await;
    let names: Vec<&str> = patterns
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|p| p["pattern"].as_str())
        .collect();
    assert_eq!(
        names,
        ["feed", "reviews", "feed/page:*", "reviews/review:*"]
    );
    assert_eq!(
        (&patterns[2]["hit_rate"], &patterns[3]["hit_rate"]),
        (&json!(0.75), &json!(0.0))
    );
    let top = show("/v1/cache/stats/top-patterns?limit=1").await;
    assert_eq!(
        (top.as_array().map(Vec::len), &top[0]["hits"]),
        (Some(1), &json!(1_200))
    );
    let few = show("/v1/cache/stats/low-performers?min_inputs=201").await;
    assert_eq!(few, json!([]), "there were 200");
    let low = show("/v1/cache/stats/low-performers?threshold=0.5&min_inputs=200").await;
    assert_eq!(low.as_array().map(Vec::len), Some(2));
    let advice = low[0]["recommendation"].as_str().unwrap_or_default();
    assert!(
        advice.starts_with("use coarser inputs") && advice.contains("100 % of the misses"),
        "{low}"
    );
    assert_eq!(show("/v1/cache/health").await["status"], "healthy");
    let info = show("/v1/cache/info").await;
    assert_eq!(
        (&info["redis_works"], &info["ttl_seconds"]),
        (&json!(true), &json!(3_600))
    );

    let paths = show("/v1/cache/stats/endpoints").await;
    let paths = paths.as_array().expect("a list");
    let info = paths
        .iter()
        .find(|path| path["endpoint"] == "/v1/cache/info");
    assert_eq!(
        info.map(|path| (&path["requests"], &path["faults"])),
        Some((&json!(1), &json!(0))),
        "{paths:?}"
    );

    // Redis loses what it should have: the next misses tell.
    let _: String = stack.redis.command(&["FLUSHALL"]).await;
    post(&worker, "/v1/cache/reset-stats", &[], &json!({})).await;
    ask("lost", "feed", "page", 0..400).await;
    let low = show("/v1/cache/stats/low-performers").await;
    let advice = low[0]["recommendation"].as_str().unwrap_or_default();
    assert!(advice.starts_with("give Redis more memory"), "{low}");
    assert_eq!(show("/v1/cache/health").await["status"], "degraded");
    for bad in [
        "/v1/cache/stats?minutes=0",
        "/v1/cache/stats/top-patterns?limit=-1",
        "/v1/cache/stats/low-performers?threshold=2",
    ] {
        assert_eq!(worker.get(bad).await.map(|a| a.0), Some(400), "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_never_end_make_no_series_and_little_to_show() {
    let stack = Stack::shared().await;
    let no_room = "there is no room to watch all namespaces";
    let settings = stack.worker().models(&["sentiment"]).allow(no_room);
    let worker = settings.start().await;
    let ask = async |round: usize| {
        let jobs: Vec<Value> = (0..100)
            .map(|n| {
                let inputs: Vec<Value> = (0..100)
                    .map(|i| json!({"key": format!("k{round}-{n}-{i}:x"), "text": format!("nice text {i}")}))
                    .collect();
                json!({"job_id": format!("{round}-{n}"), "model": "sentiment", "namespace": format!("n{round}-{n}"), "inputs": inputs})
            })
            .collect();
        stack.bus.publish_jobs(&jobs).await;
        stack.bus.replies(100).await;
    };
    ask(0).await;
    let before = worker.metrics().await.len();
    for round in 1..10 {
        ask(round).await;
    }
    // Gauges of what is hot come with the next look.
    let hint = json!({"namespace": "somebody-elses", "keys": ["a"]});
    post(&worker, "/v1/hits", &[], &hint).await;
    let labels = [("of", "reads"), ("namespace", "other")];
    eventually("the hint is shown", PATIENCE, || async {
        (worker
            .metric("kiln_heat_requests_per_second", &labels)
            .await
            > 0.0)
            .then_some(())
    })
    .await;
    let after = worker.metrics().await.len();
    assert!(after <= before + 4, "{before} series became {after}");
    let said = worker.lines().into_iter();
    assert!(said.filter(|line| line.contains(no_room)).count() <= 1);
    let (_, body) = worker
        .get("/v1/cache/stats/patterns")
        .await
        .expect("an answer");
    let patterns: Value = serde_json::from_str(&body).expect("JSON");
    assert!(
        patterns.as_array().is_some_and(|all| all.len() <= 129),
        "{}",
        patterns.as_array().map_or(0, Vec::len)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fuzzer_that_reads_the_schema_finds_no_fault_and_no_undocumented_answer() {
    let stack = Stack::shared().await;
    let worker = stack
        .worker()
        .models(&["sentiment", "feed-ranker"])
        .start()
        .await;
    let program = std::env::var("SCHEMATHESIS").unwrap_or_else(|_| "schemathesis".to_owned());
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
    let schema = format!("http://127.0.0.1:{}/openapi.json", worker.http_port);
    let folder = sandbox::folder("fuzz");
    let output = tokio::task::block_in_place(|| {
        std::process::Command::new(&program)
            .args([
                "run",
                &schema,
                "--checks",
                checks,
                "--max-examples",
                "40",
                "--no-color",
                // It never ends.
                "--exclude-path",
                "/v1/live",
                // It waits as long as it is asked to.
                "--exclude-path",
                "/v1/jobs/{id}/wait",
            ])
            .current_dir(&folder)
            .output()
            .expect(
                "schemathesis is on the path, or SCHEMATHESIS names it: scripts/test installs it",
            )
    });
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    // It has paused whatever can be paused.
    post(&worker, "/v1/intake/resume", &[], &json!({})).await;
    stack
        .bus
        .answer(
            &json!({"job_id": "after it all", "model": "sentiment", "inputs": [{"text": "fine"}]}),
        )
        .await;
}
