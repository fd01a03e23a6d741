//! `kiln submit`, `kiln dead` and `kiln doctor`, as scripts use them: exit codes, standard output, standard error.

use std::collections::BTreeSet;
use std::process::Stdio;

use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};

use super::files::command;
use super::harness::bus::{DEAD, JOBS, persistent};
use super::harness::jobs::{fault_job, text_job};
use super::harness::shell::{Ended, Shell};
use super::harness::stack::Stack;
use super::harness::{PATIENCE, eventually, eventually_equals, sandbox};

fn without_time(mut reply: Value) -> String {
    reply
        .as_object_mut()
        .and_then(|fields| fields.remove("elapsed_ms"));
    reply.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_submitted_answered_and_safe_to_submit_again() {
    let stack = Stack::shared().await;
    let _worker = stack.worker().start().await;
    let shell = Shell::on(&stack);
    let mut lines: Vec<String> = (0..25)
        .map(|n| json!({"key": format!("k{n}"), "text": format!("input {n}")}).to_string())
        .collect();
    lines.insert(5, "not json".into());
    lines.push(fault_job("whole", "a whole job").to_string());
    lines.push(text_job("lost", "nosuchmodel", &["x"]).to_string());
    shell.write("in.jsonl", &lines);
    let arguments = [
        "submit",
        "in.jsonl",
        "--model",
        "fault",
        "--namespace",
        "cli",
        "--inputs-per-job",
        "10",
        "--id-prefix",
        "it-",
        "--wait",
        "--json",
    ];
    let first = shell.kiln(&arguments).await.with(3);
    assert!(first.err.contains("line 6: not JSON"), "{}", first.err);
    let summary: Value =
        serde_json::from_str(first.err.lines().last().expect("a summary")).expect("JSON");
    let counts = ["posted", "ok", "rejected", "missing", "misses", "bad_lines"];
    let counted: Vec<u64> = counts
        .iter()
        .map(|n| summary[*n].as_u64().expect(n))
        .collect();
    // 25 inputs are cut at the bad line too: 5, 10 and 10 of them, and two whole jobs.
    assert_eq!(counted, [5, 4, 1, 0, 26, 1], "{summary}");
    let replies = first.lines();
    let scored: usize = replies
        .iter()
        .map(|r| r["results"].as_array().map_or(0, Vec::len))
        .sum();
    assert_eq!(scored, 26);
    let ids: BTreeSet<&str> = replies
        .iter()
        .filter_map(|r| r["job_id"].as_str())
        .collect();
    assert_eq!(ids.iter().filter(|id| id.starts_with("it-")).count(), 3);
    let rejected = replies.iter().find(|r| r["job_id"] == "lost");
    assert_eq!(
        rejected.expect("its reply")["error"]["code"],
        "unknown_model"
    );

    let again = shell.kiln(&arguments).await.with(3);
    let told = |ended: &Ended| -> BTreeSet<String> {
        ended.lines().into_iter().map(without_time).collect()
    };
    assert_eq!(told(&first), told(&again));
    assert_eq!(stack.row_count().await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_jobs_are_each_answered_once() {
    let stack = Stack::shared().await;
    let _worker = stack.worker().start().await;
    let shell = Shell::on(&stack);
    let lines: Vec<String> = (0..3_000)
        .map(|n| fault_job(&format!("many-{n}"), &format!("text {n}")).to_string())
        .collect();
    let input = lines.join("\n");
    let ended = shell
        .kiln_reading(&["submit", "-", "--wait"], &input)
        .await
        .with(0);
    let ids: BTreeSet<String> = ended
        .lines()
        .iter()
        .map(|r| r["job_id"].to_string())
        .collect();
    assert_eq!((ids.len(), ended.lines().len()), (3_000, 3_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_may_be_submitted_before_the_first_worker_starts() {
    let stack = Stack::shared().await;
    let shell = Shell::on(&stack);
    let input = r#"{"text": "early"}"#;
    let nobody = [
        "submit",
        "-",
        "--model",
        "fault",
        "--wait",
        "--timeout",
        "4",
    ];
    let ended = shell.kiln_reading(&nobody, input).await.with(1);
    assert!(
        ended.err.contains("no worker takes jobs")
            && ended.err.contains("1 of 1 replies are missing"),
        "{}",
        ended.err
    );
    shell
        .kiln_reading(&["submit", "-", "--model", "fault"], input)
        .await
        .with(0);
    assert_eq!(stack.bus.waiting(JOBS).await, Some(2));
    let _worker = stack.worker().start().await;
    stack.wait_for_rows(1).await;
    stack.wait_for_empty(JOBS).await;
    assert_eq!(stack.row_count().await, 1, "the same input, the same job");

    let usage = shell.kiln_reading(&["submit", "-"], input).await.with(2);
    assert!(usage.err.contains("--model"), "{}", usage.err);
}

/// A worker that knows only the model `fault` rejects two jobs for `sentiment`, and one without a text.
pub async fn three_letters(stack: &Stack) {
    let worker = stack.worker().start().await;
    let mut headers = FieldTable::default();
    headers.insert("team".into(), AMQPValue::LongString("search".into()));
    let later = |id: &str| {
        let job = text_job(id, "sentiment", &["I love this!"]);
        let properties = persistent()
            .with_headers(headers.clone())
            .with_message_id(id.into());
        (job.to_string().into_bytes(), properties)
    };
    stack
        .bus
        .publish(JOBS, vec![later("feed-1"), later("feed-2")])
        .await;
    stack.bus.publish_job(&fault_job("other-1", "")).await;
    eventually_equals("letters", PATIENCE, Some(3), || stack.bus.waiting(DEAD)).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_and_shown_and_stay() {
    let stack = Stack::shared().await;
    three_letters(&stack).await;
    let shell = Shell::on(&stack);
    let ids = |ended: &Ended| -> Vec<String> {
        let id = |letter: &Value| letter["job_id"].as_str().expect("an id").to_owned();
        let mut ids: Vec<String> = ended.lines().iter().map(id).collect();
        ids.sort();
        ids
    };
    // More often than RabbitMQ 4 would deliver a message by default.
    for _ in 0..22 {
        let all = shell.kiln(&["dead", "list", "--json"]).await.with(0);
        assert_eq!(ids(&all), ["feed-1", "feed-2", "other-1"]);
    }
    for (filter, expected) in [
        (["--code", "unknown_model"], vec!["feed-1", "feed-2"]),
        (["--job-id", "other"], vec!["other-1"]),
        (["--job-id", "*-1"], vec!["feed-1", "other-1"]),
        (["--older-than", "1h"], vec![]),
    ] {
        let arguments = [&["dead", "list", "--json"], filter.as_slice()].concat();
        let some = shell.kiln(&arguments).await.with(0);
        assert_eq!(ids(&some), expected, "{filter:?}");
    }
    let table = shell.kiln(&["dead", "list"]).await.with(0);
    assert!(table.out.contains("unknown_model") && table.out.contains("inputs[0].text"));
    let bounded = shell.kiln(&["dead", "list", "--scan", "1"]).await.with(0);
    assert!(bounded.err.contains("looked at 1 of 3"), "{}", bounded.err);

    let shown = shell
        .kiln(&["dead", "show", "feed-2", "--json"])
        .await
        .with(0);
    let letter = &shown.lines()[0];
    assert_eq!(letter["body"]["inputs"][0]["text"], "I love this!");
    assert_eq!(letter["headers"]["team"], "search");
    assert_eq!(letter["queue"], JOBS);
    shell.kiln(&["dead", "show", "nobody"]).await.with(1);
    assert_eq!(stack.bus.waiting(DEAD).await, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_letter_is_the_producers_message_again() {
    let stack = Stack::shared().await;
    three_letters(&stack).await;
    let shell = Shell::on(&stack);
    let arguments = ["dead", "replay", "--job-id", "feed-*", "--json"];
    let ended = shell.kiln(&arguments).await.with(0);
    assert_eq!(ended.lines()[0]["replayed"], 2);
    assert_eq!(stack.bus.waiting(DEAD).await, Some(1));
    assert_eq!(noted(&stack).await, "replay job id feed-*: 2 letters");
    let message = stack.bus.take(JOBS).await.expect("the job is back");
    let headers = message
        .properties
        .headers()
        .as_ref()
        .expect("its own header");
    // Those that start with x- are the broker's, written on the way out of the queue.
    let names = headers.inner().keys().map(|name| name.as_str());
    let names: Vec<&str> = names.filter(|name| !name.starts_with("x-")).collect();
    assert_eq!(names, ["kiln-accepted-at", "team"]);
    assert_eq!(message.properties.delivery_mode(), &Some(2));
    assert!(message.properties.message_id().is_some());

    // The one that was not looked at by hand is scored now that its model is there.
    let _worker = stack.worker().models(&["fault", "sentiment"]).start().await;
    eventually_equals("scored jobs", PATIENCE, 1, async || {
        let rows = stack.rows().await;
        rows.iter().filter(|row| row.status == "ok").count()
    })
    .await;
    assert_eq!(stack.bus.waiting(DEAD).await, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_cannot_be_replayed_stays() {
    let stack = Stack::shared().await;
    three_letters(&stack).await;
    let foreign = (b"not Kiln's".to_vec(), persistent());
    stack.bus.publish(DEAD, vec![foreign]).await;
    stack.bus.delete(JOBS).await;
    let shell = Shell::on(&stack);
    let ended = shell.kiln(&["dead", "replay"]).await.with(3);
    assert!(
        ended.err.contains("gone") && ended.err.contains("kiln-queue"),
        "{}",
        ended.err
    );
    assert_eq!(stack.bus.waiting(DEAD).await, Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_meant_is_purged() {
    let stack = Stack::shared().await;
    three_letters(&stack).await;
    let shell = Shell::on(&stack);
    for careless in [
        &["dead", "purge"][..],
        &["dead", "purge", "--code", "invalid"],
    ] {
        let ended = shell.kiln_reading(careless, "y\n").await.with(2);
        assert!(ended.err.contains("--yes"), "{}", ended.err);
    }
    assert_eq!(stack.bus.waiting(DEAD).await, Some(3));
    let arguments = ["dead", "purge", "--code", "unknown_model", "--yes"];
    let ended = shell.kiln(&arguments).await.with(0);
    assert!(ended.out.contains("purged 2 of 3"), "{}", ended.out);
    let left = shell.kiln(&["dead", "list", "--json"]).await.with(0);
    assert_eq!(left.lines()[0]["job_id"], "other-1");
    // What can't be noted is done all the same, and where no database is set, none is asked.
    let away = Shell::on(&stack).set("KILN_DATABASE_URL", "postgres://kiln@127.0.0.1:1/kiln");
    let ended = away
        .kiln(&["dead", "purge", "--job-id", "nobody", "--yes"])
        .await;
    let ended = ended.with(0);
    assert!(ended.err.contains("isn't noted"), "{}", ended.err);
    let mut bare = Shell::on(&stack);
    bare.variables.remove("KILN_DATABASE_URL");
    let ended = bare
        .kiln(&["dead", "replay", "--job-id", "nobody"])
        .await
        .with(0);
    assert_eq!(ended.err, "");
    let expected = "purge code unknown_model: 2 letters";
    assert_eq!(noted(&stack).await, expected);
    shell.kiln(&["dead", "purge", "--yes"]).await.with(0);
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));
    assert_eq!(
        noted(&stack).await,
        format!("{expected}; purge all: 1 letters")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_purged_before_a_stop_is_noted() {
    const LETTERS: u32 = 20_000;
    let stack = Stack::shared().await;
    three_letters(&stack).await;
    let letters = (3..LETTERS).map(|n| (n.to_string().into_bytes(), persistent()));
    stack.bus.publish(DEAD, letters.collect()).await;
    let shell = Shell::on(&stack);
    let child = command(&shell, &["dead", "purge", "--yes"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    eventually("it purges", PATIENCE, async || {
        (stack.bus.waiting(DEAD).await? < LETTERS - 100).then_some(())
    })
    .await;
    sandbox::signal(&[child.id() as i32], libc::SIGINT);
    let ended = tokio::task::block_in_place(|| child.wait_with_output().expect("our child"));
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    let counted = said.strip_prefix("kiln: stopped: ");
    let counted = counted.and_then(|said| said.strip_suffix(" letters were purged\n"));
    let counted: u32 = counted.and_then(|n| n.parse().ok()).expect(&said);
    assert_eq!(noted(&stack).await, format!("purge all: {counted} letters"));
    eventually_equals("letters", PATIENCE, Some(LETTERS - counted), async || {
        stack.bus.waiting(DEAD).await
    })
    .await;
}

/// What commands have noted among operators' actions, in order.
async fn noted(stack: &Stack) -> String {
    let by = "SELECT count(*) FROM actions WHERE by_name NOT LIKE 'command: %'";
    assert_eq!(stack.count(by).await, 0);
    let all =
        "SELECT coalesce(string_agg(kind || ' ' || detail, '; ' ORDER BY id), '') FROM actions";
    stack.text(all).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_what_is_there_and_creates_nothing() {
    let stack = Stack::shared().await;
    let shell = Shell::on(&stack);
    let fresh = shell.kiln(&["doctor", "--json"]).await.with(0);
    let checks = fresh.checks();
    let status = |name: &str| {
        let check = checks.get(name);
        check
            .unwrap_or_else(|| panic!("{name}: {checks:#?}"))
            .0
            .as_str()
    };
    for name in [
        "settings",
        "rabbitmq",
        "rabbitmq rights",
        "redis",
        "redis writes",
        "redis clock",
        "postgres",
        "postgres rights",
        "postgres clock",
        "model fault@1",
        "http address",
    ] {
        assert_eq!(status(name), "ok", "{checks:#?}");
    }
    assert_eq!(status("queues"), "warn");
    assert_eq!(status("postgres migrations"), "warn");
    assert_eq!(status("redis memory"), "warn");
    assert!(
        checks["redis memory"]
            .2
            .contains("CONFIG SET maxmemory-policy")
    );
    assert_eq!(
        stack.bus.waiting(JOBS).await,
        None,
        "no queue was made by looking"
    );
    assert!(stack.redis.keys("*").await.is_empty(), "no key is left");

    let worker = stack.worker().expect_trouble().start().await;
    let held = shell
        .set("KILN_HTTP_ADDR", &format!("127.0.0.1:{}", worker.http_port))
        // The queues for retries carry their delay in their name: ask for those that the worker has.
        .set("KILN_RETRY__DELAYS_MS", "[100,200]");
    let checks = held.kiln(&["doctor", "--json"]).await.with(0).checks();
    assert_eq!(checks["queue kiln.jobs"].0, "ok", "{checks:#?}");
    assert!(checks["queue kiln.jobs"].1.contains("1 consumer"));
    assert_eq!(checks["postgres migrations"].0, "ok");
    assert!(!checks.contains_key("queues"), "{checks:#?}");
    assert!(checks["http address"].1.contains("running worker: ready"));
    stack.redis.kill();
    eventually("the worker misses redis", PATIENCE, async || {
        let (_, said) = worker.get("/readyz").await?;
        said.contains("degraded: redis: ").then_some(())
    })
    .await;
    let checks = held.kiln(&["doctor", "--json"]).await.with(1).checks();
    let (status, said, advice) = &checks["http address"];
    assert_eq!(status, "warn");
    assert!(
        said.contains("running worker: degraded: redis: "),
        "the worker's own words: {said}"
    );
    assert!(advice.contains("KilnDegraded"), "{advice}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_names_what_is_wrong_and_keeps_secrets() {
    let stack = Stack::shared().await;
    stack.bus.declare(JOBS, FieldTable::default()).await;
    stack.redis.fill().await;
    let database = stack.database_url().replace("kiln@", "kiln:hunter2@");
    let broker = stack.amqp_url().replace("guest:guest", "guest:hunter2");
    let shell = Shell::on(&stack).set("KILN_DATABASE_URL", &database);
    let ended = shell.kiln(&["doctor", "--json"]).await.with(1);
    let checks = ended.checks();
    assert_eq!(checks["queue kiln.jobs"].0, "fail", "{checks:#?}");
    assert!(
        checks["queue kiln.jobs"].1.contains("inequivalent arg"),
        "{checks:#?}"
    );
    assert_eq!(checks["redis writes"].0, "fail", "{checks:#?}");
    assert!(checks["redis writes"].2.contains("maxmemory"));

    stack.redis.kill();
    let shell = shell
        .set("KILN_AMQP_URL", &broker)
        .set("KILN_MODELS_DIR", "nowhere");
    let table = shell.kiln(&["doctor"]).await.with(1);
    for expected in [
        "ACCESS_REFUSED",
        "check the user and password in KILN_AMQP_URL",
        "start Redis, or correct KILN_REDIS_URL",
        "KILN_MODELS_DIR",
        "3 failed",
    ] {
        assert!(table.out.contains(expected), "{expected}: {}", table.out);
    }
    for text in [&ended.out, &ended.err, &table.out, &table.err] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_servers_the_doctor_says_which_are_not_configured() {
    let shell = Shell::bare();
    let checks = shell.kiln(&["doctor", "--json"]).await.with(0).checks();
    for name in ["rabbitmq", "redis", "postgres"] {
        assert_eq!(
            (checks[name].0.as_str(), checks[name].1.as_str()),
            ("off", "not configured")
        );
    }
    assert_eq!(checks["embedded database"].0, "ok");
    assert!(
        !shell.folder.join("kiln.db").exists(),
        "nothing is made by looking"
    );
    for command in [&["submit", "-"][..], &["dead", "list"]] {
        let ended = shell.kiln(command).await.with(2);
        assert!(ended.err.contains("KILN_AMQP_URL"), "{}", ended.err);
    }
}
