//! What a message's properties say: ids, content type, expiry, and where the reply goes.

use serde_json::json;

use crate::harness::PATIENCE;
use crate::harness::bus::{JOBS, answered_as, asking_reply, persistent};
use crate::harness::jobs::fault_job;
use crate::harness::stack::Stack;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_message_may_name_the_job_and_the_job_its_version() {
    let stack = Stack::shared().await;
    let _worker = stack.worker().start().await;
    let active = stack.bus.answer(&fault_job("active", "a text")).await;
    let version = active.body["version"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(!version.is_empty());

    let body = json!({"model": format!("fault@{version}"), "inputs": [{"text": "a text"}]});
    let (body, message) = asking_reply(&body);
    stack
        .bus
        .publish(
            JOBS,
            vec![(body, message.with_message_id("by-message".into()))],
        )
        .await;
    let pinned = stack.bus.reply_within(PATIENCE).await;
    assert_eq!(
        (pinned.job_id(), pinned.status()),
        ("by-message", "ok"),
        "{}",
        pinned.body
    );
    assert_eq!(
        (&pinned.body["model"], &pinned.body["version"]),
        (&json!("fault"), &json!(version))
    );
    assert_eq!(
        pinned.body["namespace"], "fault",
        "the model's name, where none is given"
    );
    assert_eq!(
        pinned.body["results"][0]["cached"], true,
        "the same version has the same scores"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_asks_for_no_reply_or_expires_later_is_scored() {
    let stack = Stack::shared().await;
    let _worker = stack.worker().start().await;
    let quiet = fault_job("quiet", "a text").to_string().into_bytes();
    let (hasty, message) = asking_reply(&fault_job("hasty", "a text"));
    let messages = vec![
        (quiet, persistent()),
        (hasty, message.with_expiration("600000".into())),
    ];
    stack.bus.publish(JOBS, messages).await;
    stack
        .expect_done(vec!["quiet".to_owned(), "hasty".to_owned()])
        .await;
    assert_eq!(stack.bus.reply_within(PATIENCE).await.job_id(), "hasty");
    stack.wait_for_empty(JOBS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_queue_that_is_gone_does_not_hold_the_job_up() {
    let stack = Stack::shared().await;
    let _worker = stack.worker().expect_trouble().start().await;
    let body = fault_job("nowhere", "a text").to_string().into_bytes();
    let message = persistent()
        .with_reply_to("a-queue-that-is-gone".into())
        .with_correlation_id("nowhere".into());
    stack.bus.publish(JOBS, vec![(body, message)]).await;
    stack.bus.answer(&fault_job("after", "another text")).await;
    stack
        .expect_done(vec!["nowhere".to_owned(), "after".to_owned()])
        .await;
    stack.wait_for_empty(JOBS).await;
}
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_differs_from_the_messages_is_refused() {
    let stack = Stack::shared().await;
    let _worker = stack.worker().allow("reject").start().await;
    let body = fault_job("of-the-body", "a text").to_string().into_bytes();
    stack
        .bus
        .publish(
            JOBS,
            vec![(
                body,
                answered_as("differs").with_message_id("of-the-message".into()),
            )],
        )
        .await;
    let reply = stack.bus.reply_within(PATIENCE).await;
    assert_eq!(reply.status(), "rejected");
    assert_eq!(reply.body["error"]["code"], "invalid");
    assert_eq!(reply.body["error"]["field"], "job_id");
    assert_eq!(stack.bus.dead_letters(1).await[0].code, "invalid");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_content_type_is_refused() {
    let stack = Stack::shared().await;
    let _worker = stack.worker().allow("reject").start().await;
    let (body, _) = asking_reply(&fault_job("as-xml", "a text"));
    let message = answered_as("as-xml").with_content_type("application/xml".into());
    stack.bus.publish(JOBS, vec![(body, message)]).await;
    let reply = stack.bus.reply_within(PATIENCE).await;
    assert_eq!(reply.status(), "rejected", "{}", reply.body);
    assert_eq!(reply.body["error"]["field"], "content_type");
    assert_eq!(stack.bus.dead_letters(1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_expired_in_the_queue_is_refused_and_not_scored() {
    let stack = Stack::shared().await;
    let first = stack.worker().start().await;
    first.stop().await;
    let job = fault_job("late", "a text");
    let (body, message) = asking_reply(&job);
    stack
        .bus
        .publish(
            JOBS,
            vec![(body.clone(), message.with_expiration("20".into()))],
        )
        .await;
    stack.wait_for_empty(JOBS).await;

    let _second = stack
        .worker()
        .allow("reject")
        .allow("expired")
        .start()
        .await;
    let reply = stack.bus.reply_within(PATIENCE).await;
    assert_eq!((reply.job_id(), reply.status()), ("late", "rejected"));
    assert_eq!(reply.body["error"]["code"], "expired");
    let letter = stack.bus.dead_letters(1).await.remove(0);
    assert_eq!((letter.code.as_str(), letter.body), ("expired", body));
    assert_eq!(stack.row("late").await.status, "rejected");
}
