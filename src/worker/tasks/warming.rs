//! Warms, from when the tables are there.

use crate::{
    health::{Health, Part},
    warm::run::Warmer,
};
use std::time::Duration;

/// Warms from when the tables are there.
pub(in crate::worker) async fn follow(warmer: Warmer, health: Health) -> Result<(), String> {
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    while !health.is_up(Part::Migrations) {
        tick.tick().await;
    }
    warmer.run().await
}
