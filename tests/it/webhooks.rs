//! Callbacks: a job's end is posted to its `callback_url`, signed, again until it is taken, by whichever worker lives, and to no host that isn't listed.

use serde_json::{Value, json};

use crate::harness::bus::DEAD;
use crate::harness::receiver::{Posted, Receiver, SECRET};
use crate::harness::stack::Stack;
use crate::harness::worker::Settings;
use crate::harness::{PATIENCE, eventually, eventually_equals};

/// A job that asks for a callback.
pub fn job(id: &str, url: &str) -> Value {
    json!({"job_id": id, "model": "sentiment", "inputs": [{"text": "so fine"}], "callback_url": url})
}

/// A worker whose callbacks may go to these hosts, the latter ones at private addresses.
pub fn calling(stack: &Stack, hosts: &[&str], private: &[&str]) -> Settings {
    let list = |hosts: &[&str]| json!(hosts).to_string();
    stack
        .worker()
        .models(&["sentiment"])
        .set("KILN_CALLBACKS__HOSTS", &list(hosts))
        .set("KILN_CALLBACKS__PRIVATE_HOSTS", &list(private))
        .set("KILN_CALLBACKS__SECRET", SECRET)
        .set("KILN_CALLBACKS__FIRST_WAIT_MS", "100")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_under_an_id_is_posted_to_nobody_who_asked_with_another_body() {
    let stack = Stack::shared().await;
    let receiver = Receiver::start().await;
    let worker = calling(&stack, &[], &[&receiver.host()])
        .allow("a callback is given up")
        .start()
        .await;
    let mut first = job("taken-over", &receiver.url("/never"));
    first["model"] = json!("unheard-of");
    stack.bus.publish_jobs(&[first]).await;
    receiver.wait_for("/never", 1).await;
    let second =
        json!({"job_id": "taken-over", "model": "sentiment", "inputs": [{"text": "for me alone"}]});
    stack.bus.publish_jobs(&[second]).await;
    let done = "SELECT count(*) FROM jobs WHERE job_id = 'taken-over' AND status = 'ok'";
    eventually_equals("it is done", PATIENCE, 1, || stack.count(done)).await;
    let said = |line: &str| line.contains("given up") && line.contains("another body's");
    worker.wait_for_line("why it is given up", said).await;
    wait_until_none_wait(&stack).await;
    for posted in receiver.at("/never") {
        assert_eq!(posted.json()["status"], "rejected", "{}", posted.body);
    }
    worker.stop().await;
}

pub async fn wait_until_none_wait(stack: &Stack) {
    eventually("no callback waits", PATIENCE, || async {
        (stack.count("SELECT count(*) FROM callbacks").await == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jobs_end_is_posted_signed_and_again_until_it_is_taken() {
    let stack = Stack::shared().await;
    let receiver = Receiver::start().await;
    let worker = calling(&stack, &[], &[&receiver.host()]).start().await;
    let over_http = job("over-http", &receiver.url("/http?a=b"));
    for _again in 0..2 {
        let posted = worker
            .ask("POST", "/v1/jobs", &[], over_http.to_string().as_bytes())
            .await
            .expect("an answer");
        assert_eq!(posted.status, 202, "{}", posted.body);
    }
    let mut rejected = job("bad", &receiver.url("/bad"));
    rejected["model"] = json!("unheard-of");
    let over_amqp = job("over-amqp", &receiver.url("/amqp"));
    let jobs = [
        over_amqp.clone(),
        over_amqp,
        rejected.clone(),
        job("flaky", &receiver.url("/flaky")),
        job("moved", &receiver.url("/moved")),
        job("gone", &receiver.url("/gone")),
        json!({"job_id": "quiet", "model": "sentiment", "inputs": [{"text": "so fine"}]}),
    ];
    stack.bus.publish_jobs(&jobs).await;

    for (path, id, count) in [
        ("/http?a=b", "over-http", 1),
        ("/amqp", "over-amqp", 1),
        ("/bad", "bad", 1),
        ("/flaky", "flaky", 2),
        ("/moved", "moved", 2),
        ("/gone", "gone", 1),
    ] {
        let posted = receiver.wait_for(path, count).await;
        let (_, shown) = worker.get(&format!("/v1/jobs/{id}")).await.expect("a row");
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        for one in &posted {
            one.expect_signed();
            assert_eq!(one.json(), shown, "{path}");
        }
    }
    // It says again what was posted before.
    stack.bus.publish_jobs(&[rejected]).await;
    eventually_equals("both are letters", PATIENCE, Some(2), || {
        stack.bus.waiting(DEAD)
    })
    .await;
    wait_until_none_wait(&stack).await;
    assert!(
        receiver.at("/elsewhere").is_empty(),
        "a redirection was followed"
    );
    assert_eq!(receiver.count(), 8, "each end once");
    let flaky = receiver.at("/flaky");
    assert_eq!(flaky[0].delivery, flaky[1].delivery, "one end");
    assert_ne!(flaky[0].delivery, receiver.at("/amqp")[0].delivery);
    for (outcome, count) in [
        ("delivered", 5.0),
        ("retried", 2.0),
        ("gone", 1.0),
        ("given_up", 0.0),
    ] {
        let labels = [("outcome", outcome)];
        let counted = worker.metric("kiln_callbacks_total", &labels).await;
        assert_eq!(counted, count, "{outcome}");
    }
    let body = receiver.at("/bad")[0].json();
    assert_eq!(
        (&body["status"], &body["error"]["field"]),
        (&json!("rejected"), &json!("model"))
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_goes_to_no_host_and_no_address_that_is_not_listed() {
    let stack = Stack::shared().await;
    let receiver = Receiver::start().await;
    // Its name may be posted to, the address that it has may not.
    let by_name = format!("localhost:{}", receiver.port());
    let worker = calling(&stack, &[&by_name, "hooks.example"], &[])
        .set("KILN_CALLBACKS__MAX_TRIES", "1")
        .allow("a callback is given up")
        .start()
        .await;
    let url = format!("https://{by_name}/");
    stack.bus.publish_jobs(&[job("private", &url)]).await;
    let said = |line: &str| line.contains("given up") && line.contains("no address that");
    worker.wait_for_line("why it is given up", said).await;
    assert!(receiver.at("/").is_empty());

    let many = format!("https://hooks.example/{}", "a".repeat(2_048));
    for (number, url) in [
        receiver.url("/"),
        "https://hooks.example:444/".into(),
        "https://hooks.example.evil/".into(),
        "https://me:hunter2@hooks.example/".into(),
        "file:///etc/passwd".into(),
        many,
    ]
    .iter()
    .enumerate()
    {
        let body = job(&format!("refused-{number}"), url).to_string();
        for path in ["/v1/jobs", "/v1/score/batch"] {
            let answer = worker.ask("POST", path, &[], body.as_bytes());
            let answer = answer.await.expect("an answer");
            assert_eq!(answer.status, 400, "{url}: {}", answer.body);
            assert!(answer.body.contains("callback_url"), "{}", answer.body);
            assert!(!answer.body.contains("hunter2"), "{}", answer.body);
        }
        let id = format!("amqp-{number}");
        stack.bus.publish_job(&job(&id, url)).await;
        let reply = &stack.bus.reply_to_each(std::slice::from_ref(&id)).await[&id];
        assert_eq!(reply.status(), "rejected", "{}", reply.body);
        assert_eq!(
            reply.body["error"]["field"], "callback_url",
            "{}",
            reply.body
        );
    }
    assert_eq!(stack.count("SELECT count(*) FROM callbacks").await, 0);
    worker.stop().await;

    // As it is where nothing is set.
    let worker = stack.worker().models(&["sentiment"]).start().await;
    let body = job("off", "https://hooks.example/").to_string();
    let answer = worker.ask("POST", "/v1/jobs", &[], body.as_bytes()).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert!(answer.body.contains("callbacks are off"), "{}", answer.body);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_never_answers_holds_up_no_other_and_a_killed_worker_s_callbacks_are_posted() {
    let stack = Stack::shared().await;
    let (silent, other) = (Receiver::start().await, Receiver::start().await);
    silent.set_silent(true);
    let settings = calling(&stack, &[], &[&silent.host(), &other.host()])
        .set("KILN_CALLBACKS__AT_ONCE", "3")
        .set("KILN_CALLBACKS__AT_ONCE_PER_HOST", "2")
        .set("KILN_CALLBACKS__TIMEOUT_MS", "2000")
        .set("KILN_DATABASE__TIMEOUT_MS", "2000")
        .expect_trouble();
    let first = settings.clone().start().await;
    let jobs: Vec<Value> = (0..6)
        .map(|n| job(&format!("silent-{n}"), &silent.url(&format!("/{n}"))))
        .collect();
    stack.bus.publish_jobs(&jobs).await;
    eventually("both seats are taken", PATIENCE, || async {
        (silent.count() >= 2).then_some(())
    })
    .await;
    stack
        .bus
        .publish_jobs(&[job("other", &other.url("/"))])
        .await;
    other.wait_for("/", 1).await;
    let left = "SELECT count(*) FROM callbacks WHERE job_id LIKE 'silent-%'";
    assert_eq!(stack.count(left).await, 6, "the silent host's wait");
    first.kill();

    silent.set_silent(false);
    let second = settings.start().await;
    for n in 0..6 {
        let posted = silent.wait_for(&format!("/{n}"), 1).await;
        posted.iter().for_each(Posted::expect_signed);
        assert_eq!(posted[0].json()["job_id"], format!("silent-{n}"));
    }
    wait_until_none_wait(&stack).await;
    second.stop().await;
}
