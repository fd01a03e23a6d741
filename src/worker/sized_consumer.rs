//! Owns taking a queue's messages with as many of them unacknowledged as their size allows.
//!
//! Promises to begin with few, so that large bodies which wait are never all in memory; to take as many as the settings say while
//! bodies are small; and to go back to few when large ones come, for as long as they come. Refuses to await the broker: that is done beside it.

use super::share::{FEW, Share};
use crate::{
    amqp::{consumer::QueueConsumer, delivery::Delivery, topology::Origin},
    redact::Redact,
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use lapin::Connection;
use std::{sync::Arc, time::Duration};
use tokio::task::JoinSet;

/// Weight of a body in the running mean if it is larger than that, and if it is smaller.
const LARGER: f64 = 0.5;
const SMALLER: f64 = 0.05;

/// How large bodies are, and what follows from it. Pure.
#[derive(Debug)]
struct Sizes {
    share: Share,
    mean: f64,
    seen: u64,
}

impl Sizes {
    fn new(share: Share) -> Self {
        Self {
            share,
            mean: 0.0,
            seen: 0,
        }
    }

    fn note(&mut self, bytes: usize) {
        let more = bytes as f64 - self.mean;
        self.mean += more * if more > 0.0 { LARGER } else { SMALLER };
        self.seen += 1;
    }

    /// Messages beyond the first few that may be unacknowledged.
    fn beyond_few(&self) -> u16 {
        let fit = self.share.bytes as f64 / self.mean.max(1.0);
        let fit = fit.min(f64::from(self.share.max)) as u16;
        fit.saturating_sub(self.share.few)
    }

    /// What is to become of a consumer that takes so many beyond the first few; of none, where there is none.
    fn change(&self, now: Option<u16>) -> Change {
        let wanted = self.beyond_few();
        match now {
            Some(now) if wanted < now / 2 || wanted / 2 > now => Change::End,
            None if wanted > 0 && self.seen >= u64::from(FEW) => Change::Open(wanted),
            _ => Change::None,
        }
    }
}

/// What follows from the sizes of late.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    None,
    /// It takes too many, or far too few: another one follows.
    End,
    Open(u16),
}

/// The consumers of one queue.
pub(super) struct SizedConsumer {
    connection: Arc<Connection>,
    queue: String,
    origin: Origin,
    sizes: Sizes,
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
            sizes: Sizes::new(share),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(prefetch: u16) -> Sizes {
        Sizes::new(Share::jobs(prefetch, 256 << 20, 0))
    }

    #[test]
    fn few_large_bodies_are_unacknowledged_and_many_small_ones() {
        let mut sizes = sizes(1_000);
        for _ in 0..16 {
            sizes.note(2_200);
        }
        assert_eq!(sizes.beyond_few(), 1_000 - FEW);
        // The first large one counts at once.
        sizes.note(4 << 20);
        assert!(sizes.beyond_few() < 32, "{}", sizes.beyond_few());
        for _ in 0..200 {
            sizes.note(4 << 20);
        }
        assert_eq!(sizes.beyond_few(), 0);
        for _ in 0..200 {
            sizes.note(2_200);
        }
        assert_eq!(sizes.beyond_few(), 1_000 - FEW);
        let few = Sizes::new(Share::jobs(8, 256 << 20, 0));
        assert_eq!(few.beyond_few(), 0);
    }

    #[test]
    fn it_goes_back_to_many_when_bodies_are_small_again() {
        let mut sizes = sizes(1_000);
        assert_eq!(sizes.change(None), Change::None, "nothing is known yet");
        (0..16).for_each(|_| sizes.note(2_200));
        assert_eq!(sizes.change(None), Change::Open(984));
        assert_eq!(sizes.change(Some(984)), Change::None);
        (0..40).for_each(|_| sizes.note(1 << 20));
        assert_eq!(sizes.change(Some(984)), Change::End);
        let Change::Open(medium) = sizes.change(None) else {
            panic!("some fit");
        };
        assert_eq!(sizes.change(Some(medium)), Change::None);
        (0..200).for_each(|_| sizes.note(2_200));
        assert_eq!(sizes.change(Some(medium)), Change::End);
        assert_eq!(sizes.change(None), Change::Open(984));
    }
}
