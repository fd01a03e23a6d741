//! Keeps a session open: migrates, connects, declares the queues, takes jobs, and connects again when the connection is lost.

use super::{
    optional::{self, Missing},
    process::JobProcessor,
    session::{End, Session},
    shard_keeper::ShardKeeper,
    suspects::Suspects,
    switch::Switch,
    tasks,
    unfinished::{Unfinished, UnfinishedSessions},
};
use crate::{
    amqp::{
        connection::{Broker, ConnectError},
        topology::{QueueSpec, Topology, TopologyError},
    },
    backoff::Backoff,
    config,
    health::{Health, Part},
    store::StoreError,
};
use anyhow::{Context, bail};
use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use lapin::Event;
use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// How long a stop waits for the jobs of sessions that were lost.
const LEFT_BEHIND: Duration = Duration::from_secs(1);
/// A session that lasted so long was a good one: where the connection is lost each time sooner, the waits between two grow.
const LASTED: Duration = Duration::from_secs(3);
/// Between two looks whether the connection of a worker that is paused is there.
const LOOK: Duration = Duration::from_secs(1);
/// Longest goodbye to the broker.
const GOODBYE: Duration = Duration::from_millis(200);

/// What takes jobs.
#[derive(Clone)]
pub(super) struct Intake {
    pub broker: Broker,
    pub topology: Arc<Topology>,
    pub processor: JobProcessor,
    pub suspects: Suspects,
    pub health: Health,
    pub pause: Switch,
}

/// A connection with its queues declared.
enum Connected {
    Taking(Box<Opened>),
    Paused(Box<lapin::Connection>),
}

/// Why a connection isn't used any more.
enum Ended {
    /// The worker stops, pauses, or goes on.
    Wanted,
    Lost(String),
}

/// A connection on which jobs are taken.
struct Opened {
    connection: Arc<lapin::Connection>,
    session: Session,
    /// Queues that couldn't be declared, and that jobs can do without for now.
    left: Vec<(QueueSpec, String)>,
    /// What keeps the shards for as long as the session lasts.
    shards: BoxFuture<'static, Infallible>,
}

impl Intake {
    /// Migrates, connects, consumes, and connects again, until it is asked to stop. An error is what waiting doesn't mend.
    pub(super) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut unfinished = UnfinishedSessions::new(&self.processor, &stop);
        self.take_jobs(&stop, &mut unfinished).await?;
        unfinished.end().await;
        // Those of sessions that were lost: their jobs come again elsewhere, and find their rows. What waits for servers that are away
        // is as good after a restart.
        let _cut = tokio::time::timeout(LEFT_BEHIND, self.processor.idle()).await;
        Ok(())
    }

    async fn take_jobs(
        &mut self,
        stop: &CancellationToken,
        unfinished: &mut UnfinishedSessions,
    ) -> anyhow::Result<()> {
        let settings = self.processor.settings.clone();
        let Some(begun) = stop.run_until_cancelled(self.begin()).await else {
            return Ok(());
        };
        begun?;
        let mut backoff = Backoff::new(
            Duration::from_millis(100),
            config::ms(settings.amqp.max_backoff_ms),
        );
        let missing = Missing::of(&self.health);
        let mut clashes = 0;
        while !stop.is_cancelled() {
            let connected = async {
                match self.pause.is_on() {
                    true => self
                        .look(&missing)
                        .await
                        .map(|one| Connected::Paused(Box::new(one))),
                    false => self
                        .open_session(&missing)
                        .await
                        .map(|opened| Connected::Taking(Box::new(opened))),
                }
            };
            match stop.run_until_cancelled(connected).await {
                None => return Ok(()),
                Some(Ok(connected)) => {
                    clashes = 0;
                    let begun = Instant::now();
                    let end = match connected {
                        Connected::Taking(opened) => {
                            self.take(*opened, &missing, stop, unfinished).await
                        }
                        Connected::Paused(connection) => self.wait(&connection, stop).await,
                    };
                    match end {
                        Ended::Wanted => continue,
                        Ended::Lost(reason) => {
                            if begun.elapsed() >= LASTED {
                                backoff.reset();
                            }
                            self.processor.metrics.reconnect();
                            self.health.down(Part::Broker, &reason);
                        }
                    }
                }
                Some(Err(Unopened::Hopeless(reason))) => bail!(reason),
                Some(Err(Unopened::Later(reason))) => self.health.down(Part::Broker, &reason),
                Some(Err(Unopened::Clashed(reason))) => {
                    clashes += 1;
                    if clashes >= CLASHES {
                        self.health.down(Part::Broker, &reason);
                    } else {
                        tracing::debug!(reason, "a new connection was given up; another is made");
                    }
                }
            }
            let rest = tokio::time::sleep(backoff.next_wait());
            stop.run_until_cancelled(rest).await;
        }
        Ok(())
    }

    /// Migrates, and learns which versions are chosen and what is paused: the first job is to meet them already.
    async fn begin(&mut self) -> anyhow::Result<()> {
        let max = config::ms(self.processor.settings.database.max_backoff_ms);
        let waiting = |reason: &StoreError, _| {
            self.health.down(Part::Migrations, &reason.to_string());
        };
        let migrated = self.processor.store.migrate_when_up(max, waiting).await;
        if let Some(newest) = migrated.context("migrations")? {
            tracing::info!(
                newest,
                "a newer release has migrated the database; what it added isn't used"
            );
        }
        self.health.up(Part::Migrations);
        let mut backoff = Backoff::new(Duration::from_millis(100), max);
        let registry = self.processor.engine.registry();
        while tasks::models::choose(registry, &self.processor.store)
            .await
            .is_err()
        {
            tokio::time::sleep(backoff.next_wait()).await;
        }
        self.pause.wait_known().await;
        Ok(())
    }

    /// Takes jobs for as long as the session lasts.
    async fn take(
        &mut self,
        opened: Opened,
        missing: &Missing,
        stop: &CancellationToken,
        unfinished: &mut UnfinishedSessions,
    ) -> Ended {
        let Opened {
            connection,
            session,
            left,
            shards,
        } = opened;
        self.health.up(Part::Broker);
        tracing::info!(queue = self.topology.jobs, "taking jobs");
        let limit = self.broker.timeout();
        let left = optional::declare(&connection, left, limit, missing);
        let end = tokio::select! {
            end = session.run(stop, &mut self.pause) => end,
            never = left => match never {},
            never = shards => match never {},
        };
        let ended = match end {
            End::Paused(session) => {
                let channels = session.channels();
                let one = Unfinished {
                    connection,
                    channels,
                    session: Some(session),
                };
                unfinished.add(one).await;
                return Ended::Wanted;
            }
            End::Stopped => Ended::Wanted,
            End::Lost(reason) => Ended::Lost(reason),
        };
        let closing = connection.close(200, "stopped".into());
        let _gone_counts_too = tokio::time::timeout(GOODBYE, closing).await;
        ended
    }
}

/// New connections in a row that clash before that is a reason to wait for the broker.
const CLASHES: u32 = 3;
/// How long a session's start waits for the queues that jobs can do without; they are declared beside it then, with all of the time they need.
const OTHERS: Duration = Duration::from_secs(1);
/// How long the queue of hints is waited for beyond all others: whoever looks at a worker that is ready is to find its queues.
const HINTS: Duration = Duration::from_millis(300);

/// The queues that their consumers declare as well, and of which those say whether they can be used.
fn consumed(topology: &Topology) -> [&str; 2] {
    [&topology.warm, &topology.expired]
}

/// Why no session was opened.
enum Unopened {
    /// Waiting doesn't mend it.
    Hopeless(String),
    Later(String),
    /// What a broker does to one of two workers that declare the same queue at the same moment, or worse.
    Clashed(String),
}

impl Intake {
    /// Declares the queues. What becomes of the one of hints is its consumer's matter.
    async fn declare(
        &self,
        connection: &lapin::Connection,
    ) -> Result<Vec<(QueueSpec, String)>, TopologyError> {
        let limit = self.broker.timeout();
        let spec = self.topology.hints();
        let (needed, hints) = (
            self.topology.declare(connection, limit, limit.min(OTHERS)),
            spec.declare(connection, limit),
        );
        tokio::pin!(needed, hints);
        tokio::select! {
            declared = &mut needed => {
                let _told_by_its_consumer = tokio::time::timeout(HINTS, hints).await;
                declared
            }
            _ = &mut hints => needed.await,
        }
    }

    /// What keeps the shards. The first time, they and their exchange are tried once before it is given: whoever looks at a worker that is
    /// ready is to find them. The exchange sends to them a little later.
    async fn keep_shards(
        &self,
        connection: &Arc<lapin::Connection>,
        missing: &Missing,
    ) -> BoxFuture<'static, Infallible> {
        let (shards, tried) = (&self.topology.shards, CancellationToken::new());
        let (broker, topology) = (self.broker.clone(), self.topology.clone());
        let keeper = ShardKeeper::new(broker, topology, missing.clone(), tried.clone());
        let mut keeping = keeper.run(connection.clone()).boxed();
        if !shards.wanted().is_empty() && shards.found().borrow().is_empty() {
            tokio::select! {
                never = &mut keeping => match never {},
                () = tried.cancelled() => {}
                () = tokio::time::sleep(OTHERS) => {}
            }
        }
        keeping
    }

    /// Declares the queues and takes nothing: a worker that is paused is ready as long as it could take jobs.
    async fn look(&self, missing: &Missing) -> Result<lapin::Connection, Unopened> {
        let (connection, _others_are_declared_with_a_session) = self.connect(missing).await?;
        Ok(connection)
    }

    /// Waits until taking jobs isn't paused any more, the worker stops, or the connection is lost.
    async fn wait(&mut self, connection: &lapin::Connection, stop: &CancellationToken) -> Ended {
        let mut events = Box::pin(connection.events_listener());
        // What happened before somebody listened is told to nobody.
        let mut look = tokio::time::interval(LOOK);
        tracing::info!("taking jobs is paused");
        loop {
            let mut reason = "the connection was lost".to_owned();
            tokio::select! {
                event = events.next() => if let Some(Event::Error(error)) = event {
                    reason = self.broker.scrub(&error);
                },
                _ = look.tick() => {}
                () = self.pause.wait_off() => {
                    tracing::info!("taking jobs goes on");
                    break;
                }
                () = stop.cancelled() => break,
            }
            if !connection.status().connected() {
                return Ended::Lost(reason);
            }
            self.health.up(Part::Broker);
        }
        let closing = connection.close(200, "not paused".into());
        let _gone_counts_too = tokio::time::timeout(GOODBYE, closing).await;
        Ended::Wanted
    }

    /// A connection with its queues declared, but for those given. The database comes first: jobs taken without it would only be held.
    async fn connect(
        &self,
        missing: &Missing,
    ) -> Result<(lapin::Connection, Vec<(QueueSpec, String)>), Unopened> {
        let later = |reason: String| Unopened::Later(reason);
        let ping = self.processor.store.ping().await;
        ping.map_err(|e| later(format!("postgres comes first: {e}")))?;
        let connection = self.broker.connect("consume").await;
        let connection = connection.map_err(|e| match e {
            ConnectError::Url(_) => Unopened::Hopeless(e.to_string()),
            ConnectError::Credentials(_)
            | ConnectError::VirtualHost(_)
            | ConnectError::Refused(_) => Unopened::Later(e.to_string()),
        })?;
        let declared = self.declare(&connection).await;
        let mut left = declared.map_err(|e| match e {
            TopologyError::Mismatch { .. } => Unopened::Hopeless(e.to_string()),
            TopologyError::Unavailable { .. } => Unopened::Clashed(e.to_string()),
        })?;
        let consumed = consumed(&self.topology);
        left.retain(|(queue, _)| !consumed.contains(&queue.name.as_str()));
        for queue in self.topology.queues() {
            let is_left = left.iter().any(|(one, _)| one.name == queue.name);
            if !is_left && !consumed.contains(&queue.name.as_str()) {
                missing.found(&queue.name);
            }
        }
        Ok((connection, left))
    }

    /// A connection with its queues declared and its consumers started.
    async fn open_session(&self, missing: &Missing) -> Result<Opened, Unopened> {
        let (connection, left) = self.connect(missing).await?;
        let connection = Arc::new(connection);
        let shards = self.keep_shards(&connection, missing).await;
        let (topology, processor) = (self.topology.clone(), self.processor.clone());
        let suspects = self.suspects.clone();
        let open = Session::open(
            &self.broker,
            connection.clone(),
            topology,
            processor,
            suspects,
            missing,
        );
        match tokio::time::timeout(self.broker.timeout(), open).await {
            Ok(Ok(session)) => Ok(Opened {
                connection,
                session,
                left,
                shards,
            }),
            Ok(Err(error)) => Err(Unopened::Clashed(self.broker.scrub(&error))),
            Err(_) => Err(Unopened::Later(
                "no answer to starting the consumers".into(),
            )),
        }
    }
}
