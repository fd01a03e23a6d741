//! Owns what Kiln publishes about a job: its reply, its dead letter, its next try.
//!
//! Promises that what goes to another queue keeps its body, its properties and its producer's headers, and can't expire there; that it
//! goes nowhere else, whatever its producer's headers ask for; and that a reply is no larger than it may be.

use crate::amqp::{
    brief::{self, Brief},
    delivery::{
        ACCEPTED_AT, Delivery, EXPIRES_AT, MOVES, POSTED_BY, REDELIVERIES, RUN, TRIES, text,
    },
    topology::{Origin, Topology},
};
use crate::{
    clock,
    telemetry::trace::{self, TRACEPARENT, TRACESTATE, TraceContext},
};
use kiln_contract::{
    failure::Rejection,
    order::Moment,
    result::{self, Finished},
};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString, ShortString},
};
use std::time::Duration;

/// Header of a dead letter: the rejection's code.
pub const ERROR_CODE: &str = "kiln-error-code";
/// Header of a dead letter: the field at fault.
pub const ERROR_FIELD: &str = "kiln-error-field";
/// Header of a dead letter: what was expected.
pub const ERROR_MESSAGE: &str = "kiln-error-message";
/// Header of a dead letter: the job's id.
pub const JOB_ID: &str = "kiln-job-id";
/// Header of a dead letter: when it was rejected, RFC 3339.
pub const FAILED_AT: &str = "kiln-failed-at";
/// Header of a dead letter: the queue to replay it to.
pub const QUEUE: &str = "kiln-queue";

/// What Kiln writes into a job's headers, and into its dead letter's. All but when it was accepted, and who may read how it ends, are taken out again when it is replayed.
const OWN_HEADERS: [&str; 13] = [
    ERROR_CODE,
    ERROR_FIELD,
    ERROR_MESSAGE,
    JOB_ID,
    FAILED_AT,
    QUEUE,
    TRIES,
    MOVES,
    REDELIVERIES,
    ACCEPTED_AT,
    EXPIRES_AT,
    RUN,
    POSTED_BY,
];

/// AMQP's mark for a message that survives the broker's restart.
const PERSISTENT: u8 = 2;

/// Headers by which a producer has the broker copy a message to further queues: meant for its own message, not for Kiln's.
const COPIES: [&str; 2] = ["CC", "BCC"];
/// Replies of this size and more bring along what is sent in their stead if the broker finds them too large. No broker's limit is lower.
const BRIEF_FROM_BYTES: usize = 16 << 10;
/// Longest expiration that RabbitMQ takes, in milliseconds: 49 days.
const MAX_EXPIRATION_MS: u128 = u32::MAX as u128;

/// A message for the broker's default exchange.
#[derive(Debug, Clone)]
pub struct Message {
    pub queue: ShortString,
    pub body: Vec<u8>,
    pub properties: BasicProperties,
    /// What is sent in its stead if the broker finds it too large.
    pub(super) brief: Option<Brief>,
    /// Whether the body is such a stand-in already.
    pub(super) is_brief: bool,
}

impl Message {
    /// A message for a queue.
    pub fn new(queue: ShortString, body: Vec<u8>, properties: BasicProperties) -> Self {
        Self {
            queue,
            body,
            properties,
            brief: None,
            is_brief: false,
        }
    }
}

/// A job of Kiln's own.
pub fn job(queue: &str, job_id: &str, body: Vec<u8>) -> Message {
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_message_id(job_id.into())
        .with_delivery_mode(PERSISTENT);
    Message::new(queue.into(), body, properties)
}

/// The same message, of a job that is as old as `accepted`.
pub fn accepted(message: Message, accepted: Moment) -> Message {
    with_headers(message, |headers| note_accepted(headers, accepted))
}

/// The same message, of a job that an API key posted.
pub fn posted_by(message: Message, key: &str) -> Message {
    with_headers(message, |headers| note(headers, POSTED_BY, key))
}

/// The same message, of a job of a run.
pub fn of_run(message: Message, run: &str) -> Message {
    with_headers(message, |headers| note(headers, RUN, run))
}

/// The same message with a W3C trace context.
pub fn traced(message: Message, context: TraceContext<'_>) -> Message {
    with_headers(message, |headers| note_trace(headers, context))
}

fn with_headers(mut message: Message, note: impl FnOnce(&mut FieldTable)) -> Message {
    let mut headers = message.properties.headers().clone().unwrap_or_default();
    note(&mut headers);
    message.properties = message.properties.with_headers(headers);
    message
}

fn note(headers: &mut FieldTable, name: &str, value: &str) {
    headers.insert(name.into(), AMQPValue::LongString(LongString::from(value)));
}

fn note_trace(headers: &mut FieldTable, context: TraceContext<'_>) {
    for (name, value) in [(TRACEPARENT, context.parent), (TRACESTATE, context.state)] {
        if let Some(value) = value {
            note(headers, name, value);
        }
    }
}

/// The reply to a job that succeeded, if one is asked for. One that would be larger than `max_bytes` says that its results are
/// left out.
pub fn ok_reply(
    delivery: &Delivery,
    job_id: &str,
    done: &Finished,
    max_bytes: usize,
) -> Option<Message> {
    let (queue, properties) = reply_to(&delivery.properties)?;
    let mut message = Message::new(queue, Vec::new(), properties);
    // Not even written where the results alone are too large.
    if done.results.len() <= max_bytes {
        message.body = result::ok_reply(job_id, done);
    }
    let full = message.body.len();
    if full == 0 || full > max_bytes {
        message.body = result::ok_reply_without_results(job_id, done);
        message.is_brief = true;
    } else if full >= BRIEF_FROM_BYTES {
        let brief = result::ok_reply_without_results(job_id, done);
        message.brief = Some(Brief::Body(brief));
    }
    Some(message)
}

/// The reply to a job that was rejected, if one is asked for.
pub fn rejected_reply(delivery: &Delivery, job_id: &str, rejection: &Rejection) -> Option<Message> {
    let (queue, properties) = reply_to(&delivery.properties)?;
    let body = result::rejected_reply(job_id, rejection);
    Some(Message::new(queue, body, properties))
}

/// Where a job's reply goes, and the properties by which its producer knows it.
fn reply_to(job: &BasicProperties) -> Option<(ShortString, BasicProperties)> {
    let queue = job.reply_to().clone();
    let queue = queue.filter(|queue| !queue.as_str().is_empty())?;
    let mut properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(PERSISTENT);
    if let Some(id) = job.correlation_id() {
        properties = properties.with_correlation_id(id.clone());
    }
    if let Some(id) = job.message_id() {
        properties = properties.with_message_id(id.clone());
    }
    let given = |name| text(job.headers().as_ref(), name);
    let (parent, state) = (given(TRACEPARENT), given(TRACESTATE));
    let context = trace::context(parent.as_deref(), state.as_deref());
    if context.parent.is_some() {
        let mut headers = FieldTable::default();
        note_trace(&mut headers, context);
        properties = properties.with_headers(headers);
    }
    Some((queue, properties))
}

/// The dead letter of a rejected job: its body and properties, with headers that say why and when. Where the broker takes no message of
/// its size any more, it goes without its body: no other end would be one.
pub fn dead_letter(
    delivery: &Delivery,
    job_id: &str,
    rejection: &Rejection,
    failed_at: &str,
    topology: &Topology,
) -> Message {
    let home = match delivery.origin {
        Origin::Warm => &topology.warm,
        _ => &topology.jobs,
    };
    let mut headers = own_headers(&delivery.properties);
    note(&mut headers, ERROR_CODE, rejection.code.as_str());
    note(&mut headers, ERROR_FIELD, &rejection.field);
    note(&mut headers, ERROR_MESSAGE, &rejection.message);
    note(&mut headers, JOB_ID, job_id);
    note(&mut headers, FAILED_AT, failed_at);
    note(&mut headers, QUEUE, home);
    note_accepted(&mut headers, delivery.first_accepted());
    let queue = topology.dead.as_str().into();
    let mut letter = forward(&delivery.properties, delivery.body.clone(), queue, headers);
    letter.brief = Some(Brief::NoBody);
    letter
}

/// The job on its way to its next try.
pub fn retry(delivery: &Delivery, topology: &Topology) -> Message {
    let tries = delivery.tries().saturating_add(1);
    again(delivery, topology, tries, tries)
}

/// The job on its way back, once what it waits for may be there; it hasn't been tried.
pub fn postponed(delivery: &Delivery, topology: &Topology) -> Message {
    let tries = delivery.tries();
    // A warming run's jobs are many, and nobody waits for them: they come again after the longest wait.
    let wait = match delivery.origin {
        Origin::Warm => u32::MAX,
        _ => tries,
    };
    again(delivery, topology, tries, wait)
}

/// `wait` is the number of tries whose wait it has.
fn again(delivery: &Delivery, topology: &Topology, tries: u32, wait: u32) -> Message {
    let mut headers = own_headers(&delivery.properties);
    headers.insert(TRIES.into(), AMQPValue::LongLongInt(i64::from(tries)));
    note_accepted(&mut headers, delivery.first_accepted());
    // The next queue begins the broker's own count anew: a job that kills workers must win no lives by it.
    let redeliveries = delivery.redeliveries();
    if redeliveries > 0 {
        headers.insert(REDELIVERIES.into(), i64::from(redeliveries).into());
    }
    note_expiration(delivery, &mut headers);
    let queue = topology.retry(delivery.origin, wait).into();
    forward(&delivery.properties, delivery.body.clone(), queue, headers)
}

/// The job on its way to a queue of its lane, with all that it has behind it and what is left of its expiration.
pub fn moved(delivery: &Delivery, queue: &str) -> Message {
    let mut headers = own_headers(&delivery.properties);
    let mut count = |name: &str, number: u32| {
        headers.insert(name.into(), AMQPValue::LongLongInt(i64::from(number)));
    };
    count(MOVES, delivery.moves().saturating_add(1));
    count(REDELIVERIES, delivery.redeliveries());
    note_accepted(&mut headers, delivery.first_accepted());
    let left = note_expiration(delivery, &mut headers);
    let body = delivery.body.clone();
    let mut message = forward(&delivery.properties, body, queue.into(), headers);
    if let Some(left) = left {
        message.properties = message.properties.with_expiration(expiration(left));
    }
    message
}

/// Notes when a worker first took a job: its word is no newer wherever the job goes.
fn note_accepted(headers: &mut FieldTable, accepted: Moment) {
    note(headers, ACCEPTED_AT, &accepted.rfc3339());
}

/// As the broker takes it: it closes the channel over a longer one.
fn expiration(left: Duration) -> ShortString {
    left.as_millis().min(MAX_EXPIRATION_MS).to_string().into()
}

/// Notes in a job's headers when it is of no use any more, if it says so; gives what is left until then.
fn note_expiration(delivery: &Delivery, headers: &mut FieldTable) -> Option<Duration> {
    let left = delivery
        .expires()?
        .saturating_duration_since(clock::instant());
    let left_ms = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
    let at_ms = clock::now().timestamp_millis().saturating_add(left_ms);
    note(headers, EXPIRES_AT, &at_ms.to_string());
    Some(left)
}

/// Why a letter isn't replayed: it doesn't say where to.
const HOMELESS: &str = "no usable header `kiln-queue`: Kiln didn't write it";
/// The same: there is nothing to post.
const BODILESS: &str = "its job's body is left out, since the broker took no message of its size (`kiln-body-omitted`): post the job again";

/// The job of a dead letter as its producer posted it, on its way back to the queue it came from, and as old as it is. An error is why
/// that can't be.
pub fn replay(letter: &BasicProperties, body: Vec<u8>) -> Result<Message, &'static str> {
    if brief::is_without_body(letter.headers().as_ref()) {
        return Err(BODILESS);
    }
    let home = text(letter.headers().as_ref(), QUEUE).filter(|home| !home.is_empty());
    let home = home.and_then(|home| ShortString::try_new(home).ok());
    let home = home.ok_or(HOMELESS)?;
    let mut headers = FieldTable::default();
    for (name, value) in own_headers(letter).inner() {
        let name_text = name.as_str();
        if [ACCEPTED_AT, POSTED_BY].contains(&name_text) || !OWN_HEADERS.contains(&name_text) {
            headers.insert(name.clone(), value.clone());
        }
    }
    Ok(forward(letter, body, home, headers))
}

/// A message's headers, without those that the broker writes, those that it acts on, and those under names of Kiln's that Kiln doesn't know.
fn own_headers(properties: &BasicProperties) -> FieldTable {
    let mut headers = FieldTable::default();
    for (name, value) in properties.headers().iter().flat_map(|h| h.inner()) {
        let name_text = name.as_str();
        let is_unknown = name_text.starts_with("kiln-") && !OWN_HEADERS.contains(&name_text);
        if !is_unknown && !name_text.starts_with("x-") && !COPIES.contains(&name_text) {
            headers.insert(name.clone(), value.clone());
        }
    }
    headers
}

/// The message under other headers and without its expiration: it must not vanish where it goes.
fn forward(
    from: &BasicProperties,
    body: Vec<u8>,
    queue: ShortString,
    headers: FieldTable,
) -> Message {
    let mut properties = BasicProperties::default()
        .with_headers(headers)
        .with_delivery_mode(PERSISTENT);
    macro_rules! copy {
        ($($get:ident => $with:ident),*) => { $(if let Some(v) = from.$get() { properties = properties.$with(v.clone()); })* };
    }
    copy!(
        content_type => with_content_type, content_encoding => with_content_encoding, priority => with_priority,
        correlation_id => with_correlation_id, reply_to => with_reply_to, message_id => with_message_id,
        timestamp => with_timestamp, kind => with_type, app_id => with_app_id
    );
    Message::new(queue, body, properties)
}

#[cfg(test)]
mod tests;
