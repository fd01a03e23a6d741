//! Keeps Redis's copy of what this worker knows of invalidations as it is known here.

use crate::{pipeline::Engine, telemetry::metrics::Metrics};
use std::{sync::Arc, time::Duration};

/// How often Redis is asked: it may lose a mark at any time, and every look-up meets the later one of what Redis and the worker know.
const LOOK: Duration = Duration::from_secs(2);

/// Puts back what Redis has lost, again and again.
pub(in crate::worker) async fn repair(engine: Arc<Engine>, metrics: Metrics) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut turn = 0;
    loop {
        tick.tick().await;
        if let Some(redis) = engine.cache().server() {
            metrics.marks_repaired(redis.repair_marks(&mut turn).await);
        }
    }
}
