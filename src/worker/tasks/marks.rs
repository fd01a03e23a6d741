//! Keeps what this worker knows of invalidations, and Redis's copy of it, as the database has it.

use crate::{
    health::{Health, Part},
    pipeline::Engine,
    telemetry::metrics::Metrics,
};
use std::{sync::Arc, time::Duration};

/// How often the database and Redis are asked: a worker follows, and Redis is repaired, within a second.
const LOOK: Duration = Duration::from_millis(500);

/// Follows the database, and repairs Redis. While one is out of reach, the other is looked after.
pub(in crate::worker) async fn follow(
    engine: Arc<Engine>,
    metrics: Metrics,
    health: Health,
) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut turn = 0;
    loop {
        tick.tick().await;
        let Some(redis) = engine.cache().server() else {
            continue;
        };
        let database = async {
            // That the database is out of reach is told by its own check.
            if health.is_up(Part::Migrations) && redis.hear().await.is_ok() {
                let _later = redis.hand_over().await;
            }
        };
        let (repaired, ()) = tokio::join!(redis.repair_marks(&mut turn), database);
        metrics.marks_repaired(repaired);
    }
}
