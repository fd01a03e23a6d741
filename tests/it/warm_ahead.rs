//! What follows a request is ready before it is asked for, within the budget, and only where a schedule wants that.

use serde_json::{Value, json};

use crate::harness::bus::{Bus, JOBS, persistent};
use crate::harness::stack::Stack;
use crate::harness::worker::{Worker, ask};
use crate::harness::{PATIENCE, eventually};
use crate::warm::Schedules;

const TTL: u64 = 2;

/// A schedule that is hardly ever due.
fn heat(namespace: &str, budget: &str, follow: bool) -> String {
    format!(
        "cron = \"0 0 1 1 *\"\nmodel = \"sentiment\"\nnamespace = \"{namespace}\"\nttl_seconds = {TTL}\n[budget]\n{budget}\n\
         [source]\nkind = \"heat\"\nfollow = {follow}\n"
    )
}

/// Posts a job that gives names to these keys.
async fn name(bus: &Bus, namespace: &str, keys: &[String]) {
    let inputs: Vec<Value> = keys
        .iter()
        .map(|key| json!({"key": key, "text": format!("{namespace} {key}")}))
        .collect();
    let job = json!({"job_id": format!("{namespace}-{}", keys.join("-")), "model": "sentiment", "namespace": namespace, "named": true,
        "ttl_seconds": TTL, "inputs": inputs});
    let body = job.to_string().into_bytes();
    bus.publish(JOBS, vec![(body, persistent())]).await;
}

async fn read(worker: &Worker, namespace: &str, session: Option<&str>, keys: &[&str]) {
    let hint = json!({"namespace": namespace, "session": session, "keys": keys}).to_string();
    let answer = ask(worker.http_port, "POST", "/v1/hits", &[], hint.as_bytes()).await;
    assert_eq!(answer.map(|answer| answer.status), Some(204));
}

async fn is_there(stack: &Stack, namespace: &str, key: &str) -> bool {
    let name = format!("kiln:k:{namespace}:{key}");
    let there: i64 = stack.redis.command(&["EXISTS", &name]).await;
    there == 1
}

async fn are_gone(stack: &Stack, namespace: &str, keys: &[&str]) {
    eventually("they are gone", PATIENCE, || async {
        for key in keys {
            if is_there(stack, namespace, key).await {
                return None;
            }
        }
        Some(())
    })
    .await;
}

/// Each key is read, and then its follower; others come between.
async fn learn(worker: &Worker, namespace: &str, pairs: &[(&str, &str)]) {
    for round in 0..6 {
        for (first, second) in pairs {
            let session = format!("{namespace}{round}{first}");
            read(worker, namespace, Some(&session), &[first]).await;
            read(
                worker,
                namespace,
                None,
                &[&format!("other-{round}-{first}")],
            )
            .await;
            read(worker, namespace, Some(&session), &[second]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_is_ready_before_it_is_asked_for_and_only_where_that_is_wanted() {
    let stack = Stack::shared().await;
    let schedules = Schedules::new();
    schedules.put("follows", &heat("follows", "inputs = 100", true));
    schedules.put("waits", &heat("waits", "inputs = 100", false));
    let worker = schedules.worker(&stack).start().await;
    let bus = Bus::new(stack.amqp_url());
    for namespace in ["follows", "waits"] {
        let keys: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        name(&bus, namespace, &keys).await;
        eventually("they are named", PATIENCE, || async {
            is_there(&stack, namespace, "c").await.then_some(())
        })
        .await;
    }
    // The schedules are read once a second.
    eventually("what follows is learnt", PATIENCE, || async {
        learn(&worker, "follows", &[("a", "b")]).await;
        let ahead = worker.metric("kiln_warm_inputs_total", &[("outcome", "ahead")]);
        (ahead.await > 0.0).then_some(())
    })
    .await;
    learn(&worker, "waits", &[("a", "b")]).await;
    let calls = worker.metric("kiln_model_batch_rows_sum", &[]).await;
    for namespace in ["follows", "waits"] {
        are_gone(&stack, namespace, &["a", "b", "c"]).await;
        read(&worker, namespace, Some("new"), &["a"]).await;
    }
    eventually("b is ready", PATIENCE, || async {
        is_there(&stack, "follows", "b").await.then_some(())
    })
    .await;
    assert!(!is_there(&stack, "follows", "a").await, "it was only read");
    assert!(
        !is_there(&stack, "follows", "c").await,
        "nothing leads to it"
    );
    assert!(!is_there(&stack, "waits", "b").await, "nobody wants that");
    let after = worker.metric("kiln_model_batch_rows_sum", &[]).await;
    assert_eq!(after, calls, "its score was known");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_leaves_a_half_of_the_budget_to_the_next_run_which_knows_of_it() {
    let stack = Stack::shared().await;
    let schedules = Schedules::new();
    let budget = "inputs = 5\nrenewals = 6";
    schedules.put("frugal", &heat("frugal", budget, true));
    schedules.put("witness", &heat("witness", "inputs = 1000", true));
    let worker = schedules.worker(&stack).start().await;
    let bus = Bus::new(stack.amqp_url());
    let pairs: Vec<(String, String)> = (0..8).map(|n| (format!("a{n}"), format!("b{n}"))).collect();
    let all = pairs.iter().flat_map(|(a, b)| [a.clone(), b.clone()]);
    let all: Vec<String> = all.collect();
    name(&bus, "frugal", &all).await;
    name(&bus, "witness", &["w1".to_owned(), "w2".to_owned()]).await;
    eventually("they are named", PATIENCE, || async {
        is_there(&stack, "frugal", "b7").await.then_some(())
    })
    .await;
    let pairs: Vec<(&str, &str)> = pairs
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    let spent = "SELECT coalesce(max(renewals), 0) FROM warm_ahead WHERE schedule = 'frugal'";
    eventually("its half of the budget is spent", PATIENCE, || async {
        learn(&worker, "frugal", &pairs).await;
        (stack.count(spent).await == 3).then_some(())
    })
    .await;
    learn(&worker, "witness", &[("w1", "w2")]).await;
    are_gone(&stack, "witness", &["w2"]).await;
    let followers: Vec<&str> = pairs.iter().map(|(_, b)| *b).collect();
    are_gone(&stack, "frugal", &followers).await;
    for (first, _) in &pairs {
        read(&worker, "frugal", Some("new"), &[first]).await;
    }
    // What is looked at in the same turn, or a later one, is ready: these were looked at.
    read(&worker, "witness", Some("new"), &["w1"]).await;
    eventually("a later follower is ready", PATIENCE, || async {
        is_there(&stack, "witness", "w2").await.then_some(())
    })
    .await;
    assert_eq!(stack.count(spent).await, 3);
    for follower in followers {
        assert!(!is_there(&stack, "frugal", follower).await, "{follower}");
    }
    // The other half is left to what a run would do once workers have told what is hot.
    let plan = eventually("it is told what is hot", PATIENCE, || async {
        let plan = schedules.dry_run(&stack, "frugal");
        let left = plan["left_over"]["renewals"].as_i64();
        (left >= Some(9)).then_some(plan)
    });
    let plan = plan.await;
    assert_eq!(plan["renewals"], 3, "{plan}");
    let (code, run) = schedules.run_now(&stack, "frugal").await;
    assert_eq!((code, &run["hits"]), (0, &json!(3)), "{run}");
    // The next one has a budget of its own.
    let (code, run) = schedules.run_now(&stack, "frugal").await;
    assert_eq!((code, &run["hits"]), (0, &json!(6)), "{run}");
    worker.stop().await;
}
