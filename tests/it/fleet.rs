//! Any worker shows all of them, and `kiln status` does: those that run, those that stopped, and those that are gone without a word.

use serde_json::{Value, json};

use crate::harness::browser::Browser;
use crate::harness::stack::Stack;
use crate::harness::worker::Worker;
use crate::harness::{PATIENCE, eventually};
use crate::warm::Schedules;

async fn fleet(worker: &Worker) -> Value {
    let (status, body) = worker.get("/v1/fleet").await.expect("an answer");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

fn states(fleet: &Value) -> Vec<String> {
    let workers = fleet["workers"].as_array().expect("workers");
    let state = |one: &Value| one["state"].as_str().expect("a state").to_owned();
    workers.iter().map(state).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_worker_is_seen_by_all_and_one_that_is_gone_for_an_hour() {
    let stack = Stack::shared().await;
    let schedules = Schedules::new();
    let first = schedules.worker(&stack).start().await;
    let second = schedules.worker(&stack).start().await;
    let third = schedules.worker(&stack).start().await;
    eventually("all are seen", PATIENCE, || async {
        (states(&fleet(&first).await) == ["ready"; 3]).then_some(())
    })
    .await;
    let seen = fleet(&second).await;
    assert_eq!(seen["workers_up"], 3);
    let one = &seen["workers"][0];
    assert!(one["memory_bytes"].as_u64() > Some(1 << 20), "{one}");
    assert_eq!(
        one["models"],
        serde_json::json!(["sentiment@1.0.0"]),
        "{one}"
    );
    assert_eq!(one["lanes"], serde_json::json!(["sentiment"]), "{one}");

    second.stop().await;
    third.kill();
    stack
        .execute(
            "UPDATE workers SET seen_at = seen_at - interval '30 seconds' WHERE stopped_at IS NULL",
        )
        .await;
    let left = eventually("what became of them is told", PATIENCE, || async {
        let seen = fleet(&first).await;
        let mut states = states(&seen);
        states.sort();
        (states == ["lost", "ready", "stopped"]).then_some(seen)
    })
    .await;
    assert_eq!(left["workers_up"], 1);
    let amqp = stack.amqp_url();
    let broker = [("KILN_AMQP_URL", amqp.as_str())];
    let (code, said, errors) =
        tokio::task::block_in_place(|| schedules.kiln_with(&stack, &["status", "--json"], &broker));
    assert_eq!(code, 0, "{errors}");
    let status = &said[0];
    assert_eq!(
        status["workers"].as_array().map(Vec::len),
        Some(3),
        "{status}"
    );
    assert_eq!(status["queues"]["kiln.jobs"]["consumers"], 1, "{status}");
    // After an hour nobody knows of them.
    stack
        .execute("UPDATE workers SET seen_at = seen_at - interval '2 hours' WHERE stopped_at IS NOT NULL OR seen_at < now() - interval '25 seconds'")
        .await;
    eventually("they are forgotten", PATIENCE, || async {
        (states(&fleet(&first).await) == ["ready"]).then_some(())
    })
    .await;
    first.stop().await;
    let (code, said, _) =
        tokio::task::block_in_place(|| schedules.kiln(&stack, &["status", "--json"]));
    assert_eq!(
        (code, &said[0]["workers"][0]["state"]),
        (1, &"stopped".into())
    );
}

/// What a worker says of a version over all workers.
async fn version(worker: &Worker, name: &str) -> Option<Value> {
    let seen = fleet(worker).await;
    let mut models = seen["models"].as_array().expect("models").iter();
    models.find(|one| one["name"] == name).cloned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_long_a_versions_passes_take_is_told_over_all_workers_that_are_there() {
    let stack = Stack::shared().await;
    let settings = stack.worker().models(&["fault", "sentiment"]);
    let mut workers = Vec::new();
    for _each in 0..3 {
        workers.push(settings.clone().start().await);
    }
    assert_eq!(version(&workers[0], "fault").await, None, "nothing yet");
    // One of them is slow; of each, every text is a pass of its own.
    for (at, worker) in workers.iter().enumerate() {
        for n in 0..2 {
            let text = match at {
                2 => format!("sleep:700 {n}"),
                _ => format!("at {at}, {n}"),
            };
            let body = json!({"model": "fault", "text": text}).to_string();
            let answer = worker.ask("POST", "/v1/score", &[], body.as_bytes()).await;
            let answer = answer.expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
    }
    let told = eventually("all have said so", PATIENCE, async || {
        let told = version(&workers[1], "fault").await?;
        (told["passes"] == 6).then_some(told)
    })
    .await;
    assert_eq!((&told["workers"], &told["inputs"]), (&json!(3), &json!(6)));
    let ms = |name: &str| told[name].as_f64().expect("a time");
    assert!(
        ms("pass_p50_ms") < 500.0 && ms("pass_p99_ms") > 500.0,
        "{told}"
    );
    // A worker that is asked for its own says its own.
    let (_, own) = workers[0].get("/v1/models").await.expect("an answer");
    let own: Value = serde_json::from_str(&own).expect("JSON");
    let own = own.as_array().expect("versions").iter();
    let own = own.clone().find(|one| one["name"] == "fault").expect("it");
    assert_eq!(own["times"]["passes"], 2, "{own}");

    let browser = Browser::open(1280, 900).await;
    let url = format!("http://127.0.0.1:{}/#models", workers[0].http_port);
    browser.go(&url).await;
    eventually("the page shows them", PATIENCE, async || {
        let table = browser.text("#models-table").await;
        let row = table.lines().find(|line| line.starts_with("fault"))?;
        let cells: Vec<&str> = row.split('\t').map(str::trim).collect();
        // Passes, inputs, workers.
        cells
            .windows(3)
            .any(|three| three == ["6", "6", "3"])
            .then_some(())
    })
    .await;

    // Both sections that show the fleet ask for it once a turn, as another one asks for its own.
    let asked = "const count = (path) => performance.getEntriesByType('resource').filter((one) => new URL(one.name).pathname === path).length;
        return [count('/v1/fleet'), count('/v1/cache/health')]";
    eventually("a turn has ended", PATIENCE, async || {
        let asked = browser.run(asked).await;
        (asked[1].as_u64() > Some(1) && asked[0] == asked[1]).then_some(())
    })
    .await;

    // Who is gone is counted no more.
    workers[2].stop().await;
    let left = eventually("two are left", PATIENCE, async || {
        let told = version(&workers[0], "fault").await?;
        (told["workers"] == 2).then_some(told)
    })
    .await;
    assert_eq!(left["passes"], 4);
    assert!(left["pass_p99_ms"].as_f64() < Some(500.0), "{left}");

    // Where it isn't known, the workers are told all the same.
    let hide = "ALTER TABLE workers RENAME COLUMN passes TO out_of_reach";
    stack.execute(hide).await;
    let seen = fleet(&workers[0]).await;
    assert_eq!(seen["models"], Value::Null);
    assert_eq!(seen["workers"].as_array().map(Vec::len), Some(3));
    for worker in &workers[..2] {
        worker.stop().await;
    }
}
