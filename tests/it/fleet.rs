//! Any worker shows all of them, and `kiln status` does: those that run, those that stopped, and those that are gone without a word.

use serde_json::Value;

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
