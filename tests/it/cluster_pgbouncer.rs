//! Behind pgbouncer in transaction mode everything works but migrations, and nothing of one session gets into another's.

use std::fs;

use serde_json::{Value, json};
use sqlx::{PgConnection, Row};

use crate::harness::bus::DEAD;
use crate::harness::cluster::pgbouncer::{Pgbouncer, connect};
use crate::harness::jobs::{job_ids, quick_jobs, slow_jobs};
use crate::harness::shell::Shell;
use crate::harness::stack::Stack;
use crate::harness::worker::model_folder;
use crate::harness::{PATIENCE, eventually, eventually_equals, sandbox};

/// A schedule that runs only when asked.
const SCHEDULE: &str = "name = \"words\"\nenabled = false\ncron = \"0 0 29 2 *\"\nmodel = \"sentiment\"\nnamespace = \"warmed\"\n\
[source]\nkind = \"sql\"\ndatabase = \"kiln\"\nstatement = \"SELECT 'k' || n AS key, 'nice word ' || n AS text FROM generate_series(1, 30) AS n\"\n";

/// What a session of another client's finds on each server connection: its limit, statements that somebody left there, and
/// whether it bears the name of one of Kiln's.
async fn left_behind(other: &mut PgConnection) -> Vec<(String, i64, bool)> {
    let look = "SELECT current_setting('statement_timeout'), (SELECT count(*) FROM pg_prepared_statements), current_setting('application_name') LIKE 'kiln %'";
    let mut found = Vec::new();
    for _ in 0..20 {
        let row = sqlx::raw_sql(look).fetch_one(&mut *other).await;
        let row = row.expect("an answer");
        let count: i64 = row.get(1);
        found.push((row.get(0), count, row.get(2)));
    }
    found.dedup();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_pgbouncer_everything_works_but_migrations() {
    let stack = Stack::shared().await;
    let pooler = Pgbouncer::start(&stack.postgres).await;
    let pooled = stack.database_url_at(pooler.port);
    let models = model_folder("sentiment");
    let models = models.parent().expect("a folder").to_str();
    let schedules = sandbox::folder("schedules");
    fs::write(schedules.join("words.toml"), SCHEDULE).expect("a schedule");
    let folder = schedules.to_str().expect("a plain path");
    let direct = Shell::on(&stack).set("KILN_WARM__DIR", folder);
    let direct = direct.set("KILN_MODELS_DIR", models.expect("a plain path"));
    let mut shell = Shell::on(&stack);
    shell.variables = direct.variables.clone();
    let shell = shell.set("KILN_DATABASE_URL", &pooled);

    // A worker that finds nothing migrated waits and says what for.
    let refused = shell.kiln(&["migrate"]).await.with(1);
    assert!(
        refused.err.contains("behind a pooler") && refused.err.contains("own address"),
        "{}",
        refused.err
    );
    let settings = stack
        .worker()
        .expect_trouble()
        .models(&["sentiment", "fault"]);
    let settings = settings.set("KILN_WARM__DIR", folder);
    let settings = settings.set("KILN_DATABASE_URL", &pooled);
    let waiting = settings.clone().spawn();
    eventually("it says what it waits for", PATIENCE, async || {
        let (_, said) = waiting.get("/readyz").await?;
        said.contains("kiln migrate").then_some(())
    })
    .await;
    direct.kiln(&["migrate"]).await.with(0);
    waiting.wait_ready().await;
    shell.kiln(&["migrate"]).await.with(0);
    let other = settings.start().await;
    let workers = [waiting, other];

    // Jobs of several batches at a time, over fewer server connections than they want.
    let jobs = slow_jobs("pooled", 200, 1);
    stack.bus.publish_jobs(&jobs).await;
    stack.expect_done(job_ids(&jobs)).await;
    stack.bus.reply_to_each(&job_ids(&jobs)).await;
    let named = json!({"job_id": "named", "model": "sentiment", "namespace": "shop", "named": true,
        "inputs": [{"key": "k", "text": "a nice thing"}]});
    assert_eq!(stack.bus.answer(&named).await.status(), "ok");

    let run = shell
        .kiln(&["warm", "words", "--wait", "--json"])
        .await
        .with(0);
    let run = run.lines().remove(0);
    assert_eq!(
        (&run["state"], &run["done"]),
        (&json!("done"), &json!(30)),
        "{run}"
    );

    shell.kiln(&["pause"]).await.with(0);
    for worker in &workers {
        eventually_equals("paused", PATIENCE, 1.0, || async {
            worker.metric("kiln_intake_paused", &[]).await
        })
        .await;
    }
    shell.kiln(&["resume"]).await.with(0);
    let last = quick_jobs("resumed", 5);
    stack.bus.publish_jobs(&last).await;
    stack.bus.reply_to_each(&job_ids(&last)).await;

    let explained = shell
        .kiln(&["explain", "shop", "k", "--json"])
        .await
        .with(0);
    let explained = explained.lines().remove(0);
    assert_eq!(explained["history"][0]["job_id"], "named", "{explained}");
    let audited = shell
        .kiln(&["audit", "--namespace", "shop", "--json"])
        .await;
    let audited: Value = audited.with(0).lines().remove(0);
    assert!(audited["compared"].as_i64() > Some(0), "{audited}");
    shell.kiln(&["invalidate", "shop", "--json"]).await.with(0);
    let again = json!({"job_id": "again", "model": "sentiment", "namespace": "shop",
        "inputs": [{"text": "a nice thing"}]});
    let again = stack.bus.answer(&again).await;
    assert_eq!(again.body["results"][0]["cached"], false, "{again:?}");
    let checks = shell.kiln(&["doctor", "--json"]).await.checks();
    assert!(checks["postgres kind"].1.contains("pooler"), "{checks:#?}");

    let mut client = connect(pooler.port, stack.database())
        .await
        .expect("a client");
    let left = left_behind(&mut client).await;
    assert_eq!(
        left,
        [("0".to_owned(), 0, false)],
        "left on a server connection"
    );
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));
}
