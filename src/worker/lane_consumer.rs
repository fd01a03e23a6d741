//! Owns taking the messages of one of a lane's queues, with as many of them unacknowledged as their size allows.
//!
//! Promises that large bodies which wait are never all in memory; and that a queue has one consumer here: where it is to take more, or
//! fewer, it is ended in an orderly way, and another one follows.

use super::{body_sizes::BodySizes, channels::DeliveryChannel, share::Share};
use crate::{
    amqp::{consumer::QueueConsumer, delivery::Delivery, topology::Origin},
    redact::Redact,
};
use futures_util::{FutureExt, future::BoxFuture};
use lapin::Connection;
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// The consumer of one queue.
pub(super) struct LaneConsumer {
    connection: Arc<Connection>,
    queue: String,
    timeout: Duration,
    sizes: BodySizes,
    state: State,
    /// What one that was ended had been given.
    arrived: VecDeque<Delivery>,
    /// Channels of those before this one, with deliveries that aren't all acknowledged.
    former: Vec<DeliveryChannel>,
}

enum State {
    /// The second is how many messages it may have unacknowledged.
    Open(Box<QueueConsumer>, u16),
    /// The second is the channel of the one that ends.
    Replacing(
        BoxFuture<'static, Result<Replaced, String>>,
        DeliveryChannel,
    ),
    /// There is none any more.
    Over,
}

/// A consumer in the place of another, and what that one had been given.
struct Replaced {
    consumer: QueueConsumer,
    window: u16,
    arrived: Vec<Delivery>,
}

impl LaneConsumer {
    /// Starts with few. The broker is waited for as long as `timeout`, then and later.
    pub async fn open(
        connection: &Arc<Connection>,
        queue: &str,
        share: Share,
        timeout: Duration,
    ) -> Result<Self, String> {
        let consumer = consume(connection, queue, share.few, timeout).await?;
        Ok(Self {
            connection: connection.clone(),
            queue: queue.to_owned(),
            timeout,
            sizes: BodySizes::new(share),
            state: State::Open(Box::new(consumer), share.few),
            arrived: VecDeque::new(),
            former: Vec::new(),
        })
    }

    /// The next delivery; nothing where the broker has cancelled the consumer.
    pub async fn next(&mut self) -> Result<Option<Delivery>, String> {
        loop {
            if let Some(delivery) = self.arrived.pop_front() {
                self.note(&delivery);
                return Ok(Some(delivery));
            }
            match &mut self.state {
                State::Open(consumer, _) => {
                    let delivery = consumer.next().await?;
                    if let Some(delivery) = &delivery {
                        self.note(delivery);
                    }
                    return Ok(delivery);
                }
                State::Replacing(replacing, _) => {
                    let replaced = replacing.await;
                    self.replaced(replaced)?;
                }
                State::Over => return Ok(None),
            }
        }
    }

    /// A delivery that is here already.
    pub fn ready(&mut self) -> Result<Option<Delivery>, String> {
        self.next().now_or_never().unwrap_or(Ok(None))
    }

    /// Whether it has as many as it may, which are few for their size: others may wait in the queue.
    pub fn is_held_back(&self) -> bool {
        match &self.state {
            State::Open(consumer, window) => {
                self.sizes.are_narrow(*window) && consumer.acks.at_broker() >= u64::from(*window)
            }
            State::Replacing(..) | State::Over => false,
        }
    }

    fn note(&mut self, delivery: &Delivery) {
        self.sizes.note(delivery.body.len());
        let window = match &self.state {
            State::Open(_, now) => self.sizes.replacing(*now),
            State::Replacing(..) | State::Over => None,
        };
        let Some(window) = window else { return };
        if let State::Open(mut consumer, _) = std::mem::replace(&mut self.state, State::Over) {
            let channel = DeliveryChannel::of(&consumer);
            let (connection, queue) = (self.connection.clone(), self.queue.clone());
            let timeout = self.timeout;
            let replacing = async move {
                let arrived = consumer.end(timeout).await;
                let consumer = consume(&connection, &queue, window, timeout).await?;
                Ok(Replaced {
                    consumer,
                    window,
                    arrived,
                })
            };
            self.state = State::Replacing(replacing.boxed(), channel);
        }
    }

    fn replaced(&mut self, replaced: Result<Replaced, String>) -> Result<(), String> {
        if let State::Replacing(_, former) = std::mem::replace(&mut self.state, State::Over) {
            self.former.push(former);
        }
        let replaced = replaced?;
        self.arrived.extend(replaced.arrived);
        self.state = State::Open(Box::new(replaced.consumer), replaced.window);
        Ok(())
    }

    /// Tells the broker of what is settled behind a delivery that isn't, beside the caller.
    pub fn flush_stragglers(&mut self) {
        self.former.retain(DeliveryChannel::is_awaited);
        for channel in self.channels() {
            channel.flush_stragglers();
        }
    }

    /// Every channel that deliveries came by.
    pub fn channels(&self) -> Vec<DeliveryChannel> {
        let last = match &self.state {
            State::Open(consumer, _) => Some(DeliveryChannel::of(consumer)),
            State::Replacing(_, channel) => Some(channel.clone()),
            State::Over => None,
        };
        self.former.iter().cloned().chain(last).collect()
    }

    /// Cancels it and returns what it was given and hasn't taken; the broker is waited for as long as `patience`.
    pub async fn end(&mut self, patience: Duration) -> Vec<Delivery> {
        if let State::Replacing(replacing, _) = &mut self.state {
            let replaced = tokio::time::timeout(patience, replacing).await;
            let replaced = replaced.unwrap_or_else(|_| Err("no answer".to_owned()));
            // What it had goes back to its queue then.
            let _gone_counts_too = self.replaced(replaced);
        }
        let mut arrived = Vec::from(std::mem::take(&mut self.arrived));
        if let State::Open(consumer, _) = &mut self.state {
            arrived.extend(consumer.end(patience).await);
        }
        arrived
    }

    /// Cancels it, within the limit: of a queue without a leader the broker doesn't answer. What it was given and hasn't taken goes back
    /// to its queue.
    pub async fn give_up(&mut self, limit: Duration) {
        self.arrived.clear();
        if let State::Open(consumer, _) = &mut self.state {
            let _silence_counts_too = tokio::time::timeout(limit, consumer.cancel()).await;
            // What nobody takes would stay in hand for as long as the channel is there.
            while let Ok(Some(_back)) = consumer.ready() {}
        }
    }
}

async fn consume(
    connection: &Connection,
    queue: &str,
    prefetch: u16,
    timeout: Duration,
) -> Result<QueueConsumer, String> {
    let open = QueueConsumer::open(connection, queue, Origin::Lane, prefetch);
    let open = tokio::time::timeout(timeout, open).await;
    let open = open.map_err(|_| "no answer to starting a consumer".to_owned())?;
    open.map_err(|e| e.redacted())
}
