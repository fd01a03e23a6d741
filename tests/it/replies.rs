//! Replies that can't be sent: they cost nobody else anything, and what must arrive arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use futures_util::StreamExt;
use lapin::options::BasicConsumeOptions;
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Connection, ConnectionProperties};
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::bus::{DEAD, JOBS, Message, answered_as, asking_reply, persistent};
use crate::harness::jobs::{fault_job, job_id, job_ids, quick_jobs, text_job};
use crate::harness::stack::Stack;
use crate::harness::worker::Worker;
use crate::harness::{PATIENCE, eventually, eventually_equals, sandbox};

/// A job whose reply goes to `queue`.
fn answered_to(queue: &str, job: &Value) -> Message {
    let properties = persistent()
        .with_reply_to(queue.into())
        .with_correlation_id(job_id(job).into());
    (job.to_string().into_bytes(), properties)
}

/// Messages of both, alternately.
fn mixed(some: Vec<Message>, others: Vec<Message>) -> Vec<Message> {
    let pairs = some.into_iter().zip(others);
    pairs.flat_map(|(one, other)| [one, other]).collect()
}

fn all_ids(jobs: &[&[Value]]) -> Vec<String> {
    jobs.iter().flat_map(|jobs| job_ids(jobs)).collect()
}

async fn replies(worker: &Worker, outcome: &str) -> f64 {
    worker
        .metric("kiln_replies_total", &[("outcome", outcome)])
        .await
}

/// Waits until the worker has counted so many replies of that outcome.
async fn counts(worker: &Worker, outcome: &str, wanted: usize) {
    let what = format!("replies that are {outcome}");
    eventually_equals(&what, PATIENCE, wanted as f64, || replies(worker, outcome)).await;
}

/// Waits until the broker has heard of every job's end.
async fn all_settled(stack: &Stack) {
    eventually_equals("unsettled jobs", PATIENCE, Some(0), || {
        stack.unsettled(JOBS)
    })
    .await;
}

/// Lines of a worker about queues that don't take messages, or do again.
fn lines_about_queues(worker: &Worker) -> Vec<String> {
    let lines = worker.lines().into_iter();
    lines.filter(|line| line.contains("\"left_out\"")).collect()
}

fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert((*name).into(), value.clone());
    }
    table
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_queue_that_is_full_costs_nobody_else_anything() {
    let stack = Stack::shared().await;
    let worker = stack.worker().allow("doesn't take replies").start().await;
    let full = table(&[
        ("x-max-length", AMQPValue::LongInt(1)),
        ("x-overflow", AMQPValue::LongString("reject-publish".into())),
    ]);
    stack.bus.declare("full", full).await;
    let (good, poor) = (quick_jobs("good", 300), quick_jobs("poor", 300));
    let to_full = poor.iter().map(|job| answered_to("full", job)).collect();
    let messages = mixed(good.iter().map(asking_reply).collect(), to_full);
    stack.bus.publish(JOBS, messages).await;
    // And one that is rejected meanwhile.
    let bad = json!({"job_id": "bad", "model": "fault", "inputs": []});
    stack
        .bus
        .publish(JOBS, vec![answered_to("full", &bad)])
        .await;

    let answers = stack.bus.reply_to_each(&job_ids(&good)).await;
    assert!(answers.values().all(|reply| reply.status() == "ok"));
    assert_eq!(stack.bus.dead_letters(1).await[0].code, "invalid");
    stack.wait_for_rows(601).await;
    all_settled(&stack).await;
    assert_eq!(stack.bus.waiting("full").await, Some(1));
    assert_eq!(replies(&worker, "refused").await, 300.0);
    assert_eq!(replies(&worker, "sent").await, 301.0);
    assert_eq!(lines_about_queues(&worker).len(), 1);

    assert_eq!(stack.bus.take_all("full").await.len(), 1);
    let late = fault_job("late", "a text");
    stack
        .bus
        .publish(JOBS, vec![answered_to("full", &late)])
        .await;
    eventually("a reply", PATIENCE, || stack.bus.take("full")).await;
    worker
        .wait_for_line("the change", |line| line.contains("takes messages again"))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_without_a_queue_are_told_from_those_beside_them() {
    let stack = Stack::shared().await;
    let worker = stack.worker().start().await;
    let (good, gone) = (quick_jobs("good", 1_000), quick_jobs("gone", 1_000));
    let to_nowhere = gone.iter().enumerate().map(|(number, job)| {
        let queue = format!("gone-{}", number % 100);
        answered_to(&queue, job)
    });
    let messages = mixed(
        good.iter().map(asking_reply).collect(),
        to_nowhere.collect(),
    );
    stack.bus.publish(JOBS, messages).await;
    stack.bus.reply_to_each(&job_ids(&good)).await;
    stack.expect_done(all_ids(&[&good, &gone])).await;
    all_settled(&stack).await;
    // Not one more and not one less: each return is its own message's.
    counts(&worker, "unroutable", 1_000).await;
    counts(&worker, "sent", 1_000).await;
    let lines = lines_about_queues(&worker).len();
    assert!((1..=20).contains(&lines), "{lines} lines");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_reply_arrives_and_counts_as_sent() {
    let stack = Stack::shared().await;
    let worker = stack.worker().start().await;
    let url = stack.amqp_url();
    let connection = Connection::connect(&url, ConnectionProperties::default());
    let connection = connection.await.expect("a connection");
    let channel = connection.create_channel().await.expect("a channel");
    let direct = "amq.rabbitmq.reply-to";
    let unacknowledged = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let consume = channel.basic_consume(
        direct.into(),
        "".into(),
        unacknowledged,
        FieldTable::default(),
    );
    let mut consumer = consume.await.expect("a consumer");
    let job = fault_job("direct", "a text");
    let (body, properties) = answered_to(direct, &job);
    channel
        .basic_publish(
            "".into(),
            JOBS.into(),
            Default::default(),
            &body,
            properties,
        )
        .await
        .expect("it is written");
    let reply = tokio::time::timeout(PATIENCE, consumer.next()).await;
    let reply = reply
        .expect("a reply in time")
        .expect("a reply")
        .expect("a delivery");
    let reply: Value = serde_json::from_slice(&reply.data).expect("JSON");
    assert_eq!((job_id(&reply), &reply["status"]), ("direct", &json!("ok")));
    counts(&worker, "sent", 1).await;
}

/// A job whose reply is several times its size.
fn talkative_job(id: &str, inputs: usize) -> Value {
    let texts: Vec<String> = (0..inputs).map(|n| format!("{n}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    text_job(id, "fault", &texts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_that_the_broker_finds_too_large_closes_no_other_s_way() {
    const LIMIT: usize = 16 << 10;
    let stack = Stack::with_message_limit(LIMIT).await;
    let worker = stack
        .worker()
        .allow("takes no larger messages")
        .start()
        .await;
    let good = quick_jobs("good", 400);
    let large: Vec<Value> = (0..5)
        .map(|n| talkative_job(&format!("large-{n}"), 800))
        .collect();
    let bad = json!({"job_id": "bad", "model": "fault", "inputs": []});
    let mut messages: Vec<Message> = good.iter().map(asking_reply).collect();
    for (number, job) in large.iter().chain([&bad]).enumerate() {
        let message = asking_reply(job);
        assert!(message.0.len() < LIMIT, "the broker takes the job");
        messages.insert(60 * (number + 1), message);
    }
    stack.bus.publish(JOBS, messages).await;

    let mut ids = all_ids(&[&good, &large]);
    ids.push("bad".to_owned());
    let answers = stack.bus.reply_to_each(&ids).await;
    for job in &large {
        let reply = &answers[job_id(job)].body;
        assert_eq!(reply["status"], "ok");
        assert_eq!(reply["results_omitted"], true);
        assert_eq!(reply.get("results"), None);
        let row = stack.row(job_id(job)).await;
        let results = row.results.expect("the row has what the reply has not");
        assert_eq!(results.as_array().map(Vec::len), Some(800));
    }
    for job in &good {
        let reply = &answers[job_id(job)].body;
        assert!(reply["results"].is_array(), "{reply}");
    }
    assert_eq!(stack.bus.dead_letters(1).await[0].code, "invalid");
    all_settled(&stack).await;
    counts(&worker, "sent_without_results", 5).await;
    counts(&worker, "sent", 401).await;

    // What can't be posted is refused, and closes nobody's way either.
    let body = talkative_job("posted", 2_000).to_string();
    assert!(body.len() > LIMIT);
    let answer = worker.ask("POST", "/v1/jobs", &[], body.as_bytes()).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 413, "{}", answer.body);
    let job = fault_job("small", "a text").to_string();
    let answer = worker.ask("POST", "/v1/jobs", &[], job.as_bytes()).await;
    assert_eq!(answer.expect("an answer").status, 202);
    stack.row("small").await;
    assert_eq!(
        lines_about_queues(&worker).len(),
        2,
        "one for each connection"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_may_not_publish_says_so_and_goes_on_when_it_may() {
    let stack = Stack::shared().await;
    // The queues are there: whoever declares them needs rights that this user lacks.
    let first = stack.worker().start().await;
    first.stop().await;
    let user = format!("mute-{}", stack.vhost());
    stack.broker.ctl(&["add_user", &user, "secret"]).await;
    let grant = async |write: &str| {
        let rights = [
            "set_permissions",
            "-p",
            stack.vhost(),
            &user,
            ".*",
            write,
            ".*",
        ];
        stack.broker.ctl(&rights).await;
    };
    grant("^kiln").await;
    let url = stack
        .amqp_url()
        .replace("guest:guest", &format!("{user}:secret"));
    let worker = stack
        .worker()
        .expect_trouble()
        .set("KILN_AMQP_URL", &url)
        .start()
        .await;
    let up = async |publisher: &str| {
        let labels = [("publisher", publisher)];
        worker.metric("kiln_publisher_up", &labels).await
    };
    eventually_equals("the publishers are up", PATIENCE, 2.0, async || {
        up("publish").await + up("reply").await
    })
    .await;
    let jobs = quick_jobs("unheard", 20);
    stack.bus.publish_jobs(&jobs).await;
    let bad = json!({"job_id": "bad", "model": "fault", "inputs": []});
    stack.bus.publish_job(&bad).await;
    counts(&worker, "refused", 21).await;
    stack.wait_for_rows(21).await;
    for publisher in ["publish", "reply"] {
        eventually_equals(publisher, PATIENCE, 0.0, || up(publisher)).await;
    }
    // All but the one whose dead letter isn't there.
    eventually_equals("unsettled jobs", PATIENCE, Some(1), || {
        stack.unsettled(JOBS)
    })
    .await;
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));

    grant(".*").await;
    assert_eq!(stack.bus.dead_letters(1).await[0].code, "invalid");
    all_settled(&stack).await;
    eventually_equals("the publisher is up", PATIENCE, 1.0, || up("publish")).await;
    let after = fault_job("after", "a text");
    stack.bus.answer(&after).await;
    eventually_equals("the replies are up", PATIENCE, 1.0, || up("reply")).await;
}

/// Has the broker refuse dead letters once there is one, by a policy called `full`.
async fn limit_dead_letters(stack: &Stack) {
    let limit = "{\"max-length\":1,\"overflow\":\"reject-publish\"}";
    let set = ["set_policy", "-p", stack.vhost(), "--apply-to", "queues"];
    let policy = ["full", "^kiln\\.dead$", limit];
    stack.broker.ctl(&[&set[..], &policy].concat()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_wait_for_their_queue_and_hold_up_nothing_else() {
    let stack = Stack::shared().await;
    limit_dead_letters(&stack).await;
    let worker = stack.worker().expect_trouble().start().await;
    let bad: Vec<Value> = (0..30)
        .map(|n| json!({"job_id": format!("bad-{n}"), "model": "fault", "inputs": []}))
        .collect();
    // The broker tells a channel that a queue is full only after it is: before that it takes any number.
    let (first, further) = bad.split_at(2);
    stack.bus.publish_jobs(first).await;
    eventually("two dead letters", PATIENCE, async || {
        (stack.bus.waiting(DEAD).await == Some(2)).then_some(())
    })
    .await;
    stack.bus.publish_jobs(further).await;
    let up = async || {
        let labels = [("publisher", "publish")];
        worker.metric("kiln_publisher_up", &labels).await
    };
    eventually_equals("dead letters get there", PATIENCE, 0.0, &up).await;
    // Retries use the same connection, and replies another.
    let poison = fault_job("poison", "please panic");
    let good = quick_jobs("good", 200);
    stack.bus.publish_jobs(&good).await;
    stack.bus.publish_job(&poison).await;
    stack.bus.reply_to_each(&all_ids(&[&good, &bad])).await;
    let retried = [("outcome", "retried")];
    eventually("a retry", PATIENCE, async || {
        (worker.metric("kiln_jobs_total", &retried).await >= 2.0).then_some(())
    })
    .await;
    eventually("a job without its letter", PATIENCE, async || {
        (stack.unsettled(JOBS).await > Some(0)).then_some(())
    })
    .await;

    // As they are taken, there is room for others.
    let letters = stack.bus.dead_letters(31).await;
    let count = |code: &str| letters.iter().filter(|letter| letter.code == code).count();
    assert_eq!((count("invalid"), count("exhausted")), (30, 1));
    all_settled(&stack).await;
    eventually_equals("dead letters get there", PATIENCE, 1.0, &up).await;
}

/// A quorum queue that has refused messages of a channel tells it when there is room, and never that there is no limit any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_get_there_once_their_queue_has_no_limit_any_more() {
    let stack = Stack::shared().await;
    limit_dead_letters(&stack).await;
    let worker = stack.worker().expect_trouble().start().await;
    let bad: Vec<Value> = (0..40)
        .map(|n| json!({"job_id": format!("bad-{n}"), "model": "fault", "inputs": []}))
        .collect();
    stack.bus.publish_jobs(&bad).await;
    let up = async || {
        let labels = [("publisher", "publish")];
        worker.metric("kiln_publisher_up", &labels).await
    };
    eventually_equals("dead letters get there", PATIENCE, 0.0, &up).await;
    stack
        .broker
        .ctl(&["clear_policy", "-p", stack.vhost(), "full"])
        .await;
    eventually_equals("dead letters get there", PATIENCE, 1.0, &up).await;
    all_settled(&stack).await;
    assert_eq!(stack.bus.dead_letters(40).await.len(), 40);
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0), "each is there once");
}

/// Has the broker close those of a stack's connections whose names begin like that.
async fn close_connections(stack: &Stack, name: &str) {
    let list = [
        "list_connections",
        "--no-table-headers",
        "pid",
        "vhost",
        "client_properties",
    ];
    let listed = stack.broker.ctl(&list).await;
    let (vhost, name) = (format!("\t{}\t", stack.vhost()), format!("\"{name}"));
    let ours = listed
        .lines()
        .filter(|line| line.contains(&vhost) && line.contains(&name));
    for pid in ours.filter_map(|line| line.split('\t').next()) {
        stack.broker.ctl(&["close_connection", pid, "a test"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_that_wait_are_there_once_although_their_jobs_come_again() {
    let stack = Stack::shared().await;
    limit_dead_letters(&stack).await;
    let worker = stack.worker().expect_trouble().start().await;
    let bad: Vec<Value> = (0..42)
        .map(|n| json!({"job_id": format!("bad-{n}"), "model": "fault", "inputs": []}))
        .collect();
    let (first, further) = bad.split_at(2);
    stack.bus.publish_jobs(first).await;
    eventually("two dead letters", PATIENCE, async || {
        (stack.bus.waiting(DEAD).await == Some(2)).then_some(())
    })
    .await;
    stack.bus.publish_jobs(further).await;
    let all_wait = async || (stack.unacknowledged(JOBS).await == Some(40)).then_some(());
    for _ in 0..3 {
        eventually("jobs wait for their letters", PATIENCE, all_wait).await;
        let before = worker.metric("kiln_broker_reconnects_total", &[]).await;
        // A letter that is on its way when its own connection is lost may be there twice.
        close_connections(&stack, "kiln consume").await;
        eventually("they are taken again", PATIENCE, async || {
            let now = worker.metric("kiln_broker_reconnects_total", &[]).await;
            (now > before).then_some(())
        })
        .await;
    }
    eventually("jobs wait for their letters", PATIENCE, all_wait).await;
    let letters = stack.bus.dead_letters(42).await;
    let ids: BTreeSet<String> = letters.iter().map(|letter| letter.job_id()).collect();
    assert_eq!(ids.len(), 42, "each once");
    all_settled(&stack).await;
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_as_large_as_a_frame_stops_no_dead_letter() {
    let stack = Stack::shared().await;
    let worker = stack.worker().start().await;
    let large = AMQPValue::LongString(LongString::from("x".repeat(130_900)));
    let team = AMQPValue::LongString("search".into());
    let headers = table(&[("large", large), ("team", team)]);
    let bad = json!({"job_id": "bad", "model": "fault", "inputs": []});
    let properties = answered_as("bad").with_headers(headers);
    let message = (bad.to_string().into_bytes(), properties);
    stack.bus.publish(JOBS, vec![message]).await;
    let letter = eventually("a dead letter", PATIENCE, || stack.bus.take(DEAD)).await;
    let headers = letter.properties.headers().clone().unwrap_or_default();
    let names: Vec<&str> = headers.inner().keys().map(|name| name.as_str()).collect();
    assert!(
        names.contains(&"kiln-error-code") && names.contains(&"team"),
        "{names:?}"
    );
    assert!(
        !names.contains(&"large"),
        "it doesn't fit beside the others"
    );
    assert_eq!(stack.bus.reply_within(PATIENCE).await.status(), "rejected");
    assert_eq!(
        worker.metric("kiln_broker_reconnects_total", &[]).await,
        0.0
    );
}

/// A model that gives the same embedding of `width` numbers for any two features.
pub fn put_embedder(models: &Path, width: usize) {
    let folder = models.join("embedder").join("1");
    fs::create_dir_all(&folder).expect("a folder");
    let embedding: Vec<f32> = (0..width).map(|n| n as f32 / 64.0).collect();
    let shapes = [
        ("layers.0.weight", vec![4, 2], vec![0.0; 8]),
        ("layers.0.bias", vec![4], vec![0.0; 4]),
        ("layers.1.weight", vec![width, 4], vec![0.0; 4 * width]),
        ("layers.1.bias", vec![width], embedding),
    ];
    let bytes: BTreeMap<&str, (Vec<usize>, Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, shape, values): (_, _, Vec<f32>)| {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes());
            (name, (shape, bytes.collect()))
        })
        .collect();
    let views = bytes.iter().map(|(name, (shape, bytes))| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).expect("a tensor");
        (*name, view)
    });
    let file = serialize(views, None).expect("weights");
    fs::write(folder.join("model.safetensors"), &file).expect("the weights are written");
    let manifest = format!(
        "architecture = \"mlp\"\n[features]\ncount = 2\n[output]\ntask = \"embedding\"\nwidth = {width}\n\
         activation = \"identity\"\n[mlp]\nhidden = [4]\nactivation = \"relu\"\n[weights]\nsha256 = \"{}\"\n",
        hex::encode(Sha256::digest(&file))
    );
    fs::write(folder.join("manifest.toml"), manifest).expect("the manifest is written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_larger_than_the_setting_leaves_its_results_to_the_row() {
    let stack = Stack::shared().await;
    let models = sandbox::folder("models");
    put_embedder(&models, 64);
    let settings = stack
        .worker()
        .models(&[])
        .set("KILN_REPLY__MAX_BYTES", "65536");
    let path = models.to_str().expect("a plain path");
    let worker = settings.set("KILN_MODELS_DIR", path).start().await;
    let inputs = |count: usize| -> Vec<Value> {
        let input = |n: usize| json!({"key": format!("k{n}"), "features": [n as f64, 0.5]});
        (0..count).map(input).collect()
    };
    let job = json!({"job_id": "large", "model": "embedder", "inputs": inputs(4_096)});
    let reply = stack.bus.answer(&job).await;
    assert_eq!(reply.correlation_id.as_deref(), Some("large"));
    assert_eq!(reply.body["results_omitted"], true);
    assert_eq!(reply.body.get("results"), None);
    let counted = (&reply.body["hits"], &reply.body["misses"]);
    assert_eq!(counted, (&json!(0), &json!(4_096)));
    for field in ["model", "version", "namespace", "elapsed_ms", "finished_at"] {
        assert!(!reply.body[field].is_null(), "{field}");
    }
    let results = stack.row("large").await.results.expect("results");
    assert_eq!(results.as_array().map(Vec::len), Some(4_096));
    assert_eq!(results[7]["embedding"][1], json!(0.015625));
    let (status, body) = worker.get("/v1/jobs/large").await.expect("an answer");
    let found: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &found["results"]), (200, &results));

    let job = json!({"job_id": "small", "model": "embedder", "inputs": inputs(10)});
    let reply = stack.bus.answer(&job).await;
    assert_eq!(reply.body["results"].as_array().map(Vec::len), Some(10));
    assert_eq!(reply.body.get("results_omitted"), None);
    counts(&worker, "sent_without_results", 1).await;
    let _ = fs::remove_dir_all(&models);
}
