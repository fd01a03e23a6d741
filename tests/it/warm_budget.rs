//! Warming's two budgets: what is known is renewed without the model, within Redis's memory; what is computed ends with its budget.

use kiln_contract::key::{EntryPrefix, hash_text};
use serde_json::{Value, json};

use crate::harness::stack::Stack;
use crate::harness::{PATIENCE, eventually, eventually_equals};
use crate::warm::{Schedules, on_request, words};

fn number(value: &Value) -> i64 {
    value
        .as_i64()
        .unwrap_or_else(|| panic!("a number: {value}"))
}

/// The key of a word's score entry.
fn entry(word: usize) -> Vec<u8> {
    let hash = hash_text(&format!("nice word {word}"), None);
    EntryPrefix::new("sentiment", "1.0.0").key(&hash)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_is_renewed_without_the_model_from_redis_or_the_table() {
    let stack = Stack::shared().await;
    let schedules = Schedules::new().set("KILN_AUDIT__ENABLED", "false");
    // One input may be computed: the others' scores have to be known.
    let text = |inputs| {
        format!(
            "{}ttl_seconds = 86400\n[budget]\ninputs = {inputs}\n{}",
            on_request(),
            words(60)
        )
    };
    schedules.put("words", &text(60));
    let worker = schedules.worker(&stack).start().await;
    let (_, run) = schedules.run_now(&stack, "words").await;
    assert_eq!(
        (&run["misses"], &run["hits"]),
        (&json!(60), &json!(0)),
        "{run}"
    );
    let calls = worker.metric("kiln_model_batch_rows_sum", &[]).await;
    assert!(calls > 0.0);

    // Half of them expire soon, the others are gone already, and so are their scores.
    for word in 0..60 {
        let name = format!("kiln:k:warmed:k{word}");
        if word < 30 {
            let _: i64 = stack.redis.command(&["EXPIRE", &name, "100"]).await;
            let _: i64 = stack.redis.at("EXPIRE", &entry(word), &["100"]).await;
        } else {
            let _: i64 = stack.redis.command(&["DEL", &name]).await;
            let deleted: i64 = stack.redis.at("DEL", &entry(word), &[]).await;
            assert_eq!(deleted, 1);
        }
    }
    schedules.put("words", &text(1));
    let plan = schedules.dry_run(&stack, "words");
    let found = (&plan["computes"], &plan["renewals"], &plan["from_table"]);
    assert_eq!(found, (&json!(0), &json!(60), &json!(30)), "{plan}");
    let history = "SELECT count(*) FROM served";
    let before = stack.count(history).await;
    let (code, run) = schedules.run_now(&stack, "words").await;
    assert_eq!(code, 0, "{run}");
    let found = (
        &run["planned"],
        &run["hits"],
        &run["misses"],
        &run["left_over"],
    );
    assert_eq!(
        found,
        (&json!(60), &json!(60), &json!(0), &json!(0)),
        "{run}"
    );
    assert_eq!(
        worker.metric("kiln_model_batch_rows_sum", &[]).await,
        calls,
        "the model is idle"
    );
    let renewed = worker
        .metric("kiln_warm_inputs_total", &[("outcome", "renewed")])
        .await;
    assert_eq!(renewed, 60.0);
    for word in [0, 29, 30, 59] {
        let left = stack.redis.life(&format!("kiln:k:warmed:k{word}")).await;
        let score: i64 = stack.redis.at("TTL", &entry(word), &[]).await;
        assert!(left > 1_000 && score > 1_000, "{word}: {left}, {score}");
    }
    assert_eq!(stack.count(history).await, before, "nothing has changed");

    // What was scored before an invalidation is never put back.
    let invalidate = ["invalidate", "warmed"];
    let (code, _, said) = tokio::task::block_in_place(|| schedules.kiln(&stack, &invalidate));
    assert_eq!(code, 0, "{said}");
    let plan = schedules.dry_run(&stack, "words");
    assert_eq!(
        (&plan["computes"], &plan["renewals"]),
        (&json!(1), &json!(0)),
        "{plan}"
    );
    assert_eq!(plan["left_over"]["compute"], 59, "{plan}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_keeps_its_budget_from_the_first_one_on_and_the_next_worker_knows_the_cost() {
    let stack = Stack::shared().await;
    let schedules = Schedules::new().with_fault();
    let rows: Vec<String> = (0..200)
        .map(|n| format!("{{ key = \"k{n}\", text = \"sleep:40 {n:03}\" }}"))
        .collect();
    let when = on_request().replace("sentiment", "fault");
    let text = format!(
        "{when}ttl_seconds = 86400\n[budget]\nmodel_seconds = 0.5\n[source]\nkind = \"static\"\ninputs = [{}]\n",
        rows.join(", ")
    );
    schedules.put("slow", &text);
    let settings = schedules.worker(&stack).models(&["fault"]);
    let first = settings.clone().start().await;
    // Nobody knows what it costs: a millisecond is guessed, and all of it planned.
    let plan = schedules.dry_run(&stack, "slow");
    assert_eq!(
        (&plan["computes"], &plan["costs_are_measured"]),
        (&json!(200), &json!(false))
    );
    let (code, run) = schedules.run_now(&stack, "slow").await;
    assert_eq!((code, &run["state"]), (0, &json!("done")), "{run}");
    let (computed, left) = (number(&run["misses"]), number(&run["left_over"]));
    let spent = run["spent_seconds"].as_f64().expect("seconds");
    // Each takes 40 ms at the least: 12 of them fit, and a portion is no more than is left.
    assert!((1..=14).contains(&computed), "{run}");
    assert!(spent >= 0.04 * computed as f64 && spent < 1.0, "{run}");
    assert_eq!(
        (computed + left, number(&run["planned"])),
        (200, 200),
        "{run}"
    );
    let why = run["message"].as_str().unwrap_or_default();
    assert!(why.starts_with("stopped at its budget: "), "{run}");
    let shown = first.get("/v1/warm/runs").await.expect("an answer").1;
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(number(&shown[0]["left_over"]), left, "{shown}");
    let left_over = first
        .metric("kiln_warm_inputs_total", &[("outcome", "left_over")])
        .await;
    assert_eq!(left_over, left as f64);

    eventually("its cost is told", PATIENCE, || async {
        let measured = "SELECT count(*) FROM model_costs WHERE model = 'fault' AND is_measured";
        (stack.count(measured).await > 0).then_some(())
    })
    .await;
    first.kill();
    let _second = settings.start().await;
    let plan = schedules.dry_run(&stack, "slow");
    assert_eq!(plan["costs_are_measured"], true, "{plan}");
    let computes = number(&plan["computes"]);
    assert!((1..=13).contains(&computes), "{plan}");
    assert_eq!(number(&plan["fresh"]), computed, "{plan}");
    // The run does what was shown.
    let (_, run) = schedules.run_now(&stack, "slow").await;
    let cost = |one: &Value| one["model_seconds"].as_f64().expect("seconds");
    assert_eq!(
        (&run["computes"], &run["planned"]),
        (&plan["computes"], &plan["inputs"]),
        "{run}"
    );
    assert!((cost(&run) - cost(&plan)).abs() < 1e-6, "{run} {plan}");
    assert_eq!(run["kept_bytes"], plan["kept_bytes"], "{run}");
    assert!(number(&run["misses"]) <= 14, "{run}");
    let left = number(&plan["left_over"]["compute"]) + computes - number(&run["misses"]);
    assert_eq!(number(&run["left_over"]), left, "{run}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_warming_keeps_fills_no_more_of_redis_than_its_share() {
    let stack = Stack::shared().await;
    let schedules = Schedules::new().set("KILN_WARM__MAX_REDIS_SHARE", "0.125");
    let text = format!("{}ttl_seconds = 86400\n{}", on_request(), words(3_000));
    schedules.put("words", &text);
    let worker = schedules.worker(&stack).start().await;
    for setting in [["maxmemory", "8mb"], ["maxmemory-policy", "allkeys-lru"]] {
        let [name, value] = setting;
        let _: String = stack.redis.command(&["CONFIG", "SET", name, value]).await;
    }
    let used = async || {
        let info: String = stack.redis.command(&["INFO", "memory"]).await;
        let mut lines = info.lines();
        let line = lines.find_map(|line| line.trim().strip_prefix("used_memory:"));
        line.and_then(|bytes| bytes.parse::<u64>().ok())
            .expect("a figure")
    };
    schedules.put("few", &text.replace(&words(3_000), &words(10)));
    let _ = schedules.run_now(&stack, "few").await;
    let before = used().await;
    let (code, run) = schedules.run_now(&stack, "words").await;
    assert_eq!(code, 0, "{run}");
    let (planned, left) = (number(&run["planned"]), number(&run["left_over"]));
    assert!(
        planned > 500 && left > 100 && planned + left >= 2_990,
        "{run}"
    );
    let message = run["message"].as_str().unwrap_or_default();
    assert!(message.contains("`warm.max_redis_share`"), "{run}");
    let (kept, bound) = (number(&run["kept_bytes"]), 1 << 20);
    assert!(kept <= bound, "{run}");
    let filled = used().await.saturating_sub(before);
    // What workers tell each other of it takes some as well.
    assert!(filled < 2 << 20, "{filled} bytes, and {kept} were said");
    assert!(stack.redis.says("stats", "evicted_keys:0\r").await);
    assert_eq!(number(&run["misses"]), planned, "{run}");
    // The next run leaves what is there, and has no room for more.
    let plan = schedules.dry_run(&stack, "words");
    assert_eq!(
        (&plan["inputs"], &plan["left_over"]["memory"]),
        (&json!(0), &json!(left)),
        "{plan}"
    );

    // Where Redis evicts, warming stands back, and says so.
    let junk = "x".repeat(100_000);
    for number in 0..120 {
        let _: String = stack
            .redis
            .command(&["SET", &format!("junk{number}"), &junk])
            .await;
    }
    assert!(!stack.redis.says("stats", "evicted_keys:0\r").await);
    let plan = schedules.dry_run(&stack, "words");
    let message = plan["message"].as_str().unwrap_or_default();
    assert!(message.contains("since Redis has evicted"), "{plan}");
    assert!(number(&plan["max_bytes"]) <= bound / 2, "{plan}");
    worker.wait_in_hand(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_remembered_is_not_renewed_beyond_the_age_that_its_namespace_allows() {
    let stack = Stack::shared().await;
    let schedules = Schedules::new().set("KILN_NAMESPACES__WARMED__MAX_AGE_SECONDS", "300");
    for (name, ttl) in [("short", 60), ("long", 600)] {
        let heat = format!("ttl_seconds = {ttl}\n[source]\nkind = \"heat\"\n");
        schedules.put(name, &format!("{}{heat}", on_request()));
    }
    let _worker = schedules.worker(&stack).start().await;
    let inputs = json!([{"key": "k", "text": "nice word 1"}]);
    let job = json!({"job_id": "one", "model": "sentiment", "namespace": "warmed", "inputs": inputs, "named": true});
    stack.bus.answer(&job).await;
    let _: i64 = stack.redis.command(&["DEL", "kiln:k:warmed:k"]).await;
    let plan = eventually("it is hot", PATIENCE, || async {
        let plan = schedules.dry_run(&stack, "short");
        (plan["inputs"] == 1).then_some(plan)
    })
    .await;
    assert_eq!(
        (&plan["too_old"], &plan["renewals"]),
        (&json!(0), &json!(1)),
        "{plan}"
    );
    // It would live for longer than anybody vouches for it, and lives for as long as somebody does.
    let (code, run) = schedules.run_now(&stack, "long").await;
    assert_eq!((code, &run["planned"]), (0, &json!(1)), "{run}");
    let left = stack.redis.life("kiln:k:warmed:k").await;
    assert!((200..300).contains(&left), "{left}");
    // What a run has made anew says nothing anew.
    let strict = schedules.set("KILN_NAMESPACES__WARMED__MAX_AGE_SECONDS", "2");
    let plan = eventually("it is too old", PATIENCE, || async {
        let plan = strict.dry_run(&stack, "short");
        (plan["too_old"] == 1).then_some(plan)
    })
    .await;
    let message = plan["message"].as_str().unwrap_or_default();
    assert!(message.contains("`max_age_seconds`"), "{plan}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_is_a_runs_own_and_its_end_says_all_that_became_of_it() {
    let stack = Stack::shared().await;
    let schedules = Schedules::new();
    schedules.put("long", &format!("{}{}", on_request(), words(200)));
    let settings = schedules
        .worker(&stack)
        .set("KILN_WARM__PIECE_INPUTS", "10");
    let paused = settings.clone().set("KILN_WARM__BACKLOG_MOST", "0");
    let planned = async || {
        tokio::task::block_in_place(|| schedules.kiln(&stack, &["warm", "long"]));
        eventually("the run is planned", PATIENCE, || async {
            let posting = "SELECT count(*) FROM warm_runs WHERE state = 'posting'";
            (stack.count(posting).await == 1).then_some(())
        })
        .await;
        let said = "UPDATE warm_runs SET message = 'said before' WHERE state = 'posting'";
        stack.execute(said).await;
    };
    let row = async || {
        let row = "SELECT concat_ws(' ', state, posted, done, failed, left_over, message) FROM warm_runs ORDER BY id DESC LIMIT 1";
        stack.text(row).await
    };
    let first = paused.clone().expect_trouble().start().await;
    planned().await;
    first.kill();
    // It was stopped between handing them to the broker and saying so. Its budget is less than they take.
    let sent = "UPDATE warm_posts SET sent = true WHERE piece < 3";
    stack.execute(sent).await;
    stack
        .execute("UPDATE warm_runs SET budget_inputs = 20")
        .await;
    let second = settings.allow("taken over").start().await;
    let ended =
        "done 30 30 0 170 said before; stopped at its budget: the model computed 30 of 20 inputs";
    eventually_equals("it stops", PATIENCE, ended.to_owned(), row).await;
    assert_eq!(stack.count("SELECT count(*) FROM warm_posts").await, 0);
    second.kill();

    // A run that fails has left over what it hasn't sent.
    let third = paused.expect_trouble().start().await;
    planned().await;
    stack.execute(sent).await;
    let over = "UPDATE warm_runs SET ends_at = now() WHERE state = 'posting'";
    stack.execute(over).await;
    let ended = "failed 30 0 30 140 said before; it ran past its time limit";
    eventually_equals("it fails", PATIENCE, ended.to_owned(), row).await;
    eventually("it is counted", PATIENCE, || async {
        let left_over = [("outcome", "left_over")];
        let left_over = third.metric("kiln_warm_inputs_total", &left_over).await;
        (left_over == 140.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scores_that_are_not_kept_are_left_out_and_fill_no_memory() {
    let stack = Stack::shared().await;
    let schedules = Schedules::new().set("KILN_CACHE__MODE", "auto");
    let scores = format!("{}keep = \"scores\"\n{}", on_request(), words(60));
    schedules.put("scores", &scores);
    schedules.put("names", &format!("{}{}", on_request(), words(60)));
    let _worker = schedules.worker(&stack).start().await;
    let all_kept = Schedules::new();
    all_kept.put("names", &format!("{}{}", on_request(), words(60)));
    let bytes = number(&all_kept.dry_run(&stack, "names")["kept_bytes"]);
    // A kind of machine on which a look-up takes longer than the model.
    stack
        .execute(
            "INSERT INTO model_costs (model, version, machine, length_class, seconds_per_unit, is_measured, changed_at)
             SELECT 'sentiment', '1.0.0', 'quick', class, 1e-12, true, now() + interval '1 hour' FROM generate_series(0, 16) AS class",
        )
        .await;
    let plan = schedules.dry_run(&stack, "scores");
    assert_eq!(
        (&plan["unkept"], &plan["inputs"], &plan["kept_bytes"]),
        (&json!(60), &json!(0), &json!(0)),
        "{plan}"
    );
    let message = plan["message"].as_str().unwrap_or_default();
    assert!(message.contains("`cache.mode`"), "{plan}");
    let plan = schedules.dry_run(&stack, "names");
    assert_eq!(
        (&plan["unkept"], &plan["inputs"]),
        (&json!(0), &json!(60)),
        "{plan}"
    );
    let names = number(&plan["kept_bytes"]);
    assert!(names > 0 && names < bytes, "{names} of {bytes}: {plan}");
}
