//! What follows a request is ready before it is asked for, within the budget, and only where a schedule wants that.

use kiln_contract::key::{EntryPrefix, InputHash, hash_text};
use kiln_contract::split::{Point, Share};
use serde_json::{Value, json};

use crate::harness::bus::{Bus, JOBS, persistent};
use crate::harness::stack::Stack;
use crate::harness::worker::{Worker, ask};
use crate::harness::{PATIENCE, eventually};
use crate::shadow::two_versions;
use crate::split_models::activate;
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

/// Inputs with keys, the half of which goes to the second version; by themselves they would go to the other one each.
struct Shared {
    number: usize,
}

impl Shared {
    fn text(key: &str) -> String {
        format!("number {key}")
    }

    fn hash(key: &str) -> InputHash {
        hash_text(&Self::text(key), None)
    }

    /// The next key that goes to the second version, or doesn't.
    fn key(&mut self, is_second: bool) -> String {
        let half = Share::parse("50%").expect("a share");
        loop {
            self.number += 1;
            let key = format!("k{}", self.number);
            let by_key = half.takes(Point::of_key("sentiment", &key));
            let by_itself = half.takes(Point::of_input("sentiment", &Self::hash(&key)));
            if by_key == is_second && by_itself != is_second {
                return key;
            }
        }
    }

    /// Has inputs under these keys scored, each followed by two that nobody asks for again.
    async fn ask(&mut self, stack: &Stack, keys: &[&[&str]]) {
        let mut asked = Vec::new();
        for keys in keys {
            asked.extend(keys.iter().map(|key| (*key).to_owned()));
            asked.extend([self.key(false), self.key(false)]);
        }
        let input = |key: &String| json!({"key": key, "text": Self::text(key)});
        let inputs: Vec<Value> = asked.iter().map(input).collect();
        let job = json!({"job_id": format!("asks-{}", self.number), "model": "sentiment", "namespace": "shared", "ttl_seconds": TTL, "inputs": inputs});
        assert_eq!(stack.bus.answer(&job).await.status(), "ok");
    }

    async fn is_cached(stack: &Stack, key: &str, version: &str) -> bool {
        let entry = EntryPrefix::new("sentiment", version).key(&Self::hash(key));
        stack.redis.at::<i64>("EXISTS", &entry, &[]).await == 1
    }

    async fn becomes(stack: &Stack, key: &str, version: &str, is_cached: bool) {
        eventually(&format!("{version} of {key}"), PATIENCE, async || {
            let found = Self::is_cached(stack, key, version).await;
            (found == is_cached).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_is_had_ready_by_the_version_of_its_key_once_that_has_been_measured() {
    let stack = Stack::shared().await;
    let models = two_versions();
    let schedules = Schedules::new();
    let budget = "keep = \"scores\"\n[budget]\ninputs = 100\nrenewals = 100\nmodel_seconds = 100";
    let schedule = heat("shared", "", true).replace("[budget]\n", budget);
    schedules.put("shared", &schedule);
    activate(&stack, &models, &["sentiment@1.0.0"]);
    let settings = schedules.worker(&stack).models(&[]);
    let models_dir = models.to_str().expect("a plain path");
    let worker = settings.set("KILN_MODELS_DIR", models_dir).start().await;
    let mut shared = Shared { number: 0 };
    let (first, second) = (shared.key(false), shared.key(false));
    let (own, other) = (shared.key(false), shared.key(true));
    let pairs: [&[&str]; 2] = [&[&first, &own], &[&second, &other]];
    eventually("what follows is learnt", PATIENCE, async || {
        for _ in 0..6 {
            shared.ask(&stack, &pairs).await;
        }
        let ahead = worker.metric("kiln_warm_inputs_total", &[("outcome", "ahead")]);
        (ahead.await > 1.0).then_some(())
    })
    .await;
    activate(&stack, &models, &["sentiment@2.0.0", "--share", "50%"]);
    eventually("the share", PATIENCE, async || {
        let share = worker.metric("kiln_split_share_ratio", &[("model", "sentiment")]);
        (share.await == 0.5).then_some(())
    })
    .await;
    for key in [&own, &other] {
        Shared::becomes(&stack, key, "1.0.0", false).await;
    }
    // What its version has scored is renewed; what the other one has yet to compute may take any time.
    shared.ask(&stack, &[&[&first], &[&second]]).await;
    Shared::becomes(&stack, &own, "1.0.0", true).await;
    for version in ["1.0.0", "2.0.0"] {
        assert!(
            !Shared::is_cached(&stack, &other, version).await,
            "{version}"
        );
    }
    let measures = shared.key(true);
    shared.ask(&stack, &[&[&measures]]).await;
    Shared::becomes(&stack, &own, "1.0.0", false).await;
    shared.ask(&stack, &[&[&first], &[&second]]).await;
    Shared::becomes(&stack, &other, "2.0.0", true).await;
    assert!(!Shared::is_cached(&stack, &other, "1.0.0").await);
    assert!(!Shared::is_cached(&stack, &own, "2.0.0").await);
    worker.stop().await;
}
