//! What readers find is the newest word, in whichever order jobs come, end, come again and are replayed.

use std::collections::BTreeMap;
use std::time::Duration;

use kiln_contract::order::{AsOf, Moment, Order};
use kiln_contract::reader::{Provenance, removal};
use lapin::types::AMQPValue;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::harness::bus::{DEAD, JOBS, persistent};
use crate::harness::jobs::job_ids;
use crate::harness::proxy::Proxy;
use crate::harness::shell::Shell;
use crate::harness::stack::Stack;
use crate::harness::worker::Worker;
use crate::harness::{PATIENCE, eventually, eventually_equals};

const KEY: &str = "kiln:k:n:k";

/// A job of one text, whose entry is `n`'s under `k`.
fn job(id: &str, text: &str) -> Value {
    let inputs = json!([{"key": "k", "text": text}]);
    json!({"job_id": id, "model": "fault", "namespace": "n", "named": true, "inputs": inputs})
}

fn as_of(id: &str, as_of: Value) -> Value {
    let mut job = job(id, &format!("text of {id}"));
    job["as_of"] = as_of;
    job
}

/// Whose word stands under a key.
async fn says(stack: &Stack, key: &str) -> Option<String> {
    let entry = stack.redis.json(key).await?;
    entry["job_id"].as_str().map(str::to_owned)
}

async fn assert_says(stack: &Stack, id: &str) {
    assert_eq!(says(stack, KEY).await.as_deref(), Some(id));
}

async fn score(worker: &Worker, job: &Value) -> Value {
    let body = job.to_string();
    let answer = worker
        .ask("POST", "/v1/score/batch", &[], body.as_bytes())
        .await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

/// Waits until a worker has looked up so many batches.
async fn looked_up(worker: &Worker, times: f64) {
    eventually_equals("it was looked up", PATIENCE, times, || async {
        let stage = [("stage", "look_up")];
        let name = "kiln_stage_duration_seconds_count";
        worker.metric(name, &stage).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_comes_again_replaces_nothing_newer() {
    let stack = Stack::shared().await;
    let settings = stack.worker().expect_trouble();
    let holder = settings.clone().start().await;
    // Its worker dies before the job has its row.
    stack.bus.publish_job(&job("killed", "sleep:1500 a")).await;
    looked_up(&holder, 1.0).await;
    let other = settings.clone().start().await;
    score(&other, &job("newer", "b")).await;
    assert_says(&stack, "newer").await;
    holder.kill();
    stack.wait_for_rows(2).await;
    stack.wait_for_empty(JOBS).await;
    other.wait_in_hand(0).await;
    assert_says(&stack, "newer").await;

    // A job that has its row, twice.
    stack.bus.publish_job(&job("twice", "c")).await;
    stack.wait_for_rows(3).await;
    other.wait_in_hand(0).await;
    assert_says(&stack, "twice").await;
    let before = stack.redis.json(KEY).await;
    stack.bus.publish_job(&job("twice", "c")).await;
    stack
        .bus
        .reply_to_each(&["killed".into(), "twice".into()])
        .await;
    other.wait_in_hand(0).await;
    assert_eq!(
        stack.redis.json(KEY).await,
        before,
        "nothing is written anew"
    );
    score(&other, &job("newest", "d")).await;
    stack.bus.publish_job(&job("twice", "c")).await;
    stack.wait_for_empty(JOBS).await;
    other.wait_in_hand(0).await;
    assert_says(&stack, "newest").await;
    // Nor does it once its acceptance is forgotten: its row knows. What is missing comes back.
    let marks = stack.redis.keys("kiln:a:*").await;
    assert_eq!(marks.len(), 4, "one for each job");
    for mark in marks {
        let life: i64 = stack.redis.at("TTL", &mark, &[]).await;
        assert!((200..=300).contains(&life), "{life}");
        let _: i64 = stack.redis.at("DEL", &mark, &[]).await;
    }
    for (there, expected) in [(true, "newest"), (false, "twice")] {
        if !there {
            let _: i64 = stack.redis.command(&["DEL", KEY]).await;
        }
        stack.bus.answer(&job("twice", "c")).await;
        other.wait_in_hand(0).await;
        assert_says(&stack, expected).await;
    }
    // In the history it is as old as it is in Redis: the next word is compared with that.
    let raw: String = stack.redis.command(&["GET", KEY]).await;
    let order = Order::of_entry(raw.as_bytes()).expect("an order at the end");
    let last = "SELECT job_id || ' ' || accepted_us FROM served ORDER BY id DESC LIMIT 1";
    let expected = format!("twice {}", order.accepted().micros());
    assert_eq!(stack.text(last).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_job_that_ends_last_replaces_nothing_newer() {
    let stack = Stack::shared().await;
    let one = stack.worker().start().await;
    let other = stack.worker().start().await;
    // A request, overtaken by another one.
    let slow = job("slow", "sleep:1000 a");
    let overtaken = async {
        score(&one, &slow).await;
    };
    let overtaking = async {
        looked_up(&one, 1.0).await;
        score(&other, &job("quick", "b")).await;
        assert_says(&stack, "quick").await;
    };
    tokio::join!(overtaken, overtaking);
    assert_says(&stack, "quick").await;
    let left_out = one.metric("kiln_older_words_total", &[]).await;
    assert_eq!(left_out, 1.0);

    // The same with rankings, of a job from the queue.
    let mut slow = job("slow ranking", "sleep:1000 c");
    slow["rank"] = json!({"key": "r"});
    let mut quick = job("quick ranking", "d");
    quick["rank"] = json!({"key": "r"});
    one.stop().await;
    stack.bus.publish_job(&slow).await;
    looked_up(&other, 2.0).await;
    let third = stack.worker().start().await;
    score(&third, &quick).await;
    stack.bus.reply_within(PATIENCE).await;
    other.wait_in_hand(0).await;
    assert_says(&stack, "quick ranking").await;
    let ranking = says(&stack, "kiln:k:n:r").await;
    assert_eq!(ranking.as_deref(), Some("quick ranking"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producers_own_order_holds_whatever_comes_first() {
    let stack = Stack::shared().await;
    let one = stack.worker().start().await;
    let other = stack.worker().start().await;
    for (worker, id, version, expected) in [
        (&one, "v2", 2, "v2"),
        (&other, "v1", 1, "v2"),
        (&one, "v3", 3, "v3"),
        (&other, "v2 again", 2, "v3"),
        (&one, "v3 again", 3, "v3 again"),
    ] {
        score(worker, &as_of(id, json!(version))).await;
        assert_says(&stack, expected).await;
    }
    let raw: String = stack.redis.command(&["GET", KEY]).await;
    let order = Order::of_entry(raw.as_bytes()).expect("an order at the end");
    assert_eq!(order.value(), 3);
    let entry: Value = serde_json::from_str(&raw).expect("JSON");
    assert_eq!(
        (&entry["as_of"], &entry["model"]),
        (&json!(3), &json!("fault"))
    );
    assert!(
        entry["score"].is_number() && entry["scored_at"].is_string(),
        "{entry}"
    );

    // A job that says nothing is newer than what was accepted before it, and continues the sequence.
    score(&other, &job("silent", "s")).await;
    assert_says(&stack, "silent").await;
    score(&one, &as_of("v2 late", json!(2))).await;
    assert_says(&stack, "silent").await;
    score(&one, &as_of("v4", json!(4))).await;
    assert_says(&stack, "v4").await;

    let _: i64 = stack.redis.command(&["DEL", KEY]).await;
    for (worker, id, time, expected) in [
        (&one, "noon", "2026-11-20T12:00:00Z", "noon"),
        (&other, "before", "2026-11-20T12:59:59.999999+01:00", "noon"),
        (&other, "after", "2026-11-20T12:00:00.000001Z", "after"),
    ] {
        score(worker, &as_of(id, json!(time))).await;
        assert_says(&stack, expected).await;
    }
    let entry = stack.redis.json(KEY).await.expect("an entry");
    assert_eq!(entry["as_of"], "2026-11-20T12:00:00.000001Z");
    // What an earlier release wrote is the oldest.
    let old =
        r#"{"score":0.5,"model":"fault","version":"1","scored_at":"2026-11-20T12:00:00.000Z"}"#;
    let _: String = stack.redis.command(&["SET", KEY, old]).await;
    score(&one, &as_of("first", json!(0))).await;
    assert_says(&stack, "first").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_job_is_as_old_as_it_is() {
    let stack = Stack::shared().await;
    let worker = stack.worker().expect_trouble().start().await;
    let mut dead = job("dead", "I love this!");
    dead["model"] = json!("sentiment");
    stack.bus.publish_job(&dead).await;
    assert_eq!(stack.bus.reply_within(PATIENCE).await.status(), "rejected");
    eventually_equals("it is dead", PATIENCE, Some(1), || stack.bus.waiting(DEAD)).await;
    stack.bus.answer(&job("newer", "b")).await;
    worker.stop().await;
    let both = stack
        .worker()
        .models(&["fault", "sentiment"])
        .expect_trouble();
    let worker = both.start().await;
    let shell = Shell::on(&stack);
    shell.kiln(&["dead", "replay"]).await.with(0);
    stack.wait_for_rows(2).await;
    stack.wait_for_empty(JOBS).await;
    worker.wait_in_hand(0).await;
    assert_eq!(stack.row("dead").await.status, "ok");
    assert_says(&stack, "newer").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_once_newer_words_have_left_redis_is_in_its_history() {
    let stack = Stack::shared().await;
    let worker = stack.worker().start().await;
    let audit = ["audit", "--namespace", "n", "--json"];
    let shell = Shell::on(&stack);
    let mut expected = Vec::new();
    // The last one comes again, as it is.
    for (id, number) in [
        ("ten", 10),
        ("five", 5),
        ("seven", 7),
        ("six", 6),
        ("ten", 10),
    ] {
        score(&worker, &as_of(id, json!(number))).await;
        worker.wait_in_hand(0).await;
        assert_says(&stack, id).await;
        expected.insert(0, id);
        let explained = shell.kiln(&["explain", "n", "k", "--json"]).await.with(0);
        let explained: Value = serde_json::from_str(&explained.out).expect("JSON");
        let rows = explained["history"].as_array().expect("rows").iter();
        let history: Vec<&str> = rows.filter_map(|row| row["job_id"].as_str()).collect();
        assert_eq!(history, expected, "{explained}");
        assert_eq!(explained["history"][0]["is_now"], true, "{explained}");
        shell.kiln(&audit).await.with(0);
        // What is newer replaces it; otherwise Redis has to forget it first.
        if id != "five" {
            let _: i64 = stack.redis.command(&["DEL", KEY]).await;
        }
    }
}

/// The jobs of the rows of a key's history, the first one first; one that only says that nothing stood any more is nobody's.
async fn history(stack: &Stack) -> String {
    let ids = "SELECT string_agg(CASE job_id WHEN '' THEN '-' ELSE job_id END, ' ' ORDER BY id) FROM served WHERE key = 'k'";
    stack.text(ids).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_over_a_word_that_says_nothing_of_its_age_is_in_its_history() {
    let stack = Stack::shared().await;
    let worker = stack.worker().start().await;
    score(&worker, &as_of("ten", json!(10))).await;
    let _: i64 = stack.redis.command(&["DEL", KEY]).await;
    // To the history it goes on with the sequence, of which Redis knows nothing any more.
    score(&worker, &job("silent", "a")).await;
    score(&worker, &as_of("seven", json!(7))).await;
    assert_says(&stack, "seven").await;
    assert_eq!(history(&stack).await, "ten silent - seven");
    let audit = ["audit", "--namespace", "n", "--json"];
    Shell::on(&stack).kiln(&audit).await.with(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_word_that_stands_for_a_moment_is_not_what_a_history_ends_with() {
    let stack = Stack::shared().await;
    let proxy = Proxy::start(stack.redis.port).await;
    let url = format!("redis://127.0.0.1:{}/0", proxy.port);
    let settings = stack.worker();
    let near = settings.clone().start().await;
    let far = settings
        .set("KILN_REDIS_URL", &url)
        .set("KILN_REDIS__TIMEOUT_MS", "20000")
        .start()
        .await;
    // The newer one has its row, and its word is on its way.
    let (newer, older) = (as_of("five", json!(5)), as_of("three", json!(3)));
    let held = stack.hold_jobs().await;
    let overtaken = async {
        score(&far, &newer).await;
    };
    let overtaking = async {
        let stage = [("stage", "score")];
        let name = "kiln_stage_duration_seconds_count";
        let is_scored = || far.metric(name, &stage);
        eventually_equals("it is scored", PATIENCE, 1.0, is_scored).await;
        proxy.delay(Duration::from_millis(250)).await;
        drop(held);
        let rows = || stack.count("SELECT count(*) FROM served");
        eventually_equals("it has its row", PATIENCE, 1, rows).await;
        score(&near, &older).await;
    };
    tokio::join!(overtaken, overtaking);
    proxy.resume().await;
    near.wait_in_hand(0).await;
    assert_says(&stack, "five").await;
    assert_eq!(history(&stack).await, "five");

    // Both have their rows, which were written at the same time.
    for (id, value) in [("'eight'", 8), ("'nine'", 9)] {
        let copy = format!(
            "INSERT INTO served (namespace, key, served_from, job_id, model, version, input_sha256, score, is_removed, order_kind, order_value, accepted_us) \
             SELECT namespace, key, served_from, {id}, model, version, input_sha256, score, is_removed, order_kind, {value}, accepted_us FROM served WHERE job_id = 'five'"
        );
        stack.execute(copy.leak()).await;
    }
    let _: i64 = stack.redis.command(&["DEL", KEY]).await;
    score(&near, &as_of("eight", json!(8))).await;
    assert_says(&stack, "eight").await;
    assert_eq!(history(&stack).await, "five eight nine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_worker_had_to_note_is_noted_when_its_job_comes_again() {
    let stack = Stack::shared().await;
    let settings = stack.worker().expect_trouble();
    let worker = settings.clone().start().await;
    score(&worker, &as_of("ten", json!(10))).await;
    let _: i64 = stack.redis.command(&["DEL", KEY]).await;
    // The word stands, and its row takes too long.
    for statement in [
        "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NEW; END'",
        "CREATE TRIGGER slowly BEFORE INSERT ON served FOR EACH ROW WHEN (NEW.job_id = '') EXECUTE FUNCTION slowly()",
    ] {
        stack.execute(statement).await;
    }
    stack.bus.publish_job(&as_of("six", json!(6))).await;
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    eventually_equals("its row is on its way", PATIENCE, 1, || {
        stack.count(sleeping)
    })
    .await;
    worker.kill();
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    stack.count(end).await;
    stack.execute("DROP TRIGGER slowly ON served").await;
    assert_says(&stack, "six").await;
    assert_eq!(history(&stack).await, "ten");
    let worker = settings.start().await;
    stack.bus.reply_within(PATIENCE).await;
    worker.wait_in_hand(0).await;
    assert_says(&stack, "six").await;
    assert_eq!(history(&stack).await, "ten - six");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_came_before_and_is_never_looked_up_is_as_old_as_it_is() {
    let stack = Stack::shared().await;
    stack.worker().start().await.stop().await;
    // What is left of the worker that they killed first: each was accepted in 2001.
    let first = Moment::from_micros(1_000_000_000_000_000);
    let jobs = [job("killer", "abort now"), job("nan", "score it as nan")];
    for id in job_ids(&jobs) {
        let key = format!("kiln:a:{id}");
        let micros = first.micros().to_string();
        let _: () = stack.redis.at("SET", key.as_bytes(), &[&micros]).await;
    }
    stack.bus.publish_jobs(&jobs).await;
    drop(stack.bus.hold(JOBS, jobs.len()).await);
    // One is given up unseen, the other after runs in another process.
    let _worker = stack
        .worker()
        .expect_trouble()
        .set("KILN_INTAKE__SUSPECT_AFTER", "1")
        .set("KILN_INTAKE__SUSPECT_RUNS", "1")
        .start()
        .await;
    for _ in &jobs {
        let letter = eventually("it is dead", PATIENCE, || stack.bus.take(DEAD)).await;
        let headers = letter.properties.headers().clone().unwrap_or_default();
        let said = headers.inner().get("kiln-accepted-at").cloned();
        let expected = AMQPValue::LongString(first.rfc3339().into());
        assert_eq!(said, Some(expected), "{headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_removed_comes_back_by_newer_words_alone() {
    let stack = Stack::shared().await;
    let one = stack.worker().start().await;
    let other = stack.worker().start().await;
    let removing = |id: &str| {
        let inputs = json!([{"key": "k", "remove": true}, {"key": "other", "text": "x"}]);
        json!({"job_id": id, "model": "fault", "namespace": "n", "inputs": inputs})
    };
    score(&one, &job("there", "a")).await;
    // An older job is on its way meanwhile, and ends last.
    let older = async {
        score(&one, &job("older", "sleep:1000 b")).await;
    };
    let removal = async {
        looked_up(&one, 2.0).await;
        let said = score(&other, &removing("removal")).await;
        assert_eq!(said["results"][0], json!({"key": "k", "removed": true}));
        assert!(said["results"][1]["score"].is_number(), "{said}");
        assert_eq!((&said["hits"], &said["misses"]), (&json!(0), &json!(1)));
        assert_eq!(says(&stack, KEY).await, None);
    };
    tokio::join!(older, removal);
    assert_eq!(says(&stack, KEY).await, None);
    let mark = "kiln:o:{kiln:k:n:k}";
    assert_eq!(says(&stack, mark).await.as_deref(), Some("removal"));
    assert!((86_000..=86_400).contains(&stack.redis.life(mark).await));
    let history = "SELECT string_agg(job_id, ' ' ORDER BY id) FROM served WHERE key = 'k'";
    assert_eq!(stack.text(history).await, "there removal");
    // Its repeat says nothing new, and warming brings nothing back.
    score(&one, &removing("removal")).await;
    let warming = job("warming", "c").to_string();
    let message = (warming.into_bytes(), persistent());
    stack.bus.publish("kiln.warm", vec![message]).await;
    stack.wait_for_rows(4).await;
    stack.wait_for_empty("kiln.warm").await;
    one.wait_in_hand(0).await;
    other.wait_in_hand(0).await;
    assert_eq!(says(&stack, KEY).await, None);
    score(&other, &job("again", "d")).await;
    assert_says(&stack, "again").await;
    score(&other, &removing("removal")).await;
    assert_says(&stack, "again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_hears_that_a_key_is_gone_while_readers_find_it() {
    let stack = Stack::shared().await;
    let worker = stack.worker().expect_trouble().start().await;
    score(&worker, &job("there", "a")).await;
    let inputs = json!([{"key": "k", "remove": true}]);
    let removal =
        json!({"job_id": "removal", "model": "fault", "namespace": "n", "inputs": inputs});
    let refuses = async |how: &str| {
        let set = ["CONFIG", "SET", "min-replicas-to-write", how];
        let _: String = stack.redis.command(&set).await;
    };
    refuses("1").await;
    for _ in 0..2 {
        let body = removal.to_string();
        let answer = worker.ask("POST", "/v1/score/batch", &[], body.as_bytes());
        let answer = answer.await.expect("an answer");
        assert_eq!(answer.status, 503, "{}", answer.body);
        assert!(answer.body.contains("removal of a key"), "{}", answer.body);
    }
    assert_says(&stack, "there").await;
    refuses("0").await;
    let said = eventually("Redis is used again", PATIENCE, || async {
        let body = removal.to_string();
        let answer = worker.ask("POST", "/v1/score/batch", &[], body.as_bytes());
        let answer = answer.await.expect("an answer");
        (answer.status == 200).then(|| answer.json())
    });
    let said = said.await;
    assert_eq!(said["results"][0], json!({"key": "k", "removed": true}));
    assert_eq!(says(&stack, KEY).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_can_be_forgotten_by_hand() {
    let stack = Stack::shared().await;
    let worker = stack.worker().start().await;
    let shell = Shell::on(&stack);
    let forget = async |more: &[&str]| {
        let arguments = [&["forget", "n", "k", "--json"], more].concat();
        let lines = shell.kiln(&arguments).await.with(0).lines();
        lines[0]["outcome"].as_str().expect("an outcome").to_owned()
    };
    assert_eq!(forget(&[]).await, "absent");
    score(&worker, &as_of("v5", json!(5))).await;
    assert_says(&stack, "v5").await;
    assert_eq!(forget(&["--as-of", "4"]).await, "newer");
    assert_eq!(forget(&["--as-of", "6"]).await, "removed");
    score(&worker, &as_of("v5 again", json!(5))).await;
    assert_eq!(says(&stack, KEY).await, None);
    score(&worker, &as_of("v7", json!(7))).await;
    assert_says(&stack, "v7").await;
    // By now, whatever the sequence: and it goes on behind what was removed.
    assert_eq!(forget(&[]).await, "removed");
    score(&worker, &as_of("v7 again", json!(7))).await;
    assert_says(&stack, "v7 again").await;
    assert_eq!(forget(&[]).await, "removed");
    score(&worker, &as_of("v6", json!(6))).await;
    assert_eq!(says(&stack, KEY).await, None);
    let by_hand = "SELECT count(*) FROM served WHERE key = 'k' AND is_removed AND job_id = ''";
    assert_eq!(stack.count(by_hand).await, 3);
    let explained = shell.kiln(&["explain", "n", "k", "--json"]).await.with(0);
    let latest = &explained.lines()[0]["history"][0];
    assert_eq!(
        (&latest["removed"], &latest["job_id"]),
        (&json!(true), &json!(null))
    );
    shell.kiln(&["forget", "n", ""]).await.with(1);
    shell
        .kiln(&["forget", "n", "k", "--as-of", "soon"])
        .await
        .with(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_runs_no_scripts_is_called_out() {
    let stack = Stack::shared().await;
    let rules = [
        "ACL",
        "SETUSER",
        "plain",
        "on",
        ">pw",
        "~kiln:*",
        "+@all",
        "-@scripting",
    ];
    let _: String = stack.redis.command(&rules).await;
    let url = stack.redis.url().replace("redis://", "redis://plain:pw@");
    let settings = stack.worker().set("KILN_REDIS_URL", &url).expect_trouble();
    let worker = settings.start().await;
    stack.bus.answer(&job("a", "a")).await;
    assert_eq!(says(&stack, KEY).await, None, "nothing is written blindly");
    assert_eq!(stack.redis.keys("kiln:s:*").await.len(), 1);
    eventually("it is degraded", PATIENCE, || async {
        let (_, body) = worker.get("/readyz").await?;
        body.contains("refuses scripts").then_some(())
    })
    .await;
    let doctor = Shell::on(&stack).set("KILN_REDIS_URL", &url);
    let checks = doctor.kiln(&["doctor", "--json"]).await.checks();
    let (status, _, advice) = &checks["redis scripts"];
    assert_eq!(status, "fail", "{checks:#?}");
    assert!(advice.contains("+@scripting"), "{advice}");
    assert_eq!(checks["redis writes"].0, "ok");
}

/// A random word on one key.
fn word(rng: &mut SmallRng) -> (Option<AsOf<'static>>, Order, &'static str) {
    let as_of = match rng.random_range(0..3) {
        0 => Some(AsOf::Sequence(rng.random_range(0..4))),
        1 => AsOf::moment(Moment::from_micros(rng.random_range(0..4)).rfc3339()),
        _ => None,
    };
    let order = Order::new(as_of.as_ref(), Moment::from_micros(rng.random_range(0..6)));
    let kind = ["", "", "b", "x"][rng.random_range(0..4)];
    (as_of, order, kind)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_script_compares_as_the_contract_does() {
    let stack = Stack::shared().await;
    let script = include_str!("../../src/cache/redis/write.lua");
    let mut rng = SmallRng::seed_from_u64(11);
    for round in 0..60 {
        let (key, mark) = (format!("entry:{round}"), format!("mark:{round}"));
        // What stands: an entry's order, a removal's, or nothing.
        let (mut entry, mut removed) = (None, None);
        for _ in 0..12 {
            let (as_of, order, kind) = word(&mut rng);
            let said = Provenance {
                job_id: None,
                as_of: as_of.as_ref(),
                order,
            };
            let value = String::from_utf8(removal(&said)).expect("UTF-8");
            let says = if order.is_plain() { "" } else { "e" };
            let asks = kind != "x" && rng.random();
            let manner = format!("{says}{}{kind}60000", if asks { "n" } else { "" });
            let words = ["EVAL", script, "2", &key, &mark, &value, &manner];
            let answer: Vec<i64> = stack.redis.command(&words).await;

            let stands: Option<Order> = entry.or(removed);
            let after = order.over(stands.as_ref());
            let is_dated = stands.is_some_and(|one| !one.is_plain());
            let expected: Vec<i64> = match (after, kind) {
                (None, _) => {
                    let same = stands.is_some_and(|one| one.accepted() == order.accepted());
                    match (same, asks && entry.is_some()) {
                        (false, _) => vec![1],
                        (true, true) => vec![1_001],
                        (true, false) => Vec::new(),
                    }
                }
                (Some(_), "b") if entry.is_none() && removed.is_some() => vec![1],
                (Some(after), "x") => {
                    removed = Some(after);
                    if entry.take().is_some() {
                        vec![-1]
                    } else {
                        Vec::new()
                    }
                }
                (Some(after), _) => {
                    entry = Some(after);
                    match asks && !is_dated {
                        true => vec![1_001],
                        false => Vec::new(),
                    }
                }
            };
            assert_eq!(answer, expected, "{order:?} {kind} after {stands:?}");
            for (key, order) in [(&key, entry), (&mark, removed)] {
                let value: Option<String> = stack.redis.command(&["GET", key]).await;
                let found = value.and_then(|value| Order::of_entry(value.as_bytes()));
                assert_eq!(found, order, "{key}");
            }
        }
    }
}

/// What a reader saw of each key, in time: its `as_of` never goes back.
#[derive(Default)]
struct History {
    last: BTreeMap<String, u64>,
    seen: u64,
}

impl History {
    fn note(&mut self, key: &str, entry: Option<String>) {
        let entry: Option<Value> = entry.map(|text| serde_json::from_str(&text).expect("JSON"));
        let found = entry.map(|entry| entry["as_of"].as_u64().expect("a number"));
        let last = self.last.get(key).copied();
        assert!(found >= last, "{key} went back from {last:?} to {found:?}");
        if let Some(found) = found {
            self.seen += u64::from(last != Some(found));
            self.last.insert(key.to_owned(), found);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_never_sees_a_key_go_back_while_workers_die() {
    const KEYS: usize = 100;
    // Two minutes of it: HISTORY_KILLS=60.
    let kills: u64 =
        std::env::var("HISTORY_KILLS").map_or(5, |kills| kills.parse().expect("a number"));
    let versions = 8 * kills / 5;
    let stack = Stack::shared().await;
    let settings = stack
        .worker()
        .expect_trouble()
        .set("KILN_INTAKE__BATCH_JOBS", "4");
    let mut rng = SmallRng::seed_from_u64(6);
    let mut jobs: Vec<Value> = Vec::new();
    for version in 1..=versions {
        let mut keys: Vec<usize> = (0..KEYS).collect();
        keys.shuffle(&mut rng);
        for (number, keys) in keys.chunks(4).enumerate() {
            let input = |key: &usize| json!({"key": key.to_string(), "text": format!("sleep:3 {key} in version {version}")});
            let inputs: Vec<Value> = keys.iter().map(input).collect();
            jobs.push(json!({"job_id": format!("{version}-{number}"), "model": "fault", "namespace": "n", "named": true, "as_of": version, "inputs": inputs}));
        }
    }
    jobs.shuffle(&mut rng);
    let names: Vec<String> = (0..KEYS).map(|key| format!("kiln:k:n:{key}")).collect();
    let spawn = || settings.clone().spawn();
    let mut workers: Vec<Worker> = (0..6).map(|_| spawn()).collect();
    for worker in &workers {
        worker.wait_ready().await;
    }

    let mut history = History::default();
    let mut reader = stack.redis.connection().await.expect("a connection");
    let mut read = async |history: &mut History| {
        let mut ask = redis::cmd("MGET");
        names.iter().for_each(|name| {
            ask.arg(name);
        });
        let entries: Vec<Option<String>> = ask.query_async(&mut reader).await.expect("an answer");
        for (name, entry) in names.iter().zip(entries) {
            history.note(name, entry);
        }
    };
    stack.bus.publish_jobs(&jobs).await;
    let all = jobs.len() as i64;
    for kill in 1..=kills {
        // After every so much of the work, one dies and another comes.
        while stack.row_count().await < all * kill as i64 / (kills as i64 + 1) {
            read(&mut history).await;
        }
        let index = rng.random_range(0..workers.len());
        workers[index].kill();
        workers[index] = spawn();
    }
    eventually("all jobs are done", PATIENCE, async || {
        read(&mut history).await;
        (stack.row_count().await == all).then_some(())
    })
    .await;
    stack.expect_done(job_ids(&jobs)).await;
    stack.wait_for_empty(JOBS).await;
    for worker in &workers {
        worker.wait_in_hand(0).await;
    }
    read(&mut history).await;
    assert!(history.seen > KEYS as u64, "it saw entries change");
    assert!(
        history.last.len() == KEYS && history.last.values().all(|last| *last == versions),
        "every entry is the newest: {:?}",
        history.last
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_lives_as_long_as_its_own_job_says() {
    let stack = Stack::shared().await;
    // Both in one batch, and both ask for the same text.
    let settings = stack.worker().set("KILN_INTAKE__BATCH_WAIT_MS", "500");
    let _worker = settings.start().await;
    let lasting = |id: &str, key: &str, seconds: u64| {
        let mut job = job(id, "the same text");
        job["inputs"][0]["key"] = json!(key);
        job["ttl_seconds"] = json!(seconds);
        job
    };
    let jobs = [
        lasting("warm-up", "first", 60),
        lasting("short", "short", 100),
        lasting("long", "long", 10_000),
    ];
    stack.bus.publish_jobs(&jobs).await;
    stack.wait_for_rows(3).await;
    stack.bus.replies(3).await;
    for (key, max) in [("short", 100), ("long", 10_000)] {
        let life = stack.redis.life(&format!("kiln:k:n:{key}")).await;
        assert!((max * 8 / 10..=max).contains(&life), "{key}: {life}");
    }
    // The score is the same fact for all: it lives as long as the longest of them.
    let [score] = stack.redis.keys("kiln:s:*").await.try_into().expect("one");
    let life: i64 = stack.redis.at("TTL", &score, &[]).await;
    assert!((8_000..=10_000).contains(&life), "{life}");
    // A hit of a job that says longer.
    stack.bus.answer(&lasting("longer", "longer", 20_000)).await;
    eventually(
        "its score lives longer",
        Duration::from_secs(10),
        || async {
            let life: i64 = stack.redis.at("TTL", &score, &[]).await;
            (life > 10_000).then_some(())
        },
    )
    .await;
    stack.bus.answer(&lasting("shorter", "shorter", 30)).await;
    let life: i64 = stack.redis.at("TTL", &score, &[]).await;
    assert!(life > 10_000, "{life}");
}
