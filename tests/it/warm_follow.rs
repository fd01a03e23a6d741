//! A table that a schedule follows where positions are shared, lie in the future or are another statement's, and where room is short: of memory, of
//! budget, of bytes, of runs, of a broker.

use crate::harness::bus::Bus;
use crate::harness::stack::Stack;
use crate::harness::worker::Settings;
use crate::harness::{PATIENCE, eventually, eventually_equals};
use crate::warm::Schedules;

const HEAD: &str = "model = \"sentiment\"\nnamespace = \"shop\"\nttl_seconds = 86400\n";
/// A table whose rows share positions, in the order of what parts them.
const CREATE: &str =
    "CREATE TABLE bulk (at bigint, id text COLLATE \"C\", said text, PRIMARY KEY (at, id))";
const CREATE_TIMED: &str =
    "CREATE TABLE timed (id int PRIMARY KEY, said text, at timestamptz NOT NULL DEFAULT now())";
const TIMED: &str = "[source]\nkind = \"changes\"\ndatabase = \"shop\"\ntable = \"timed\"\nposition = \"at\"\nkey = \"id\"\n\
                     key_prefix = \"t:\"\ntext = \"said\"\nfrom = \"start\"\npoll_ms = 100\n";

fn source(statement: &str) -> String {
    format!(
        "[source]\nkind = \"changes\"\ndatabase = \"shop\"\nfrom = \"start\"\npoll_ms = 100\noverlap_seconds = 2\nstatement = \"{statement}\"\n"
    )
}

fn bulk() -> String {
    source(
        "SELECT at AS position, 'b:' || id AS key, id AS tie, said AS text FROM bulk WHERE (at, id) > ($1, $2) ORDER BY at, id",
    )
}

fn worker(schedules: &Schedules, stack: &Stack) -> Settings {
    schedules
        .worker(stack)
        .set("KILN_DATABASES__SHOP__URL", &stack.database_url())
        .set("KILN_NAMESPACES__SHOP__MAX_STALENESS_SECONDS", "5")
}

async fn found(stack: &Stack, pattern: &str) -> usize {
    let pattern = format!("kiln:k:shop:{pattern}");
    stack.redis.keys(&pattern).await.len()
}

async fn served(stack: &Stack, pattern: &str, count: usize) {
    eventually_equals("all are served", PATIENCE, count, async || {
        found(stack, pattern).await
    })
    .await;
}

/// Waits until a worker follows a schedule's table.
async fn followed(stack: &Stack, count: i64) {
    eventually_equals("a table is followed", PATIENCE, count, async || {
        stack.count("SELECT count(*) FROM warm_positions").await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_after_more_rows_at_one_position_than_are_remembered_is_served() {
    let stack = Stack::shared().await;
    stack.execute(CREATE).await;
    // Rows without a text are read and remembered as others are, and cost no model time.
    stack
        .execute("INSERT INTO bulk SELECT 7, lpad(n::text, 7, '0'), NULL FROM generate_series(1, 101000) AS n")
        .await;
    stack
        .execute("INSERT INTO bulk VALUES (7, 'z', 'nice'), (8, 'z', NULL)")
        .await;
    let schedules = Schedules::new();
    schedules.put("bulk", &format!("{HEAD}{}", bulk()));
    let _worker = worker(&schedules, &stack).start().await;
    served(&stack, "b:*", 1).await;
    eventually_equals("all were read", PATIENCE, 101_001, async || {
        stack
            .count("SELECT coalesce(max(bad), 0)::int8 FROM warm_runs")
            .await
    })
    .await;
    eventually_equals("all is passed", PATIENCE, 8, async || {
        stack
            .count("SELECT coalesce(max(position), -1) FROM warm_positions")
            .await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_a_page_parts_are_all_served_and_those_that_it_cannot_part_are_told() {
    let stack = Stack::shared().await;
    stack.execute(CREATE).await;
    stack
        .execute("INSERT INTO bulk SELECT 7, lpad(n::text, 4, '0'), 'word ' || n FROM generate_series(1, 600) AS n")
        .await;
    let schedules = Schedules::new();
    let without = bulk().replace("id AS tie, ", "");
    schedules.put("bulk", &format!("{HEAD}{without}"));
    let worker = worker(&schedules, &stack)
        .allow("a table can't be followed")
        .allow("it begins anew")
        .start()
        .await;
    worker
        .wait_for_line("why", |line| line.contains("a column `tie`"))
        .await;
    // The prefix is in front of what is compared: a page would begin anywhere.
    let shared = bulk().replace("id AS tie", "left(id, 3) AS tie");
    schedules.put("bulk", &format!("{HEAD}{shared}"));
    worker
        .wait_for_line("why", |line| line.contains("a `tie` of its own"))
        .await;
    eventually("it is seen that it can't be read", PATIENCE, async || {
        let age = worker
            .metric("kiln_unserved_change_age_seconds", &[("namespace", "shop")])
            .await;
        (age > 0.0).then_some(())
    })
    .await;
    schedules.put("bulk", &format!("{HEAD}{}", bulk()));
    served(&stack, "b:*", 600).await;
    schedules.put("bulk", &format!("enabled = false\n{HEAD}{}", bulk()));
    eventually(
        "nothing is said of what nobody follows",
        PATIENCE,
        async || {
            let age = worker
                .metric("kiln_unserved_change_age_seconds", &[("namespace", "shop")])
                .await;
            age.is_nan().then_some(())
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_in_the_future_waits_until_it_comes_and_hides_nothing() {
    let stack = Stack::shared().await;
    stack.execute(CREATE_TIMED).await;
    stack
        .execute("INSERT INTO timed VALUES (1, 'nice', now() + interval '8 seconds'), (2, 'nice', now() + interval '9 years'), (3, 'nice', 'infinity')")
        .await;
    let schedules = Schedules::new();
    let seldom = TIMED.replace("poll_ms = 100", "poll_ms = 60000\noverlap_seconds = 90");
    schedules.put("timed", &format!("{HEAD}{seldom}notify = \"timed\"\n"));
    let _worker = worker(&schedules, &stack).start().await;
    followed(&stack, 1).await;
    let waits = "SELECT count(*) FROM warm_runs WHERE message LIKE '%in the future%'";
    eventually_equals("they wait", PATIENCE, 1, async || stack.count(waits).await).await;
    let early = found(&stack, "t:*").await;
    let is_early = "SELECT count(*) FROM timed WHERE id = 1 AND at > now()";
    assert!(early == 0 || stack.count(is_early).await == 0);
    // Its time comes long before the table is read in its turn.
    let began = std::time::Instant::now();
    served(&stack, "t:*", 1).await;
    assert!(began.elapsed().as_secs() < 50, "it was found by the clock");
    stack
        .execute("INSERT INTO timed VALUES (4, 'nice', clock_timestamp())")
        .await;
    stack.execute("NOTIFY timed").await;
    served(&stack, "t:*", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_change_at_the_same_position_is_served() {
    let stack = Stack::shared().await;
    stack.execute(CREATE_TIMED).await;
    stack
        .execute("INSERT INTO timed VALUES (1, 'terrible', date_trunc('day', now()))")
        .await;
    let schedules = Schedules::new();
    schedules.put("timed", &format!("{HEAD}{TIMED}"));
    let _worker = worker(&schedules, &stack).start().await;
    served(&stack, "t:1", 1).await;
    let label = async || {
        let entry = stack.redis.json("kiln:k:shop:t:1").await;
        entry.map(|entry| (entry["label"].clone(), entry["score"].clone()))
    };
    let before = label().await;
    stack.execute("UPDATE timed SET said = 'wonderful'").await;
    eventually("the second one is served", PATIENCE, async || {
        (label().await != before).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_dearer_than_a_budget_is_parted_or_said() {
    let stack = Stack::shared().await;
    stack.execute(CREATE).await;
    stack
        .execute("INSERT INTO bulk SELECT 7, lpad(n::text, 4, '0'), 'word ' || n FROM generate_series(1, 40) AS n")
        .await;
    let schedules = Schedules::new();
    let budget = "[budget]\ninputs = 5\n";
    schedules.put("bulk", &format!("{HEAD}{budget}{}", bulk()));
    let worker = worker(&schedules, &stack)
        .allow("one row is expected to cost more")
        // A quorum queue whose leader is chosen anew on a busy machine refuses what comes meanwhile.
        .allow("a queue doesn't take messages; they wait")
        .start()
        .await;
    served(&stack, "b:*", 5).await;
    eventually_equals("it says why there are no more", PATIENCE, 1, async || {
        stack.count("SELECT count(*) FROM warm_runs WHERE posted = 5 AND message LIKE 'the budget is spent%'").await
    })
    .await;
    let budget = "[budget]\nmodel_seconds = 0.000000001\n";
    schedules.put("bulk", &format!("{HEAD}{budget}{}", bulk()));
    worker
        .wait_for_line("why", |line| {
            line.contains("one row is expected to cost more")
        })
        .await;
    eventually_equals("it was posted all the same", PATIENCE, 1, async || {
        stack.count("SELECT count(*) FROM warm_runs WHERE posted = 1 AND message LIKE 'the budget is spent%'").await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_of_changed_rows_is_no_larger_than_workers_take() {
    let stack = Stack::shared().await;
    stack.execute(CREATE).await;
    // Half of each is escaped in JSON, and one is too large for any job.
    stack
        .execute(r"INSERT INTO bulk SELECT 7, lpad(n::text, 4, '0'), repeat('nice ' || chr(1) || chr(2), 200) FROM generate_series(1, 40) AS n")
        .await;
    stack
        .execute("INSERT INTO bulk VALUES (8, 'z', repeat('nice ', 20000))")
        .await;
    let schedules = Schedules::new();
    schedules.put("bulk", &format!("{HEAD}{}", bulk()));
    let worker = worker(&schedules, &stack).set("KILN_INTAKE__MAX_BODY_BYTES", "16384");
    let _worker = worker.start().await;
    served(&stack, "b:*", 40).await;
    eventually_equals("one is bad", PATIENCE, 1, async || {
        stack
            .count("SELECT coalesce(max(bad), 0)::int8 FROM warm_runs")
            .await
    })
    .await;
    let refused = "SELECT count(*) FROM jobs WHERE status <> 'ok'";
    assert_eq!(stack.count(refused).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_is_one_of_its_own_statement_and_an_older_releases_is_gone_on_from() {
    let stack = Stack::shared().await;
    stack.execute(CREATE).await;
    stack
        .execute("INSERT INTO bulk VALUES (7, 'a', 'nice'), (1000, 'b', 'nice')")
        .await;
    let schedules = Schedules::new();
    schedules.put("bulk", &format!("{HEAD}{}", bulk()));
    let settings = worker(&schedules, &stack).allow("it begins anew");
    let first = settings.clone().start().await;
    let passed = async |position: i64| {
        eventually_equals("all is passed", PATIENCE, position, async || {
            stack
                .count("SELECT coalesce(max(position), -1) FROM warm_positions")
                .await
        })
        .await;
    };
    passed(1_000).await;
    let anew = |line: &String| line.contains("it begins anew");
    first.stop().await;
    // As a release leaves it that knows nothing of digests.
    stack
        .execute("UPDATE warm_positions SET source_digest = NULL")
        .await;
    let jobs = "SELECT count(*) FROM jobs WHERE job_id LIKE 'warm-%'";
    let before = stack.count(jobs).await;
    let second = settings.start().await;
    stack
        .execute("INSERT INTO bulk VALUES (1001, 'c', 'nice')")
        .await;
    served(&stack, "b:*", 3).await;
    passed(1_001).await;
    assert_eq!(stack.count(jobs).await, before + 1);
    let digests = "SELECT count(*) FROM warm_positions WHERE length(source_digest) = 32";
    assert_eq!(stack.count(digests).await, 1);
    assert!(!second.lines().iter().any(anew));
    // Another statement, whose positions are lower.
    let other = source(
        "SELECT at % 100 AS position, 'o:' || id AS key, said AS text FROM bulk WHERE at % 100 > $1 ORDER BY 1",
    );
    schedules.put("bulk", &format!("{HEAD}{other}"));
    served(&stack, "o:*", 3).await;
    assert_eq!(second.lines().iter().filter(|line| anew(line)).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_taken_over_by_a_worker_without_room_for_runs() {
    let stack = Stack::shared().await;
    stack.execute(CREATE).await;
    let schedules = Schedules::new();
    schedules.put("bulk", &format!("{HEAD}{}", bulk()));
    let slow = "[source]\nkind = \"sql\"\ndatabase = \"shop\"\nlimit_seconds = 300\n\
                statement = \"SELECT 'k' AS key, 'nice' AS text FROM pg_sleep(60)\"\n";
    for name in ["one", "other"] {
        let text = format!("{}{slow}", crate::warm::on_request());
        schedules.put(name, &text);
    }
    let settings = worker(&schedules, &stack)
        .set("KILN_WARM__RUNS_AT_ONCE", "1")
        .allow("taken over");
    let (one, other) = (settings.clone().start().await, settings.start().await);
    followed(&stack, 1).await;
    for name in ["one", "other"] {
        tokio::task::block_in_place(|| schedules.kiln(&stack, &["warm", name]));
    }
    eventually_equals("both are at a run", PATIENCE, 3, async || {
        stack
            .count("SELECT count(*) FROM warm_runs WHERE state = 'planning'")
            .await
    })
    .await;
    let lines = |line: &String| line.contains("a table is followed");
    let (holder, rest) = match one.lines().iter().any(lines) {
        true => (one, other),
        false => (other, one),
    };
    holder.terminate();
    stack
        .execute("INSERT INTO bulk VALUES (1, 'a', 'nice')")
        .await;
    served(&stack, "b:*", 1).await;
    assert!(rest.lines().iter().any(lines));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_that_ends_while_the_broker_is_away_ends_its_run_and_loses_nothing() {
    let stack = Stack::private().await;
    stack.execute(CREATE).await;
    let schedules = Schedules::new();
    let text = format!("{HEAD}{}", bulk());
    schedules.put("bulk", &text);
    let worker = worker(&schedules, &stack).expect_trouble().start().await;
    followed(&stack, 1).await;
    stack
        .execute("INSERT INTO bulk VALUES (1, 'a', 'nice')")
        .await;
    served(&stack, "b:*", 1).await;
    stack.broker.stop().await;
    worker.wait_not_ready().await;
    stack
        .execute("INSERT INTO bulk VALUES (2, 'b', 'nice')")
        .await;
    let of = [("namespace", "shop")];
    eventually("it is seen that one waits", PATIENCE, async || {
        let age = worker.metric("kiln_unserved_change_age_seconds", &of).await;
        (age > 1.0).then_some(())
    })
    .await;
    schedules.put("bulk", &format!("enabled = false\n{text}"));
    eventually_equals("its run is over", PATIENCE, 0, async || {
        stack
            .count("SELECT count(*) FROM warm_runs WHERE state = 'planning'")
            .await
    })
    .await;
    stack.broker.start().await;
    schedules.put("bulk", &text);
    served(&stack, "b:*", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_without_a_key_stops_none_of_its_table() {
    let stack = Stack::shared().await;
    stack
        .execute("CREATE TABLE timed (id text, said text, at timestamptz NOT NULL DEFAULT now())")
        .await;
    stack
        .execute("INSERT INTO timed VALUES (NULL, 'nobody'), ('', 'nobody'), ('a', 'nice')")
        .await;
    let schedules = Schedules::new();
    schedules.put("timed", &format!("{HEAD}{TIMED}"));
    let _worker = worker(&schedules, &stack).start().await;
    served(&stack, "t:*", 1).await;
    stack
        .execute("INSERT INTO timed VALUES (NULL, 'nobody'), ('b', 'nice')")
        .await;
    served(&stack, "t:*", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_that_begin_anew_are_told() {
    let stack = Stack::shared().await;
    stack.execute(CREATE).await;
    stack
        .execute(
            "INSERT INTO bulk SELECT n, n::text, 'word ' || n FROM generate_series(1, 30) AS n",
        )
        .await;
    let schedules = Schedules::new();
    schedules.put(
        "bulk",
        &format!(
            "{HEAD}limit_seconds = 1\n{}",
            bulk().replace("overlap_seconds = 2", "overlap_seconds = 1")
        ),
    );
    let worker = worker(&schedules, &stack)
        .allow("a followed table has gone back")
        .start()
        .await;
    served(&stack, "b:*", 30).await;
    eventually_equals("all is passed", PATIENCE, 30, async || {
        stack
            .count("SELECT coalesce(max(position), -1) FROM warm_positions")
            .await
    })
    .await;
    let told = "SELECT count(*) FROM warm_runs WHERE message LIKE '%begun anew%'";
    assert_eq!(stack.count(told).await, 0);
    stack.execute("TRUNCATE bulk").await;
    stack
        .execute("INSERT INTO bulk VALUES (1, 'x', 'new')")
        .await;
    worker
        .wait_for_line("why", |line| line.contains("gone back"))
        .await;
    eventually("a run says so", PATIENCE, async || {
        (stack.count(told).await > 0).then_some(())
    })
    .await;
    // Once it is as far as before, all is as usual.
    stack
        .execute("INSERT INTO bulk VALUES (31, 'y', 'newer')")
        .await;
    served(&stack, "b:y", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_run_that_follows_a_table_takes_of_the_model_is_in_its_row() {
    let stack = Stack::shared().await;
    stack.execute(CREATE).await;
    stack
        .execute("INSERT INTO bulk SELECT 7, lpad(n::text, 4, '0'), 'word ' || n FROM generate_series(1, 40) AS n")
        .await;
    let schedules = Schedules::new();
    schedules.put("bulk", &format!("{HEAD}limit_seconds = 2\n{}", bulk()));
    let worker = worker(&schedules, &stack).start().await;
    served(&stack, "b:*", 40).await;
    eventually_equals("its row says what it took", PATIENCE, 1, async || {
        stack
            .count("SELECT count(*) FROM warm_runs WHERE misses = 40 AND spent_seconds > 0")
            .await
    })
    .await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_job_holds_is_posted_again_and_stops_no_budget() {
    let stack = Stack::shared().await;
    stack.execute(CREATE).await;
    stack
        .execute("INSERT INTO bulk VALUES (7, 'a', 'nice')")
        .await;
    let schedules = Schedules::new();
    let budget = "[budget]\ninputs = 100\nmodel_seconds = 10.0\n";
    schedules.put("bulk", &format!("{HEAD}{budget}{}", bulk()));
    let worker = worker(&schedules, &stack)
        .set("KILN_WARM__CLAIM_SECONDS", "1")
        .allow("some of its jobs are nowhere any more")
        .start()
        .await;
    served(&stack, "b:*", 1).await;
    let bus = Bus::new(stack.amqp_url());
    let say = |word: &'static str| {
        let (code, _, said) = tokio::task::block_in_place(|| schedules.kiln(&stack, &[word]));
        assert_eq!(code, 0, "{said}");
    };
    say("pause");
    eventually("nobody takes jobs", PATIENCE, async || {
        (bus.consumers("kiln.warm").await == Some(0)).then_some(())
    })
    .await;
    stack
        .execute("INSERT INTO bulk VALUES (8, 'b', 'nice'), (9, 'c', 'nice')")
        .await;
    // Somebody purges the queue.
    eventually("it is posted", PATIENCE, async || {
        bus.take("kiln.warm").await
    })
    .await;
    say("resume");
    served(&stack, "b:*", 3).await;
    eventually_equals("all is passed", PATIENCE, 9, async || {
        stack
            .count("SELECT coalesce(max(position), -1) FROM warm_positions")
            .await
    })
    .await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_without_a_tie_is_bad_and_stops_none_of_its_statement() {
    let stack = Stack::shared().await;
    stack
        .execute("CREATE TABLE bulk (at bigint, id text COLLATE \"C\", said text)")
        .await;
    stack
        .execute("INSERT INTO bulk VALUES (7, NULL, 'nice'), (8, 'a', 'nice'), (8, NULL, 'nice'), (8, '', 'nice'), (9, 'b', 'nice')")
        .await;
    stack
        .execute("INSERT INTO bulk SELECT 10, NULL, 'nice' FROM generate_series(1, 1000)")
        .await;
    // Larger than any row may be: its text stays where it is.
    stack
        .execute("INSERT INTO bulk VALUES (11, 'huge', repeat('x', 100000000)), (12, 'c', 'nice')")
        .await;
    let schedules = Schedules::new();
    let worker = worker(&schedules, &stack).start().await;
    let before = highest_kib(worker.pid());
    schedules.put("bulk", &format!("{HEAD}{}", bulk()));
    served(&stack, "b:*", 3).await;
    eventually_equals("all is passed", PATIENCE, 12, async || {
        stack
            .count("SELECT coalesce(max(position), -1) FROM warm_positions")
            .await
    })
    .await;
    // One at each place where some have none, and the large one.
    eventually_equals("bad ones are counted", PATIENCE, 5, async || {
        stack
            .count("SELECT coalesce(max(bad), 0)::int8 FROM warm_runs")
            .await
    })
    .await;
    let grown = highest_kib(worker.pid()) - before;
    assert!(grown < 64 << 10, "{grown} KiB for a row of 100 MB");
    worker.stop().await;
}

/// The most memory that a process ever had, in KiB.
fn highest_kib(pid: i32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let highest = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = highest.and_then(|highest| highest.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.trim().parse().ok()).expect("KiB")
}
