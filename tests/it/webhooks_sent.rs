//! Callbacks on their way: over TLS and signed for whom they are for, through a stop, as many as there are seats, and no more than their bounds.

use std::fs;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::harness::certificates::Certificates;
use crate::harness::receiver::{Posted, Receiver, SECRET};
use crate::harness::sandbox;
use crate::harness::stack::Stack;
use crate::harness::worker::Worker;
use crate::harness::{PATIENCE, eventually, eventually_equals};
use crate::webhooks::{calling, job, wait_until_none_wait};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_is_posted_over_tls_to_whom_the_system_trusts_and_signed_with_its_own_secret() {
    const OWN: &str = "another secret, of one receiver alone";
    let stack = Stack::shared().await;
    let certificates = Certificates::new();
    let crm = Receiver::encrypted(&certificates, "server").await;
    let stranger = Receiver::encrypted(&certificates, "stranger").await;
    let plain = Receiver::start().await;
    let folder = sandbox::folder("secrets");
    let secret = folder.join("crm");
    fs::write(&secret, format!("{OWN}\n")).expect("a file");
    let hosts = [crm.host(), stranger.host(), plain.host()];
    let private: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let worker = calling(&stack, &[], &private)
        .set("SSL_CERT_FILE", &certificates.text("ca.pem"))
        .set("KILN_CALLBACKS__MAX_TRIES", "1")
        .set(
            "KILN_CALLBACKS__RECEIVERS__CRM__HOSTS",
            &format!("[\"{}\"]", crm.host()),
        )
        .set(
            "KILN_CALLBACKS__RECEIVERS__CRM__SECRET_FILE",
            &secret.display().to_string(),
        )
        .allow("a callback is given up")
        .start()
        .await;
    let jobs = [
        job("own", &crm.url("/own")),
        job("common", &plain.url("/common")),
        job("strange", &stranger.url("/strange")),
    ];
    stack.bus.publish_jobs(&jobs).await;
    let own = &crm.wait_for("/own", 1).await[0];
    own.expect_signed_by(OWN);
    assert_eq!(own.json()["job_id"], "own");
    plain.wait_for("/common", 1).await[0].expect_signed_by(SECRET);
    let said = |line: &str| line.contains("given up") && line.contains("TLS failed");
    worker.wait_for_line("why it is given up", said).await;
    wait_until_none_wait(&stack).await;
    assert_eq!(stranger.count(), 0, "nothing is sent to whom nobody trusts");
    let log = worker.lines().join("\n");
    assert!(!log.contains(OWN) && !log.contains(SECRET));
    worker.stop().await;
    let _gone = fs::remove_dir_all(folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stop_cuts_is_posted_again_as_the_same_delivery_and_what_was_not_sent_is_free_at_once()
 {
    let stack = Stack::shared().await;
    let silent = Receiver::start().await;
    silent.set_silent(true);
    // It takes connections, and never says a word of TLS.
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mute_host = format!("localhost:{}", mute.local_addr().expect("one").port());
    let (connected, mut connections) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = mute.accept().await {
            open.push(stream);
            let _ended = connected.send(());
        }
    });
    let settings = calling(&stack, &[], &[&silent.host(), &mute_host])
        .set("KILN_CALLBACKS__TIMEOUT_MS", "60000")
        .set("KILN_DATABASE__TIMEOUT_MS", "2000");
    let first = settings.clone().start().await;
    let jobs = [
        job("cut", &silent.url("/cut")),
        job("unsent", &format!("https://{mute_host}/")),
    ];
    stack.bus.publish_jobs(&jobs).await;
    silent.wait_for("/cut", 1).await;
    connections.recv().await.expect("a connection");
    let held = "SELECT count(*) FROM callbacks WHERE due_at > now() AND tries = 1";
    assert_eq!(stack.count(held).await, 2, "both are under way");
    first.stop().await;
    let free =
        "SELECT count(*) FROM callbacks WHERE job_id = 'unsent' AND due_at <= now() AND tries = 0";
    assert_eq!(stack.count(free).await, 1, "it was never sent");
    assert_eq!(
        stack.count(held).await,
        1,
        "it may have been taken: its time isn't over"
    );

    silent.set_silent(false);
    stack
        .execute("UPDATE callbacks SET due_at = now() WHERE job_id = 'cut'")
        .await;
    let second = settings.start().await;
    let twice = silent.wait_for("/cut", 2).await;
    twice.iter().for_each(Posted::expect_signed);
    assert_eq!(twice[0].delivery, twice[1].delivery, "one end");
    connections.recv().await.expect("another worker tries it");
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_cuts_no_look_at_a_job_that_is_to_be_posted() {
    let stack = Stack::shared().await;
    let receiver = Receiver::start().await;
    let worker = calling(&stack, &[], &[&receiver.host()]).start().await;
    let (url, host) = (receiver.url("/"), receiver.host());
    // Nobody reads rows of jobs until it ends.
    let mut held = stack.hold_jobs().await;
    let lock = sqlx::query("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE");
    lock.execute(&mut *held).await.expect("a lock");
    let statement = format!(
        "INSERT INTO callbacks (job_id, body_sha256, url, host) VALUES ('unread', sha256('unread'), '{url}', '{host}')"
    );
    stack.execute(statement.leak()).await;
    let insert = sqlx::query(
        "INSERT INTO jobs (job_id, body_sha256, finished_at, status, error)
         VALUES ('unread', sha256('unread'), now(), 'rejected', '{\"code\": \"invalid\", \"field\": null, \"message\": \"\"}')",
    );
    insert.execute(&mut *held).await.expect("a row");
    let reading = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'WITH found AS MATERIALIZED%' AND wait_event_type = 'Lock'";
    eventually_equals("its row is waited for", PATIENCE, 1, || {
        stack.count(reading)
    })
    .await;
    worker.terminate();
    // It is said by a task that is stopped with the one that posts.
    let stopped = "SELECT count(*) FROM workers WHERE stopped_at IS NOT NULL";
    eventually_equals("it is asked to stop", PATIENCE, 1, || stack.count(stopped)).await;
    // A connection is lent only once a statement that was cut has ended on the server.
    assert_eq!(stack.count(reading).await, 1, "it was cut");
    held.commit().await.expect("the end of the lock");
    let status = worker.wait_exit(PATIENCE).await;
    assert!(status.success(), "{status}");
    let free = "SELECT count(*) FROM callbacks WHERE due_at <= now() AND tries = 0";
    assert_eq!(stack.count(free).await, 1, "it is another worker's");
    assert_eq!(receiver.count(), 0);
}

/// The most memory that a worker has held so far, in KiB.
fn peak_kib(worker: &Worker) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", worker.pid())).expect("its status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
    peak.expect("a peak").trim().parse().expect("a number")
}

/// Rows of jobs that ended, and of their callbacks, which are due.
async fn insert_due(stack: &Stack, ids: &str, columns: &str, values: &str, url: &str, host: &str) {
    let statement = format!(
        "WITH ids AS MATERIALIZED ({ids}), ended AS (
           INSERT INTO jobs (job_id, body_sha256, finished_at, {columns})
           SELECT id, sha256(id::bytea), now(), {values} FROM ids
         )
         INSERT INTO callbacks (job_id, body_sha256, url, host) SELECT id, sha256(id::bytea), '{url}', '{host}' FROM ids"
    );
    stack.execute(statement.leak()).await;
}

const DONE: (&str, &str) = (
    "status, model, version, namespace, hits, misses, elapsed_ms, results",
    "'ok', 'm', '1', 'n', 0, 1, 1.0, '[]'",
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_of_a_row_to_post_it_is_bounded() {
    let stack = Stack::shared().await;
    let receiver = Receiver::start().await;
    let worker = calling(&stack, &[], &[&receiver.host()])
        .set("KILN_REPLY__MAX_BYTES", "1048576")
        .start()
        .await;
    let (url, host) = (receiver.url("/huge"), receiver.host());
    let before = peak_kib(&worker);
    insert_due(
        &stack,
        "SELECT 'huge' AS id",
        DONE.0,
        "'ok', repeat('m', 100000000), '1', 'n', 0, 1, 1.0, to_jsonb(repeat('a', 200000000))",
        &url,
        &host,
    )
    .await;
    insert_due(
        &stack,
        "SELECT 'long' AS id",
        "status, error",
        "'rejected', jsonb_build_object('code', 'invalid', 'field', 'inputs', 'message', repeat('a', 200000000))",
        &url,
        &host,
    )
    .await;
    let posted = receiver.wait_for("/huge", 2).await;
    let of = |id: &str| -> Value {
        let mut bodies = posted.iter().map(Posted::json);
        bodies.find(|body| body["job_id"] == id).expect("posted")
    };
    let huge = of("huge");
    assert_eq!(huge["results_omitted"], true, "no results");
    assert!(huge["model"].as_str().is_some_and(|name| name.len() <= 512));
    assert_eq!(of("long")["error"]["code"], "invalid");
    let grown = peak_kib(&worker).saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB for 1 MiB at once");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seats_are_filled_again_as_soon_as_they_are_free() {
    let stack = Stack::shared().await;
    let receiver = Receiver::start().await;
    let worker = calling(&stack, &[], &[&receiver.host()])
        .set("KILN_CALLBACKS__AT_ONCE", "1")
        .start()
        .await;
    // One for each look would take five minutes.
    let ids = "SELECT 'job-' || n AS id FROM generate_series(1, 600) AS n";
    let (url, host) = (receiver.url("/"), receiver.host());
    insert_due(&stack, ids, DONE.0, DONE.1, &url, &host).await;
    wait_until_none_wait(&stack).await;
    assert_eq!(receiver.count(), 600, "each once");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_the_database_refuses_is_said_once_and_posting_goes_on_after_it() {
    let stack = Stack::shared().await;
    let receiver = Receiver::start().await;
    let worker = calling(&stack, &[], &[&receiver.host()])
        .allow("callbacks wait")
        .start()
        .await;
    // A row that no number can be made of.
    let statement = format!(
        "INSERT INTO callbacks (job_id, body_sha256, url, host, created_at) VALUES ('odd', '', 'http://{host}/', '{host}', 'infinity')",
        host = receiver.host()
    );
    stack.execute(statement.leak()).await;
    let said = |line: &str| line.contains("callbacks wait: the database refuses");
    worker.wait_for_line("that it is refused", said).await;
    let refused = "SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()";
    let before = stack.count(refused).await;
    eventually("it was refused again and again", PATIENCE, || async {
        (stack.count(refused).await >= before + 3).then_some(())
    })
    .await;
    stack
        .execute("DELETE FROM callbacks WHERE job_id = 'odd'")
        .await;
    let after = job("after", &receiver.url("/after"));
    stack.bus.publish_jobs(&[after]).await;
    receiver.wait_for("/after", 1).await;
    let lines = worker.lines();
    assert_eq!(lines.iter().filter(|line| said(line)).count(), 1);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_beyond_the_bound_is_given_up_the_oldest_first() {
    let stack = Stack::shared().await;
    // The tables are there then.
    stack.worker().start().await.stop().await;
    stack
        .execute(
            "INSERT INTO callbacks (job_id, body_sha256, url, host, created_at, due_at)
             SELECT 'job-' || n, ''::bytea, 'https://hooks.example/', 'hooks.example',
               now() - (10 - n) * interval '1 minute', now() + interval '1 hour' FROM generate_series(1, 5) AS n",
        )
        .await;
    let worker = calling(&stack, &["hooks.example"], &[])
        .set("KILN_CALLBACKS__MAX_WAITING", "3")
        .allow("callbacks are given up")
        .start()
        .await;
    let said = |line: &str| line.contains("callbacks are given up: they waited too long");
    worker.wait_for_line("that some are given up", said).await;
    let left = "SELECT string_agg(job_id, ' ' ORDER BY job_id) FROM callbacks";
    assert_eq!(stack.text(left).await, "job-3 job-4 job-5");
    let given_up = [("outcome", "given_up")];
    let counted = worker.metric("kiln_callbacks_total", &given_up).await;
    assert_eq!(counted, 2.0);
    eventually_equals("those that are left", PATIENCE, 3.0, || {
        worker.metric("kiln_callbacks_waiting", &[])
    })
    .await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_knows_what_waits_no_number_says_so() {
    let stack = Stack::shared().await;
    stack.worker().start().await.stop().await;
    stack
        .execute("ALTER TABLE callbacks RENAME TO out_of_reach")
        .await;
    let worker = calling(&stack, &["hooks.example"], &[])
        .allow("callbacks wait: the database refuses")
        .start()
        .await;
    for name in ["kiln_callbacks_waiting", "kiln_callbacks_oldest_seconds"] {
        eventually("it isn't known", PATIENCE, || async {
            worker.metric(name, &[]).await.is_nan().then_some(())
        })
        .await;
    }
    worker.stop().await;
}
