//! Warms, from when the tables are there.

use super::models::refused;
use crate::{
    health::{Health, Part},
    heat::Heat,
    store::News,
    telemetry::worker_name,
    warm::{ahead::AheadPoster, carry::Carrier, folder::Folder, run::Warmer},
    worker::supervisor::{Stage, Supervisor},
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often health hears of the schedules' folder.
const NOTED: Duration = Duration::from_secs(2);
/// How often the tables are waited for.
const WAIT: Duration = Duration::from_millis(200);

/// Adds what posts jobs for readers before they ask.
pub(in crate::worker) fn add(
    tasks: &mut Supervisor,
    carrier: &Carrier,
    folder: &Arc<Mutex<Folder>>,
    heat: &Arc<Heat>,
    news: &watch::Sender<Option<Arc<News>>>,
    health: &Health,
) {
    let poster = AheadPoster {
        carrier: carrier.clone(),
        folder: folder.clone(),
        heat: heat.clone(),
        news: news.subscribe(),
    };
    let own = health.clone();
    tasks.add(Stage::Intake, "followers", move |stop| {
        ahead(poster.clone(), own.clone(), stop)
    });
    let warmer = Warmer {
        carrier: carrier.clone(),
        folder: folder.clone(),
        news: news.subscribe(),
        worker: worker_name(),
    };
    let own = health.clone();
    tasks.add(Stage::Intake, "warming", move |stop| {
        follow(warmer.clone(), own.clone(), stop)
    });
}

/// Carries warming runs until it is asked to stop, and releases those in hand.
async fn follow(warmer: Warmer, health: Health, stop: CancellationToken) -> anyhow::Result<()> {
    if !are_there_tables(&health, &stop).await {
        return Ok(());
    }
    let folder = warmer.folder.clone();
    tokio::select! {
        ended = warmer.run(stop) => ended,
        () = note(&folder, &health) => Ok(()),
    }
}

/// Has ready what probably is asked for next until it is asked to stop.
async fn ahead(poster: AheadPoster, health: Health, stop: CancellationToken) -> anyhow::Result<()> {
    if !are_there_tables(&health, &stop).await {
        return Ok(());
    }
    poster.run(stop).await
}

/// Waits for the tables; says whether they came before the stop did.
async fn are_there_tables(health: &Health, stop: &CancellationToken) -> bool {
    let migrated = async {
        let mut tick = tokio::time::interval(WAIT);
        while !health.is_up(Part::Migrations) {
            tick.tick().await;
        }
    };
    stop.run_until_cancelled(migrated).await.is_some()
}

/// Keeps health informed of schedule files that are refused.
async fn note(folder: &Arc<Mutex<Folder>>, health: &Health) {
    let mut tick = tokio::time::interval(NOTED);
    loop {
        tick.tick().await;
        let (count, first) = {
            let folder = folder.lock().unwrap_or_else(PoisonError::into_inner);
            let first = folder.problems().first().map(ToString::to_string);
            (folder.refused(), first)
        };
        match first {
            Some(first) => health.degraded(Part::Warming, &refused(count, "schedule file", &first)),
            None => health.up(Part::Warming),
        }
    }
}
