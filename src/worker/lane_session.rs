//! Owns taking jobs from the queues of lanes, on a connection of their own, which is opened again when it is lost.
//!
//! Promises that whatever becomes of a lane's queue, the jobs of all other queues go on; and that jobs are moved to a queue only once the
//! broker keeps it through a kill.

use super::{
    channels::{self, DeliveryChannel, STRAGGLER_WAIT},
    drain::DrainLimits,
    lane_intake::LaneIntake,
    process::JobProcessor,
    refused_lanes::{RefusedLanes, SILENT_TRIES},
    suspects::Suspects,
    switch::Switch,
    unfinished::{Unfinished, UnfinishedSessions},
};
use crate::{
    amqp::{
        connection::Broker,
        topology::{self, Topology},
    },
    backoff::Backoff,
    config,
    health::{Health, Part},
    pipeline::LaneQueues,
    redact::Redact,
};
use lapin::Connection;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How often it is asked which lanes have become expensive.
const LOOK: Duration = Duration::from_millis(500);
/// How many such looks pass between two at what other workers may have done: queues that they declared, or that somebody deleted.
const FAR_LOOK: u32 = 60;
/// Age from which a queue that was just declared is moved to: RabbitMQ keeps a declaration in memory for up to two seconds, and a node
/// that is killed meanwhile forgets the queue with its confirmed messages.
const DECLARED: Duration = Duration::from_secs(3);
/// What health calls the lanes together.
const ALL: &str = "all";
/// Longest goodbye to the broker.
const GOODBYE: Duration = Duration::from_millis(200);

/// What takes jobs from the queues of lanes.
#[derive(Clone)]
pub(super) struct LaneSessions {
    pub broker: Broker,
    pub topology: Arc<Topology>,
    pub processor: JobProcessor,
    pub suspects: Suspects,
    pub health: Health,
    pub pause: Switch,
}

/// Why a session ended.
enum End {
    Stopped,
    /// Taking jobs is paused; what is in hand goes on to its end.
    Paused(Unfinished),
    Lost(String),
}

impl LaneSessions {
    /// Connects, takes jobs, and connects again, until it is asked to stop.
    pub(super) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let max = config::ms(self.processor.settings.amqp.max_backoff_ms);
        let mut backoff = Backoff::new(Duration::from_millis(100), max);
        let mut failed = 0;
        let mut refused = RefusedLanes::default();
        let mut unfinished = UnfinishedSessions::new(&self.processor, &stop);
        while !stop.is_cancelled() {
            let begin = async {
                self.pause.wait_off().await;
                // Before the first session the queues that these dead-letter to may not be there.
                while !self.health.is_up(Part::Broker) {
                    tokio::time::sleep(STRAGGLER_WAIT).await;
                }
                self.broker.connect("lanes").await
            };
            let Some(connected) = stop.run_until_cancelled(begin).await else {
                break;
            };
            let lost = match connected {
                Ok(connection) => {
                    self.health.lane_queues(ALL, Ok(()));
                    let begun = Instant::now();
                    let session = LaneSession::new(&self, connection, &mut refused);
                    match session.run(&stop, &mut self.pause.clone()).await {
                        End::Stopped => continue,
                        End::Paused(one) => {
                            unfinished.add(one).await;
                            continue;
                        }
                        End::Lost(reason) => {
                            if begun.elapsed() > DECLARED {
                                backoff.reset();
                                failed = 0;
                            }
                            reason
                        }
                    }
                }
                Err(error) => error.to_string(),
            };
            failed += 1;
            if failed >= SILENT_TRIES {
                self.health.lane_queues(ALL, Err(&lost));
            }
            let rest = tokio::time::sleep(backoff.next_wait());
            stop.run_until_cancelled(rest).await;
        }
        unfinished.end().await;
        Ok(())
    }
}

/// One connection, and the lanes whose queues are open on it.
struct LaneSession<'s> {
    sessions: &'s LaneSessions,
    connection: Arc<Connection>,
    open: BTreeMap<String, OpenLane>,
    opening: JoinSet<(LaneQueues, Result<Option<LaneIntake>, String>)>,
    running: JoinSet<(String, Result<(), String>, Vec<DeliveryChannel>)>,
    /// Those of lanes by which nothing comes any more, for what came.
    channels: Vec<DeliveryChannel>,
    stop: CancellationToken,
    refused: &'s mut RefusedLanes,
    looks: u32,
}

/// A lane whose queues are open, or are being opened.
#[derive(Debug, Clone, Copy)]
struct OpenLane {
    is_served: bool,
    /// When its queues were open, and from when on jobs may be moved there.
    opened: Option<(Instant, Instant)>,
}

impl<'s> LaneSession<'s> {
    fn new(
        sessions: &'s LaneSessions,
        connection: Connection,
        refused: &'s mut RefusedLanes,
    ) -> Self {
        Self {
            sessions,
            connection: Arc::new(connection),
            open: BTreeMap::new(),
            opening: JoinSet::new(),
            running: JoinSet::new(),
            channels: Vec::new(),
            stop: CancellationToken::new(),
            refused,
            looks: 0,
        }
    }

    /// Takes jobs until the connection is lost, the worker stops, or taking jobs is paused.
    async fn run(mut self, stop: &CancellationToken, pause: &mut Switch) -> End {
        let end = self.take(stop, pause).await;
        if matches!(end, End::Stopped) {
            if !stop.is_cancelled()
                && let Some(unfinished) = self.leave().await
            {
                return End::Paused(unfinished);
            }
            self.drain(stop).await;
        }
        let closing = self.connection.close(200, "stopped".into());
        let _gone_counts_too = tokio::time::timeout(GOODBYE, closing).await;
        end
    }

    async fn take(&mut self, stop: &CancellationToken, pause: &mut Switch) -> End {
        let mut stragglers = tokio::time::interval(STRAGGLER_WAIT);
        stragglers.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return End::Stopped,
                () = pause.wait_on() => return End::Stopped,
                Some(opened) = self.opening.join_next() => match opened {
                    Ok((lane, opened)) => self.opened(lane, opened),
                    Err(error) => return End::Lost(error.redacted()),
                },
                Some(ended) = self.running.join_next() => match ended {
                    Ok((lane, ended, channels)) => {
                        self.channels.extend(channels);
                        self.ended(&lane, ended);
                    }
                    Err(error) => return End::Lost(error.redacted()),
                },
                _ = stragglers.tick() => {
                    self.channels.retain(DeliveryChannel::is_awaited);
                    channels::flush_stragglers(&self.channels);
                }
                _ = look.tick() => {
                    if !self.connection.status().connected() {
                        return End::Lost("the connection is lost".to_owned());
                    }
                    self.look();
                }
            }
        }
    }

    /// Opens the queues of lanes that have become expensive, and of those that other workers have filled.
    fn look(&mut self) {
        self.note_ready();
        let engine = &self.sessions.processor.engine;
        let timeout = self.sessions.broker.timeout();
        let looks_far = self.looks.is_multiple_of(FAR_LOOK);
        self.looks = self.looks.wrapping_add(1);
        if looks_far {
            // Those that nobody consumes here: were they deleted, nothing would tell.
            self.open
                .retain(|_, lane| lane.is_served || lane.opened.is_none());
        }
        let sure = engine.lanes_with_queues().into_iter();
        let others = engine.served_lanes().into_iter().filter(|_| looks_far);
        let all = sure
            .map(|lane| (lane, true))
            .chain(others.map(|lane| (lane, false)));
        for (lane, is_sure) in all.collect::<Vec<_>>() {
            if self.refused.rests(&lane.lane) || self.open.contains_key(&lane.lane) {
                continue;
            }
            let opening = OpenLane {
                is_served: lane.is_served,
                opened: None,
            };
            self.open.insert(lane.lane.clone(), opening);
            let (connection, topology) = (self.connection.clone(), self.sessions.topology.clone());
            let broker = self.sessions.broker.clone();
            let max_bytes = self.sessions.processor.settings.intake.max_bytes_in_hand;
            self.opening.spawn(async move {
                let queue = topology.lane(&lane.lane, 0);
                if !is_sure {
                    let there = topology::inspect(&connection, &queue, timeout).await;
                    if !matches!(there, Ok(Some(_))) {
                        return (lane, Ok(None));
                    }
                }
                let open = LaneIntake::open(&broker, &connection, &topology, &lane, max_bytes);
                let open = open.await.map(Some);
                (lane, open)
            });
        }
    }

    /// From now on jobs may be moved to queues that are old enough.
    fn note_ready(&mut self) {
        let now = Instant::now();
        for (name, lane) in &self.open {
            let Some((opened, ready)) = lane.opened else {
                continue;
            };
            if ready <= now && !self.sessions.processor.engine.set_has_queues(name, true) {
                tracing::info!(lane = name, "jobs may wait in a lane's queues");
            }
            if now.duration_since(opened) >= DECLARED && self.refused.forget(name) {
                self.sessions.health.lane_queues(name, Ok(()));
            }
        }
    }

    /// Takes jobs from a lane's queues from now on.
    fn opened(&mut self, lane: LaneQueues, opened: Result<Option<LaneIntake>, String>) {
        let intake = match opened {
            Ok(Some(intake)) => intake,
            Ok(None) => {
                self.open.remove(&lane.lane);
                return;
            }
            Err(reason) => {
                self.open.remove(&lane.lane);
                self.refused
                    .refuse(&lane.lane, reason, &self.sessions.health);
                return;
            }
        };
        if let Some(open) = self.open.get_mut(&lane.lane) {
            let now = Instant::now();
            let engine = &self.sessions.processor.engine;
            let was_used = engine.set_has_queues(&lane.lane, false) && !intake.is_new;
            let is_old = was_used || intake.is_old;
            let wait = if is_old { Duration::ZERO } else { DECLARED };
            open.opened = Some((now, now + wait));
        }
        self.note_ready();
        if intake.is_empty() {
            return;
        }
        tracing::info!(lane = lane.lane, "taking jobs from a lane's queues");
        let processor = self.sessions.processor.clone();
        let (suspects, stop) = (self.sessions.suspects.clone(), self.stop.clone());
        self.running.spawn(async move {
            let (ended, channels) = intake.run(processor, suspects, stop).await;
            (lane.lane, ended, channels)
        });
    }

    /// A lane's queues give nothing any more; those of others go on.
    fn ended(&mut self, lane: &str, ended: Result<(), String>) {
        let opened = self.open.remove(lane).and_then(|open| open.opened);
        let Err(reason) = ended else { return };
        if opened.is_some_and(|(at, _)| at.elapsed() >= DECLARED) {
            tracing::info!(lane, reason, "a lane's queues are opened again");
        } else {
            self.refused.refuse(lane, reason, &self.sessions.health);
        }
    }

    /// Stops consuming, and leaves the jobs in hand to their end; not where the broker doesn't end the consumers.
    async fn leave(&mut self) -> Option<Unfinished> {
        let limits = DrainLimits::new(&self.sessions.processor.settings.drain);
        let ended = tokio::time::timeout(limits.jobs, self.end_consumers());
        ended.await.ok()?;
        Some(Unfinished {
            connection: self.connection.clone(),
            channels: std::mem::take(&mut self.channels),
            session: None,
        })
    }

    /// Stops consuming; what waits in a lane's queue stays there.
    async fn end_consumers(&mut self) {
        self.opening.shutdown().await;
        self.stop.cancel();
        while let Some(ended) = self.running.join_next().await {
            let of_lanes = ended.into_iter().flat_map(|(_, _, channels)| channels);
            self.channels.extend(of_lanes);
        }
    }

    /// Stops consuming, and waits for the jobs in hand.
    async fn drain(&mut self, stop: &CancellationToken) {
        let begun = Instant::now();
        let limits = DrainLimits::new(&self.sessions.processor.settings.drain);
        let processor = self.sessions.processor.clone();
        let finish = async {
            self.end_consumers().await;
            channels::flush_until(&self.channels, processor.idle()).await;
        };
        let finished = tokio::time::timeout(limits.jobs, finish).await;
        if finished.is_err() && stop.is_cancelled() {
            self.sessions.processor.engine.cut().await;
        }
        let left = limits.in_hand.saturating_sub(begun.elapsed());
        channels::close(&self.channels, left / 2).await;
    }
}
