//! The only place where the worker's parts are wired together.

use super::{
    intake,
    process::Workshop,
    settle::Settler,
    supervisor::{Stop, Supervisor},
    tasks,
};
use crate::{
    amqp::{publisher, topology::Topology},
    cache::{Cache, MemoryCache},
    config::{self, Settings},
    health::Health,
    heat::Heat,
    http::{self, Desk, Port},
    parts::{broker, open_registry, postgres, redis},
    pipeline::{Engine, EngineParts, insight::Insight},
    store::Store,
    telemetry::{
        metrics::{self, Metrics},
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
    tasks::models::note(&registry, &health, &metrics);
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
    let backoff_most = config::ms(settings.amqp.max_backoff_ms);
    let (publisher, publisher_task) = publisher::new(broker.clone(), backoff_most, metrics.clone());
    let (controls, paused, pause) = tasks::controls::channels();
    let (tracer, traces) = match settings.trace.endpoint.clone() {
        Some(endpoint) => {
            let (tracer, heard) = Tracer::new(settings.trace.share, metrics.clone());
            (tracer, Some((endpoint, heard)))
        }
        None => (Tracer::off(metrics.clone()), None),
    };
    let folder = Arc::new(Mutex::new(Folder::new(&settings.warm.dir)));
    let (invalid, invalidated) = tasks::invalidations::channel();
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
    tasks.start(
        "redis check",
        tasks::health::check_redis(engine.clone(), health.clone()),
    );
    tasks.start(
        "postgres check",
        tasks::health::check_postgres(store.clone(), health.clone()),
    );
    tasks.start(
        "queue depths",
        tasks::depths::watch(
            broker.clone(),
            topology.clone(),
            metrics.clone(),
            health.clone(),
        ),
    );
    tasks.start(
        "models folder",
        tasks::models::rescan(
            registry.clone(),
            health.clone(),
            metrics.clone(),
            Duration::from_secs(settings.models.unload_after_seconds),
        ),
    );
    tasks.start(
        "controls",
        tasks::controls::follow(controls, store.clone(), metrics.clone(), health.clone()),
    );
    tasks.start(
        "model choice",
        tasks::models::follow_choice(registry, store.clone(), metrics.clone()),
    );
    tasks.start(
        "invalidations",
        tasks::invalidations::remove(
            invalidated,
            engine.clone(),
            metrics.clone(),
            settings.redis.cooldown_ms,
        ),
    );
    let known = settings.namespaces.keys().cloned().collect();
    tasks.start(
        "heat",
        tasks::heat::tell(
            heat.clone(),
            engine.clone(),
            metrics.clone(),
            worker_name(),
            known,
        ),
    );
    tasks.start(
        "hints",
        tasks::hints::follow(
            heat,
            broker.clone(),
            topology.clone(),
            metrics.clone(),
            health.clone(),
        ),
    );
    if settings.warm.enabled {
        tasks.start("warming", tasks::warming::follow(warmer, health.clone()));
    }
    let mut intake = tokio::spawn(intake::consume(
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

async fn signal() -> anyhow::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    })
}
