//! A worker that is asked to stop: at once not ready, nothing new is taken, what is in hand is answered or released, and it ends well.

use std::fs;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::bus::JOBS;
use crate::harness::collector::Collector;
use crate::harness::jobs::{fault_job, slow_jobs};
use crate::harness::stack::Stack;
use crate::harness::worker::Worker;
use crate::harness::{PATIENCE, eventually, eventually_equals, sandbox};

/// Long enough for everything to be in hand at once, and for a few questions meanwhile.
const SLOW_MS: u64 = 6_000;
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A schedule that runs when it is asked to.
fn put_schedule(folder: &std::path::Path) {
    let text = "name = \"words\"\nenabled = false\ncron = \"0 0 1 1 *\"\nmodel = \"sentiment\"\nnamespace = \"warmed\"\n\
        [source]\nkind = \"static\"\ninputs = [{ key = \"k\", text = \"a nice word\" }]\n";
    fs::write(folder.join("words.toml"), text).expect("a file");
}

fn ask_for_run(stack: &Stack, schedules: &std::path::Path) {
    let output = sandbox::clean_command(env!("CARGO_BIN_EXE_kiln"), &sandbox::folder("cli"))
        .args(["warm", "words"])
        .env("KILN_WARM__DIR", schedules)
        .env(
            "KILN_MODELS_DIR",
            concat!(env!("CARGO_MANIFEST_DIR"), "/models"),
        )
        .env("KILN_DATABASE_URL", stack.database_url())
        .env("KILN_REDIS_URL", stack.redis.url())
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{output:?}");
}

/// Watches as the page does; gives what came until the stream's end.
async fn watch(port: u16) -> tokio::task::JoinHandle<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("a connection");
    let request = b"GET /v1/live HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(request).await.expect("a request");
    let mut first = [0; 512];
    let read = stream.read(&mut first).await.expect("an answer");
    assert!(String::from_utf8_lossy(&first[..read]).starts_with("HTTP/1.1 200"));
    tokio::spawn(async move {
        let mut rest = Vec::new();
        // The last chunk is empty; the connection itself stays open until the worker's end.
        while !rest.ends_with(b"\r\n0\r\n\r\n") {
            let mut more = [0; 4_096];
            let read = stream.read(&mut more).await.expect("an orderly end");
            rest.extend_from_slice(&more[..read]);
            if read == 0 {
                break;
            }
        }
        String::from_utf8_lossy(&rest).into_owned()
    })
}

/// One job and one request in the worker's hands, each for [`SLOW_MS`].
async fn put_in_hand(
    stack: &Stack,
    worker: &Worker,
) -> tokio::task::JoinHandle<Option<(u16, String)>> {
    let job = fault_job("in-hand", &format!("sleep:{SLOW_MS} a job"));
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    stack.bus.publish_traced(&job, &traceparent).await;
    let body = json!({"model": "fault", "text": format!("sleep:{SLOW_MS} a request")}).to_string();
    let head = format!(
        "POST /v1/score HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let connected = TcpStream::connect(("127.0.0.1", worker.http_port)).await;
    let mut stream = connected.expect("a connection");
    // Sent before anything else is asked, and so in hand before that is answered.
    let sent = stream.write_all((head + &body).as_bytes()).await;
    sent.expect("a request");
    let request = tokio::spawn(async move {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    });
    eventually("the job is in the worker's hands", PATIENCE, async || {
        (worker.metric("kiln_jobs_in_hand", &[]).await == 1.0).then_some(())
    })
    .await;
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_hand_is_answered_or_released() {
    let stack = Stack::shared().await;
    let collector = Collector::start().await;
    let schedules = sandbox::folder("schedules");
    put_schedule(&schedules);
    let settings = stack
        .worker()
        .models(&["fault", "sentiment"])
        .set("KILN_HTTP__TIMEOUT_MS", "20000")
        .set(
            "KILN_TRACE__ENDPOINT",
            &format!("http://{}", collector.address),
        )
        .set("KILN_WARM__DIR", schedules.to_str().expect("a plain path"))
        .set("KILN_WARM__CLAIM_SECONDS", "600");
    // It has no room for warming, and so holds the run.
    let first = settings
        .clone()
        .set("KILN_WARM__BACKLOG_MOST", "0")
        .start()
        .await;
    tokio::task::block_in_place(|| ask_for_run(&stack, &schedules));
    eventually_equals("the run is in hand", PATIENCE, 1, || {
        stack.count("SELECT count(*) FROM warm_runs WHERE state = 'posting'")
    })
    .await;
    let page = watch(first.http_port).await;
    let request = put_in_hand(&stack, &first).await;

    first.terminate();
    let (_, why) = eventually("the worker isn't ready", PATIENCE, || async {
        first
            .get("/readyz")
            .await
            .filter(|(status, _)| *status == 503)
    })
    .await;
    assert!(why.contains("worker: it is stopping"), "{why}");
    let refused = first
        .ask(
            "POST",
            "/v1/score",
            &[("content-type", "application/json")],
            b"{\"model\": \"fault\", \"text\": \"more\"}",
        )
        .await
        .expect("an answer");
    assert_eq!(
        (
            refused.status,
            refused.body.contains("the worker is stopping")
        ),
        (503, true),
        "{refused:?}"
    );
    assert_eq!(
        stack.row_count().await,
        0,
        "all that while its job is still in hand"
    );
    let rest = page.await.expect("the page's stream ends");
    assert!(rest.ends_with("0\r\n\r\n"), "in good order: {rest}");
    // Another worker takes over what was released and what is new.
    let second = settings.start().await;
    stack.bus.publish_job(&fault_job("new", "new work")).await;
    assert!(first.is_alive(), "all that while its job is in hand");
    assert_eq!(first.wait_exit(PATIENCE).await.code(), Some(0));
    assert_eq!(stack.row("in-hand").await.status, "ok");
    let answer = request.await.expect("no panic").expect("an answer");
    assert_eq!(answer.0, 200, "{answer:?}");
    let spans = collector.trace(TRACE, 4).await;
    assert_eq!(spans[0].name, "process job");
    eventually_equals(
        "the run is done elsewhere",
        PATIENCE,
        "done".to_owned(),
        || stack.text("SELECT state FROM warm_runs"),
    )
    .await;
    eventually_equals("all is done", PATIENCE, 3, || {
        stack.count("SELECT count(*) FROM jobs WHERE status = 'ok' AND (job_id IN ('in-hand', 'new') OR job_id LIKE 'warm-%-0')")
    })
    .await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once_and_the_job_goes_back() {
    let stack = Stack::shared().await;
    let settings = stack
        .worker()
        .allow("second signal")
        .set("KILN_DRAIN__LIMIT_SECONDS", "600");
    let worker = settings.start().await;
    stack
        .bus
        .publish_jobs(&slow_jobs("endless", 1, 1_200_000))
        .await;
    eventually_equals(
        "the job is in the worker's hands",
        PATIENCE,
        Some(0),
        || stack.bus.waiting(JOBS),
    )
    .await;
    worker.terminate();
    worker.wait_not_ready().await;
    worker.terminate();
    assert_eq!(worker.wait_exit(PATIENCE).await.code(), Some(1));
    eventually("the job waits again", PATIENCE, || stack.bus.take(JOBS)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_suspected_of_killing_workers_are_no_reason_to_stay() {
    let stack = Stack::shared().await;
    let first = stack.worker().start().await;
    let jobs = slow_jobs("suspect", 4, 3_000);
    stack.bus.publish_jobs(&jobs).await;
    eventually("the jobs are in the worker's hands", PATIENCE, async || {
        (first.metric("kiln_jobs_in_hand", &[]).await == 4.0).then_some(())
    })
    .await;
    first.kill();
    // Each was delivered before, and runs alone.
    let second = stack
        .worker()
        .set("KILN_INTAKE__SUSPECT_AFTER", "1")
        .start()
        .await;
    eventually("one runs", PATIENCE, async || {
        (second
            .metric("kiln_batches_total", &[("reason", "alone")])
            .await
            >= 1.0)
            .then_some(())
    })
    .await;
    // As many service managers do, whoever is to end what runs.
    sandbox::signal(&second.other_processes(), libc::SIGTERM);
    second.stop().await;
    assert!(
        second.stop_took() <= Duration::from_secs(25),
        "the limit is kept"
    );
    let done = stack.row_count().await;
    assert!(
        (1..4).contains(&done),
        "what ran has ended, and {done} of 4 did"
    );
    eventually_equals(
        "the others wait again",
        PATIENCE,
        Some(4 - done as u32),
        || stack.bus.waiting(JOBS),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_without_servers_stops_as_well() {
    let stack = Stack::private().await;
    let worker = stack.worker().expect_trouble().start().await;
    stack
        .bus
        .publish_jobs(&slow_jobs("waiting", 1, 1_000))
        .await;
    eventually("the job is in the worker's hands", PATIENCE, async || {
        (worker.metric("kiln_jobs_in_hand", &[]).await == 1.0).then_some(())
    })
    .await;
    stack.broker.stop().await;
    stack.redis.kill();
    stack.postgres.kill();
    worker.wait_not_ready().await;
    worker.terminate();
    assert_eq!(worker.wait_exit(PATIENCE).await.code(), Some(0));
    assert!(
        worker.stop_took() < Duration::from_secs(10),
        "nobody waits for servers that are away"
    );
}
