//! Owns one message taken from a queue: its body, what its properties say, and the right to settle it.
//!
//! Promises that a delivery that is dropped goes back to its queue. Refuses to read the body.

use super::{screen::SUBSTITUTE, topology::Origin};
use crate::{
    amqp::ack::AckGuard,
    clock,
    telemetry::trace::{TRACEPARENT, TraceParent},
};
use kiln_contract::{
    failure::{Code, Rejection},
    name::is_name,
    order::Moment,
};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
    time::{Duration, Instant},
};

/// Header that counts the tries behind a job.
pub const TRIES: &str = "kiln-tries";

/// Header that counts the deliveries behind a job that was moved: a new queue begins the broker's own count anew.
pub const REDELIVERIES: &str = "kiln-redeliveries";

/// Header that counts how often a job was moved to a lane's queue.
pub const MOVES: &str = "kiln-moves";

/// Header with the moment at which a job is of no use any more, in milliseconds since 1970: a queue in which it waits to be tried again
/// has another expiration.
pub const EXPIRES_AT: &str = "kiln-expires-at";

/// Header with the moment at which a worker first took a job, RFC 3339.
pub const ACCEPTED_AT: &str = "kiln-accepted-at";

/// Header with the run that a job belongs to: where that is cancelled, its jobs are dropped on arrival.
pub const RUN: &str = "kiln-run";

/// Header with the name of the API key that posted a job, which may read how it ended.
pub const POSTED_BY: &str = "kiln-posted-by";

/// A message in hand. Its guard settles it; dropping it returns it to its queue. It changes hands often, and so lies where it is.
#[derive(Debug)]
pub struct Delivery(Box<Parts>);

/// What a message in hand consists of.
#[derive(Debug)]
pub struct Parts {
    pub body: Vec<u8>,
    pub properties: BasicProperties,
    pub origin: Origin,
    pub received: Instant,
    /// When a worker first accepted its job, where that is known by now.
    pub accepted: Option<Moment>,
    pub guard: AckGuard,
}

impl From<Parts> for Delivery {
    fn from(parts: Parts) -> Self {
        Self(Box::new(parts))
    }
}

impl Deref for Delivery {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl DerefMut for Delivery {
    fn deref_mut(&mut self) -> &mut Parts {
        &mut self.0
    }
}

impl Delivery {
    /// The right to settle it, alone.
    pub fn into_guard(self) -> AckGuard {
        self.0.guard
    }

    /// The message's own name for its job.
    pub fn message_id(&self) -> Option<&str> {
        self.properties.message_id().as_ref().map(|id| id.as_str())
    }

    /// What its producer knows its reply by.
    pub fn correlation_id(&self) -> Option<&str> {
        let id = self.properties.correlation_id().as_ref()?;
        Some(id.as_str())
    }

    /// The header of its trace.
    pub fn traceparent(&self) -> Option<String> {
        text(self.properties.headers().as_ref(), TRACEPARENT)
    }

    /// The trace that it belongs to.
    pub fn trace_id(&self) -> Option<String> {
        let parent = TraceParent::parse(&self.traceparent()?)?;
        Some(hex::encode(parent.trace_id))
    }

    /// The run that it belongs to, where it says so.
    pub fn run(&self) -> Option<String> {
        text(self.properties.headers().as_ref(), RUN)
    }

    /// The API key that posted it, where it names one.
    pub fn posted_by(&self) -> Option<Arc<str>> {
        let name = text(self.properties.headers().as_ref(), POSTED_BY)?;
        is_name(&name).then(|| name.into())
    }

    /// Tries made before this delivery.
    pub fn tries(&self) -> u32 {
        number(self.properties.headers().as_ref(), TRIES)
    }

    /// How often it was delivered before, from this queue or from those that it was moved from.
    pub fn redeliveries(&self) -> u32 {
        let headers = self.properties.headers().as_ref();
        let here = number(headers, "x-delivery-count");
        here.saturating_add(number(headers, REDELIVERIES))
    }

    /// How often it was moved to a lane's queue.
    pub fn moves(&self) -> u32 {
        number(self.properties.headers().as_ref(), MOVES)
    }

    /// Its priority, 0 where it has none.
    pub fn priority(&self) -> u8 {
        self.properties.priority().unwrap_or_default()
    }

    /// When it is of no use any more, as far as it says: the broker doesn't tell how long it has waited.
    pub fn expires(&self) -> Option<Instant> {
        let headers = self.properties.headers().as_ref();
        if let Some(at) = text(headers, EXPIRES_AT) {
            let at_ms: i64 = at.parse().ok()?;
            let left_ms = at_ms.saturating_sub(clock::now().timestamp_millis());
            let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or_default());
            return clock::instant().checked_add(left);
        }
        let expiration = self.properties.expiration().as_ref()?;
        let ms: u64 = expiration.as_str().parse().ok()?;
        self.received.checked_add(Duration::from_millis(ms))
    }

    /// When a worker first took it, as another queue knows. Not later than now, whatever it says.
    pub fn accepted_before(&self) -> Option<Moment> {
        let text = text(self.properties.headers().as_ref(), ACCEPTED_AT)?;
        Some(Moment::parse(&text)?.min(clock::moment(self.received)))
    }

    /// When a worker first took it, as far as is known.
    pub fn first_accepted(&self) -> Moment {
        let known = self.accepted.into_iter().chain(self.accepted_before());
        known.min().unwrap_or_else(|| clock::moment(self.received))
    }

    /// A verdict that stands before the body is read.
    pub fn verdict(&self) -> Option<Rejection> {
        self.broker_verdict()
            .or_else(|| self.text_verdict())
            .or_else(|| self.content_type_verdict())
    }

    /// The rejection of a message whose id, or whose way to its producer, isn't text: under another one its reply would answer nobody, and
    /// two such ids could become the same.
    fn text_verdict(&self) -> Option<Rejection> {
        let (properties, expected) = (&self.properties, "expected UTF-8 text");
        [
            ("message_id", properties.message_id()),
            ("correlation_id", properties.correlation_id()),
            ("reply_to", properties.reply_to()),
        ]
        .into_iter()
        .find(|(_, value)| {
            let text = value.as_ref();
            text.is_some_and(|text| text.as_str().contains(SUBSTITUTE))
        })
        .map(|(field, _)| Rejection::invalid(field, expected))
    }

    /// The rejection of a message that says that it isn't JSON.
    fn content_type_verdict(&self) -> Option<Rejection> {
        let kind = self.properties.content_type().as_ref()?.as_str();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        let json = essence.is_empty() || essence.eq_ignore_ascii_case("application/json");
        (!json).then(|| Rejection::invalid("content_type", "expected application/json"))
    }

    /// The verdict on a message that the broker itself set aside, by its reason.
    fn broker_verdict(&self) -> Option<Rejection> {
        if self.origin != Origin::Expired {
            return None;
        }
        let headers = self.properties.headers().as_ref();
        Some(match death(headers).as_deref() {
            Some("delivery_limit") => Rejection::new(
                Code::Exhausted,
                "",
                "the broker gave it up after its limit of deliveries",
            ),
            Some("maxlen") => Rejection::new(
                Code::Expired,
                "",
                "the broker dropped the message for newer ones: its queue is limited in length",
            ),
            _ => Rejection::new(
                Code::Expired,
                "",
                "the message's expiration passed before a worker took it",
            ),
        })
    }
}

/// Why the broker set a message aside the last time. The first time may have been elsewhere, as in a queue of tries, whose wait is an expiration.
fn death(headers: Option<&FieldTable>) -> Option<String> {
    let of_list = || match headers?.inner().get("x-death")? {
        // The latest comes first.
        AMQPValue::FieldArray(deaths) => match deaths.as_slice().first()? {
            AMQPValue::FieldTable(last) => text(Some(last), "reason"),
            _ => None,
        },
        _ => None,
    };
    text(headers, "x-last-death-reason")
        .or_else(of_list)
        .or_else(|| text(headers, "x-first-death-reason"))
}

fn number(headers: Option<&FieldTable>, name: &str) -> u32 {
    let value = match headers.and_then(|h| h.inner().get(name)) {
        Some(AMQPValue::LongLongInt(n)) => u64::try_from(*n).unwrap_or(0),
        Some(AMQPValue::LongInt(n)) => u64::try_from(*n).unwrap_or(0),
        Some(AMQPValue::LongUInt(n)) => u64::from(*n),
        Some(AMQPValue::ShortInt(n)) => u64::try_from(*n).unwrap_or(0),
        Some(AMQPValue::ShortUInt(n)) => u64::from(*n),
        Some(AMQPValue::ShortShortInt(n)) => u64::try_from(*n).unwrap_or(0),
        Some(AMQPValue::ShortShortUInt(n)) => u64::from(*n),
        _ => 0,
    };
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// A header's text.
pub fn text(headers: Option<&FieldTable>, name: &str) -> Option<String> {
    match headers?.inner().get(name)? {
        AMQPValue::LongString(value) => {
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        }
        AMQPValue::ShortString(value) => Some(value.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::types::FieldArray;

    #[test]
    fn what_counts_is_why_the_broker_set_it_aside_the_last_time() {
        let reason = |text: &str| AMQPValue::LongString(text.into());
        let mut headers = FieldTable::default();
        assert_eq!(death(Some(&headers)), None);
        headers.insert("x-first-death-reason".into(), reason("expired"));
        assert_eq!(death(Some(&headers)).as_deref(), Some("expired"));
        let mut deaths = FieldArray::default();
        for text in ["delivery_limit", "expired"] {
            let mut one = FieldTable::default();
            one.insert("reason".into(), reason(text));
            deaths.push(AMQPValue::FieldTable(one));
        }
        headers.insert("x-death".into(), AMQPValue::FieldArray(deaths));
        assert_eq!(death(Some(&headers)).as_deref(), Some("delivery_limit"));
        headers.insert("x-last-death-reason".into(), reason("rejected"));
        assert_eq!(death(Some(&headers)).as_deref(), Some("rejected"));
        // What a producer wrote there may be anything.
        headers.insert("x-last-death-reason".into(), AMQPValue::Boolean(true));
        headers.insert(
            "x-death".into(),
            AMQPValue::FieldArray(FieldArray::default()),
        );
        assert_eq!(death(Some(&headers)).as_deref(), Some("expired"));
    }
}
