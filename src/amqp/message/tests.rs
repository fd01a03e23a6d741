//! What goes with a message to another queue.

use super::*;
use crate::amqp::brief::BODY_OMITTED;
use std::sync::Arc;

fn letter(headers: &[(&str, &str)]) -> BasicProperties {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert((*name).into(), AMQPValue::LongString((*value).into()));
    }
    BasicProperties::default()
        .with_headers(table)
        .with_message_id("j1".into())
        .with_expiration("60000".into())
}

#[test]
fn a_replay_is_what_the_producer_posted() {
    let letter = letter(&[
        (QUEUE, "kiln.jobs"),
        (ERROR_CODE, "invalid"),
        (JOB_ID, "j1"),
        (TRIES, "5"),
        ("x-delivery-count", "2"),
        ("kiln-anything", "else"),
        ("CC", "kiln.jobs"),
        (ACCEPTED_AT, "2026-11-20T12:00:00.000001Z"),
        (POSTED_BY, "shop"),
        ("traceparent", "00-1-2-01"),
    ]);
    let message = replay(&letter, b"{}".to_vec()).expect("it has its body, and names its queue");
    assert_eq!(message.queue.as_str(), "kiln.jobs");
    assert_eq!(message.properties.delivery_mode(), &Some(PERSISTENT));
    assert_eq!(message.properties.message_id(), letter.message_id());
    // The time that it had has passed: it must not vanish once more.
    assert_eq!(message.properties.expiration(), &None);
    let headers = message.properties.headers().clone().unwrap_or_default();
    let names: Vec<&str> = headers.inner().keys().map(ShortString::as_str).collect();
    assert_eq!(names, [ACCEPTED_AT, POSTED_BY, "traceparent"]);
}

#[test]
fn an_expiration_is_no_longer_than_the_broker_takes() {
    for (left, expected) in [
        (Duration::ZERO, "0"),
        (Duration::from_micros(60_000_900), "60000"),
        (Duration::MAX, "4294967295"),
    ] {
        assert_eq!(expiration(left).as_str(), expected);
    }
}

#[test]
fn a_letter_without_a_home_is_not_replayed() {
    assert!(replay(&letter(&[]), Vec::new()).is_err());
    assert!(replay(&letter(&[(QUEUE, "")]), Vec::new()).is_err());
    assert!(replay(&letter(&[(QUEUE, &"q".repeat(256))]), Vec::new()).is_err());
    assert!(replay(&BasicProperties::default(), Vec::new()).is_err());
}

#[test]
fn a_letter_without_its_job_s_body_says_so_and_is_not_replayed() {
    let mut properties = letter(&[(QUEUE, "kiln.jobs"), (ERROR_CODE, "invalid")]);
    let mut body = Arc::new(vec![b'x'; 20_000]);
    assert!(replay(&properties, body.to_vec()).is_ok());
    Brief::NoBody.put(&mut body, &mut properties);
    assert!(body.is_empty());
    let headers = properties.headers().clone().unwrap_or_default();
    let omitted = headers.inner().get(BODY_OMITTED);
    assert_eq!(omitted, Some(&AMQPValue::LongLongInt(20_000)));
    assert_eq!(text(Some(&headers), ERROR_CODE).as_deref(), Some("invalid"));
    assert_eq!(replay(&properties, Vec::new()).err(), Some(BODILESS));
    // What a producer writes under that name says nothing.
    let claimed = own_headers(&letter(&[(BODY_OMITTED, "5"), ("team", "search")]));
    assert_eq!(claimed.inner().len(), 1);
}
