//! Owns taking jobs from the queues of one lane, as far as the lane has room.
//!
//! Promises that the lane's queues are served in turns, and that jobs which wait there go before further ones from `kiln.jobs`; that the
//! queue of a namespace beyond its limit holds up no other; and that what has been here for long without a turn goes back to wait there.

use super::{channels::DeliveryChannel, process::JobProcessor, suspects::Suspects};
use crate::amqp::{
    connection::Broker,
    consumer::QueueConsumer,
    delivery::Delivery,
    spread::Spread,
    topology::{self, Origin, Topology},
};
use crate::{
    pipeline::{Arriving, Engine, LaneQueue, LaneQueues},
    redact::Redact,
};
use futures_util::future::{join_all, select_all};
use lapin::Connection;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Jobs of one of a lane's queues that are here, running or waiting for room.
const PREFETCH: u16 = 32;
/// The same of a namespace with a limit of its own: it may be a long time until the next one goes.
const LIMITED_PREFETCH: u16 = 2;

/// How long the broker is waited for at the end.
const GOODBYE: Duration = Duration::from_secs(1);

/// What happens next to a lane's queues.
enum Event {
    Stopped,
    /// There is room for a job of this queue.
    Room(usize, Arriving),
    Arrived(usize, Box<Delivery>),
    /// Nothing comes any more, and why.
    Ended(String),
    /// What waits here has waited for long.
    Old,
}

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
        broker: &Broker,
        connection: &Connection,
        topology: &Topology,
        lane: &LaneQueues,
    ) -> Result<Self, String> {
        let timeout = broker.timeout();
        // Those of lanes with one queue each aren't all on one node either.
        let first = lane.lane.bytes().map(usize::from).sum();
        let mut spread = Spread::from(broker, first);
        let mut consumers = Vec::new();
        let (mut is_new, mut waiting) = (false, 0);
        let queues = topology.lane_queues(&lane.lane, lane.queues);
        for (number, queue) in queues.into_iter().enumerate() {
            let there = topology::inspect(connection, &queue.name, timeout).await;
            let there = there.map_err(|e| e.to_string())?;
            is_new |= there.is_none();
            waiting += there.map_or(0, |depth| depth.messages);
            let declared = match there {
                Some(_) => queue.declare(connection, timeout).await,
                None => spread.declare(&queue, connection, timeout).await,
            };
            declared.map_err(|e| e.to_string())?;
            if lane.is_served {
                let is_limited = number >= lane.shared;
                let prefetch = if is_limited {
                    LIMITED_PREFETCH
                } else {
                    PREFETCH
                };
                consumers.push(consume(connection, &queue.name, prefetch, timeout).await?);
            }
        }
        for number in lane.queues..MAX_QUEUES {
            let queue = topology.lane(&lane.lane, number);
            let there = topology::inspect(connection, &queue, timeout).await;
            if !lane.is_served || there.map_err(|e| e.to_string())?.is_none() {
                break;
            }
            consumers.push(consume(connection, &queue, PREFETCH, timeout).await?);
        }
        Ok(Self {
            lane: lane.lane.clone(),
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

    /// Takes jobs until it is asked to stop; what waits by then goes back to its queue. An error is why nothing comes any more.
    pub async fn run(
        mut self,
        processor: JobProcessor,
        suspects: Suspects,
        stop: CancellationToken,
    ) -> Result<(), String> {
        let engine = processor.engine.clone();
        let max_wait = Duration::from_secs(processor.settings.intake.max_hold_seconds) / 2;
        let ended = loop {
            if let Err(reason) = self.collect() {
                break Err(reason);
            }
            let waiting = self.waiting_queues();
            let is_shared = |number: &usize| !engine.is_limited_queue(&self.lane, *number);
            engine.set_backlogged(&self.lane, waiting.iter().any(is_shared));
            let oldest = self.move_old(&processor, max_wait);
            match self.next_event(&engine, &waiting, oldest, &stop).await {
                Event::Stopped => break Ok(()),
                Event::Room(number, arriving) => {
                    if let Some(delivery) = self.take(number)
                        && let Some(delivery) = suspects.set_aside(delivery)
                    {
                        let source = processor.source(delivery, None, None, None);
                        engine.submit([source.arriving(arriving)]);
                    }
                }
                Event::Arrived(number, delivery) => {
                    if let Some(queue) = self.waiting.get_mut(number) {
                        queue.push_back(*delivery);
                    }
                }
                Event::Ended(reason) => break Err(reason),
                Event::Old => {}
            }
        };
        engine.set_backlogged(&self.lane, false);
        match &ended {
            Ok(()) => self.give_back(&processor).await,
            Err(_) => {
                // Of a queue without a leader the broker doesn't answer.
                let all = self.consumers.iter().map(QueueConsumer::cancel);
                join_all(all.map(|one| tokio::time::timeout(GOODBYE, one))).await;
                for consumer in &mut self.consumers {
                    // What nobody takes would stay in hand for as long as the channel is there.
                    while let Ok(Some(_back)) = consumer.ready() {}
                }
            }
        }
        ended
    }

    /// Gives back what waits here. The broker counts that as a delivery that came to nothing, and a second one makes a suspect: what has one
    /// already goes to the end of its queue instead, which counts nothing.
    async fn give_back(&mut self, processor: &JobProcessor) {
        let max = processor.settings.intake.suspect_after.saturating_sub(1);
        let ends = self.consumers.iter_mut().map(|one| one.end(GOODBYE));
        let arrived = join_all(ends).await;
        for (number, (arrived, queue)) in arrived.into_iter().zip(&mut self.waiting).enumerate() {
            queue.extend(arrived);
            for delivery in queue.drain(..) {
                if delivery.redeliveries() >= max {
                    let lane = self.lane.clone();
                    processor.move_to(delivery, LaneQueue { lane, number });
                }
            }
        }
    }

    async fn next_event(
        &mut self,
        engine: &Engine,
        waiting: &[usize],
        oldest: Option<Instant>,
        stop: &CancellationToken,
    ) -> Event {
        let room = async {
            if waiting.is_empty() {
                return std::future::pending().await;
            }
            engine.budget().room().await;
            engine.lane_room(&self.lane, waiting).await
        };
        let is_old = async {
            match oldest {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let arrivals = self.consumers.iter_mut();
        let arrivals = arrivals.map(|consumer| Box::pin(consumer.next()));
        tokio::select! {
            biased;
            () = stop.cancelled() => Event::Stopped,
            (number, arriving) = room => Event::Room(number, arriving),
            (arrived, number, _) = select_all(arrivals) => match arrived {
                Ok(Some(delivery)) => Event::Arrived(number, Box::new(delivery)),
                Ok(None) => {
                    Event::Ended("the broker cancelled the consumer of a lane's queue".to_owned())
                }
                Err(reason) => Event::Ended(reason),
            },
            () = is_old => Event::Old,
        }
    }

    /// Queues with deliveries that wait here, in the order of their turns.
    fn waiting_queues(&self) -> Vec<usize> {
        let queues = self.waiting.len();
        let numbers = (0..queues).map(|step| (self.next + step) % queues);
        let waits = |number: &usize| self.waiting.get(*number).is_some_and(|q| !q.is_empty());
        numbers.filter(waits).collect()
    }

    /// Sends what has waited here for too long to the ends of its queues; says when the next one has.
    fn move_old(&mut self, processor: &JobProcessor, max_wait: Duration) -> Option<Instant> {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        for (number, queue) in self.waiting.iter_mut().enumerate() {
            while let Some(first) = queue.front() {
                let at = first.received + max_wait;
                if at > now {
                    next = Some(next.map_or(at, |next| next.min(at)));
                    break;
                }
                if let Some(delivery) = queue.pop_front() {
                    let lane = self.lane.clone();
                    processor.move_to(delivery, LaneQueue { lane, number });
                }
            }
        }
        next
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

    /// The next delivery of a queue; the next turn is that of the queue behind it.
    fn take(&mut self, number: usize) -> Option<Delivery> {
        self.next = number + 1;
        self.waiting.get_mut(number)?.pop_front()
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
