//! Warms, from when the tables are there.

use super::models::refused;
use crate::{
    health::{Health, Part},
    warm::{folder::Folder, run::Warmer},
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How often health hears of the schedules' folder.
const NOTED: Duration = Duration::from_secs(2);
/// How often the tables are waited for.
const WAIT: Duration = Duration::from_millis(200);

/// Carries warming runs until it is asked to stop, and releases those in hand.
pub(in crate::worker) async fn follow(
    warmer: Warmer,
    health: Health,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let migrated = async {
        let mut tick = tokio::time::interval(WAIT);
        while !health.is_up(Part::Migrations) {
            tick.tick().await;
        }
    };
    if stop.run_until_cancelled(migrated).await.is_none() {
        return Ok(());
    }
    let folder = warmer.folder.clone();
    tokio::select! {
        ended = warmer.run(stop) => ended,
        () = note(&folder, &health) => Ok(()),
    }
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
