//! Owns taking jobs from the queues of one lane, as far as the lane has room.
//!
//! Promises that the lane's queues are served in turns, and that jobs which wait there go before further ones from `kiln.jobs`.

use super::{process::JobProcessor, suspects::Suspects};
use crate::amqp::{
    ack::Acks,
    consumer::QueueConsumer,
    delivery::Delivery,
    topology::{Origin, Topology},
};
use futures_util::future::select_all;
use lapin::{Channel, Connection};
use std::{collections::VecDeque, sync::Arc};
use tokio_util::sync::CancellationToken;

/// Jobs of one of a lane's queues that are here and wait for room.
const PREFETCH: u16 = 64;

/// The consumers of a lane's queues.
pub(super) struct LaneIntake {
    pub lane: String,
    consumers: Vec<QueueConsumer>,
    /// Deliveries that wait for room, by queue.
    waiting: Vec<VecDeque<Delivery>>,
    next: usize,
}

impl LaneIntake {
    /// Declares the lane's queues, and consumes them where the lane is served here.
    pub async fn open(
        connection: &Connection,
        topology: &Topology,
        lane: &str,
        queues: usize,
        is_served: bool,
        timeout: std::time::Duration,
    ) -> Result<Self, String> {
        let mut consumers = Vec::new();
        for queue in topology.lane_queues(lane, queues) {
            let declared = queue.declare(connection, timeout).await;
            declared.map_err(|e| e.to_string())?;
            if is_served {
                let open = QueueConsumer::open(connection, &queue.name, Origin::Lane, PREFETCH);
                let open = tokio::time::timeout(timeout, open).await;
                let open = open.map_err(|_| "no answer to starting a consumer".to_owned())?;
                consumers.push(open.map_err(|e| e.to_string())?);
            }
        }
        Ok(Self {
            lane: lane.to_owned(),
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
    pub fn channels(&self) -> Vec<(Channel, Arc<Acks>)> {
        let channels = self.consumers.iter();
        channels
            .map(|consumer| (consumer.channel.clone(), consumer.acks.clone()))
            .collect()
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
            self.collect()?;
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
