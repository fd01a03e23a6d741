//! Owns taking jobs from the queues and handing them on, for as long as one connection lasts.
//!
//! Promises that no more is taken than may be in hand; that `kiln.warm` is served only while `kiln.jobs` has nothing ready; that what
//! one queue's jobs wait for holds up no other queue, and neither does one that can't be consumed; and that a stop finishes what was
//! delivered. Refuses to await a server while it takes jobs, and to reconnect: that is the caller's.

use super::{
    channels::{self, DeliveryChannel, STRAGGLER_WAIT},
    drain::DrainLimits,
    job_queues::JobQueues,
    optional::{Missing, OptionalConsumer, OptionalQueue},
    process::JobProcessor,
    share::Share,
    suspects::Suspects,
    switch::Switch,
    warm_throttle::{Allowance, WarmBatch, WarmThrottle},
};
use crate::{
    amqp::{
        connection::Broker,
        delivery::Delivery,
        topology::{Origin, Topology},
    },
    config,
    pipeline::READERS_AGAIN,
};
use lapin::Connection;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Warming jobs that go together: a job that comes meanwhile waits for no more than these.
const WARM_JOBS: usize = 8;
/// Jobs that are handed over together.
const TOGETHER: usize = 256;
/// Unacknowledged messages that the broker set aside, taken at once.
const EXPIRED_PREFETCH: u16 = 32;
/// How often it is asked which jobs are in hand for too long.
const SWEEP: Duration = Duration::from_millis(500);

/// Why a session ended.
pub enum End {
    /// The worker stops, and what was in hand is finished or returned.
    Stopped,
    /// Taking jobs is paused; what is in hand goes on to its end.
    Paused(Box<Session>),
    /// The connection or a channel was lost.
    Lost(String),
}

/// The consumers of one connection.
pub struct Session {
    connection: Arc<Connection>,
    processor: JobProcessor,
    suspects: Suspects,
    jobs: JobQueues,
    warm: OptionalConsumer,
    expired: OptionalConsumer,
    throttle: Arc<Mutex<WarmThrottle>>,
    /// Whether it takes no more: suspects that wait are another session's.
    has_left: bool,
}

impl Session {
    /// Starts consuming jobs; the consumers of what isn't jobs follow when they can.
    pub(super) async fn open(
        broker: &Broker,
        connection: Arc<Connection>,
        topology: Arc<Topology>,
        processor: JobProcessor,
        suspects: Suspects,
        missing: &Missing,
    ) -> Result<Self, lapin::Error> {
        let (intake, limit) = (
            &processor.settings.intake,
            processor.settings.amqp.timeout_ms,
        );
        let throttle = WarmThrottle::new(
            config::ms(intake.warm_idle_ms),
            intake.warm_share,
            // Warming never takes the last one.
            intake.batches_in_flight - usize::from(intake.batches_in_flight > 1),
        );
        let optional = |name: &str, origin, prefetch| {
            let queue = OptionalQueue {
                name: name.to_owned(),
                origin,
                share: Share::beside(prefetch, intake.max_bytes_in_hand),
                own: None,
                gone: None,
            };
            OptionalConsumer::new(&connection, &topology, queue, config::ms(limit), missing)
        };
        Ok(Self {
            expired: optional(&topology.expired, Origin::Expired, EXPIRED_PREFETCH),
            warm: optional(&topology.warm, Origin::Warm, intake.warm_prefetch),
            jobs: JobQueues::open(
                broker,
                connection.clone(),
                topology.clone(),
                &processor.settings,
                missing,
            )
            .await?,
            connection,
            processor,
            suspects,
            throttle: Arc::new(Mutex::new(throttle)),
            has_left: false,
        })
    }

    /// Takes jobs until the connection is lost, the worker stops, or taking jobs is paused.
    pub async fn run(mut self, stop: &CancellationToken, pause: &mut Switch) -> End {
        match self.take(stop, pause).await {
            Ok(()) if stop.is_cancelled() => self.drain().await,
            Ok(()) => self.leave().await,
            // Jobs in hand go on to their rows; their acknowledgements find the channel gone, and the redelivered jobs find the rows.
            Err(reason) => End::Lost(reason),
        }
    }

    async fn take(&mut self, stop: &CancellationToken, pause: &mut Switch) -> Result<(), String> {
        let budget = self.processor.engine.budget().clone();
        let mut stragglers = tokio::time::interval(STRAGGLER_WAIT);
        stragglers.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            let warm = self.allowance();
            let rested = match warm {
                Allowance::Nothing(until) => Some(until),
                Allowance::One | Allowance::Many => None,
            };
            let may_warm = !matches!(warm, Allowance::Nothing(_));
            let wake_at = rested.unwrap_or_else(|| Instant::now() + Duration::from_secs(3_600));
            let has_room = budget.has_room();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = pause.wait_on() => return Ok(()),
                delivery = self.expired.next() => self.submit([delivery], None),
                _ = stragglers.tick() => channels::flush_stragglers(&self.channels()),
                _ = sweep.tick() => {
                    // Without room nobody looks at the consumers, which would say so.
                    if !self.connection.status().connected() {
                        return Err("the connection is lost".to_owned());
                    }
                    self.suspects.sweep();
                }
                delivery = self.jobs.next(), if has_room => {
                    self.take_jobs(delivery?)?;
                }
                delivery = self.warm.next(), if has_room && may_warm => {
                    self.take_warm(delivery, warm);
                }
                () = budget.room(), if !has_room => {}
                () = tokio::time::sleep_until(wake_at.into()), if rested.is_some() => {}
            }
        }
    }

    fn allowance(&self) -> Allowance {
        let now = Instant::now();
        // What is computed for nobody is lost: its job would count as done, and not be repeated.
        if !self.processor.engine.reaches_readers() {
            return Allowance::Nothing(now + READERS_AGAIN);
        }
        let throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        throttle.allowance(now)
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
    fn take_warm(&mut self, first: Delivery, allowance: Allowance) {
        let max = match allowance {
            Allowance::Nothing(_) | Allowance::One => 1,
            Allowance::Many => WARM_JOBS,
        };
        let mut deliveries = vec![first];
        while deliveries.len() < max
            && let Some(delivery) = self.warm.ready()
        {
            deliveries.push(delivery);
        }
        let batch = WarmBatch::start(self.throttle.clone());
        self.submit(deliveries, Some(Arc::new(batch)));
    }

    /// Every channel that deliveries came by.
    pub(super) fn channels(&self) -> Vec<DeliveryChannel> {
        let own = self.jobs.consumers();
        let own = own.chain(self.warm.consumers());
        let own = own.chain(self.expired.consumers());
        own.map(DeliveryChannel::of).collect()
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
            self.processor.engine.cut().await;
        }
        let left = limits.in_hand.saturating_sub(begun.elapsed());
        channels::close(&self.channels(), left / 2).await;
        End::Stopped
    }

    /// Stops consuming, and leaves what was delivered to its end. Where the broker doesn't end the consumers, all goes back.
    async fn leave(mut self) -> End {
        let limits = DrainLimits::new(&self.processor.settings.drain);
        let ended = tokio::time::timeout(limits.jobs, self.end_consumers());
        if ended.await.is_err() {
            tracing::warn!(
                "the broker doesn't end its consumers; what is unfinished goes back to its queue"
            );
            return End::Stopped;
        }
        self.suspects.give_back();
        self.has_left = true;
        End::Paused(Box::new(self))
    }

    /// Stops consuming; what was delivered goes on its way, or back where it would be computed for nobody.
    async fn end_consumers(&mut self) {
        let (jobs, mut warm, expired) =
            tokio::join!(self.jobs.end(), self.warm.end(), self.expired.end());
        if !self.processor.engine.reaches_readers() {
            warm.clear();
        }
        self.submit(jobs.into_iter().chain(warm).chain(expired), None);
    }

    async fn finish(&mut self) {
        self.end_consumers().await;
        let (suspects, processor) = (self.suspects.clone(), self.processor.clone());
        let idle = async {
            suspects.finish().await;
            processor.idle().await;
        };
        channels::flush_until(&self.channels(), idle).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.has_left {
            self.suspects.give_back();
        }
    }
}
