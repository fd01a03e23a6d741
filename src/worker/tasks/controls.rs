//! Keeps this worker doing what operators have asked of all: taking jobs or not, running schedules or not, dropping those of cancelled runs.

use super::news::{self, Heard};
use crate::{
    store::{INTAKE, Paused},
    telemetry::metrics::Metrics,
    worker::{cancelled::CancelledRuns, switch::Switch},
};
use std::sync::Arc;
use tokio::sync::watch;

/// Where what is paused is told.
pub(in crate::worker) struct Controls {
    paused: watch::Sender<Vec<Paused>>,
    intake: watch::Sender<Option<bool>>,
    cancelled: CancelledRuns,
}

/// Where it is told, and where it is heard: everything, and taking jobs by itself.
pub(in crate::worker) fn channels(
    cancelled: CancelledRuns,
) -> (Controls, watch::Receiver<Vec<Paused>>, Switch) {
    let (paused, heard) = watch::channel(Vec::new());
    let (intake, pause) = Switch::new();
    let controls = Controls {
        paused,
        intake,
        cancelled,
    };
    (controls, heard, pause)
}

/// Follows what the database says.
pub(in crate::worker) async fn follow(
    controls: Arc<Controls>,
    mut heard: Heard,
    metrics: Metrics,
) -> anyhow::Result<()> {
    loop {
        let news = news::next(&mut heard).await;
        controls.cancelled.set(&news.cancelled);
        let paused = &news.paused;
        let intake = paused.iter().any(|one| one.name == INTAKE);
        metrics.paused(paused.len(), intake);
        controls.paused.send_if_modified(|known| {
            let changed = known != paused;
            known.clone_from(paused);
            changed
        });
        controls
            .intake
            .send_if_modified(|known| known.replace(intake) != Some(intake));
    }
}
