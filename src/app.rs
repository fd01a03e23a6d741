//! The only place where parts are wired together: an engine with servers, an engine without, and the worker.

mod controls;
mod heat;
mod invalidations;
mod models;

use crate::{
    backoff::Backoff,
    cache::{Cache, MemoryCache, RedisCache},
    config::{self, Settings},
    health::{Health, Part},
    heat::Heat,
    http::{self, Desk, Port},
    intake::{
        connection::{Broker, ConnectError},
        consumer::{End, Session, Workshop},
        topology::{self, Topology, TopologyError},
    },
    model::Registry,
    pipeline::{Engine, EngineParts, insight::Insight},
    settle::{Settler, publisher},
    store::{PostgresStore, SqliteStore, Store},
    supervisor::{Stop, Supervisor},
    telemetry::{
        metrics::{self, Metrics, QueueKind},
        otlp,
        trace::Tracer,
        worker_name,
    },
    warm::{folder::Folder, run::Warmer},
};
use anyhow::{Context, anyhow, bail};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

/// How often servers are asked how they are.
const CHECK: Duration = Duration::from_secs(1);
/// How often queue depths are asked.
const DEPTHS: Duration = Duration::from_secs(5);

/// An engine without servers: a SQLite file and memory.
pub async fn embedded_engine(settings: &Settings) -> anyhow::Result<Engine> {
    let metrics = Metrics::new();
    let registry = open_registry(settings)?;
    let file = SqliteStore::open(&settings.embedded.path).await?;
    let memory = MemoryCache::new(settings.cache.memory_mib);
    let cache = if settings.cache.enabled {
        Cache::file(file.clone(), memory, metrics.clone())
    } else {
        Cache::off(metrics.clone())
    };
    let health = Health::new(metrics.clone());
    health.up(Part::Postgres);
    Ok(Engine::new(
        EngineParts {
            registry,
            cache,
            store: Store::Sqlite(file),
            health,
            metrics,
            heat: None,
            insight: None,
        },
        settings,
    ))
}

/// Loads the models; a broken version is logged and left out.
pub fn open_registry(settings: &Settings) -> anyhow::Result<Arc<Registry>> {
    let registry = Registry::open(&settings.models)?;
    for problem in registry.problems() {
        tracing::error!(%problem, "a model version is refused");
    }
    Ok(registry)
}

/// The database that the settings name.
pub fn postgres(settings: &Settings) -> anyhow::Result<PostgresStore> {
    let url = settings
        .database
        .url
        .as_ref()
        .context("no database is set: give KILN_DATABASE_URL")?;
    Ok(PostgresStore::new(url, &settings.database)?)
}

/// The broker that the settings name.
pub fn broker(settings: &Settings) -> anyhow::Result<Broker> {
    let url = settings
        .amqp
        .url
        .as_ref()
        .context("no broker is set: give KILN_AMQP_URL")?;
    Ok(Broker::new(url, &settings.amqp))
}

/// The cache server that the settings name.
pub fn redis(settings: &Settings, metrics: Metrics) -> anyhow::Result<RedisCache> {
    let url = settings
        .redis
        .url
        .as_ref()
        .context("no cache is set: give KILN_REDIS_URL")?;
    Ok(RedisCache::new(url, &settings.redis, metrics)?)
}

/// The same for a command, which is of no use where it doesn't answer.
pub async fn redis_at_hand(settings: &Settings) -> anyhow::Result<RedisCache> {
    let redis = redis(settings, Metrics::new())?;
    match redis.ping().await {
        Ok(()) => Ok(redis),
        Err(reason) => bail!("redis at {}: {reason}", redis.place()),
    }
}

/// Runs the worker until a signal stops it. An error is why it can't go on.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let settings = Arc::new(settings);
    let broker = broker(&settings)?;
    let store = postgres(&settings)?;
    let recorder = metrics::install().context("metrics")?;
    let metrics = Metrics::new();
    let redis = redis(&settings, metrics.clone())?;
    let health = Health::new(metrics.clone());
    let mut served = http::serve(Port {
        health: health.clone(),
        metrics: recorder,
        settings: settings.http.clone(),
        max_body_bytes: settings.intake.max_body_bytes,
    })?;
    tracing::info!(addr = %served.addr, version = env!("CARGO_PKG_VERSION"), "kiln starts");

    let blocking_settings = settings.clone();
    let registry = tokio::task::spawn_blocking(move || open_registry(&blocking_settings)).await??;
    models::note(&registry, &health, &metrics);
    let memory = MemoryCache::new(settings.cache.memory_mib);
    let cache = if settings.cache.enabled {
        Cache::redis(redis, memory, metrics.clone())
    } else {
        Cache::off(metrics.clone())
    };
    let heat = Arc::new(Heat::default());
    let insight = Arc::new(Insight::default());
    let engine = Arc::new(Engine::new(
        EngineParts {
            registry: registry.clone(),
            cache,
            store: Store::Postgres(store.clone()),
            health: health.clone(),
            metrics: metrics.clone(),
            heat: Some(heat.clone()),
            insight: Some(insight.clone()),
        },
        &settings,
    ));
    let topology = Arc::new(Topology::new(&settings.queues, &settings.retry));
    let backoff_most = config::ms(settings.amqp.backoff_most_ms);
    let (publisher, publisher_task) = publisher::new(broker.clone(), backoff_most, metrics.clone());
    let (controls, paused, pause) = controls::channels();
    let (tracer, traces) = match settings.trace.endpoint.clone() {
        Some(endpoint) => {
            let (tracer, heard) = Tracer::new(settings.trace.share, metrics.clone());
            (tracer, Some((endpoint, heard)))
        }
        None => (Tracer::off(metrics.clone()), None),
    };
    let folder = Arc::new(Mutex::new(Folder::new(&settings.warm.dir)));
    let (invalid, invalidated) = invalidations::channel();
    let settler = Settler::new(publisher.clone(), topology.clone(), metrics.clone());
    served.open(Desk {
        runtime: tokio::runtime::Handle::current(),
        engine: engine.clone(),
        store: store.clone(),
        publisher: publisher.clone(),
        topology: topology.clone(),
        settings: settings.clone(),
        folder: folder.clone(),
        heat: heat.clone(),
        insight,
        tracer: tracer.clone(),
        rejected: settler.rejected(),
        paused: paused.clone(),
        invalid,
    });
    let warmer = Warmer {
        paused,
        store: store.clone(),
        engine: engine.clone(),
        publisher: publisher.clone(),
        broker: broker.clone(),
        topology: topology.clone(),
        settings: settings.clone(),
        metrics: metrics.clone(),
        folder,
        worker: worker_name(),
    };
    let workshop = Workshop::new(
        engine.clone(),
        settler,
        store.clone(),
        metrics.clone(),
        settings.clone(),
        tracer,
    );

    let (switch, stop) = Stop::new();
    let mut tasks = Supervisor::default();
    tasks.start("publisher", publisher_task.run());
    if let Some((endpoint, heard)) = traces {
        let sending = otlp::send(endpoint, worker_name(), heard, metrics.clone());
        tasks.start("traces", sending);
    }
    tasks.start("redis check", check_redis(engine.clone(), health.clone()));
    tasks.start(
        "postgres check",
        check_postgres(store.clone(), health.clone()),
    );
    tasks.start(
        "queue depths",
        watch_depths(
            broker.clone(),
            topology.clone(),
            metrics.clone(),
            health.clone(),
        ),
    );
    tasks.start(
        "models folder",
        models::rescan(
            registry.clone(),
            health.clone(),
            metrics.clone(),
            Duration::from_secs(settings.models.unload_after_seconds),
        ),
    );
    tasks.start(
        "controls",
        controls::follow(controls, store.clone(), metrics.clone(), health.clone()),
    );
    tasks.start(
        "model choice",
        models::follow_choice(registry, store.clone(), metrics.clone()),
    );
    tasks.start(
        "invalidations",
        invalidations::remove(
            invalidated,
            engine.clone(),
            metrics.clone(),
            settings.redis.cooldown_ms,
        ),
    );
    let known = settings.namespaces.keys().cloned().collect();
    tasks.start(
        "heat",
        heat::tell(
            heat.clone(),
            engine.clone(),
            metrics.clone(),
            worker_name(),
            known,
        ),
    );
    tasks.start(
        "hints",
        heat::take_hints(
            heat,
            broker.clone(),
            topology.clone(),
            metrics.clone(),
            health.clone(),
        ),
    );
    if settings.warm.enabled {
        tasks.start("warming", warm_when_migrated(warmer, health.clone()));
    }
    let mut intake = tokio::spawn(consume(
        broker, topology, workshop, store, health, stop, pause,
    ));

    let stopped_by = tokio::select! {
        signal = signal() => signal?,
        end = &mut intake => return end.context("the intake panicked")?.and_then(|()| Err(anyhow!("the intake ended before the worker did"))),
        reason = tasks.first_end() => bail!(reason),
        reason = &mut served.ended => bail!("the HTTP thread ended: {}", reason.unwrap_or_else(|_| "it panicked".into())),
    };
    tracing::info!(
        signal = stopped_by,
        "stopping: no new jobs, finishing those in hand"
    );
    switch.send_replace(true);
    let limit = Duration::from_secs(settings.drain.limit_seconds);
    match tokio::time::timeout(limit, intake).await {
        Ok(end) => end.context("the intake panicked")??,
        Err(_) => {
            tracing::warn!("the drain limit passed; what is unfinished goes back to its queue")
        }
    }
    tracing::info!("stopped");
    Ok(())
}

/// Warms from when the tables are there.
async fn warm_when_migrated(warmer: Warmer, health: Health) -> Result<(), String> {
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    while !health.is_up(Part::Migrations) {
        tick.tick().await;
    }
    warmer.run().await
}

async fn signal() -> anyhow::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    })
}

/// Migrates, connects, consumes, and connects again, until the worker stops.
async fn consume(
    broker: Broker,
    topology: Arc<Topology>,
    workshop: Workshop,
    store: PostgresStore,
    health: Health,
    mut stop: Stop,
    mut pause: Stop,
) -> anyhow::Result<()> {
    let most = config::ms(workshop.settings.database.backoff_most_ms);
    let migrated = store.migrate_when_up(most, |reason, _| {
        health.down(Part::Migrations, &reason.to_string())
    });
    tokio::select! {
        () = stop.wait() => return Ok(()),
        result = migrated => result.context("migrations")?,
    }
    health.up(Part::Migrations);
    // The first job is to meet the chosen versions already.
    let mut backoff = Backoff::new(Duration::from_millis(100), most);
    while models::choose(workshop.engine.registry(), &store)
        .await
        .is_err()
    {
        tokio::select! {
            () = stop.wait() => return Ok(()),
            () = tokio::time::sleep(backoff.next_wait()) => {}
        }
    }
    let mut backoff = Backoff::new(
        Duration::from_millis(100),
        config::ms(workshop.settings.amqp.backoff_most_ms),
    );
    loop {
        if pause.is_given() {
            tracing::info!("taking jobs is paused");
            tokio::select! {
                () = stop.wait() => return Ok(()),
                () = pause.wait_off() => tracing::info!("taking jobs goes on"),
            }
        }
        let session = tokio::select! {
            () = stop.wait() => return Ok(()),
            session = open_session(&broker, &topology, &workshop, &store) => session,
        };
        match session {
            Ok((connection, session)) => {
                backoff.reset();
                health.up(Part::Broker);
                tracing::info!(queue = topology.jobs, "taking jobs");
                let end = session.run(&mut stop, &mut pause).await;
                let goodbye = Duration::from_millis(500);
                let _gone_counts_too =
                    tokio::time::timeout(goodbye, connection.close(200, "stopped".into())).await;
                match end {
                    End::Stopped if stop.is_given() => return Ok(()),
                    End::Stopped => continue,
                    End::Lost(reason) => {
                        workshop.metrics.reconnect();
                        health.down(Part::Broker, &reason);
                    }
                }
            }
            Err(Unopened::Hopeless(reason)) => bail!(reason),
            Err(Unopened::Later(reason)) => health.down(Part::Broker, &reason),
        }
        tokio::select! {
            () = stop.wait() => return Ok(()),
            () = tokio::time::sleep(backoff.next_wait()) => {}
        }
    }
}

/// Why no session was opened.
enum Unopened {
    /// Waiting doesn't mend it.
    Hopeless(String),
    Later(String),
}

/// A connection with its queues declared and its consumers started. The database comes first: jobs taken
/// without it would only be held.
async fn open_session(
    broker: &Broker,
    topology: &Topology,
    workshop: &Workshop,
    store: &PostgresStore,
) -> Result<(lapin::Connection, Session), Unopened> {
    store
        .ping()
        .await
        .map_err(|e| Unopened::Later(format!("postgres comes first: {e}")))?;
    let connection = broker.connect("consume").await.map_err(|e| match e {
        ConnectError::Url(_) => Unopened::Hopeless(e.to_string()),
        ConnectError::Refused(_) => Unopened::Later(e.to_string()),
    })?;
    topology
        .declare(&connection, broker.timeout())
        .await
        .map_err(|e| match e {
            TopologyError::Mismatch { .. } => Unopened::Hopeless(e.to_string()),
            TopologyError::Unavailable { .. } => Unopened::Later(e.to_string()),
        })?;
    let open = Session::open(&connection, topology, workshop.clone());
    match tokio::time::timeout(broker.timeout(), open).await {
        Ok(Ok(session)) => Ok((connection, session)),
        Ok(Err(error)) => Err(Unopened::Later(broker.scrub(&error))),
        Err(_) => Err(Unopened::Later(
            "no answer to starting the consumers".into(),
        )),
    }
}

async fn check_redis(engine: Arc<Engine>, health: Health) -> Result<(), String> {
    let mut tick = tokio::time::interval(CHECK);
    loop {
        tick.tick().await;
        match engine.cache().server() {
            None => health.up(Part::Redis),
            Some(redis) => match redis.ping().await {
                Ok(()) => health.up(Part::Redis),
                Err(reason) => health.down(Part::Redis, &reason),
            },
        }
    }
}

async fn check_postgres(store: PostgresStore, health: Health) -> Result<(), String> {
    let mut tick = tokio::time::interval(CHECK);
    loop {
        tick.tick().await;
        match store.ping().await {
            Ok(()) => health.up(Part::Postgres),
            Err(reason) => health.down(Part::Postgres, &reason.to_string()),
        }
    }
}

async fn watch_depths(
    broker: Broker,
    topology: Arc<Topology>,
    metrics: Metrics,
    health: Health,
) -> Result<(), String> {
    let mut tick = tokio::time::interval(DEPTHS);
    let queues = [
        (QueueKind::Jobs, &topology.jobs),
        (QueueKind::Warm, &topology.warm),
        (QueueKind::Dead, &topology.dead),
        (QueueKind::Expired, &topology.expired),
    ];
    let mut channel = None;
    loop {
        tick.tick().await;
        // Before the first session the queues may not be declared.
        if !health.is_up(Part::Broker) {
            channel = None;
            continue;
        }
        if channel.is_none() {
            let connection = broker.connect("depths").await.ok();
            let open = match &connection {
                Some(connection) => {
                    tokio::time::timeout(broker.timeout(), connection.create_channel()).await
                }
                None => continue,
            };
            channel = open
                .ok()
                .and_then(Result::ok)
                .and_then(|channel| Some((connection?, channel)));
        }
        for (kind, queue) in queues {
            let Some((_, open)) = &channel else { break };
            match tokio::time::timeout(broker.timeout(), topology::depth(open, queue)).await {
                Ok(Ok(messages)) => metrics.queue(kind, messages),
                // The connection may hang or the queue not be there yet: start anew at the next tick.
                Ok(Err(_)) | Err(_) => channel = None,
            }
        }
    }
}
