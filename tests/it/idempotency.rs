//! The same job twice, or on two workers at once: one row and one result. Another job under its id: refused.

use lapin::types::{AMQPValue, FieldTable};
use serde_json::Value;

use crate::harness::PATIENCE;
use crate::harness::bus::{DEAD, JOBS, asking_reply};
use crate::harness::jobs::{Row, fault_job, job_ids, quick_jobs, text_job};
use crate::harness::stack::Stack;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_job_again_gives_the_first_result_again() {
    let stack = Stack::shared().await;
    let worker = stack.worker().start().await;
    let job = text_job("twice", "fault", &["one text", "another text"]);
    stack.bus.publish_job(&job).await;
    let first = stack.bus.reply_within(PATIENCE).await;
    let row = stack.row("twice").await;
    stack.bus.publish_job(&job).await;
    let second = stack.bus.reply_within(PATIENCE).await;
    assert_eq!(second.without_time(), first.without_time());
    assert_eq!(first.body["results"][0]["cached"], false);
    assert_eq!(
        stack.rows().await,
        std::slice::from_ref(&row),
        "the row is as the first run left it"
    );

    // Another process, which has no memory of the first.
    worker.stop().await;
    drop(worker);
    let _other = stack.worker().start().await;
    stack.bus.publish_job(&job).await;
    assert_eq!(
        stack.bus.reply_within(PATIENCE).await.without_time(),
        first.without_time()
    );
    assert_eq!(stack.rows().await, [row]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_a_job_on_two_workers_at_once_give_one_row_and_one_result() {
    let stack = Stack::shared().await;
    let settings = stack
        .worker()
        .set("KILN_INTAKE__BATCH_JOBS", "8")
        .set("KILN_INTAKE__PREFETCH", "16");
    let (first, second) = tokio::join!(settings.clone().start(), settings.start());
    const COPIES: usize = 10;
    let jobs = quick_jobs("copied", 40);
    let mut posted: Vec<Value> = Vec::new();
    for n in 0..jobs.len() * COPIES {
        // Copies lie close together, so that both workers hold the same job at the same time.
        posted.push(jobs[(n / (2 * COPIES) * 2 + n % 2) % jobs.len()].clone());
    }
    stack.bus.publish_jobs(&posted).await;

    let mut answers = stack.bus.replies(posted.len()).await;
    answers.sort_by(|one, other| one.job_id().cmp(other.job_id()));
    for same in answers.chunk_by(|one, other| one.job_id() == other.job_id()) {
        assert_eq!(
            same.len(),
            COPIES,
            "each copy of {} is answered",
            same[0].job_id()
        );
        assert!(
            same.iter()
                .all(|reply| reply.without_time() == same[0].without_time()),
            "{same:#?}"
        );
    }
    stack.expect_done(job_ids(&jobs)).await;
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));
    for worker in [first, second] {
        assert!(
            worker.metric("kiln_jobs_total", &[]).await > 0.0,
            "both workers had their share"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_job_under_a_used_id_is_a_conflict() {
    let stack = Stack::shared().await;
    let _worker = stack.worker().allow("reject").start().await;
    stack
        .bus
        .publish_job(&fault_job("used", "the first text"))
        .await;
    assert_eq!(stack.bus.reply_within(PATIENCE).await.status(), "ok");
    let row = stack.row("used").await;

    let other = fault_job("used", "another text");
    stack.bus.publish_job(&other).await;
    let refused = stack.bus.reply_within(PATIENCE).await;
    assert_eq!(refused.status(), "rejected");
    assert_eq!(refused.body["error"]["code"], "conflict");
    assert_eq!(refused.body["error"]["field"], "job_id");
    let letters = stack.bus.dead_letters(1).await;
    assert_eq!(
        (letters[0].code.as_str(), letters[0].field.as_str()),
        ("conflict", "job_id")
    );
    assert!(!letters[0].message.is_empty());
    assert_eq!(letters[0].body, other.to_string().into_bytes());
    expect_conflicts_beside(&stack, row).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_bodies_under_one_id_in_one_batch_are_one_job_and_one_conflict() {
    let stack = Stack::shared().await;
    let _worker = stack.worker().allow("reject").start().await;
    stack
        .bus
        .publish_jobs(&[
            fault_job("pair", "one"),
            fault_job("pair", "two"),
            fault_job("neighbour", "three"),
        ])
        .await;
    let mut outcomes: Vec<String> = Vec::new();
    for reply in stack.bus.replies(3).await {
        outcomes.push(format!("{} {}", reply.job_id(), reply.status()));
    }
    outcomes.sort();
    assert_eq!(outcomes, ["neighbour ok", "pair ok", "pair rejected"]);
    assert_eq!(stack.bus.dead_letters(1).await[0].code, "conflict");
    let row = stack.row("pair").await;
    assert_eq!(row.status, "ok");
    stack.wait_for_rows(3).await;
    let neighbour = stack.row("neighbour").await;
    assert_eq!(neighbour.status, "ok");
}

/// The first job's row stands as it was; the refused one has a row of its own, under another id.
async fn expect_conflicts_beside(stack: &Stack, row: Row) {
    stack.wait_for_rows(2).await;
    let (kept, refused): (Vec<Row>, Vec<Row>) = stack
        .rows()
        .await
        .into_iter()
        .partition(|one| one.job_id == row.job_id);
    assert_eq!(kept, [row]);
    for one in refused {
        let code = one.error.as_ref().map(|error| error["code"].clone());
        assert_eq!(
            (one.status.as_str(), code),
            ("rejected", Some(Value::from("conflict")))
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finished_job_is_never_rejected_however_it_comes_back() {
    let stack = Stack::shared().await;
    let worker = stack.worker().models(&["fault", "sentiment"]).start().await;
    let long = "one text ".repeat(20);
    let job = text_job("once", "fault", &[&long, "another text"]);
    let first = stack.bus.answer(&job).await;
    let row = stack.row("once").await;
    let expect_first_answer = async |what: &str, queue: &str, change: &dyn Fn(&mut FieldTable)| {
        let (body, properties) = asking_reply(&job);
        let mut headers = FieldTable::default();
        change(&mut headers);
        let message = (body, properties.with_headers(headers));
        stack.bus.publish(queue, vec![message]).await;
        let again = stack.bus.reply_within(PATIENCE).await;
        assert_eq!(again.without_time(), first.without_time(), "{what}");
        assert_eq!(stack.bus.waiting(DEAD).await, Some(0), "{what}");
        assert_eq!(stack.rows().await, std::slice::from_ref(&row), "{what}");
    };
    // As the broker sets them aside.
    for reason in ["expired", "delivery_limit"] {
        let died = |headers: &mut FieldTable| {
            let value = AMQPValue::LongString(reason.into());
            headers.insert("x-first-death-reason".into(), value);
        };
        expect_first_answer(reason, "kiln.expired", &died).await;
    }
    let (body, properties) = asking_reply(&job);
    let properties = properties.with_content_type("text/plain".into());
    stack.bus.publish(JOBS, vec![(body, properties)]).await;
    let again = stack.bus.reply_within(PATIENCE).await;
    assert_eq!(
        again.without_time(),
        first.without_time(),
        "by another type"
    );
    worker.stop().await;

    let smaller = stack.worker().set("KILN_INTAKE__MAX_BODY_BYTES", "128");
    let smaller = smaller.start().await;
    expect_first_answer("larger than a limit lowered since", JOBS, &|_| {}).await;
    smaller.stop().await;
    let _without = stack.worker().models(&["sentiment"]).start().await;
    expect_first_answer("its model is gone", JOBS, &|_| {}).await;
    let flushed: () = stack.redis.command(&["FLUSHALL"]).await;
    expect_first_answer("its scores are gone as well", JOBS, &|_| flushed).await;
}
