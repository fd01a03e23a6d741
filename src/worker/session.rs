//! Owns taking jobs from the queues and handing them on, for as long as one connection lasts.
//!
//! Promises that no more is taken than may be in hand; that `kiln.warm` is served only while `kiln.jobs` has nothing ready; that what
//! one queue's jobs wait for holds up no other queue; and that a stop finishes what was delivered. Refuses to await a server while it
//! takes jobs, and to reconnect: that is the caller's.

use super::{
    drain::DrainLimits,
    lane_intake::LaneIntake,
    process::JobProcessor,
    sized_consumer::SizedConsumer,
    suspects::Suspects,
    switch::Switch,
    warm_throttle::{Allowance, WarmBatch, WarmThrottle},
};
use crate::{
    amqp::{
        ack::Acks,
        consumer::QueueConsumer,
        delivery::Delivery,
        topology::{self, Origin, Topology},
    },
    config,
    pipeline::LaneQueues,
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use lapin::{Channel, Connection};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Warming jobs that go together: a job that comes meanwhile waits for no more than these.
const WARM_JOBS: usize = 8;
/// Jobs that are handed over together.
const TOGETHER: usize = 256;
/// Unacknowledged messages that the broker set aside, taken at once.
const EXPIRED_PREFETCH: u16 = 32;
/// How long a settled delivery waits behind an open one before it is acknowledged by itself.
const STRAGGLER_WAIT: Duration = Duration::from_millis(50);
/// Longest that a session's beginning waits for the queues of lanes.
const FIRST_LANES: Duration = Duration::from_secs(1);
/// How often it is asked which lanes have become expensive.
const LANES: Duration = Duration::from_millis(500);
/// How often it is asked which lanes have queues that other workers have declared.
const OTHERS_LANES: u32 = 120;
/// Longest goodbye to the broker: the last acknowledgements, and the channels' ends.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why a session ended.
#[derive(Debug)]
pub enum End {
    /// The worker stops or pauses, and what was in hand is finished or returned.
    Stopped,
    /// The connection or a channel was lost.
    Lost(String),
}

/// The consumers of one connection.
pub struct Session {
    connection: Arc<Connection>,
    topology: Arc<Topology>,
    processor: JobProcessor,
    suspects: Suspects,
    jobs: SizedConsumer,
    warm: QueueConsumer,
    expired: QueueConsumer,
    throttle: Arc<Mutex<WarmThrottle>>,
    lanes: Lanes,
}

/// The lanes whose queues are open on this connection.
#[derive(Default)]
struct Lanes {
    open: BTreeSet<String>,
    opening: JoinSet<(LaneQueues, Result<Option<LaneIntake>, String>)>,
    running: JoinSet<Result<(), String>>,
    channels: Vec<(Channel, Arc<Acks>)>,
    stop: CancellationToken,
    /// Lanes whose queues couldn't be used, which was said.
    refused: BTreeSet<String>,
    looks: u32,
}

impl Session {
    /// Starts consuming.
    pub async fn open(
        connection: Arc<Connection>,
        topology: Arc<Topology>,
        processor: JobProcessor,
        suspects: Suspects,
    ) -> Result<Self, lapin::Error> {
        let intake = &processor.settings.intake;
        let throttle = WarmThrottle::new(
            config::ms(intake.warm_idle_ms),
            intake.warm_share,
            // Warming never takes the last one.
            intake.batches_in_flight - usize::from(intake.batches_in_flight > 1),
        );
        let (expired, warm) = (&topology.expired, &topology.warm);
        let mut session = Self {
            expired: QueueConsumer::open(&connection, expired, Origin::Expired, EXPIRED_PREFETCH)
                .await?,
            jobs: SizedConsumer::open(
                connection.clone(),
                &topology.jobs,
                intake.prefetch,
                intake.max_bytes_in_hand,
            )
            .await?,
            warm: QueueConsumer::open(&connection, warm, Origin::Warm, intake.warm_prefetch)
                .await?,
            connection,
            topology,
            processor,
            suspects,
            throttle: Arc::new(Mutex::new(throttle)),
            lanes: Lanes::default(),
        };
        // Before the first job: what isn't served here is to have a queue to go to. A lane's queue that doesn't answer keeps no other job
        // waiting.
        session.open_lanes();
        let _others_follow = tokio::time::timeout(FIRST_LANES, session.run_lanes()).await;
        Ok(session)
    }

    /// Takes jobs from the queues that are being opened.
    async fn run_lanes(&mut self) {
        while let Some(Ok((lane, opened))) = self.lanes.opening.join_next().await {
            self.run_lane(lane, opened);
        }
    }

    /// Takes jobs until the connection is lost, the worker stops, or taking jobs is paused.
    pub async fn run(mut self, stop: &CancellationToken, pause: &mut Switch) -> End {
        match self.take(stop, pause).await {
            Ok(()) => self.drain(stop).await,
            // Jobs in hand go on to their rows; their acknowledgements find the channel gone, and the redelivered jobs find the rows.
            Err(reason) => End::Lost(reason),
        }
    }

    async fn take(&mut self, stop: &CancellationToken, pause: &mut Switch) -> Result<(), String> {
        let budget = self.processor.engine.budget().clone();
        let mut stragglers = tokio::time::interval(STRAGGLER_WAIT);
        stragglers.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut look = tokio::time::interval(LANES);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            let warm = self.allowance();
            let rested = match warm {
                Allowance::Nothing(until) => until,
                Allowance::One | Allowance::Many => None,
            };
            let may_warm = !matches!(warm, Allowance::Nothing(_));
            let wake_at = rested.unwrap_or_else(|| Instant::now() + Duration::from_secs(3_600));
            let has_room = budget.has_room();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = pause.wait_on() => return Ok(()),
                delivery = self.expired.next() => {
                    let delivery = delivery?.ok_or("the broker cancelled the consumer of what it set aside")?;
                    self.submit([delivery], None);
                }
                Some(ended) = self.lanes.running.join_next() => ended.map_err(|e| e.to_string())??,
                Some(opened) = self.lanes.opening.join_next() => {
                    let (lane, opened) = opened.map_err(|e| e.to_string())?;
                    self.run_lane(lane, opened);
                }
                _ = stragglers.tick() => self.flush_stragglers(),
                _ = look.tick() => {
                    self.processor.engine.sweep();
                    self.open_lanes();
                }
                delivery = self.jobs.next(), if has_room => {
                    let delivery = delivery?.ok_or("the broker cancelled the consumer of the jobs")?;
                    self.take_jobs(delivery)?;
                }
                delivery = self.warm.next(), if has_room && may_warm => {
                    let delivery = delivery?.ok_or("the broker cancelled the consumer of the warming jobs")?;
                    self.take_warm(delivery, warm)?;
                }
                () = budget.room(), if !has_room => {}
                () = tokio::time::sleep_until(wake_at.into()), if rested.is_some() => {}
            }
        }
    }

    fn allowance(&self) -> Allowance {
        let throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        throttle.allowance(Instant::now())
    }

    /// Hands jobs over.
    fn submit(
        &self,
        deliveries: impl IntoIterator<Item = Delivery>,
        warming: Option<Arc<WarmBatch>>,
    ) {
        let sources = deliveries
            .into_iter()
            .filter_map(|delivery| self.suspects.set_aside(delivery))
            .map(|delivery| self.processor.source(delivery, warming.clone(), None, None));
        self.processor.engine.submit(sources);
    }

    /// Takes a job, and those that are here already.
    fn take_jobs(&mut self, first: Delivery) -> Result<(), String> {
        {
            let throttle = &mut self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
            throttle.job(first.received);
        }
        let mut bytes = first.body.len();
        let mut deliveries = vec![first];
        let max = self.processor.settings.intake.max_bytes_in_hand / 8;
        while deliveries.len() < TOGETHER
            && bytes < max
            && let Some(delivery) = self.jobs.ready()?
        {
            bytes += delivery.body.len();
            deliveries.push(delivery);
        }
        self.submit(deliveries, None);
        Ok(())
    }

    /// Takes a warming job, and those that are here already, as far as they may go on their way now.
    fn take_warm(&mut self, first: Delivery, allowance: Allowance) -> Result<(), String> {
        let max = match allowance {
            Allowance::Nothing(_) | Allowance::One => 1,
            Allowance::Many => WARM_JOBS,
        };
        let mut deliveries = vec![first];
        while deliveries.len() < max
            && let Some(delivery) = self.warm.ready()?
        {
            deliveries.push(delivery);
        }
        let batch = WarmBatch::start(self.throttle.clone());
        self.submit(deliveries, Some(Arc::new(batch)));
        Ok(())
    }

    /// Opens the queues of lanes that have become expensive, and of those that other workers have filled.
    fn open_lanes(&mut self) {
        let engine = &self.processor.engine;
        let timeout = config::ms(self.processor.settings.amqp.timeout_ms);
        let looks_at_others = self.lanes.looks.is_multiple_of(OTHERS_LANES);
        self.lanes.looks = self.lanes.looks.wrapping_add(1);
        let sure = engine
            .lanes_with_queues()
            .into_iter()
            .map(|lane| (lane, true));
        let others = engine.served_lanes().into_iter();
        let others = others.filter(|_| looks_at_others).map(|lane| (lane, false));
        for (lane, is_sure) in sure.chain(others).collect::<Vec<_>>() {
            if !self.lanes.open.insert(lane.lane.clone()) {
                continue;
            }
            let (connection, topology) = (self.connection.clone(), self.topology.clone());
            self.lanes.opening.spawn(async move {
                let queue = topology.lane(&lane.lane, 0);
                if !is_sure {
                    let there = topology::inspect(&connection, &queue, timeout).await;
                    if !matches!(there, Ok(Some(_))) {
                        return (lane, Ok(None));
                    }
                }
                let (name, queues, served) = (&lane.lane, lane.queues, lane.is_served);
                let open = LaneIntake::open(&connection, &topology, name, queues, served, timeout);
                let open = open.await.map(Some);
                (lane, open)
            });
        }
    }

    /// Takes jobs from a lane's queues from now on.
    fn run_lane(&mut self, lane: LaneQueues, opened: Result<Option<LaneIntake>, String>) {
        let intake = match opened {
            Ok(Some(intake)) => intake,
            Ok(None) => {
                self.lanes.open.remove(&lane.lane);
                return;
            }
            Err(reason) => {
                self.lanes.open.remove(&lane.lane);
                if self.lanes.refused.insert(lane.lane.clone()) {
                    tracing::warn!(
                        lane = lane.lane,
                        reason,
                        "a lane's queues can't be used; trying again"
                    );
                }
                return;
            }
        };
        self.lanes.refused.remove(&lane.lane);
        self.processor.engine.set_has_queues(&lane.lane);
        if intake.is_empty() {
            return;
        }
        tracing::info!(lane = lane.lane, "taking jobs from a lane's queues");
        self.lanes.channels.extend(intake.channels());
        let (processor, stop) = (self.processor.clone(), self.lanes.stop.clone());
        let suspects = self.suspects.clone();
        let work = intake.run(processor, suspects, stop);
        self.lanes.running.spawn(work);
    }

    /// Every channel that deliveries came by.
    fn channels(&self) -> Vec<(Channel, Arc<Acks>)> {
        let own = self.jobs.consumers().chain([&self.warm, &self.expired]);
        let own = own.map(|consumer| (consumer.channel.clone(), consumer.acks.clone()));
        own.chain(self.lanes.channels.iter().cloned()).collect()
    }

    fn flush_stragglers(&self) {
        for (_, acks) in self.channels() {
            acks.flush_stragglers();
        }
    }

    /// Stops consuming, finishes what was delivered, and returns what isn't finished within the limit.
    async fn drain(mut self, stop: &CancellationToken) -> End {
        let (begun, limits) = (
            Instant::now(),
            DrainLimits::new(&self.processor.settings.drain),
        );
        if tokio::time::timeout(limits.jobs, self.finish())
            .await
            .is_err()
        {
            tracing::warn!("the drain limit passed; what is unfinished goes back to its queue");
            if stop.is_cancelled() {
                self.processor.engine.cut().await;
            }
        }
        let left = limits.in_hand.saturating_sub(begun.elapsed());
        let channels = self.channels();
        let _goodbye = tokio::time::timeout((left / 2).min(GOODBYE), async {
            for (_, acks) in &channels {
                acks.flush(true).await;
            }
            for (channel, _) in &channels {
                let _gone_counts_too = channel.close(200, "stopped".into()).await;
            }
        })
        .await;
        End::Stopped
    }

    async fn finish(&mut self) {
        self.lanes.opening.shutdown().await;
        // What waits in a lane's queue stays there.
        self.lanes.stop.cancel();
        while self.lanes.running.join_next().await.is_some() {}
        let consumers = self.jobs.consumers_mut();
        let consumers = consumers.chain([&mut self.warm, &mut self.expired]);
        let arrived = consumers
            .map(QueueConsumer::end)
            .collect::<FuturesUnordered<_>>()
            .concat()
            .await;
        self.submit(arrived, None);
        self.flush_stragglers();
        let mut stragglers = tokio::time::interval(STRAGGLER_WAIT);
        let (suspects, processor) = (self.suspects.clone(), self.processor.clone());
        let idle = async {
            suspects.finish().await;
            processor.idle().await;
        };
        tokio::pin!(idle);
        loop {
            tokio::select! {
                () = &mut idle => return,
                _ = stragglers.tick() => self.flush_stragglers(),
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.suspects.give_back();
    }
}
