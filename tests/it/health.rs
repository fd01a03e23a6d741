//! What a worker says of itself: ready where jobs that are taken end, degraded where it goes on without something, and why.

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::jobs::{fault_job, job_ids, quick_jobs};
use crate::harness::proxy::Proxy;
use crate::harness::shell::Shell;
use crate::harness::stack::{Own, Stack};
use crate::harness::worker::Worker;
use crate::harness::{PATIENCE, eventually, eventually_equals, sandbox};

/// Waits until `/readyz` answers with this status and something that contains `says`; before that it may only answer `before`.
async fn says(worker: &Worker, status: u16, says: &str, before: u16) -> String {
    eventually(&format!("{status} with {says}"), PATIENCE, async || {
        let (now, body) = worker.get("/readyz").await?;
        assert!(now == status || now == before, "{now}: {body}");
        (now == status && body.contains(says)).then_some(body)
    })
    .await
}

/// Lines of the log about a part's health, by level.
fn lines_about(worker: &Worker, part: &str) -> Vec<(String, String)> {
    let named = format!("\"part\":\"{part}\"");
    let lines = worker.lines().into_iter();
    lines
        .filter(|line| line.contains(&named))
        .map(|line| {
            let record: Value = serde_json::from_str(&line).expect("a line of JSON");
            (
                record["level"].as_str().unwrap_or_default().to_owned(),
                line,
            )
        })
        .collect()
}

/// The levels of those lines, in order.
fn levels(worker: &Worker, part: &str) -> Vec<String> {
    let lines = lines_about(worker, part).into_iter();
    lines.map(|(level, _)| level).collect()
}

async fn jobs_flow(stack: &Stack, prefix: &str) {
    let jobs = quick_jobs(prefix, 20);
    stack.bus.publish_jobs(&jobs).await;
    let replies = stack.bus.reply_to_each(&job_ids(&jobs)).await;
    assert!(replies.values().all(|reply| reply.status() == "ok"));
}

async fn health(worker: &Worker) -> Value {
    let (_, body) = worker.get("/health").await.expect("an answer");
    serde_json::from_str(&body).expect("JSON")
}

fn part<'a>(health: &'a Value, name: &str) -> &'a Value {
    let parts = health["parts"].as_array().expect("parts");
    let found = parts.iter().find(|part| part["part"] == name);
    found.unwrap_or_else(|| panic!("no part {name}: {health}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_a_worker_is_degraded_and_stays_ready() {
    let stack = Stack::shared().await;
    let worker = stack.worker().expect_trouble().start().await;
    assert_eq!(says(&worker, 200, "ready", 200).await, "ready\n");
    assert_eq!(worker.metric("kiln_ready", &[]).await, 1.0);
    stack.redis.kill();
    let body = says(&worker, 200, "degraded: redis: ", 200).await;
    assert_eq!(body.lines().count(), 1, "{body}");
    jobs_flow(&stack, "without").await;
    assert!(worker.is_ready().await);
    assert_eq!(worker.metric("kiln_ready", &[]).await, 1.0);
    let degraded = worker.metric("kiln_degraded", &[("part", "redis")]).await;
    assert_eq!(degraded, 1.0);
    let health = health(&worker).await;
    assert_eq!(
        worker.metric("kiln_degraded", &[]).await,
        1.0,
        "nothing else: {health}"
    );
    assert_eq!(health["status"], "degraded", "{health}");
    assert_eq!(health["missing"], serde_json::json!({}));
    assert_eq!(
        health["degraded"]["redis"],
        part(&health, "redis")["reason"]
    );
    assert_eq!(part(&health, "redis")["state"], "degraded");
    assert_eq!(part(&health, "postgres")["state"], "works");
    let folder = sandbox::folder("cli");
    let address = format!("127.0.0.1:{}", worker.http_port);
    let probe = sandbox::clean_command(env!("CARGO_BIN_EXE_kiln"), &folder)
        .args(["health", "--addr", &address])
        .output()
        .expect("the binary runs");
    assert_eq!(probe.status.code(), Some(0), "a container isn't restarted");
    assert!(String::from_utf8_lossy(&probe.stdout).contains("degraded: redis: "));
    stack.redis.start().await;
    eventually("ready again", PATIENCE, async || {
        (worker.get("/readyz").await? == (200, "ready\n".to_owned())).then_some(())
    })
    .await;
    assert_eq!(levels(&worker, "redis"), ["WARN", "INFO"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_answers_and_takes_no_writes_degrades_the_worker() {
    let stack = Stack::shared().await;
    let worker = stack.worker().expect_trouble().start().await;
    let config = async |name: &str, value: &str| {
        let words = ["CONFIG", "SET", name, value];
        stack.redis.command::<()>(&words).await;
    };
    for (round, reason) in ["OOM", "NOREPLICAS", "READONLY"].into_iter().enumerate() {
        match round {
            0 => stack.redis.fill().await,
            1 => config("min-replicas-to-write", "1").await,
            _ => {
                let words = ["REPLICAOF", "127.0.0.1", "1"];
                stack.redis.command::<()>(&words).await;
            }
        }
        let body = says(&worker, 200, "degraded: redis: refuses writes: ", 200).await;
        assert!(body.to_uppercase().contains(reason), "{reason}: {body}");
        jobs_flow(&stack, reason).await;
        let up = worker
            .metric("kiln_server_up", &[("server", "redis")])
            .await;
        assert_eq!(up, 1.0, "it answers all the same");
        match round {
            0 => stack.redis.make_room().await,
            1 => config("min-replicas-to-write", "0").await,
            _ => {
                let words = ["REPLICAOF", "NO", "ONE"];
                stack.redis.command::<()>(&words).await;
            }
        }
        eventually("ready again", PATIENCE, async || {
            (worker.get("/readyz").await? == (200, "ready\n".to_owned())).then_some(())
        })
        .await;
    }
    let trial = stack.redis.keys("kiln:trial:*").await;
    assert!(trial.is_empty(), "to ask stores nothing: {trial:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_database_is_named_once_and_the_worker_is_ready_when_it_thaws() {
    let stack = Stack::with(Own {
        broker: false,
        postgres: true,
    })
    .await;
    let worker = stack.worker().expect_trouble().start().await;
    stack.postgres.pause();
    says(&worker, 503, "postgres: no answer within ", 200).await;
    assert_eq!(worker.get("/livez").await.map(|a| a.0), Some(200));
    assert_eq!(worker.metric("kiln_ready", &[]).await, 0.0);
    assert_eq!(part(&health(&worker).await, "postgres")["state"], "down");
    // It goes on asking, and says no more about it.
    eventually("it asked again and again", PATIENCE, async || {
        let asked = part(&health(&worker).await, "postgres")["since"].clone();
        let since = chrono::DateTime::parse_from_rfc3339(asked.as_str()?).ok()?;
        let age = chrono::Utc::now() - since.to_utc();
        (age > chrono::Duration::seconds(8)).then_some(())
    })
    .await;
    assert_eq!(levels(&worker, "postgres"), ["WARN"]);
    stack.postgres.resume();
    says(&worker, 200, "ready", 503).await;
    jobs_flow(&stack, "thawed").await;
    assert_eq!(levels(&worker, "postgres"), ["WARN", "INFO"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_answers_and_takes_no_rows_makes_the_worker_not_ready() {
    let stack = Stack::shared().await;
    let settings = stack.worker().expect_trouble();
    let worker = settings
        .set("KILN_DATABASE__TIMEOUT_MS", "1000")
        .start()
        .await;
    let connect = PgConnection::connect(&stack.database_url());
    let mut other = connect.await.expect("a connection");
    for table in ["jobs", "scores"] {
        let lock = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
        let locked = other.execute(AssertSqlSafe(lock)).await;
        locked.expect("the table is locked");
        let job = fault_job(&format!("for-{table}"), table);
        stack.bus.publish_job(&job).await;
        says(&worker, 503, "postgres: ", 200).await;
        let up = worker
            .metric("kiln_server_up", &[("server", "postgres")])
            .await;
        assert_eq!(up, 1.0, "a round trip is answered");
        other.execute("COMMIT").await.expect("the lock's end");
        says(&worker, 200, "ready", 503).await;
        stack.row(&format!("for-{table}")).await;
    }
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    assert_eq!(
        stack.count(waiting).await,
        0,
        "no check waits in the server"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_backend_is_replaced_says_so() {
    let stack = Stack::shared().await;
    let settings = [
        ("KILN_MODELS__BACKENDS__FAULT", "wgpu"),
        ("KILN_MODELS__FALL_BACK", "true"),
    ];
    let mut worker = stack.worker().expect_trouble();
    let mut shell = Shell::on(&stack);
    for (name, value) in settings {
        worker = worker.set(name, value);
        shell = shell.set(name, value);
    }
    let worker = worker.start().await;
    let replaced = "the backend \"wgpu\" is replaced by \"cpu\": ";
    let expected = format!("degraded: models: {replaced}");
    says(&worker, 200, &expected, 200).await;
    let (_, models) = worker.get("/v1/models").await.expect("an answer");
    let models: Value = serde_json::from_str(&models).expect("JSON");
    assert_eq!(models[0]["backend"], "cpu", "{models}");
    jobs_flow(&stack, "replaced").await;
    let checks = shell.kiln(&["doctor", "--json"]).await.checks();
    let (status, found, _) = &checks["models"];
    assert_eq!(status, "warn", "{checks:?}");
    assert!(found.starts_with(replaced), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_takes_no_replies_makes_the_worker_not_ready() {
    let stack = Stack::with(Own {
        broker: true,
        postgres: false,
    })
    .await;
    let settings = stack.worker().expect_trouble();
    let worker = settings.set("KILN_HTTP__TIMEOUT_MS", "1000").start().await;
    jobs_flow(&stack, "before").await;
    stack.broker.block_publishers().await;
    let job = fault_job("posted", "a text").to_string();
    eventually("the worker misses its publisher", PATIENCE, async || {
        // The broker blocks a connection when it next publishes; the answer is that there is none in time.
        worker.ask("POST", "/v1/jobs", &[], job.as_bytes()).await?;
        let (status, body) = worker.get("/readyz").await?;
        let named = body.contains("publisher: the broker blocks publishers");
        (status == 503 && named).then_some(())
    })
    .await;
    stack.broker.unblock_publishers().await;
    says(&worker, 200, "ready", 503).await;
    assert_eq!(levels(&worker, "publisher"), ["WARN", "INFO"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_worker_is_ready_as_long_as_it_could_take_jobs() {
    let stack = Stack::shared().await;
    let proxy = Proxy::start(stack.broker.port).await;
    let url = format!("{}?heartbeat=2", stack.amqp_url_at(proxy.port));
    let settings = stack.worker().expect_trouble();
    let worker = settings.set("KILN_AMQP_URL", &url).start().await;
    let steer = async |path: &str| worker.ask("POST", path, &[], b"{}").await;
    steer("/v1/intake/pause").await.expect("an answer");
    eventually("nobody takes jobs", PATIENCE, async || {
        (stack.bus.consumers("kiln.jobs").await == Some(0)).then_some(())
    })
    .await;
    says(&worker, 200, "", 200).await;
    proxy.cut().await;
    says(&worker, 503, "broker: ", 200).await;
    proxy.resume().await;
    says(&worker, 200, "", 503).await;
    proxy.blackhole().await;
    says(&worker, 503, "broker: ", 200).await;
    proxy.resume().await;
    says(&worker, 200, "", 503).await;
    let said = async || {
        let mut levels = levels(&worker, "broker");
        // It may be said for another reason as well.
        levels.dedup();
        levels
    };
    let all = ["WARN", "INFO", "WARN", "INFO"].map(str::to_owned).to_vec();
    eventually_equals("what is logged", PATIENCE, all, said).await;
    steer("/v1/intake/resume").await.expect("an answer");
    jobs_flow(&stack, "after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_comes_and_goes_costs_few_log_lines() {
    const ROUNDS: usize = 5;
    let stack = Stack::shared().await;
    let proxy = Proxy::start(stack.postgres.port).await;
    let url = stack.database_url_at(proxy.port);
    let settings = stack.worker().expect_trouble();
    let worker = settings.set("KILN_DATABASE_URL", &url).start().await;
    for _ in 0..ROUNDS {
        proxy.cut().await;
        says(&worker, 503, "postgres: ", 200).await;
        proxy.resume().await;
        says(&worker, 200, "ready", 503).await;
    }
    let lines = lines_about(&worker, "postgres");
    assert!(lines.len() < 2 * ROUNDS, "{lines:#?}");
    let (_, last) = lines.last().expect("lines");
    assert!(last.contains("it changes often"), "{last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_a_model_version_that_is_refused_serves_the_others_degraded() {
    let stack = Stack::shared().await;
    let folder = sandbox::folder("models-of-which-one-is-bad");
    for version in ["1.0.0", "2.0.0"] {
        let source =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/sentiment/1.0.0");
        let target = folder.join("sentiment").join(version);
        std::fs::create_dir_all(&target).expect("a folder");
        for entry in std::fs::read_dir(source).expect("the shipped model") {
            let entry = entry.expect("an entry");
            std::fs::copy(entry.path(), target.join(entry.file_name())).expect("a copy");
        }
    }
    let bad = folder.join("sentiment/2.0.0/manifest.toml");
    std::fs::write(&bad, "this is no manifest").expect("a bad manifest");
    let settings = stack.worker().models(&[]).expect_trouble();
    let path = folder.to_str().expect("a plain path");
    let worker = settings.set("KILN_MODELS_DIR", path).start().await;
    let body = says(
        &worker,
        200,
        "degraded: models: 1 version is refused: ",
        200,
    )
    .await;
    assert!(body.contains("2.0.0"), "{body}");
    std::fs::remove_dir_all(folder.join("sentiment/2.0.0")).expect("gone");
    eventually("ready", PATIENCE, async || {
        (worker.get("/readyz").await? == (200, "ready\n".to_owned())).then_some(())
    })
    .await;
}

/// Connections of clients, which stay open.
async fn clients(worker: &Worker, count: usize, request: &[u8]) -> Vec<TcpStream> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let address = ("127.0.0.1", worker.http_port);
        let mut client = TcpStream::connect(address).await.expect("a connection");
        client.write_all(request).await.expect("a request");
        clients.push(client);
    }
    clients
}

/// What watches the worker is answered, and nobody else is.
async fn only_probes_are_answered(worker: &Worker) {
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(worker.get(path).await.map(|a| a.0), Some(200), "{path}");
    }
    let refused = worker.ask("GET", "/version", &[], b"").await;
    let refused = refused.expect("an answer");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.head.contains("connection: close"), "{refused:?}");
    assert!(refused.head.contains("retry-after: 1"), "{refused:?}");
    assert!(refused.body.contains("http.connections"), "{refused:?}");
}

async fn clients_are_answered(worker: &Worker) {
    eventually("there is room for clients", PATIENCE, async || {
        let (status, _) = worker.get("/version").await?;
        (status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_house_of_clients_makes_no_probe_wait() {
    let stack = Stack::shared().await;
    let settings = stack.worker();
    let worker = settings.set("KILN_HTTP__CONNECTIONS", "4").start().await;
    // Pages that watch hold their connections for as long as they like.
    let watch = b"GET /v1/live HTTP/1.1\r\nhost: localhost\r\n\r\n";
    clients_are_answered(&worker).await;
    let mut pages = clients(&worker, 4, watch).await;
    for page in &mut pages {
        let mut first = [0; 12];
        page.read_exact(&mut first).await.expect("an answer");
        assert_eq!(&first, b"HTTP/1.1 200");
    }
    only_probes_are_answered(&worker).await;
    // More of those who say nothing than there are connections for probes.
    let idle = clients(&worker, 40, b"").await;
    for _ in 0..3 {
        assert_eq!(worker.get("/livez").await.map(|a| a.0), Some(200));
    }
    drop(idle);
    only_probes_are_answered(&worker).await;
    drop(pages);
    clients_are_answered(&worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_is_cut_and_its_connection_is_free() {
    // More than the system keeps for those who don't read: 32 MiB, where much is allowed.
    const ASKED: usize = 2_000;
    let stack = Stack::shared().await;
    let settings = stack.worker().set("KILN_HTTP__TIMEOUT_MS", "4000");
    let worker = settings.set("KILN_HTTP__CONNECTIONS", "4").start().await;
    clients_are_answered(&worker).await;
    let request = b"GET /page/uplot.js HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(ASKED);
    let mut deaf = clients(&worker, 4, &request).await;
    only_probes_are_answered(&worker).await;
    // They still hold their ends of the connections.
    clients_are_answered(&worker).await;
    let (_, script) = worker.get("/page/uplot.js").await.expect("the script");
    for client in &mut deaf {
        let mut taken = Vec::new();
        // It ends early, in good order or not.
        let _cut = client.read_to_end(&mut taken).await;
        assert!(taken.len() < ASKED * script.len(), "{}", taken.len());
    }
}
