//! Owns a worker within a simulation: the engine and all that settles its jobs, with a session that takes them from the stand-in of
//! RabbitMQ.

use super::{
    checks::Checks,
    jobs::{Job, MODEL, QUEUE},
    locked,
    plan::Plan,
};
use crate::{
    amqp::{
        ack::Acks,
        delivery::{Delivery, Parts},
        publisher::simulated::{Line, publishers},
        simulated::{HeldMessage, SimulatedBroker, SimulatedChannel},
        topology::{Origin, Topology},
    },
    cache::{Cache, MemoryCache, RedisCache, Space, simulated::Server},
    clock,
    config::Settings,
    health::Health,
    pipeline::{Ended, Engine, EngineParts, Outcome},
    secret::Secret,
    simulated::{Chance, log},
    store::{PostgresStore, Store, simulated::SimulatedStore},
    telemetry::{metrics::Metrics, trace::Tracer},
    worker::{
        cancelled::CancelledRuns, channels::STRAGGLER_WAIT, process::JobProcessor, settle::Settler,
    },
};
use kiln_model::{ModelSettings, Registry};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How often it is asked which jobs are in hand for too long.
const SWEEP: Duration = Duration::from_millis(500);
/// Unsettled deliveries of one channel.
const PREFETCH: usize = 16;
/// How long a job is in hand at the longest, in seconds.
const MAX_HOLD_SECONDS: u64 = 20;
/// How long jobs in hand may take to end when nothing fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// What all simulations share: it has no state that one of them changes.
pub struct Shared {
    registry: Arc<Registry>,
    metrics: Metrics,
    settings: Settings,
}

impl Shared {
    /// With the model that the tests have.
    pub fn open() -> Self {
        let models = ModelSettings {
            dir: concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models").into(),
            threads: 1,
            ..ModelSettings::default()
        };
        let mut settings = Settings::default();
        settings.intake.max_hold_seconds = MAX_HOLD_SECONDS;
        settings.retry.delays_ms = vec![200, 1_000];
        settings.store.served = false;
        settings.database.max_backoff_ms = 2_000;
        Self {
            registry: Registry::open(&models).expect("models"),
            metrics: Metrics::new(),
            settings,
        }
    }

    /// The entries of the jobs' model.
    pub fn space(&self) -> Space {
        Space::new(self.registry.resolve(MODEL).expect("the model").info())
    }
}

/// The stand-ins.
pub struct Servers {
    pub broker: SimulatedBroker,
    pub redis: Server,
    pub store: SimulatedStore,
    pub chance: Chance,
}

/// A worker.
pub struct Node {
    processor: JobProcessor,
    channel: Arc<Mutex<SimulatedChannel>>,
    redis: Server,
    store: SimulatedStore,
    /// Ends what it does with the broker.
    gone: CancellationToken,
    /// It takes no more jobs.
    stop: CancellationToken,
    session: Mutex<Option<JoinHandle<()>>>,
}

impl Node {
    pub fn start(shared: &Shared, servers: &Servers, plan: &Plan, number: usize) -> Self {
        let mut settings = shared.settings.clone();
        settings.intake.batch_jobs = plan.batch_jobs;
        settings.intake.batches_in_flight = plan.batches_in_flight;
        settings.intake.max_bytes_in_hand = plan.max_bytes_in_hand;
        settings.cache.lease_from_ms = if plan.leases { 0.0 } else { 1e9 };
        let url = Secret::new(format!("redis://worker-{number}/0"));
        let (redis, store) = (servers.redis.listen(&url), servers.store.other());
        let metrics = shared.metrics.clone();
        let cache = RedisCache::new(&url, &settings.redis, metrics.clone()).expect("a URL");
        let parts = EngineParts {
            registry: shared.registry.clone(),
            cache: Cache::redis(cache, MemoryCache::new(1), metrics.clone()),
            store: Store::Simulated(store.clone()),
            health: Health::new(metrics.clone()),
            metrics: metrics.clone(),
            heat: None,
            insight: None,
            shadows: None,
        };
        let engine = Arc::new(Engine::new(parts, &settings));
        let gone = CancellationToken::new();
        let line = Line {
            broker: servers.broker.clone(),
            chance: servers.chance.apart(),
            gone: gone.clone(),
        };
        let (publisher, replies) = publishers(&line, &metrics);
        let topology = Arc::new(Topology::new(&settings.queues, &settings.retry));
        let settler = Settler::new(publisher, replies, 1 << 20, topology, metrics.clone());
        let nowhere = Secret::new("postgres://nowhere/none");
        let unused = PostgresStore::new(&nowhere, &settings.database).expect("a URL");
        let tracer = Tracer::off(metrics.clone());
        let processor = JobProcessor::new(
            engine,
            settler,
            unused,
            metrics,
            Arc::new(settings),
            tracer,
            CancelledRuns::default(),
        );
        let channel = Arc::new(Mutex::new(servers.broker.open(QUEUE, PREFETCH)));
        let stop = CancellationToken::new();
        let session = Session {
            processor: processor.clone(),
            broker: servers.broker.clone(),
            channel: channel.clone(),
            chance: servers.chance.apart(),
            gone: gone.clone(),
            stop: stop.clone(),
        };
        Self {
            processor,
            channel,
            redis,
            store,
            gone,
            stop,
            session: Mutex::new(Some(tokio::spawn(session.run()))),
        }
    }

    fn channel(&self) -> SimulatedChannel {
        let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        channel.clone()
    }

    /// Whether the broker waits for nothing of it.
    pub fn is_settled(&self) -> bool {
        self.channel().unsettled() == 0
    }

    /// Leaves the others alone at once and for ever, as a process that is killed does.
    pub fn kill(&self) {
        self.gone.cancel();
        self.redis.leave();
        self.store.leave();
        self.channel().close();
    }

    /// Takes no more jobs, and gives back what it has.
    pub async fn stop(&self) {
        self.stop.cancel();
        let session = self
            .session
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(session) = session {
            session.await.expect("a session");
        }
        self.processor.engine.cut().await;
    }

    /// Runs jobs for callers who wait.
    pub fn call(&self, jobs: &[Job]) -> Vec<Call> {
        let calls = jobs.iter().map(|job| {
            let (engine, called, gone) =
                (self.processor.engine.clone(), job.clone(), self.is_ended());
            let job = job.clone();
            let ended = tokio::spawn(async move {
                engine
                    .run(called.body(), None, |source| source.without_retry())
                    .await
            });
            Call { job, ended, gone }
        });
        calls.collect()
    }

    /// Whether it was killed or stopped.
    fn is_ended(&self) -> [CancellationToken; 2] {
        [self.gone.clone(), self.stop.clone()]
    }

    /// What must hold of it at the end.
    pub async fn end(&self, checks: &Arc<Mutex<Checks>>) {
        if self.gone.is_cancelled() {
            return;
        }
        let idle = tokio::time::timeout(PATIENCE, self.processor.idle()).await;
        if idle.is_err() {
            locked(checks).wrong("jobs are in hand at the end");
        }
        let budget = self.processor.engine.budget().clone();
        let empty = async {
            while budget.taken() > 0 {
                tokio::time::sleep(SWEEP).await;
            }
        };
        if tokio::time::timeout(PATIENCE, empty).await.is_err() {
            let taken = budget.taken();
            locked(checks).wrong(format!("{taken} bytes are in hand at the end"));
        }
    }
}

/// A job that somebody waits for.
pub struct Call {
    job: Job,
    ended: JoinHandle<Option<Ended>>,
    gone: [CancellationToken; 2],
}

/// Whoever waits hears of an end, unless its worker has gone.
pub async fn heard(mut call: Call, checks: &Arc<Mutex<Checks>>) {
    let is_gone = call.gone.iter().any(CancellationToken::is_cancelled);
    let ended = tokio::time::timeout(PATIENCE, &mut call.ended).await;
    let mut checks = locked(checks);
    match ended {
        Ok(Ok(Some(ended))) => {
            if let Outcome::Done { result, .. } = ended.outcome {
                let results = serde_json::from_str(&result.results).unwrap_or_default();
                checks.are_own(&call.job, &results);
            }
        }
        _ if is_gone => {}
        // Given back: its caller may ask again.
        Ok(Ok(None)) => {}
        Ok(Err(error)) => checks.wrong(format!("{}: {error}", call.job.id)),
        Err(_) => checks.wrong(format!("{}: nobody wakes its caller", call.job.id)),
    }
}

/// Takes jobs from the broker, over one connection after the other.
struct Session {
    processor: JobProcessor,
    broker: SimulatedBroker,
    channel: Arc<Mutex<SimulatedChannel>>,
    chance: Chance,
    gone: CancellationToken,
    stop: CancellationToken,
}

impl Session {
    async fn run(self) {
        loop {
            let channel = self.broker.open(QUEUE, PREFETCH);
            *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = channel.clone();
            let acks = Acks::simulated(channel.clone());
            let lasts = self.chance.fails(400);
            let life = lasts.then(|| self.chance.millis(50..4_000));
            self.take(&channel, &acks, life).await;
            if self.stop.is_cancelled() {
                acks.flush(true).await;
                channel.end().await;
            }
            log(|| "a channel ends".to_owned());
            channel.close();
            if self.gone.is_cancelled() || self.stop.is_cancelled() {
                return;
            }
            tokio::time::sleep(self.chance.millis(10..800)).await;
        }
    }

    /// Until the channel is gone.
    async fn take(&self, channel: &SimulatedChannel, acks: &Arc<Acks>, life: Option<Duration>) {
        let engine = &self.processor.engine;
        let budget = engine.budget().clone();
        let mut stragglers = tokio::time::interval(STRAGGLER_WAIT);
        let mut sweep = tokio::time::interval(SWEEP);
        let ends = tokio::time::sleep(life.unwrap_or(Duration::from_secs(100_000)));
        tokio::pin!(ends);
        loop {
            let has_room = budget.has_room();
            tokio::select! {
                biased;
                () = self.gone.cancelled() => return,
                () = self.stop.cancelled() => return,
                () = channel.closed() => return,
                () = &mut ends => return,
                _ = stragglers.tick() => acks.flush_stragglers(),
                _ = sweep.tick() => engine.sweep(),
                first = channel.next(), if has_room => {
                    let mut all = vec![first];
                    while let Some(next) = channel.ready() {
                        all.push(next);
                    }
                    let jobs = all.into_iter().map(|(tag, message)| {
                        let delivery = delivery(acks, tag, message);
                        self.processor.source(delivery, None, None, None)
                    });
                    engine.submit(jobs);
                }
                () = budget.room(), if !has_room => {}
            }
        }
    }
}

fn delivery(acks: &Arc<Acks>, tag: u64, message: HeldMessage) -> Delivery {
    log(|| format!("delivery {tag}: {:?}", message.properties.correlation_id()));
    Delivery::from(Parts {
        body: message.body,
        properties: message.properties,
        origin: Origin::Jobs,
        received: clock::received(),
        accepted: None,
        guard: acks.guard(tag),
    })
}
