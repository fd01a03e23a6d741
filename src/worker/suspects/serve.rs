//! The process's own side: takes one job at a time from the worker that started it, runs it through an engine like any other's, and
//! says what became of it.
//!
//! Promises to end with the worker's pipe, whatever a model does meanwhile, and that no more is in memory than the version that the
//! last job meant, and the one that has a share of its model's inputs.
//! Refuses to settle, to count and to follow anything: that is the worker's.

use super::protocol::{self, Ended, FrameError, Request, Said};
use crate::{
    cache::{Cache, MemoryCache},
    config::Settings,
    health::{Health, Part},
    parts,
    pipeline::{Engine, EngineParts, InputCounts, JobSource, Outcome, Urgency},
    redact::Redact,
    store::Store,
    telemetry::metrics::Metrics,
};
use anyhow::anyhow;
use kiln_contract::{job::Job, order::Moment, split::Share};
use kiln_model::{Registry, SplitChoice};
use std::{
    convert::Infallible,
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, Stdin, Stdout},
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

/// How often a job that waits for the database says so: well within the shortest time that a run may be given.
const WAITING: Duration = Duration::from_millis(250);
/// Connections to the database that one job takes at most.
const CONNECTIONS: u32 = 2;
/// Memory for entries while Redis is away, in MiB: hardly any input comes twice.
const CACHE_MIB: u64 = 1;
/// How far this process stands back behind the worker, which serves those that nobody suspects.
const NICENESS: i32 = 10;

/// Makes this process the first to go where memory is short, and the last to be given a processor. Called before any other thread
/// starts: threads take over the niceness of the first one.
pub fn stand_back() {
    // Each is a favour to others and none is needed: where the system refuses one, all goes on.
    let _refused = std::fs::write("/proc/self/oom_score_adj", "1000");
    let _refused = std::fs::write("/proc/self/comm", "kiln-suspect");
    let _refused = rustix::process::setpriority_process(None, NICENESS);
}

/// Says to the worker why this process can't start: it is the one to report that.
pub fn refuse(reason: &str) {
    let reason = reason.to_owned();
    if let Ok(frame) = protocol::beginning(&Said::Unready { reason }, &[]) {
        let mut output = std::io::stdout();
        // A worker that is gone needs no reason.
        let _gone = output.write_all(&frame).and_then(|()| output.flush());
    }
}

/// Runs jobs until the worker closes the pipe.
pub async fn serve(settings: Settings) -> anyhow::Result<()> {
    // What stops a worker is often sent to all of its processes. When this one ends is for the worker to say.
    let _not_taken = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    ];
    let server = match Server::open(settings) {
        Ok(server) => Arc::new(server),
        Err(error) => {
            refuse(&error.redacted());
            return Ok(());
        }
    };
    let pipe = Pipe {
        input: tokio::io::stdin(),
        output: tokio::io::stdout(),
    };
    match pipe.serve(&server).await {
        // The worker has ended, or has no more suspects.
        Err(Ending::Pipe(FrameError::Gone)) => Ok(()),
        Err(Ending::Pipe(error)) => Err(error.into()),
        Err(Ending::Lost(error)) => Err(error),
    }
}

/// Why no more jobs are run.
enum Ending {
    Pipe(FrameError),
    /// What ran panicked.
    Lost(anyhow::Error),
}

impl From<FrameError> for Ending {
    fn from(error: FrameError) -> Self {
        Self::Pipe(error)
    }
}

/// The pipes to the worker.
struct Pipe {
    input: Stdin,
    output: Stdout,
}

impl Pipe {
    async fn serve(mut self, server: &Arc<Server>) -> Result<Infallible, Ending> {
        self.say(&Said::Ready, &[]).await?;
        loop {
            let (request, body) = protocol::read::<Request>(&mut self.input).await?;
            let now = Instant::now();
            let received = now.checked_sub(Duration::from_millis(request.waited_ms));
            if !self.load(server, &request, &body).await? {
                continue;
            }
            let runs = server.clone();
            let work = async move { runs.run(&request, &body, received.unwrap_or(now)).await };
            let (outcome, counts) = self.watched(server, work).await?;
            let (ended, results) = Ended::of(outcome, counts);
            self.say(&Said::Ended(ended), &results).await?;
        }
    }

    async fn say(&mut self, said: &Said, body: &[u8]) -> Result<(), FrameError> {
        protocol::write(&mut self.output, said, body).await
    }

    /// Loads the model that a job names. Returns whether the job can be run; if not, it has been said why.
    async fn load(
        &mut self,
        server: &Arc<Server>,
        request: &Request,
        body: &[u8],
    ) -> Result<bool, Ending> {
        // A body that can't be read needs no model to be rejected.
        let Ok(job) = Job::parse(body, request.message_id.as_deref()) else {
            return Ok(true);
        };
        let model = job.model.to_string();
        let (name, pinned) = match model.split_once('@') {
            Some((name, version)) => (name.to_owned(), Some(version)),
            None => (model.clone(), None),
        };
        let active = || request.active.get(&name).map(String::as_str);
        let reason = match pinned.or_else(active).map(str::to_owned) {
            Some(version) => {
                let loading = Said::Loading {
                    model: model.clone(),
                };
                self.say(&loading, &[]).await?;
                let registry = server.registry.clone();
                let split = request.splits.get(&name).filter(|_| pinned.is_none());
                let split = split.and_then(|(version, millionths)| {
                    Some(SplitChoice {
                        version: version.clone(),
                        share: Share::from_millionths(i64::from(*millionths))?,
                    })
                });
                let wants_split = split.is_some();
                let load = tokio::task::spawn_blocking(move || {
                    registry.serve_only(&name, &version, split.as_ref());
                });
                let loaded = self.watched(server, load).await?;
                loaded.map_err(|panicked| Ending::Lost(panicked.into()))?;
                match server.registry.serving(&model) {
                    // Its inputs are the other version's, on every try.
                    Ok(serving) if wants_split && serving.split.is_none() => {
                        "the version that has a share of its inputs can't be loaded".to_owned()
                    }
                    Ok(_) => {
                        self.say(&Said::Loaded, &[]).await?;
                        return Ok(true);
                    }
                    Err(unknown) => unknown.to_string(),
                }
            }
            None => "no version of it serves".to_owned(),
        };
        let unserved = Said::Unserved { model, reason };
        self.say(&unserved, &[]).await?;
        Ok(false)
    }

    /// Waits for some work while the worker is there. The work has a thread of its own: where it doesn't yield, the pipe's end ends this
    /// process all the same.
    async fn watched<T: Send + 'static>(
        &mut self,
        server: &Server,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Ending> {
        let mut tasks = JoinSet::new();
        tasks.spawn(work);
        let mut tick = tokio::time::interval(WAITING);
        tick.tick().await;
        loop {
            tokio::select! {
                biased;
                ended = tasks.join_next() => {
                    return match ended {
                        Some(Ok(done)) => Ok(done),
                        Some(Err(panicked)) => Err(Ending::Lost(panicked.into())),
                        None => Err(Ending::Lost(anyhow!("there was no work"))),
                    };
                }
                // The worker sends nothing before it has its answer.
                read = self.input.read_u8() => {
                    return Err(Ending::Pipe(match read {
                        Ok(_) => FrameError::Malformed("a request before its turn".into()),
                        Err(error) => error.into(),
                    }));
                }
                _ = tick.tick() => {
                    if !server.health.is_up(Part::Postgres) {
                        self.say(&Said::Waiting, &[]).await?;
                    }
                }
            }
        }
    }
}

/// What runs jobs.
struct Server {
    engine: Engine,
    registry: Arc<Registry>,
    health: Health,
}

impl Server {
    /// Opens what the settings name. Models are loaded when jobs ask for them, and servers connected when they are first used.
    fn open(mut settings: Settings) -> anyhow::Result<Self> {
        let database = &mut settings.database;
        database.connections = database.connections.min(CONNECTIONS);
        let metrics = Metrics::new();
        let registry = Registry::open_empty(&settings.models)?;
        // Its model threads may be in the middle of a pass that nobody waits for any more: they end with the process.
        std::mem::forget(registry.clone());
        let store = parts::postgres(&settings)?;
        let cache = if settings.cache.enabled {
            let redis = parts::redis(&settings, metrics.clone())?;
            Cache::redis(
                redis.hearing(&store),
                MemoryCache::new(CACHE_MIB),
                metrics.clone(),
            )
        } else {
            Cache::off(metrics.clone())
        };
        let health = Health::new(metrics.clone());
        // The worker has found it working; the engine notes from here on where it doesn't.
        health.up(Part::Postgres);
        let parts = EngineParts {
            registry: registry.clone(),
            cache,
            store: Store::Postgres(store),
            health: health.clone(),
            metrics,
            heat: None,
            insight: None,
            shadows: None,
        };
        Ok(Self {
            engine: Engine::new(parts, &settings),
            registry,
            health,
        })
    }

    /// Runs one job to its rows.
    async fn run(
        &self,
        request: &Request,
        body: &[u8],
        received: Instant,
    ) -> (Outcome, InputCounts) {
        // Nothing else tells this process what is invalidated.
        if let Some(redis) = self.engine.cache().server()
            && redis.hear().await.is_err()
        {
            return (Outcome::Abandoned, InputCounts::default());
        }
        let accepted = i64::try_from(request.accepted_us).unwrap_or(i64::MAX);
        let accepted = Moment::from_micros(accepted);
        let with = |source: JobSource| {
            let urgency = if request.is_warming {
                Urgency::Warming
            } else {
                Urgency::Normal
            };
            source
                .received_at(received)
                .accepted_by(Some(accepted))
                .with_tries(request.tries)
                .with_urgency(urgency)
                .posted_by(request.posted_by.as_deref().map(Arc::from))
        };
        let ended = self.engine.run(body, request.message_id.clone(), with);
        match ended.await {
            Some(ended) => (ended.outcome, ended.counts),
            None => (Outcome::Abandoned, InputCounts::default()),
        }
    }
}
