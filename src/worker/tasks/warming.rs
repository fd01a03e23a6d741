//! Warms, from when the tables are there.

use crate::{
    health::{Health, Part},
    warm::run::Warmer,
};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

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
    match stop.run_until_cancelled(migrated).await {
        Some(()) => warmer.run(stop).await,
        None => Ok(()),
    }
}
