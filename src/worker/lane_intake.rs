//! Owns taking jobs from the queues of one lane, as far as the lane has room.
//!
//! Promises that the lane's queues are served in turns, and that jobs which wait there go before further ones from `kiln.jobs`; that the
//! queue of a namespace beyond its limit holds up no other; and that what has been here for long without a turn goes back to wait there.

use super::{
    channels::{DeliveryChannel, STRAGGLER_WAIT},
    lane_consumer::LaneConsumer,
    process::JobProcessor,
    share::Share,
    suspects::Suspects,
};
use crate::amqp::{
    connection::Broker,
    delivery::Delivery,
    spread::Spread,
    topology::{self, Topology},
};
use crate::pipeline::{Arriving, Engine, LaneQueue, LaneQueues};
use futures_util::future::{join_all, select_all};
use lapin::Connection;
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// Jobs of one of a lane's queues that are here, running or waiting for room, as far as their size allows.
const PREFETCH: u16 = 32;
/// The same of a namespace with a limit of its own: it may be a long time until the next one goes.
const LIMITED_PREFETCH: u16 = 2;

/// How long the broker is waited for at the end.
const GOODBYE: Duration = Duration::from_secs(1);

/// What happens next to a lane's queues.
enum Event {
    Stopped,
    /// Acknowledgements may wait behind a job that takes long.
    Stragglers,
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
    consumers: Vec<LaneConsumer>,
    /// Deliveries that wait for room, by queue.
    waiting: Vec<VecDeque<Delivery>>,
    next: usize,
    stragglers: Interval,
}

impl LaneIntake {
    /// Declares the lane's queues, and consumes them where the lane is served here; and so those that it had before it was given fewer.
    pub async fn open(
        broker: &Broker,
        connection: &Arc<Connection>,
        topology: &Topology,
        lane: &LaneQueues,
        max_bytes_in_hand: usize,
    ) -> Result<Self, String> {
        let timeout = broker.timeout();
        let max_bytes = lane.max_bytes.min(max_bytes_in_hand);
        let share = |prefetch| Share::lane(prefetch, max_bytes, lane.queues);
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
                let open = LaneConsumer::open(connection, &queue.name, share(prefetch), timeout);
                consumers.push(open.await?);
            }
        }
        for number in lane.queues..MAX_QUEUES {
            let queue = topology.lane(&lane.lane, number);
            let there = topology::inspect(connection, &queue, timeout).await;
            if !lane.is_served || there.map_err(|e| e.to_string())?.is_none() {
                break;
            }
            let open = LaneConsumer::open(connection, &queue, share(PREFETCH), timeout);
            consumers.push(open.await?);
        }
        let mut stragglers = tokio::time::interval(STRAGGLER_WAIT);
        stragglers.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Ok(Self {
            lane: lane.lane.clone(),
            is_old: !is_new && waiting > 0,
            is_new,
            waiting: consumers.iter().map(|_| VecDeque::new()).collect(),
            consumers,
            next: 0,
            stragglers,
        })
    }

    /// Whether nothing is consumed.
    pub fn is_empty(&self) -> bool {
        self.consumers.is_empty()
    }

    /// Takes jobs until it is asked to stop; what waits by then goes back to its queue. Gives the channels by which its deliveries are
    /// acknowledged that are still in hand; an error is why nothing comes any more.
    pub async fn run(
        mut self,
        processor: JobProcessor,
        suspects: Suspects,
        stop: CancellationToken,
    ) -> (Result<(), String>, Vec<DeliveryChannel>) {
        let ended = self.take_jobs(&processor, &suspects, &stop).await;
        processor.engine.set_backlogged(&self.lane, false);
        match &ended {
            Ok(()) => self.give_back(&processor).await,
            Err(_) => {
                let all = self.consumers.iter_mut();
                join_all(all.map(|one| one.give_up(GOODBYE))).await;
            }
        }
        let channels = self.consumers.iter().flat_map(LaneConsumer::channels);
        (ended, channels.collect())
    }

    async fn take_jobs(
        &mut self,
        processor: &JobProcessor,
        suspects: &Suspects,
        stop: &CancellationToken,
    ) -> Result<(), String> {
        let engine = processor.engine.clone();
        let max_wait = Duration::from_secs(processor.settings.intake.max_hold_seconds) / 2;
        loop {
            self.collect()?;
            let waiting = self.waiting_queues();
            engine.set_backlogged(&self.lane, self.is_backlogged(&engine));
            let oldest = self.move_old(processor, max_wait);
            match self.next_event(&engine, &waiting, oldest, stop).await {
                Event::Stopped => return Ok(()),
                Event::Stragglers => {
                    let each = self.consumers.iter_mut();
                    each.for_each(LaneConsumer::flush_stragglers);
                }
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
                Event::Ended(reason) => return Err(reason),
                Event::Old => {}
            }
        }
    }

    /// Whether jobs of all namespaces wait for room, here or in their queues.
    fn is_backlogged(&self, engine: &Engine) -> bool {
        let queues = self.consumers.iter().zip(&self.waiting).enumerate();
        let waits = |(consumer, waiting): (&LaneConsumer, &VecDeque<Delivery>)| {
            !waiting.is_empty() || consumer.is_held_back()
        };
        queues
            .filter(|(number, _)| !engine.is_limited_queue(&self.lane, *number))
            .any(|(_, queue)| waits(queue))
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
            _ = self.stragglers.tick() => Event::Stragglers,
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
