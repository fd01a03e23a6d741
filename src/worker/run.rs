//! Owns a worker's life: start, run until a signal or a failure, stop in order.
//!
//! Promises that a stop leaves nothing unanswered that could be answered within the drain limit: not ready at once; no new jobs, no new
//! requests; what is in hand ends; warming runs are released; spans are sent; connections are closed. A second signal ends it at once.

use super::{
    build::{Servers, Worker},
    drain::DrainLimits,
    supervisor::{Stage, Supervisor},
    suspects::Program,
    tasks,
};
use crate::{
    clock,
    config::Settings,
    health::{Health, Part},
    http::{self, Port, Served},
    parts,
    store::PostgresStore,
    telemetry::metrics::{self, Metrics},
};
use anyhow::{Context, bail};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

/// How long clients may take for the last bytes of their answers.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// Runs the worker until a signal stops it; `file` is where its settings were read. An error is why it can't go on.
pub async fn run(settings: Settings, file: Option<&Path>) -> anyhow::Result<()> {
    // From here on a signal is never the end of the process by itself.
    let mut signals = Signals::new()?;
    let settings = Arc::new(settings);
    let recorder = metrics::install().context("metrics")?;
    let metrics = Metrics::new();
    metrics.started(clock::now());
    let servers = Servers {
        broker: parts::broker(&settings)?.counted(metrics.clone()),
        store: parts::postgres(&settings)?.counted(metrics.clone()),
        redis: parts::redis(&settings, metrics.clone())?,
    };
    let health = Health::new(metrics.clone());
    let mut served = http::serve(Port {
        health: health.clone(),
        metrics: recorder.clone(),
        settings: settings.http.clone(),
        max_body_bytes: settings.intake.max_body_bytes,
    })?;
    tracing::info!(addr = %served.addr, version = env!("CARGO_PKG_VERSION"), "kiln starts");

    let models = settings.clone();
    let loading = tokio::task::spawn_blocking(move || parts::open_registry(&models));
    let registry = tokio::select! {
        registry = loading => registry??,
        signal = signals.next() => {
            tracing::info!(signal, "stopped before the models were loaded");
            return Ok(());
        }
    };
    tasks::models::note(&registry, &health, &metrics);
    let drain = settings.drain.clone();
    // Its model threads may be in the middle of a pass that nobody waits for any more: they end with the process.
    std::mem::forget(registry.clone());
    let suspects = Program::own(file);
    let worker = Worker::build(
        settings,
        servers,
        registry,
        suspects,
        health.clone(),
        metrics,
    );
    let mut tasks = worker.tasks();
    tasks::timings::add(&mut tasks, recorder, &worker.store, &health);
    tasks.start();
    served.open(worker.state());
    health.up(Part::Worker);

    let signal = tokio::select! {
        signal = signals.next() => signal,
        reason = tasks.failure() => bail!(reason),
        reason = served.ended() => bail!("the HTTP thread ended: {reason}"),
    };
    tracing::info!(
        signal,
        "stopping: no new jobs and requests, finishing those in hand"
    );
    tokio::select! {
        () = stop(&health, served, &tasks, &worker.store, DrainLimits::new(&drain)) => {}
        reason = tasks.failure() => bail!("while stopping: {reason}"),
        signal = signals.next() => {
            bail!("a second signal ({signal}): stopped at once; what was in hand goes back to its queue")
        }
    }
    tracing::info!("stopped");
    Ok(())
}

/// Stops everything, in order.
async fn stop(
    health: &Health,
    mut served: Served,
    tasks: &Supervisor,
    store: &PostgresStore,
    limits: DrainLimits,
) {
    let begun = Instant::now();
    let left = |until: Duration| until.saturating_sub(begun.elapsed());
    health.stopping();
    served.refuse();
    let idle = tokio::time::timeout(limits.in_hand, served.idle());
    let (mut dropped, idle) = tokio::join!(tasks.stop(Stage::Intake, limits.in_hand), idle);
    if idle.is_err() {
        dropped.push("HTTP requests");
    }
    dropped.extend(tasks.stop(Stage::Background, left(limits.output)).await);
    dropped.extend(tasks.stop(Stage::Output, left(limits.output)).await);
    if !dropped.is_empty() {
        tracing::warn!(
            unfinished = dropped.join(", "),
            "the drain limit passed; what is unfinished goes back to its queue"
        );
    }
    served.close(left(limits.all).min(LAST_BYTES)).await;
    // A connection that hangs is closed with the process.
    let _gone_too = tokio::time::timeout(left(limits.all), store.close()).await;
}

/// The signals that ask the worker to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one and gives its name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
