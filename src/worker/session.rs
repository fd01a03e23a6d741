//! Owns taking jobs from the queues and handing them on in batches, for as long as one connection lasts.
//!
//! Promises that `kiln.warm` is served only while `kiln.jobs` has nothing ready, that the batches in flight
//! are bounded, that a job suspected of killing workers is set aside, and that a stop finishes what was
//! delivered. Refuses to reconnect: that is the caller's.

use super::{
    drain::DrainLimits,
    process::{BatchProcessor, in_flight, note_panic},
    suspects::Suspects,
    switch::Switch,
    warm_throttle::{Allowance, WarmBatch, WarmThrottle},
};
use crate::{
    amqp::{
        consumer::QueueConsumer,
        delivery::Delivery,
        topology::{Origin, Topology},
    },
    config,
    pipeline::batch::{Filling, Limits},
    telemetry::metrics::CloseReason,
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use lapin::Connection;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Warming jobs of one batch: a job that comes meanwhile waits for no more than these.
const WARM_JOBS: usize = 8;
/// Unacknowledged messages that the broker set aside, taken at once.
const EXPIRED_PREFETCH: u16 = 32;
/// How long a settled delivery waits behind an open one before it is acknowledged by itself.
const STRAGGLER_WAIT: Duration = Duration::from_millis(50);

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

/// The consumers of one connection and the batches that they filled.
pub struct Session {
    processor: BatchProcessor,
    jobs: QueueConsumer,
    warm: QueueConsumer,
    expired: QueueConsumer,
    slots: Arc<Semaphore>,
    throttle: Arc<Mutex<WarmThrottle>>,
    batches: JoinSet<()>,
    filling: Filling<Delivery>,
    suspects: Suspects,
}

impl Session {
    /// Starts consuming.
    pub async fn open(
        connection: &Connection,
        topology: &Topology,
        processor: BatchProcessor,
        suspects: Suspects,
    ) -> Result<Self, lapin::Error> {
        let intake = &processor.settings.intake;
        let slots = Arc::new(Semaphore::new(intake.batches_in_flight));
        let throttle = WarmThrottle::new(
            config::ms(intake.warm_idle_ms),
            intake.warm_share,
            // Warming never takes the last slot.
            intake.batches_in_flight - usize::from(intake.batches_in_flight > 1),
        );
        let filling = Filling::new(Limits::from(intake));
        Ok(Self {
            expired: QueueConsumer::open(
                connection,
                &topology.expired,
                Origin::Expired,
                EXPIRED_PREFETCH,
            )
            .await?,
            jobs: QueueConsumer::open(connection, &topology.jobs, Origin::Jobs, intake.prefetch)
                .await?,
            warm: QueueConsumer::open(
                connection,
                &topology.warm,
                Origin::Warm,
                intake.warm_prefetch,
            )
            .await?,
            processor,
            slots,
            throttle: Arc::new(Mutex::new(throttle)),
            batches: JoinSet::new(),
            filling,
            suspects,
        })
    }

    /// Takes jobs until the connection is lost, the worker stops, or taking jobs is paused.
    pub async fn run(mut self, stop: &CancellationToken, pause: &mut Switch) -> End {
        match self.take(stop, pause).await {
            Ok(()) => self.drain().await,
            Err(reason) => {
                // Batches in flight go on to their rows; their acknowledgements find the channel gone, and the
                // redelivered jobs find the rows.
                let mut rest = std::mem::take(&mut self.batches);
                rest.detach_all();
                End::Lost(reason)
            }
        }
    }

    async fn take(&mut self, stop: &CancellationToken, pause: &mut Switch) -> Result<(), String> {
        let mut due = None;
        let mut stragglers = tokio::time::interval(STRAGGLER_WAIT);
        stragglers.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            if due.is_none() {
                due = self.fill()?;
            }
            if due.is_none() && self.filling.is_empty() {
                self.fill_with_warm()?;
                if !self.filling.is_empty() {
                    due = Some(CloseReason::Wait);
                }
            }
            let deadline = self.filling.deadline(self.busy());
            if due.is_none() && deadline.is_some_and(|at| at <= Instant::now()) {
                due = Some(CloseReason::Wait);
            }
            let warm = self.allowance();
            let rested = match warm {
                Allowance::Nothing(until) => until,
                Allowance::One | Allowance::Many => None,
            };
            let wake = deadline.or(rested);
            let wake_at = wake.unwrap_or_else(|| Instant::now() + Duration::from_secs(3_600));
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = pause.wait_on() => return Ok(()),
                permit = self.slots.clone().acquire_owned(), if due.is_some() => {
                    let permit = permit.map_err(|e| e.to_string())?;
                    self.start(due.take().unwrap_or(CloseReason::Wait), permit);
                }
                delivery = self.jobs.next(), if due.is_none() => {
                    let delivery = delivery?.ok_or("the broker cancelled the consumer of the jobs")?;
                    due = self.accept(delivery);
                }
                delivery = self.expired.next() => {
                    let delivery = delivery?.ok_or("the broker cancelled the consumer of what it set aside")?;
                    self.run_expired(delivery, stop).await?;
                }
                delivery = self.warm.next(), if due.is_none() && self.filling.is_empty() && !matches!(warm, Allowance::Nothing(_)) => {
                    let delivery = delivery?.ok_or("the broker cancelled the consumer of the warming jobs")?;
                    due = self.accept(delivery);
                    if due.is_none() && !self.filling.is_empty() {
                        self.fill_with_warm()?;
                        due = Some(CloseReason::Wait);
                    }
                }
                Some(ended) = self.batches.join_next() => note_panic(ended),
                () = tokio::time::sleep_until(wake_at.into()), if due.is_none() && wake.is_some() => {}
                _ = stragglers.tick() => self.flush_stragglers().await,
            }
        }
    }

    fn with_throttle<T>(&self, work: impl FnOnce(&mut WarmThrottle) -> T) -> T {
        work(&mut self.throttle.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn allowance(&self) -> Allowance {
        self.with_throttle(|throttle| throttle.allowance(Instant::now()))
    }

    /// Whether a batch of jobs is in flight: warming is no reason to keep a lone one waiting for company.
    fn busy(&self) -> bool {
        let warming = self.with_throttle(|throttle| throttle.running());
        self.slots.available_permits() + warming < self.processor.settings.intake.batches_in_flight
    }

    /// Puts a delivery into the batch, or aside where it is suspected.
    fn accept(&mut self, delivery: Delivery) -> Option<CloseReason> {
        self.processor.note_in_hand(1);
        if delivery.origin == Origin::Jobs {
            self.with_throttle(|throttle| throttle.job(delivery.received));
        }
        if delivery.redeliveries() >= self.processor.settings.intake.suspect_after {
            self.suspects.push(delivery);
            return None;
        }
        let bytes = delivery.body.len();
        let now = delivery.received;
        self.filling.push(delivery, bytes, now)
    }

    /// Takes every job that is here already.
    fn fill(&mut self) -> Result<Option<CloseReason>, String> {
        while let Some(delivery) = self.jobs.ready()? {
            if let Some(reason) = self.accept(delivery) {
                return Ok(Some(reason));
            }
        }
        Ok(None)
    }

    /// Takes warming jobs that are here already, as far as they may go on their way now.
    fn fill_with_warm(&mut self) -> Result<(), String> {
        let max = match self.allowance() {
            Allowance::Nothing(_) => 0,
            Allowance::One => 1,
            Allowance::Many => WARM_JOBS,
        };
        while self.filling.len() < max {
            let Some(delivery) = self.warm.ready()? else {
                break;
            };
            if self.accept(delivery).is_some() {
                break;
            }
        }
        Ok(())
    }

    /// Sends the filled batch on its way.
    fn start(&mut self, reason: CloseReason, permit: OwnedSemaphorePermit) {
        let deliveries = self.filling.take();
        self.spawn(deliveries, reason, permit);
    }

    fn spawn(
        &mut self,
        deliveries: Vec<Delivery>,
        reason: CloseReason,
        permit: OwnedSemaphorePermit,
    ) {
        self.processor.metrics.batch(reason, deliveries.len());
        let warming = deliveries
            .first()
            .is_some_and(|delivery| delivery.origin == Origin::Warm)
            .then(|| WarmBatch::start(self.throttle.clone()));
        let held = (permit, warming);
        let work = in_flight(self.processor.clone(), deliveries, held);
        self.batches
            .spawn(self.processor.batches.track_future(work));
    }

    async fn run_expired(
        &mut self,
        delivery: Delivery,
        stop: &CancellationToken,
    ) -> Result<(), String> {
        let mut deliveries = vec![delivery];
        while let Some(more) = self.expired.ready()? {
            deliveries.push(more);
        }
        self.processor.note_in_hand(deliveries.len() as isize);
        let permit = self.slots.clone().acquire_owned();
        match stop.run_until_cancelled(permit).await {
            Some(permit) => {
                let permit = permit.map_err(|e| e.to_string())?;
                self.spawn(deliveries, CloseReason::Wait, permit);
            }
            // They go back to their queue.
            None => self.processor.note_in_hand(-(deliveries.len() as isize)),
        }
        Ok(())
    }

    async fn flush_stragglers(&self) {
        for consumer in [&self.jobs, &self.warm, &self.expired] {
            if consumer.acks.has_stragglers() {
                consumer.acks.flush(true).await;
            }
        }
    }

    /// Stops consuming, finishes what was delivered, and returns what isn't finished within the limit.
    async fn drain(mut self) -> End {
        let (begun, limits) = (
            Instant::now(),
            DrainLimits::new(&self.processor.settings.drain),
        );
        if tokio::time::timeout(limits.jobs, self.finish())
            .await
            .is_err()
        {
            tracing::warn!("the drain limit passed; what is unfinished goes back to its queue");
            self.batches.shutdown().await;
        }
        self.give_back();
        let left = limits.in_hand.saturating_sub(begun.elapsed());
        let _goodbye = tokio::time::timeout((left / 2).min(GOODBYE), async {
            let consumers = [&self.jobs, &self.warm, &self.expired];
            for consumer in consumers {
                consumer.acks.flush(true).await;
            }
            for consumer in consumers {
                let _gone_counts_too = consumer.channel.close(200, "stopped".into()).await;
            }
        })
        .await;
        End::Stopped
    }

    async fn finish(&mut self) {
        let arrived = [&mut self.jobs, &mut self.warm, &mut self.expired]
            .map(QueueConsumer::end)
            .into_iter()
            .collect::<FuturesUnordered<_>>()
            .concat()
            .await;
        for delivery in arrived {
            if self.accept(delivery).is_some() && !self.start_drained().await {
                return;
            }
        }
        if !self.filling.is_empty() && !self.start_drained().await {
            return;
        }
        while let Some(ended) = self.batches.join_next().await {
            note_panic(ended);
        }
        self.suspects.finish().await;
    }

    /// Returns what no batch has begun to carry.
    fn give_back(&mut self) {
        let waiting = self.filling.take().len();
        self.processor.note_in_hand(-(waiting as isize));
        self.suspects.give_back();
    }

    /// Sends the filled batch on its way, as one of the last.
    async fn start_drained(&mut self) -> bool {
        let Ok(permit) = self.slots.clone().acquire_owned().await else {
            return false;
        };
        self.start(CloseReason::Drain, permit);
        true
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.give_back();
    }
}
