//! Warming: due runs happen once, whoever dies, and what they post is ready for readers.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use kiln::store::PostgresStore;
use kiln::warm::due;
use kiln::warm::schedule::{self, Schedule};
use kiln_contract::order::{Moment, Order};
use serde_json::{Value, json};

use crate::harness::bus::persistent;
use crate::harness::shell::Shell;
use crate::harness::stack::Stack;
use crate::harness::worker::Settings;
use crate::harness::{PATIENCE, eventually, eventually_equals, sandbox};

/// A schedules folder of the test's own.
pub(crate) struct Schedules {
    folder: PathBuf,
    models: &'static str,
    /// What workers and commands are told beside it.
    environment: Vec<(&'static str, &'static str)>,
}

impl Schedules {
    pub(crate) fn new() -> Self {
        Self {
            folder: sandbox::folder("schedules"),
            models: concat!(env!("CARGO_MANIFEST_DIR"), "/models"),
            environment: Vec::new(),
        }
    }

    /// Has commands know the model that is slow on request.
    pub(crate) fn with_fault(mut self) -> Self {
        self.models = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models");
        self
    }

    /// Sets a variable for workers and commands.
    pub(crate) fn set(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    pub(crate) fn put(&self, name: &str, text: &str) {
        let path = self.folder.join(format!("{name}.toml"));
        fs::write(path, format!("name = \"{name}\"\n{text}")).expect("a file");
    }

    fn path(&self) -> &str {
        self.folder.to_str().expect("a plain path")
    }

    pub(crate) fn worker(&self, stack: &Stack) -> Settings {
        let mut settings = stack
            .worker()
            .models(&["sentiment"])
            .set("KILN_WARM__DIR", self.path())
            .set("KILN_WARM__CLAIM_SECONDS", "2");
        for (name, value) in &self.environment {
            settings = settings.set(name, value);
        }
        settings
    }

    /// Runs the command line on this folder and the stack's servers; returns the exit code and its output's lines as JSON.
    pub(crate) fn kiln(&self, stack: &Stack, arguments: &[&str]) -> (i32, Vec<Value>, String) {
        self.kiln_with(stack, arguments, &[])
    }

    /// The same with more of an environment.
    pub(crate) fn kiln_with(
        &self,
        stack: &Stack,
        arguments: &[&str],
        more: &[(&str, &str)],
    ) -> (i32, Vec<Value>, String) {
        let output = sandbox::clean_command(env!("CARGO_BIN_EXE_kiln"), &sandbox::folder("cli"))
            .args(arguments)
            .env("KILN_WARM__DIR", &self.folder)
            .env("KILN_MODELS_DIR", self.models)
            .envs(self.environment.iter().copied())
            .env("KILN_DATABASE_URL", stack.database_url())
            .env("KILN_REDIS_URL", stack.redis.url())
            .envs(more.iter().copied())
            .output()
            .expect("the binary runs");
        let out = String::from_utf8_lossy(&output.stdout);
        let lines = out
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap_or(-1), lines, said)
    }

    /// What a run would post.
    pub(crate) fn dry_run(&self, stack: &Stack, name: &str) -> Value {
        let arguments = ["warm", name, "--dry-run", "--json"];
        let (_, lines, said) = tokio::task::block_in_place(|| self.kiln(stack, &arguments));
        let line = lines.into_iter().next();
        line.unwrap_or_else(|| panic!("no plan: {said}"))
    }

    pub(crate) async fn run_now(&self, stack: &Stack, name: &str) -> (i32, Value) {
        let (code, lines, said) =
            tokio::task::block_in_place(|| self.kiln(stack, &["warm", name, "--wait", "--json"]));
        let line = lines.into_iter().next();
        (code, line.unwrap_or_else(|| panic!("no result: {said}")))
    }
}

/// Runs only when asked; its next due time is half an hour away.
pub(crate) fn on_request() -> String {
    use chrono::Timelike;
    let minute = (Utc::now().minute() + 30) % 60;
    format!(
        "enabled = false\ncron = \"{minute} * * * *\"\nmodel = \"sentiment\"\nnamespace = \"warmed\"\n"
    )
}

pub(crate) fn words(count: usize) -> String {
    let rows: Vec<String> = (0..count)
        .map(|n| format!("{{ key = \"k{n}\", text = \"nice word {n}\" }}"))
        .collect();
    format!(
        "[source]\nkind = \"static\"\ninputs = [{}]\n",
        rows.join(", ")
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_leaves_named_entries_and_the_next_one_skips_what_is_fresh() {
    let stack = Stack::shared().await;
    let schedules = Schedules::new();
    schedules.put(
        "words",
        &format!("{}ttl_seconds = 86400\n{}", on_request(), words(150)),
    );
    let _worker = schedules.worker(&stack).start().await;
    let (code, run) = schedules.run_now(&stack, "words").await;
    assert_eq!((code, &run["state"]), (0, &json!("done")), "{run}");
    assert_eq!(
        (&run["planned"], &run["done"], &run["misses"]),
        (&json!(150), &json!(150), &json!(150))
    );
    let entry = stack
        .redis
        .json("kiln:k:warmed:k149")
        .await
        .expect("a named entry");
    assert_eq!(
        (&entry["model"], &entry["version"]),
        (&json!("sentiment"), &json!("1.0.0"))
    );

    // A named entry that is gone is made again; its score entry is still there, so that no model runs.
    let _: i64 = stack.redis.command(&["DEL", "kiln:k:warmed:k7"]).await;
    let _: i64 = stack
        .redis
        .command(&["EXPIRE", "kiln:k:warmed:k8", "100"])
        .await;
    let (_, plan, said) = tokio::task::block_in_place(|| {
        schedules.kiln(&stack, &["warm", "words", "--dry-run", "--json"])
    });
    let plan = plan.first().unwrap_or_else(|| panic!("no plan: {said}"));
    assert_eq!(
        (&plan["inputs"], &plan["fresh"]),
        (&json!(2), &json!(148)),
        "{plan}"
    );
    assert_eq!(plan["first"][0]["why"], "not there");
    assert!(
        plan["first"][1]["why"]
            .as_str()
            .is_some_and(|why| why.starts_with("expires in "))
    );
    assert_eq!(plan["model_seconds"], 0.0);
    let (_, run) = schedules.run_now(&stack, "words").await;
    assert_eq!(
        (&run["planned"], &run["skipped"]),
        (&json!(2), &json!(148)),
        "{run}"
    );
    assert_eq!(
        (&run["hits"], &run["misses"]),
        (&json!(2), &json!(0)),
        "{run}"
    );
    assert!(stack.redis.json("kiln:k:warmed:k7").await.is_some());
    assert!(stack.redis.life("kiln:k:warmed:k8").await > 1_000);

    let prune = ["prune", "--older-than", "0s", "--json"];
    let (_, lines, said) = tokio::task::block_in_place(|| schedules.kiln(&stack, &prune));
    let line = lines.first().unwrap_or_else(|| panic!("no result: {said}"));
    assert_eq!(
        (&line["runs"], &line["scores"]),
        (&json!(2), &json!(150)),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sql_rows_of_one_group_become_one_ranking() {
    let stack = Stack::shared().await;
    stack
        .execute("CREATE TABLE items (id int, page int, said text)")
        .await;
    stack
        .execute(
            "INSERT INTO items SELECT n, n % 3, 'nice word ' || n FROM generate_series(1, 30) AS n",
        )
        .await;
    stack
        .execute("INSERT INTO items VALUES (31, 1, NULL)")
        .await;
    let schedules = Schedules::new();
    let statement = |sql: &str| {
        format!(
            "{}keep = \"rank\"\n[rank]\ntop = 4\n[source]\nkind = \"sql\"\ndatabase = \"kiln\"\nlimit_seconds = 2\nlimit_rows = 1000\nstatement = \"\"\"{sql}\"\"\"\n",
            on_request()
        )
    };
    schedules.put("pages", &statement("SELECT 'item:' || id AS key, 'page:' || page AS \"group\", said AS text FROM items ORDER BY id;"));
    let _worker = schedules
        .worker(&stack)
        .allow("a warming run failed")
        .start()
        .await;
    let (code, run) = schedules.run_now(&stack, "pages").await;
    assert_eq!(
        (code, &run["planned"], &run["bad"]),
        (3, &json!(30), &json!(1)),
        "{run}"
    );
    assert!(
        run["message"]
            .as_str()
            .is_some_and(|told| told.contains("row 31")),
        "{run}"
    );
    for page in 0..3 {
        let ranking = stack
            .redis
            .json(&format!("kiln:k:warmed:page:{page}"))
            .await
            .expect("a ranking");
        assert_eq!(
            ranking["items"].as_array().map(Vec::len),
            Some(4),
            "{ranking}"
        );
    }

    for (name, sql, told) in [
        (
            "writes",
            "DELETE FROM items RETURNING 'k' AS key, said AS text",
            "syntax error",
        ),
        (
            "cte",
            "WITH gone AS (DELETE FROM items RETURNING said) SELECT 'k' AS key, said AS text FROM gone",
            "data-modifying",
        ),
        (
            "two",
            "SELECT 'k' AS key, said AS text FROM items; DELETE FROM items",
            "multiple commands",
        ),
        (
            "calls",
            "SELECT 'k' AS key, pg_notify('a', 'b')::text || nextval('warm_runs_id_seq') AS text",
            "read-only",
        ),
        (
            "escapes",
            "SELECT set_config('transaction_read_only', 'off', false) AS text, 'k' AS key",
            "read-write mode",
        ),
        (
            "sleeps",
            "SELECT 'k' AS key, pg_sleep(60)::text AS text",
            "limit",
        ),
        (
            "many",
            "SELECT 'k' || n AS key, 'g' AS \"group\", 't' AS text FROM generate_series(1, 1001) AS n",
            "limit_rows",
        ),
        (
            "typed",
            "SELECT id AS key, said AS text FROM items",
            "write (…)::text",
        ),
        (
            "named",
            "SELECT 'k' AS key, said AS texts FROM items",
            "`texts` is unknown",
        ),
    ] {
        schedules.put(name, &statement(sql));
        let (code, run) = schedules.run_now(&stack, name).await;
        let message = run["message"].as_str().unwrap_or_default();
        assert_eq!(
            (code, &run["state"]),
            (1, &json!("failed")),
            "{name}: {run}"
        );
        assert!(
            message.contains(told) || (name == "sleeps" && message.contains("timeout")),
            "{name}: {message}"
        );
    }
    assert_eq!(stack.count("SELECT count(*) FROM items").await, 31);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_cut_short_goes_on_where_it_stopped() {
    let stack = Stack::shared().await;
    let schedules = Schedules::new();
    schedules.put("long", &format!("{}{}", on_request(), words(2_000)));
    // Posting pauses at once: the first worker plans, posts a window, and dies.
    let settings = schedules
        .worker(&stack)
        .set("KILN_WARM__PIECE_INPUTS", "10");
    let first = settings
        .clone()
        .set("KILN_WARM__BACKLOG_MOST", "0")
        .expect_trouble()
        .start()
        .await;
    let (code, lines, _) =
        tokio::task::block_in_place(|| schedules.kiln(&stack, &["warm", "long", "--json"]));
    let run = lines[0]["run"].as_i64().expect("a run");
    assert_eq!(code, 0);
    eventually("the run is planned", PATIENCE, || async {
        (stack
            .count("SELECT count(*) FROM warm_runs WHERE state = 'posting'")
            .await
            == 1)
            .then_some(())
    })
    .await;
    first.kill();
    let planned = stack.count("SELECT count(*) FROM warm_posts").await;
    assert_eq!(planned, 200);
    // Some were posted before the worker died, and their rows say so.
    stack
        .execute("DELETE FROM warm_posts WHERE piece < 50")
        .await;
    stack
        .execute("UPDATE warm_runs SET posted = 500, pieces = 150")
        .await;
    let _second = settings.allow("taken over").start().await;
    eventually_equals("the run is done", PATIENCE, "done".to_owned(), || async {
        stack
            .text(&format!("SELECT state FROM warm_runs WHERE id = {run}"))
            .await
    })
    .await;
    assert_eq!(
        stack
            .count("SELECT count(*) FROM jobs WHERE job_id LIKE 'warm-%'")
            .await,
        150
    );
    assert_eq!(
        stack
            .count("SELECT count(*) FROM jobs WHERE job_id LIKE 'warm-%-49'")
            .await,
        0
    );
    assert_eq!(
        stack.count("SELECT token FROM warm_runs").await,
        3,
        "asked for, taken, taken over"
    );
    assert_eq!(stack.count("SELECT posted FROM warm_runs").await, 2_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_paused_past_its_claim_changes_nothing_any_more() {
    let stack = Stack::shared().await;
    let schedules = Schedules::new();
    schedules.put("long", &format!("{}{}", on_request(), words(600)));
    let settings = schedules
        .worker(&stack)
        .set("KILN_WARM__PIECE_INPUTS", "10")
        .expect_trouble();
    let first = settings
        .clone()
        .set("KILN_WARM__BACKLOG_MOST", "0")
        .start()
        .await;
    tokio::task::block_in_place(|| schedules.kiln(&stack, &["warm", "long"]));
    eventually("the run is planned", PATIENCE, || async {
        (stack
            .count("SELECT count(*) FROM warm_runs WHERE state = 'posting'")
            .await
            == 1)
            .then_some(())
    })
    .await;
    first.pause();
    let _second = settings.start().await;
    eventually_equals(
        "the other worker finishes it",
        PATIENCE,
        "done".to_owned(),
        || async { stack.text("SELECT state FROM warm_runs").await },
    )
    .await;
    first.resume();
    eventually(
        "the first one sees that it is not its own",
        PATIENCE,
        || async {
            first
                .lines()
                .iter()
                .any(|line| line.contains("another worker took it over"))
                .then_some(())
        },
    )
    .await;
    assert_eq!(stack.text("SELECT state FROM warm_runs").await, "done");
    assert_eq!(stack.count("SELECT count(*) FROM jobs").await, 60);
    assert_eq!(stack.count("SELECT misses FROM warm_runs").await, 600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn due_runs_happen_by_themselves_and_a_bad_file_takes_no_good_one_down() {
    let stack = Stack::shared().await;
    let schedules = Schedules::new();
    let every = "cron = \"* * * * * *\"\nmodel = \"sentiment\"\n";
    schedules.put("ticks", &format!("{every}{}", words(3)));
    schedules.put(
        "bad",
        "cron = \"* * *\"\nmodel = \"sentiment\"\n[source]\nkind = \"static\"\ninputs = []\n",
    );
    let one = schedules
        .worker(&stack)
        .allow("schedule file is refused")
        .allow("left out")
        .start()
        .await;
    let _other = schedules
        .worker(&stack)
        .allow("schedule file is refused")
        .allow("left out")
        .start()
        .await;
    eventually("some runs are done", PATIENCE, || async {
        (stack
            .count("SELECT count(*) FROM warm_runs WHERE state = 'done'")
            .await
            >= 5)
            .then_some(())
    })
    .await;
    assert_eq!(
        stack
            .count("SELECT count(*) - count(DISTINCT due_at) FROM warm_runs")
            .await,
        0
    );
    assert!(one.metric("kiln_schedule_problems", &[]).await == 1.0);
    assert!(
        one.lines()
            .iter()
            .any(|line| line.contains("bad.toml:2:8: `cron`: expected 5 fields"))
    );
    let (code, lines, said) =
        tokio::task::block_in_place(|| schedules.kiln(&stack, &["schedules", "--json"]));
    assert_eq!(
        (code, &lines[0]["schedule"]),
        (3, &json!("ticks")),
        "{lines:?} {said}"
    );
    assert!(
        lines[0]["next"].is_string() && said.contains("bad.toml:2"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedules_are_checked_without_servers_and_all_mistakes_are_told() {
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/models");
    let shell = Shell::bare()
        .set("KILN_MODELS_DIR", models)
        .set("KILN_WARM__DIR", "schedules");
    let missing = shell.kiln(&["schedules", "check"]).await.with(3);
    assert_eq!(
        missing.err,
        "schedules: `warm.dir`: there is no such folder\n"
    );
    fs::create_dir(shell.folder.join("schedules")).expect("a folder");
    let put = |name: &str, text: &str| {
        let path = shell.folder.join(format!("schedules/{name}.toml"));
        fs::write(path, text).expect("written");
    };
    put(
        "nightly",
        &format!(
            "name = \"nightly\"\ncron = \"30 2 * * *\"\ntime_zone = \"Europe/Berlin\"\nmodel = \"sentiment\"\n{}",
            words(2)
        ),
    );
    // A night without half past two.
    let from = [
        "schedules",
        "check",
        "--next",
        "3",
        "--from",
        "2026-03-27T12:00",
    ];
    let table = shell.kiln(&from).await.with(0);
    for expected in [
        "2026-03-28T02:30:00+01:00",
        "2026-03-28T01:30:00.000Z",
        "2026-03-29T03:00:00+02:00",
        "2026-03-29T01:00:00.000Z",
        "2026-03-30T00:30:00.000Z",
    ] {
        assert!(table.out.contains(expected), "{expected}: {}", table.out);
    }
    put(
        "bad",
        "name = \"Bad\"\ncron = \"0 0 30 2 *\"\nmodel = \"sentiment\"\n[source]\nkind = \"static\"\ninputs = []\n",
    );
    put(
        "ranker",
        "name = \"ranker\"\ncron = \"@hourly\"\nmodel = \"feed-ranker\"\n[source]\nkind = \"static\"\ninputs = [{ key = \"a\", features = [1.0] }]\n",
    );
    put(
        "shop",
        "name = \"shop\"\ncron = \"@hourly\"\nmodel = \"sentimant\"\n[source]\nkind = \"sql\"\ndatabase = \"shop\"\nstatement = \"SELECT 1\"\n",
    );
    let told = shell.kiln(&["schedules", "check"]).await.with(3).err;
    let lines: Vec<&str> = told.lines().collect();
    let expected = [
        "schedules/bad.toml:1:8: `name`: expected 1 to 64 of a-z, 0-9, _ and -",
        "schedules/bad.toml:2:8: `cron`: it is never due",
        "schedules/bad.toml:6:10: `source.inputs`: expected at least one input",
        "schedules/ranker.toml:6:35: `source.inputs[0].features`: expected ",
        "schedules/shop.toml:3:9: `model`: unknown model; known: ",
        "schedules/shop.toml:6:12: `source.database`: unknown database; known: kiln",
    ];
    assert_eq!(lines.len(), expected.len(), "{told}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}");
    }
    let json = shell.kiln(&[from.as_slice(), &["--json"]].concat()).await;
    let lines = json.with(3).lines();
    let next = json!([
        "2026-03-28T01:30:00.000Z",
        "2026-03-29T01:00:00.000Z",
        "2026-03-30T00:30:00.000Z"
    ]);
    assert_eq!(lines[0]["next_utc"], next);
    let cron = lines.iter().find(|line| line["field"] == "cron");
    let cron = cron.expect("the cron's mistake");
    assert_eq!((&cron["line"], &cron["column"]), (&json!(2), &json!(8)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_no_newer_than_its_beginning() {
    let stack = Stack::shared().await;
    let schedules = Schedules::new();
    schedules.put("words", &format!("{}{}", on_request(), words(1)));
    let worker = schedules.worker(&stack).start().await;
    schedules.run_now(&stack, "words").await;
    worker.wait_in_hand(0).await;
    let key = "kiln:k:warmed:k0";
    let micros = "SELECT (extract(epoch FROM started_at) * 1000000)::bigint FROM warm_runs";
    let began = stack.count(micros).await;
    let entry: String = stack.redis.command(&["GET", key]).await;
    let order = Order::of_entry(entry.as_bytes()).expect("an order");
    assert_eq!(order.accepted(), Moment::from_micros(began));
    // A producer's word from after it stays, whatever its own clock says, and the next run's job from before loses.
    let inputs = json!([{"key": "k0", "text": "what it says by now"}]);
    let job = json!({"job_id": "now", "model": "sentiment", "namespace": "warmed", "named": true, "as_of": 1, "inputs": inputs});
    stack.bus.answer(&job).await;
    let mut earlier = job.clone();
    earlier["job_id"] = json!("planned before");
    earlier["inputs"][0]["text"] = json!("what it said before");
    let Value::Object(fields) = &mut earlier else {
        unreachable!("it is an object")
    };
    fields.remove("as_of");
    let mut headers = lapin::types::FieldTable::default();
    let at = lapin::types::AMQPValue::LongString(order.accepted().rfc3339().into());
    headers.insert("kiln-accepted-at".into(), at);
    let properties = crate::harness::bus::persistent().with_headers(headers);
    let message = (earlier.to_string().into_bytes(), properties);
    stack.bus.publish("kiln.warm", vec![message]).await;
    let done = "SELECT count(*) FROM jobs WHERE job_id = 'planned before'";
    eventually("it is done", PATIENCE, || async {
        (stack.count(done).await == 1).then_some(())
    })
    .await;
    worker.wait_in_hand(0).await;
    let entry = stack.redis.json(key).await.expect("an entry");
    assert_eq!(entry["job_id"], "now", "{entry}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_jobs_ask_for_most_is_seen_and_warmed() {
    let stack = Stack::shared().await;
    let schedules = Schedules::new();
    let heat = "keep = \"scores\"\nttl_seconds = 86400\n[source]\nkind = \"heat\"\ntop = 4\n";
    schedules.put("hot", &format!("{}{heat}", on_request()));
    let _one = schedules.worker(&stack).start().await;
    let _other = schedules.worker(&stack).start().await;
    let jobs: Vec<Value> = (0..200)
        .map(|n| {
            let inputs = json!([{"text": "the hot one"}, {"text": format!("the warm one {}", n % 3)}, {"text": format!("cold {n}")}]);
            json!({"job_id": format!("j{n}"), "model": "sentiment", "namespace": "warmed", "inputs": inputs})
        })
        .collect();
    stack.bus.publish_jobs(&jobs).await;
    stack.wait_for_rows(200).await;
    let hottest = || async {
        let (_, lines, said) = tokio::task::block_in_place(|| {
            schedules.kiln(&stack, &["hot", "--namespace", "warmed", "--json"])
        });
        assert_eq!(said, "");
        let texts: Vec<String> = lines
            .iter()
            .filter_map(|line| line["text"].as_str().map(str::to_owned))
            .collect();
        (texts.first().map(String::as_str) == Some("the hot one")
            && texts[1..4].iter().all(|t| t.starts_with("the warm one")))
        .then_some(lines)
    };
    let lines = eventually("the workers have told each other", PATIENCE, hottest).await;
    let share = lines[0]["share"].as_f64().expect("a share");
    assert!(
        share > 0.25 && share < 0.42,
        "a third of what is asked for: {share}"
    );
    assert!(stack.redis.keys("kiln:h*").await.len() == 2);

    // Its score expires before readers ask again: a run makes it anew, from its row in the table of scores.
    for key in stack.redis.keys("kiln:s:*").await {
        let _: i64 = stack.redis.at("DEL", &key, &[]).await;
    }
    let (code, run) = schedules.run_now(&stack, "hot").await;
    assert_eq!(
        (code, &run["planned"], &run["hits"], &run["misses"]),
        (0, &json!(4), &json!(4), &json!(0)),
        "{run}"
    );
    assert!(
        run["saved_seconds"]
            .as_f64()
            .is_some_and(|saved| saved > 0.0),
        "{run}"
    );
    assert_eq!(stack.redis.keys("kiln:s:*").await.len(), 4);
    let (_, run) = schedules.run_now(&stack, "hot").await;
    assert_eq!(
        (&run["planned"], &run["skipped"]),
        (&json!(0), &json!(4)),
        "{run}"
    );
}

/// Twelve workers over a month in which clocks go forward in New York and Berlin and back in Sydney. Their clocks
/// differ, one is stepped back, one is away for days.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twelve_workers_claim_each_due_run_of_a_month_once() {
    use rand::{Rng, SeedableRng, rngs::StdRng};
    let stack = Stack::shared().await;
    let url = kiln::secret::Secret::new(stack.database_url());
    let store = PostgresStore::new(&url, &kiln::config::Database::default()).expect("a URL");
    store.migrate().await.expect("an empty database");
    let schedules: Vec<Schedule> = [
        ("half-hours", "*/30 * * * *", "Europe/Berlin"),
        ("nights", "30 2 * * *", "Europe/Berlin"),
        ("sundays", "15 2 * * sun", "America/New_York"),
        ("south", "30 2 * * *", "Australia/Sydney"),
    ]
    .into_iter()
    .map(|(name, cron, zone)| {
        let text = format!("name = \"{name}\"\ncron = \"{cron}\"\ntime_zone = \"{zone}\"\nmissed = \"all\"\nmissed_max_age_seconds = 14400\noverlap = \"allow\"\nmodel = \"m\"\n{}", words(1));
        schedule::parse(Path::new("s.toml"), &text).expect("a schedule")
    })
    .collect();
    let instant = |text: &str| text.parse::<DateTime<Utc>>().expect("an instant");
    let (begin, end) = (
        instant("2027-03-10T00:00:00Z"),
        instant("2027-04-10T00:00:00Z"),
    );
    let tick = async |worker: i64, now: DateTime<Utc>| {
        let away = worker == 5
            && (instant("2027-03-12T00:00:00Z")..instant("2027-03-15T00:00:00Z")).contains(&now);
        if away {
            return;
        }
        let stepped = worker == 3 && now > instant("2027-03-28T01:10:00Z");
        let shown = now + TimeDelta::seconds(worker * 3 - 18)
            - TimeDelta::hours(if stepped { 5 } else { 0 });
        let names: Vec<&str> = schedules.iter().map(|s| s.name.as_str()).collect();
        let last = store.last_due(&names, shown).await.expect("an answer");
        for schedule in &schedules {
            for run in due::due(
                schedule,
                last.get(&schedule.name).copied(),
                begin,
                shown.min(end),
                false,
            ) {
                let (life, limit) = (Duration::from_secs(15), Duration::from_secs(600));
                let name = format!("worker {worker}");
                store
                    .claim_run(&schedule.name, run.at, "allow", &name, life, limit)
                    .await
                    .expect("an answer");
            }
        }
    };
    let mut random = StdRng::seed_from_u64(1);
    let mut now = begin;
    while now < end + TimeDelta::minutes(1) {
        now += TimeDelta::seconds(random.random_range(300..6_000));
        // Some are busy elsewhere; those who aren't come at the same moment.
        let up: Vec<i64> = (0..12).filter(|_| random.random_bool(0.7)).collect();
        futures_util::future::join_all(up.into_iter().map(|worker| tick(worker, now))).await;
    }
    for schedule in &schedules {
        let mut expected = 0;
        let mut last = begin - TimeDelta::nanoseconds(1);
        while let Some(next) = due::next(schedule, last).filter(|next| *next <= end) {
            expected += 1;
            last = next;
            let rows = stack
                .count(&format!(
                    "SELECT count(*) FROM warm_runs WHERE schedule = '{}' AND due_at = '{}'",
                    schedule.name,
                    next.to_rfc3339()
                ))
                .await;
            assert_eq!(rows, 1, "{} at {next}", schedule.name);
        }
        let all = stack
            .count(&format!(
                "SELECT count(*) FROM warm_runs WHERE schedule = '{}'",
                schedule.name
            ))
            .await;
        assert_eq!(all, expected, "{}", schedule.name);
        assert!(expected >= 4);
    }
    let workers = stack
        .count("SELECT count(DISTINCT worker) FROM warm_runs")
        .await;
    assert_eq!(workers, 12, "each had its share");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_text_of_a_key_never_comes_back_by_heat() {
    const TEXTS: [&str; 3] = [
        "I love this, it is great",
        "this is awful",
        "it is fine, I think",
    ];
    let stack = Stack::shared().await;
    let schedules = Schedules::new();
    let heat = "[source]\nkind = \"heat\"\n";
    schedules.put("hot", &format!("{}{heat}", on_request()));
    let settings = schedules.worker(&stack);
    let (_one, _other) = tokio::join!(settings.clone().start(), settings.start());
    let ask = async |id: &str, text: &str, named: bool| {
        let inputs = json!([{"key": "k", "text": text}]);
        let job = json!({"job_id": id, "model": "sentiment", "namespace": "warmed", "inputs": inputs, "named": named});
        let reply = stack.bus.answer(&job).await;
        reply.body["results"][0]["score"].clone()
    };
    let found = async || {
        let entry = stack.redis.json("kiln:k:warmed:k").await;
        entry.map(|entry| entry["score"].clone())
    };
    // The first text is the hottest by far, on both workers, and stays so.
    let mut first = Value::Null;
    for n in 0..40 {
        first = ask(&format!("first-{n}"), TEXTS[0], true).await;
    }
    let hint = br#"{"namespace": "warmed", "keys": ["k", "k", "k"]}"#.to_vec();
    stack
        .bus
        .publish("kiln.hits", vec![(hint, persistent())])
        .await;
    eventually("the workers have told each other", PATIENCE, || async {
        let arguments = ["hot", "--namespace", "warmed", "--json"];
        let (_, lines, _) = tokio::task::block_in_place(|| schedules.kiln(&stack, &arguments));
        let told = |what: &str| lines.iter().any(|line| line[what].is_string());
        (told("name") && told("input_sha256")).then_some(())
    })
    .await;

    // An edit, which no worker has told the others of yet.
    let second = ask("second", TEXTS[1], true).await;
    for _ in 0..3 {
        let _: i64 = stack.redis.command(&["DEL", "kiln:k:warmed:k"]).await;
        let (code, run) = schedules.run_now(&stack, "hot").await;
        assert_eq!(code, 0, "{run}");
        assert_eq!(found().await, Some(second.clone()), "{run}");
    }
    // One that names nothing is known once it is told.
    let third = ask("third", TEXTS[2], false).await;
    assert!(first != second && second != third && third != first);
    eventually("the latest text is warmed", PATIENCE, || async {
        let _: i64 = stack.redis.command(&["DEL", "kiln:k:warmed:k"]).await;
        let (code, run) = schedules.run_now(&stack, "hot").await;
        assert_eq!(code, 0, "{run}");
        let score = found().await;
        assert_ne!(score, Some(first.clone()), "an earlier text is back");
        (score == Some(third.clone())).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heat_of_workers_that_are_gone_is_forgotten() {
    let stack = Stack::shared().await;
    let _worker = stack.worker().models(&["sentiment"]).start().await;
    let inputs = json!([{"key": "k", "text": "a nice text"}]);
    let job =
        json!({"job_id": "one", "model": "sentiment", "namespace": "warmed", "inputs": inputs});
    stack.bus.answer(&job).await;
    let hash = "kiln:h:warmed:sentiment";
    eventually("it has reported", PATIENCE, || async {
        let reports: i64 = stack.redis.command(&["HLEN", hash]).await;
        (reports == 1).then_some(())
    })
    .await;
    let long_ago = Utc::now().timestamp_millis() - 310_000;
    let report = long_ago.to_le_bytes();
    let mut connection = stack.redis.connection().await.expect("Redis is up");
    let mut write = ::redis::cmd("HSET");
    write.arg(hash).arg("gone:1").arg(&report[..]);
    let written: Result<i64, _> = write.query_async(&mut connection).await;
    assert_eq!(written.expect("a report"), 1);
    eventually("it is forgotten", 2 * PATIENCE, || async {
        let is_there: i64 = stack.redis.command(&["HEXISTS", hash, "gone:1"]).await;
        (is_there == 0).then_some(())
    })
    .await;
    let reports: i64 = stack.redis.command(&["HLEN", hash]).await;
    assert_eq!(reports, 1, "its own stays");
}
