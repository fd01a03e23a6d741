//! Owns taking jobs from the queues of one lane, as far as the lane has room.
//!
//! Promises that the lane's queues are served in turns, and that jobs which wait there go before further ones from `kiln.jobs`.

use super::{channels::DeliveryChannel, process::JobProcessor, suspects::Suspects};
use crate::amqp::{
    consumer::QueueConsumer,
    delivery::Delivery,
    topology::{self, Origin, Topology},
};
use futures_util::future::select_all;
use lapin::Connection;
use std::{collections::VecDeque, time::Duration};
use tokio_util::sync::CancellationToken;

/// Jobs of one of a lane's queues that are here and wait for room.
const PREFETCH: u16 = 16;

/// Queues that a lane may ever have had.
const MAX_QUEUES: usize = 64;

/// The consumers of a lane's queues.
pub(super) struct LaneIntake {
    pub lane: String,
    /// Whether its queues were there already, with jobs in them: so they weren't declared just now by another worker either.
    pub is_old: bool,
    /// Whether one of its queues wasn't there.
    pub is_new: bool,
    consumers: Vec<QueueConsumer>,
    /// Deliveries that wait for room, by queue.
    waiting: Vec<VecDeque<Delivery>>,
    next: usize,
}

impl LaneIntake {
    /// Declares the lane's queues, and consumes them where the lane is served here; and so those that it had before it was given fewer.
    pub async fn open(
        connection: &Connection,
        topology: &Topology,
        lane: &str,
        queues: usize,
        is_served: bool,
        timeout: Duration,
    ) -> Result<Self, String> {
        let mut consumers = Vec::new();
        let (mut is_new, mut waiting) = (false, 0);
        for queue in topology.lane_queues(lane, queues) {
            let there = topology::inspect(connection, &queue.name, timeout).await;
            let there = there.map_err(|e| e.to_string())?;
            is_new |= there.is_none();
            waiting += there.map_or(0, |depth| depth.messages);
            let declared = queue.declare(connection, timeout).await;
            declared.map_err(|e| e.to_string())?;
            if is_served {
                consumers.push(consume(connection, &queue.name, timeout).await?);
            }
        }
        for number in queues..MAX_QUEUES {
            let queue = topology.lane(lane, number);
            let there = topology::inspect(connection, &queue, timeout).await;
            if !is_served || there.map_err(|e| e.to_string())?.is_none() {
                break;
            }
            consumers.push(consume(connection, &queue, timeout).await?);
        }
        Ok(Self {
            lane: lane.to_owned(),
            is_old: !is_new && waiting > 0,
            is_new,
            waiting: consumers.iter().map(|_| VecDeque::new()).collect(),
            consumers,
            next: 0,
        })
    }

    /// Whether nothing is consumed.
    pub fn is_empty(&self) -> bool {
        self.consumers.is_empty()
    }

    /// Where its deliveries are acknowledged.
    pub fn channels(&self) -> Vec<DeliveryChannel> {
        self.consumers.iter().map(DeliveryChannel::of).collect()
    }

    /// Takes jobs until it is asked to stop; what waits by then goes back to its queue. An error is why the connection is lost.
    pub async fn run(
        mut self,
        processor: JobProcessor,
        suspects: Suspects,
        stop: CancellationToken,
    ) -> Result<(), String> {
        let engine = processor.engine.clone();
        let ended = loop {
            if let Err(reason) = self.collect() {
                break Err(reason);
            }
            let waits = self.waiting.iter().any(|queue| !queue.is_empty());
            engine.set_backlogged(&self.lane, waits);
            if waits {
                let room = async {
                    engine.budget().room().await;
                    engine.lane_room(&self.lane).await
                };
                let Some(arriving) = stop.run_until_cancelled(room).await else {
                    break Ok(());
                };
                if let Some(delivery) = self.take() {
                    let Some(delivery) = suspects.set_aside(delivery) else {
                        continue;
                    };
                    let source = processor.source(delivery, None, None, None);
                    engine.submit([source.arriving(arriving)]);
                }
                continue;
            }
            let arrivals = self.consumers.iter_mut();
            let arrivals = arrivals.map(|consumer| Box::pin(consumer.next()));
            match stop.run_until_cancelled(select_all(arrivals)).await {
                None => break Ok(()),
                Some((Ok(Some(delivery)), index, _)) => {
                    if let Some(queue) = self.waiting.get_mut(index) {
                        queue.push_back(delivery);
                    }
                }
                Some((Ok(None), ..)) => {
                    break Err("the broker cancelled the consumer of a lane's queue".to_owned());
                }
                Some((Err(reason), ..)) => break Err(reason),
            }
        };
        engine.set_backlogged(&self.lane, false);
        for consumer in &self.consumers {
            consumer.cancel().await;
        }
        ended
    }

    /// Takes what is here already.
    fn collect(&mut self) -> Result<(), String> {
        for (consumer, queue) in self.consumers.iter_mut().zip(&mut self.waiting) {
            while let Some(delivery) = consumer.ready()? {
                queue.push_back(delivery);
            }
        }
        Ok(())
    }

    /// The next delivery, one queue after the other.
    fn take(&mut self) -> Option<Delivery> {
        let queues = self.waiting.len();
        for step in 0..queues {
            let index = (self.next + step) % queues;
            if let Some(delivery) = self.waiting.get_mut(index)?.pop_front() {
                self.next = index + 1;
                return Some(delivery);
            }
        }
        None
    }
}

async fn consume(
    connection: &Connection,
    queue: &str,
    timeout: Duration,
) -> Result<QueueConsumer, String> {
    let open = QueueConsumer::open(connection, queue, Origin::Lane, PREFETCH);
    let open = tokio::time::timeout(timeout, open).await;
    let open = open.map_err(|_| "no answer to starting a consumer".to_owned())?;
    open.map_err(|e| e.to_string())
}
