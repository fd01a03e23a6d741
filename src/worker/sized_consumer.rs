//! Owns taking a queue's messages with as many of them unacknowledged as their size allows.
//!
//! Promises to begin with few, so that large bodies which wait are never all in memory; to take as many as the settings say while
//! bodies are small; and to go back to few when large ones come, for as long as they come. Refuses to await the broker: that is done beside it.

use super::{
    body_sizes::{BodySizes, Change},
    share::Share,
};
use crate::{
    amqp::{consumer::QueueConsumer, delivery::Delivery, topology::Origin},
    redact::Redact,
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use lapin::Connection;
use std::{sync::Arc, time::Duration};
use tokio::task::JoinSet;

/// The consumers of one queue.
pub(super) struct SizedConsumer {
    connection: Arc<Connection>,
    queue: String,
    origin: Origin,
    sizes: BodySizes,
    few: QueueConsumer,
    /// The one that takes more, and how many.
    many: Option<(QueueConsumer, u16)>,
    /// Those that were cancelled and haven't given everything yet, or whose deliveries aren't all acknowledged.
    ending: Vec<QueueConsumer>,
    /// One that is being opened, and cancellations under way.
    opening: JoinSet<Result<Option<(QueueConsumer, u16)>, lapin::Error>>,
    is_opening: bool,
}

impl SizedConsumer {
    /// Starts with few.
    pub async fn open(
        connection: Arc<Connection>,
        queue: &str,
        origin: Origin,
        share: Share,
    ) -> Result<Self, lapin::Error> {
        Ok(Self {
            few: QueueConsumer::open(&connection, queue, origin, share.few).await?,
            connection,
            queue: queue.to_owned(),
            origin,
            sizes: BodySizes::new(share),
            many: None,
            ending: Vec::new(),
            opening: JoinSet::new(),
            is_opening: false,
        })
    }

    /// The next delivery; nothing where the broker has cancelled the consumer.
    pub async fn next(&mut self) -> Result<Option<Delivery>, String> {
        loop {
            self.ending
                .retain(|one| !one.has_ended() || is_awaited(one));
            let ending = self.ending.iter_mut().find(|one| !one.has_ended());
            let many = self.many.as_mut().map(|(consumer, _)| consumer);
            let delivery = tokio::select! {
                biased;
                Some(opened) = self.opening.join_next() => {
                    let opened = opened.map_err(|e| e.redacted())?;
                    if let Some(many) = opened.map_err(|e| e.redacted())? {
                        self.many = Some(many);
                        self.is_opening = false;
                    }
                    continue;
                }
                delivery = self.few.next() => delivery?,
                delivery = next_of(many) => delivery?,
                delivery = next_of(ending) => match delivery? {
                    Some(delivery) => Some(delivery),
                    None => continue,
                },
            };
            if let Some(delivery) = &delivery {
                self.sizes.note(delivery.body.len());
                self.resize();
            }
            return Ok(delivery);
        }
    }

    /// A delivery that is here already.
    pub fn ready(&mut self) -> Result<Option<Delivery>, String> {
        let mut delivery = self.few.ready()?;
        if delivery.is_none()
            && let Some((many, _)) = &mut self.many
        {
            delivery = many.ready()?;
        }
        if let Some(delivery) = &delivery {
            self.sizes.note(delivery.body.len());
            self.resize();
        }
        Ok(delivery)
    }

    /// Takes more, or fewer, where the sizes of late say so.
    fn resize(&mut self) {
        match self.sizes.change(self.many.as_ref().map(|(_, now)| *now)) {
            Change::End => {
                let many = self.many.take().map(|(many, _)| many);
                if let Some(cancelled) = many.as_ref().map(QueueConsumer::cancel) {
                    self.opening.spawn(async move {
                        cancelled.await;
                        Ok(None)
                    });
                }
                self.ending.extend(many);
            }
            Change::Open(wanted) if !self.is_opening => {
                let (connection, queue) = (self.connection.clone(), self.queue.clone());
                let origin = self.origin;
                self.is_opening = true;
                self.opening.spawn(async move {
                    let many = QueueConsumer::open(&connection, &queue, origin, wanted);
                    Ok(Some((many.await?, wanted)))
                });
            }
            Change::Open(_) | Change::None => {}
        }
    }

    /// Every consumer there is.
    pub fn consumers(&self) -> impl Iterator<Item = &QueueConsumer> {
        let many = self.many.iter().map(|(consumer, _)| consumer);
        std::iter::once(&self.few).chain(many).chain(&self.ending)
    }

    /// Cancels them and returns what they were given and haven't taken; the broker is waited for as long as `patience`.
    pub async fn end(&mut self, patience: Duration) -> Vec<Delivery> {
        // What came by one that nobody knows of would wait for nobody.
        while let Some(opened) = self.opening.try_join_next() {
            self.many = opened
                .ok()
                .and_then(Result::ok)
                .flatten()
                .or(self.many.take());
        }
        self.opening.shutdown().await;
        let many = self.many.iter_mut().map(|(consumer, _)| consumer);
        let all = std::iter::once(&mut self.few)
            .chain(many)
            .chain(&mut self.ending);
        let ends: FuturesUnordered<_> = all.map(|one| one.end(patience)).collect();
        ends.concat().await
    }

    /// Every consumer, of one that gives no more.
    pub fn into_consumers(self) -> impl Iterator<Item = QueueConsumer> {
        let many = self.many.into_iter().map(|(consumer, _)| consumer);
        std::iter::once(self.few).chain(many).chain(self.ending)
    }
}

/// Whether the broker waits to hear of deliveries.
fn is_awaited(consumer: &QueueConsumer) -> bool {
    consumer.acks.is_open() && consumer.acks.at_broker() > 0
}

async fn next_of(consumer: Option<&mut QueueConsumer>) -> Result<Option<Delivery>, String> {
    match consumer {
        Some(consumer) => consumer.next().await,
        None => std::future::pending().await,
    }
}
