//! A table that a schedule follows: what readers find follows its rows, whoever dies, and in whichever order transactions commit.

use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::harness::stack::Stack;
use crate::harness::worker::Settings;
use crate::harness::{PATIENCE, eventually, eventually_equals};
use crate::warm::Schedules;

const HEAD: &str = "model = \"sentiment\"\nnamespace = \"shop\"\nttl_seconds = 86400\n";
const TABLE: &str = "[source]\nkind = \"changes\"\ndatabase = \"shop\"\ntable = \"public.products\"\nposition = \"changed_at\"\n\
                     key = \"id\"\nkey_prefix = \"p:\"\ntext = \"title\"\nremoved = \"gone\"\npoll_ms = 100\n";
const CREATE: &str = "CREATE TABLE products (id int PRIMARY KEY, title text, gone boolean NOT NULL DEFAULT false, changed_at timestamptz NOT NULL DEFAULT now())";
const CREATE_NUMBERED: &str =
    "CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, said text)";
const NUMBERED: &str = "[source]\nkind = \"changes\"\ndatabase = \"shop\"\npoll_ms = 100\n\
                        statement = \"SELECT id AS position, 'e:' || id AS key, said AS text FROM events WHERE id > $1 ORDER BY id\"\n";

fn worker(schedules: &Schedules, stack: &Stack) -> Settings {
    schedules
        .worker(stack)
        .set("KILN_DATABASES__SHOP__URL", &stack.database_url())
        .set("KILN_NAMESPACES__SHOP__MAX_STALENESS_SECONDS", "5")
}

/// Waits until a worker follows a schedule's table.
async fn followed(stack: &Stack) {
    eventually_equals("a table is followed", PATIENCE, 1, async || {
        stack.count("SELECT count(*) FROM warm_positions").await
    })
    .await;
}

async fn entry(stack: &Stack, key: &str) -> Option<Value> {
    stack.redis.json(&format!("kiln:k:shop:{key}")).await
}

/// How many keys readers find.
async fn found(stack: &Stack, pattern: &str) -> usize {
    stack
        .redis
        .keys(&format!("kiln:k:shop:{pattern}"))
        .await
        .len()
}

async fn wait_for(stack: &Stack, key: &str) -> Value {
    eventually(&format!("{key} is served"), PATIENCE, async || {
        entry(stack, key).await
    })
    .await
}

async fn jobs(stack: &Stack) -> i64 {
    stack
        .count("SELECT count(*) FROM jobs WHERE job_id LIKE 'warm-%'")
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_readers_find_follows_a_row_without_any_run_of_the_clocks() {
    let stack = Stack::shared().await;
    stack.execute(CREATE).await;
    stack
        .execute("INSERT INTO products VALUES (1, 'an old word')")
        .await;
    let schedules = Schedules::new();
    schedules.put("products", &format!("{HEAD}{TABLE}"));
    let worker = worker(&schedules, &stack).start().await;
    followed(&stack).await;
    // A run that somebody asks for would only be in its way.
    let asked = worker.ask("POST", "/v1/warm/products", &[], b"{}").await;
    assert_eq!(asked.expect("an answer").status, 400);
    stack
        .execute("INSERT INTO products VALUES (2, 'terrible'), (3, NULL)")
        .await;
    let first = wait_for(&stack, "p:2").await;
    stack
        .execute("UPDATE products SET title = 'wonderful', changed_at = now() WHERE id = 2")
        .await;
    let second = eventually("the new text is served", PATIENCE, async || {
        entry(&stack, "p:2")
            .await
            .filter(|entry| entry["as_of"] != first["as_of"])
    })
    .await;
    assert_ne!(
        (&first["label"], &first["score"]),
        (&second["label"], &second["score"])
    );
    let changed = "SELECT to_char(changed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM products WHERE id = 2";
    assert_eq!(second["as_of"], json!(stack.text(changed).await));
    // What an older job says replaces nothing.
    stack
        .execute("UPDATE products SET gone = true, changed_at = now() WHERE id = 2")
        .await;
    eventually("it is removed", PATIENCE, async || {
        entry(&stack, "p:2").await.is_none().then_some(())
    })
    .await;
    assert!(
        entry(&stack, "p:1").await.is_none(),
        "it was there before the table was followed"
    );
    let of = [("namespace", "shop")];
    eventually_equals("three changes were measured", PATIENCE, 3.0, async || {
        worker.metric("kiln_staleness_seconds_count", &of).await
    })
    .await;
    assert!(worker.metric("kiln_staleness_seconds_sum", &of).await < 30.0);
    assert_eq!(worker.metric("kiln_max_staleness_seconds", &of).await, 5.0);
    eventually_equals("nothing is behind", PATIENCE, 0.0, async || {
        worker.metric("kiln_unserved_change_age_seconds", &of).await
    })
    .await;
    let (_, shown, _) =
        tokio::task::block_in_place(|| schedules.kiln_with(&stack, &["schedules", "--json"], &[]));
    assert_eq!(shown[0]["last"]["state"], "planning", "{shown:?}");
    // A schedule that is gone ends its run.
    eventually_equals("its run says what came", PATIENCE, (2, 1), async || {
        let one = async |column: &str| {
            stack
                .count(&format!("SELECT {column} FROM warm_runs"))
                .await
        };
        (one("posted").await, one("bad").await)
    })
    .await;
    schedules.put("products", &format!("enabled = false\n{HEAD}{TABLE}"));
    eventually_equals("its run is over", PATIENCE, "done".to_owned(), async || {
        stack.text("SELECT state FROM warm_runs").await
    })
    .await;
    assert_eq!(stack.count("SELECT failed FROM warm_runs").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_killed_at_any_moment_loses_no_change() {
    let stack = Stack::shared().await;
    stack.execute(CREATE).await;
    let schedules = Schedules::new();
    schedules.put("products", &format!("{HEAD}{TABLE}from = \"start\"\n"));
    let settings = worker(&schedules, &stack).expect_trouble();
    for round in 0..4_usize {
        let running = settings.clone().start().await;
        // A transaction and so a position for each row.
        stack
            .execute(
                "DO $$ DECLARE done int := (SELECT count(*) FROM products); BEGIN FOR n IN 1..150 LOOP
                   INSERT INTO products VALUES (done + n, 'nice word ' || done + n, false, clock_timestamp());
                 END LOOP; END $$",
            )
            .await;
        let before = round * 150 + [1, 40, 100, 149][round];
        eventually("some are served", PATIENCE, async || {
            (found(&stack, "p:*").await >= before).then_some(())
        })
        .await;
        running.kill();
    }
    // Nobody ends the run of the one that was killed but whoever takes it over.
    let _last = settings.start().await;
    eventually_equals("all are served", PATIENCE, 600, async || {
        found(&stack, "p:*").await
    })
    .await;
    assert_eq!(
        stack
            .count("SELECT count(*) FROM jobs WHERE status <> 'ok'")
            .await,
        0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_whose_transaction_commits_after_later_ones_is_found() {
    let stack = Stack::shared().await;
    stack.execute(CREATE_NUMBERED).await;
    let schedules = Schedules::new();
    schedules.put("events", &format!("{HEAD}{NUMBERED}"));
    let _worker = worker(&schedules, &stack).start().await;
    followed(&stack).await;
    let mut late = PgConnection::connect(&stack.database_url())
        .await
        .expect("a connection");
    let mut late = late.begin().await.expect("a transaction");
    sqlx::query("INSERT INTO events (said) VALUES ('late')")
        .execute(&mut *late)
        .await
        .expect("a row");
    stack
        .execute("INSERT INTO events (said) VALUES ('early')")
        .await;
    let early = wait_for(&stack, "e:2").await;
    assert_eq!(early["as_of"], 2);
    late.commit().await.expect("committed");
    assert_eq!(wait_for(&stack, "e:1").await["as_of"], 1);
    assert_eq!(jobs(&stack).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_post_each_change_once_and_one_goes_on_where_the_other_stopped() {
    let stack = Stack::shared().await;
    stack.execute(CREATE_NUMBERED).await;
    let schedules = Schedules::new();
    schedules.put("events", &format!("{HEAD}{NUMBERED}"));
    let settings = worker(&schedules, &stack).allow("taken over");
    let (one, other) = (settings.clone().start().await, settings.start().await);
    followed(&stack).await;
    let add = "INSERT INTO events (said) SELECT 'word ' || n FROM generate_series(1, 120) AS n";
    stack.execute(add).await;
    eventually_equals("all are served", PATIENCE, 120, async || {
        found(&stack, "e:*").await
    })
    .await;
    let lines = |line: &String| line.contains("a table is followed");
    let (holder, rest) = if one.lines().iter().any(lines) {
        (one, other)
    } else {
        (other, one)
    };
    assert!(!rest.lines().iter().any(lines), "both follow");
    holder.terminate();
    stack.execute(add).await;
    eventually_equals("all are served", PATIENCE, 240, async || {
        found(&stack, "e:*").await
    })
    .await;
    assert_eq!(jobs(&stack).await, 240);
    assert_eq!(stack.count("SELECT count(*) FROM warm_runs").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_changed_together_are_all_read_whatever_parts_they_are_read_in() {
    let stack = Stack::shared().await;
    stack.execute(CREATE).await;
    let schedules = Schedules::new();
    schedules.put("products", &format!("{HEAD}{TABLE}from = \"start\"\n"));
    let statement = "SELECT changed_at AS position, 's:' || id AS key, title AS text FROM products WHERE changed_at > $1 ORDER BY changed_at";
    let source = "[source]\nkind = \"changes\"\ndatabase = \"shop\"\nfrom = \"start\"\n";
    schedules.put(
        "stated",
        &format!("{HEAD}{source}statement = \"{statement}\"\n"),
    );
    stack
        .execute("INSERT INTO products SELECT n, 'word ' || n FROM generate_series(1, 1000) AS n")
        .await;
    let _worker = worker(&schedules, &stack).start().await;
    eventually_equals("all are served", PATIENCE, (1000, 1000), async || {
        (found(&stack, "p:*").await, found(&stack, "s:*").await)
    })
    .await;
    // Jobs of as many rows as one may have.
    assert!(jobs(&stack).await < 50, "{}", jobs(&stack).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_the_database_tells_of_is_read_at_once() {
    let stack = Stack::shared().await;
    stack.execute(CREATE_NUMBERED).await;
    let schedules = Schedules::new();
    let seldom = NUMBERED.replace(
        "poll_ms = 100",
        "poll_ms = 60000\noverlap_seconds = 90\nnotify = \"changed\"",
    );
    schedules.put("events", &format!("{HEAD}{seldom}"));
    let _worker = worker(&schedules, &stack).start().await;
    followed(&stack).await;
    eventually_equals("a worker listens", PATIENCE, 1, async || {
        stack.count("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%changed%' AND application_name = 'kiln warming' AND datname = current_database()").await
    })
    .await;
    let began = std::time::Instant::now();
    stack
        .execute("INSERT INTO events (said) VALUES ('nice')")
        .await;
    stack.execute("NOTIFY changed").await;
    wait_for(&stack, "e:1").await;
    assert!(began.elapsed().as_secs() < 55, "it was found by the clock");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_the_way_of_a_table_is_said_once_and_a_budget_is_kept() {
    let stack = Stack::shared().await;
    stack.execute(CREATE_NUMBERED).await;
    let schedules = Schedules::new();
    schedules.put(
        "events",
        &format!(
            "{HEAD}{}",
            NUMBERED.replace("id > $1", "id > $1 AND nothing")
        ),
    );
    let worker = worker(&schedules, &stack)
        .allow("a table can't be followed")
        .start()
        .await;
    worker
        .wait_for_line("why", |line| line.contains("a table can't be followed"))
        .await;
    let budget = "[budget]\ninputs = 3\n";
    schedules.put("events", &format!("{HEAD}{budget}{NUMBERED}"));
    followed(&stack).await;
    stack
        .execute("INSERT INTO events (said) SELECT 'word ' || n FROM generate_series(1, 9) AS n")
        .await;
    eventually_equals("the budget is spent", PATIENCE, 1, async || {
        stack.count("SELECT count(*) FROM warm_runs WHERE posted = 3 AND message LIKE 'the budget is spent%'").await
    })
    .await;
    eventually_equals("what it allows is served", PATIENCE, 3, async || {
        found(&stack, "e:*").await
    })
    .await;
    let lines = worker.lines();
    let said = lines
        .iter()
        .filter(|line| line.contains("a table can't be followed"));
    assert_eq!(said.count(), 1);
    // Without a budget the rest follows, and nothing of it was lost.
    schedules.put("events", &format!("{HEAD}{NUMBERED}"));
    eventually_equals("all are served", PATIENCE, 9, async || {
        found(&stack, "e:*").await
    })
    .await;
    let url = stack.database_url();
    let shop = [("KILN_DATABASES__SHOP__URL", url.as_str())];
    let (code, _, said) =
        tokio::task::block_in_place(|| schedules.kiln_with(&stack, &["schedules", "check"], &shop));
    assert_eq!(code, 0, "{said}");
}
