//! Owns one queue's consumer: what is delivered, and an orderly end to it.
//!
//! Promises that an end loses nothing and makes the broker mark nothing as redelivered that nobody has seen.

use super::{
    ack::Acks,
    delivery::{Delivery, Parts},
    topology::Origin,
};
use crate::{clock, redact::Redact};
use futures_util::{FutureExt, StreamExt};
use lapin::{
    Channel, Connection, Consumer,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a stop waits for deliveries that may be under way.
const LAST_ARRIVALS: Duration = Duration::from_millis(200);

/// The same, where deliveries go on arriving.
const LAST_ARRIVALS_IN_ALL: Duration = Duration::from_millis(500);

/// One queue's consumer and its channel.
pub struct QueueConsumer {
    pub channel: Channel,
    consumer: Consumer,
    pub acks: Arc<Acks>,
    origin: Origin,
    prefetch: u16,
    ended: bool,
}

impl QueueConsumer {
    /// Starts consuming `queue`, with at most `prefetch` messages unacknowledged.
    pub async fn open(
        connection: &Connection,
        queue: &str,
        origin: Origin,
        prefetch: u16,
    ) -> Result<Self, lapin::Error> {
        let channel = connection.create_channel().await?;
        channel
            .basic_qos(prefetch, BasicQosOptions::default())
            .await?;
        let tag = format!("kiln-{}-{}", origin.as_str(), std::process::id());
        let consumer = channel
            .basic_consume(
                queue.into(),
                tag.into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await?;
        Ok(Self {
            acks: Acks::new(channel.clone()),
            channel,
            consumer,
            origin,
            prefetch,
            ended: false,
        })
    }

    /// The next delivery; nothing once the consumer was cancelled by us.
    pub async fn next(&mut self) -> Result<Option<Delivery>, String> {
        if self.ended {
            return Ok(None);
        }
        match self.consumer.next().await {
            Some(Ok(delivery)) => Ok(Some(Delivery::from(Parts {
                guard: self.acks.guard(delivery.delivery_tag),
                body: delivery.data,
                properties: delivery.properties,
                origin: self.origin,
                received: clock::received(),
                accepted: None,
            }))),
            Some(Err(error)) => Err(error.redacted()),
            None => {
                self.ended = true;
                Ok(None)
            }
        }
    }

    /// Whether it was cancelled, and has given all that it had.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Asks the broker for no more; what it has sent goes on coming, and then the consumer has ended.
    pub fn cancel(&self) -> impl Future<Output = ()> + Send + use<> {
        let (channel, tag) = (self.channel.clone(), self.consumer.tag());
        async move {
            let _gone_counts_too = channel
                .basic_cancel(tag, BasicCancelOptions::default())
                .await;
        }
    }

    /// A delivery that is here already.
    pub fn ready(&mut self) -> Result<Option<Delivery>, String> {
        self.next().now_or_never().unwrap_or(Ok(None))
    }

    /// Cancels the consumer and returns what it was given and hasn't taken.
    ///
    /// A quorum queue marks as redelivered what it sends to a consumer whose cancellation is under way, and
    /// every acknowledgement makes it send more. So acknowledgements wait until what the earlier ones called
    /// for is here: the window is full, or nothing has come for a moment. Jobs that trickle in meanwhile are taken for half a second at most.
    /// The broker is waited for no longer than `patience`: of a queue without a leader it doesn't answer.
    pub async fn end(&mut self, patience: Duration) -> Vec<Delivery> {
        let acks = self.acks.clone();
        let held = acks.hold().await;
        let mut arrived = Vec::new();
        let end = Instant::now() + LAST_ARRIVALS_IN_ALL;
        while acks.at_broker() < u64::from(self.prefetch) {
            let left = end.saturating_duration_since(Instant::now());
            match tokio::time::timeout(LAST_ARRIVALS.min(left), self.next()).await {
                Ok(Ok(Some(delivery))) => arrived.push(delivery),
                Ok(Ok(None) | Err(_)) | Err(_) => break,
            }
        }
        let is_cancelled = tokio::time::timeout(patience, self.cancel()).await.is_ok();
        drop(held);
        let left = async {
            while let Ok(Some(delivery)) = self.next().await {
                arrived.push(delivery);
            }
        };
        let wait = if is_cancelled {
            patience
        } else {
            // What is here already.
            Duration::ZERO
        };
        let _what_came_counts = tokio::time::timeout(wait, left).await;
        arrived
    }
}
