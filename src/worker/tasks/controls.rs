//! Keeps this worker doing what operators have asked of all: taking jobs or not, running schedules or not.

use crate::{
    health::{Health, Part},
    store::{INTAKE, Paused, PostgresStore},
    telemetry::metrics::Metrics,
    worker::switch::Switch,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// How often the database is asked: a worker follows within a second.
const LOOK: Duration = Duration::from_millis(500);

/// Where what is paused is told.
pub(in crate::worker) struct Controls {
    paused: watch::Sender<Vec<Paused>>,
    intake: watch::Sender<bool>,
}

/// Where it is told, and where it is heard: everything, and taking jobs by itself.
pub(in crate::worker) fn channels() -> (Controls, watch::Receiver<Vec<Paused>>, Switch) {
    let (paused, heard) = watch::channel(Vec::new());
    let (intake, pause) = Switch::new();
    (Controls { paused, intake }, heard, pause)
}

/// Follows the database. While it is out of reach, what was asked last goes on.
pub(in crate::worker) async fn follow(
    controls: Arc<Controls>,
    store: PostgresStore,
    metrics: Metrics,
    health: Health,
) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tick.tick().await;
        if !health.is_up(Part::Migrations) {
            continue;
        }
        let Ok(paused) = store.paused().await else {
            continue;
        };
        let intake = paused.iter().any(|one| one.name == INTAKE);
        metrics.paused(paused.len(), intake);
        controls.paused.send_if_modified(|known| {
            let changed = *known != paused;
            *known = paused;
            changed
        });
        controls
            .intake
            .send_if_modified(|known| std::mem::replace(known, intake) != intake);
    }
}
