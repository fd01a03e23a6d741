//! Rules in the database that aren't Kiln's: a row that one of them refuses costs its own job alone, and where every row is refused no job is
//! given up.

use crate::harness::bus::{DEAD, JOBS};
use crate::harness::jobs::{fault_job, job_ids, quick_jobs};
use crate::harness::stack::Stack;
use crate::harness::{PATIENCE, eventually};
use serde_json::json;

/// What a trigger, a row policy, a function of an extension and a damaged page say.
const SAID: [(&str, &str); 4] = [
    ("raised", "P0001"),
    ("policy", "42501"),
    ("external", "38000"),
    ("damaged", "XX001"),
];

const REFUSE: &str = "\
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'no' USING ERRCODE = split_part(NEW.job_id, ':', 2); END $$";
const REFUSE_SOME: &str = "\
CREATE TRIGGER refusing BEFORE INSERT ON jobs FOR EACH ROW WHEN (NEW.job_id LIKE 'refused:%') EXECUTE FUNCTION refuse()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_someone_elses_rule_refuses_costs_its_own_job_alone() {
    let stack = Stack::shared().await;
    let worker = stack.worker().expect_trouble().start().await;
    stack.execute(REFUSE).await;
    stack.execute(REFUSE_SOME).await;
    for (name, code) in SAID {
        let good = quick_jobs(name, 40);
        let refused = fault_job(&format!("refused:{code}"), "a text");
        let (before, after) = good.split_at(20);
        stack
            .bus
            .publish_jobs(&[before, &[refused], after].concat())
            .await;
        let answers = stack.bus.reply_to_each(&job_ids(&good)).await;
        for id in job_ids(&good) {
            assert_eq!(answers[&id].status(), "ok", "{id}");
        }
        let letter = &stack.bus.dead_letters(1).await[0];
        assert_eq!(letter.job_id(), format!("refused:{code}"));
        assert_eq!(letter.code, "exhausted");
        assert!(letter.message.contains(code), "{}", letter.message);
        stack.wait_for_empty(JOBS).await;
    }
    assert!(worker.is_ready().await, "others' rows are stored");
    assert_eq!(
        stack
            .count("SELECT count(*) FROM jobs WHERE job_id LIKE 'kiln-sample%'")
            .await,
        0,
        "what the database was asked with is undone"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_every_row_is_refused_no_job_is_given_up_and_the_worker_says_why() {
    let stack = Stack::shared().await;
    let worker = stack.worker().expect_trouble().start().await;
    stack
        .execute("ALTER TABLE jobs ADD COLUMN team text NOT NULL")
        .await;
    let good = quick_jobs("good", 60);
    let bad = fault_job("bad", "please panic");
    stack.bus.publish_jobs(&good).await;
    stack.bus.publish_job(&bad).await;
    let says = async || {
        let (status, body) = worker.get("/readyz").await?;
        (status == 503 && body.contains("it refuses every row") && body.contains("team"))
            .then_some(())
    };
    eventually("it says that rows are refused", PATIENCE, says).await;
    // A model is known to be the poison's fault after three tries; a row isn't.
    let tried = async || (worker.metric("kiln_store_errors_total", &[]).await > 12.0).then_some(());
    eventually("they are tried again and again", PATIENCE, tried).await;
    eventually("it goes on saying so", PATIENCE, says).await;
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));

    stack.execute("ALTER TABLE jobs DROP COLUMN team").await;
    let mut ids = job_ids(&good);
    ids.push("bad".to_owned());
    let answers = stack.bus.reply_to_each(&ids).await;
    let ok = answers.values().filter(|one| one.status() == "ok").count();
    assert_eq!(ok, 60, "{answers:?}");
    assert_eq!(stack.bus.dead_letters(1).await[0].job_id(), "bad");
    worker.wait_ready().await;
    stack.wait_for_empty(JOBS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_one_table_refuses_all_only_the_jobs_with_rows_for_it_wait() {
    let stack = Stack::shared().await;
    let worker = stack.worker().expect_trouble().start().await;
    stack.bus.answer(&fault_job("first", "a known text")).await;
    stack
        .execute("ALTER TABLE scores ADD CONSTRAINT closed CHECK (false) NOT VALID")
        .await;
    let scored = quick_jobs("scored", 10);
    stack.bus.publish_jobs(&scored).await;
    let errors = async || worker.metric("kiln_store_errors_total", &[]).await;
    // Jobs of one batch are answered together.
    worker.wait_in_hand(10).await;
    let begun = errors().await;
    eventually("they are tried again", PATIENCE, async || {
        (errors().await > begun + 5.0).then_some(())
    })
    .await;
    for n in 0..10 {
        let before = errors().await;
        let hit = fault_job(&format!("hit-{n}"), "a known text");
        stack.bus.answer(&hit).await;
        eventually("the others are tried again", PATIENCE, async || {
            (errors().await > before).then_some(())
        })
        .await;
    }
    let retried = [("outcome", "retried")];
    assert_eq!(worker.metric("kiln_jobs_total", &retried).await, 0.0);
    assert_eq!(stack.row_count().await, 11);

    stack
        .execute("ALTER TABLE scores DROP CONSTRAINT closed")
        .await;
    let answers = stack.bus.reply_to_each(&job_ids(&scored)).await;
    let ok = answers.values().filter(|one| one.status() == "ok").count();
    assert_eq!(ok, 10, "{answers:?}");
    worker.wait_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_change_nothing_say_nothing_of_those_that_are_refused() {
    let named = |job_id: &str, key: &str, text: &str| {
        let inputs = json!([{"key": key, "text": text}]);
        json!({"job_id": job_id, "model": "fault", "named": true, "inputs": inputs})
    };
    let stack = Stack::shared().await;
    let worker = stack.worker().expect_trouble().start().await;
    stack.bus.answer(&named("first", "same", "a text")).await;
    stack
        .execute("ALTER TABLE served ADD CONSTRAINT closed CHECK (false) NOT VALID")
        .await;
    let changed = named("changed", "new", "a text");
    stack.bus.publish_job(&changed).await;
    let errors = async || worker.metric("kiln_store_errors_total", &[]).await;
    eventually("it is tried again", PATIENCE, async || {
        (errors().await > 1.0).then_some(())
    })
    .await;
    for n in 0..10 {
        let before = errors().await;
        let same = named(&format!("same-{n}"), "same", "a text");
        stack.bus.answer(&same).await;
        eventually("the other is tried again", PATIENCE, async || {
            (errors().await > before).then_some(())
        })
        .await;
    }
    let retried = [("outcome", "retried")];
    assert_eq!(worker.metric("kiln_jobs_total", &retried).await, 0.0);

    stack
        .execute("ALTER TABLE served DROP CONSTRAINT closed")
        .await;
    let reply = stack.bus.reply_within(PATIENCE).await;
    assert_eq!((reply.job_id(), reply.status()), ("changed", "ok"));
    worker.wait_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_what_was_stored_keeps_condemns_one_job_and_no_worker() {
    let stack = Stack::shared().await;
    let worker = stack.worker().expect_trouble().start().await;
    stack.bus.answer(&fault_job("first", "a text")).await;
    stack
        .execute("ALTER TABLE jobs ADD CONSTRAINT known CHECK (model = 'fault')")
        .await;
    let unknown = json!({"job_id": "bad", "model": "nobody", "inputs": [{"text": "a text"}]});
    stack.bus.publish_job(&unknown).await;
    let letter = &stack.bus.dead_letters(1).await[0];
    assert_eq!(letter.code, "unknown_model");
    stack.wait_for_empty(JOBS).await;
    assert!(worker.is_ready().await);
}
