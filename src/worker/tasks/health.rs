//! Asks Redis and Postgres how they are, and tells health.

use crate::{
    health::{Health, Part},
    pipeline::Engine,
    store::PostgresStore,
};
use std::{sync::Arc, time::Duration};

/// How often servers are asked how they are.
const CHECK: Duration = Duration::from_secs(1);

pub(in crate::worker) async fn check_redis(
    engine: Arc<Engine>,
    health: Health,
) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(CHECK);
    loop {
        tick.tick().await;
        match engine.cache().server() {
            None => health.up(Part::Redis),
            Some(redis) => match redis.ping().await {
                Ok(()) => health.up(Part::Redis),
                Err(reason) => health.down(Part::Redis, &reason),
            },
        }
    }
}

pub(in crate::worker) async fn check_postgres(
    store: PostgresStore,
    health: Health,
) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(CHECK);
    loop {
        tick.tick().await;
        match store.ping().await {
            Ok(()) => health.up(Part::Postgres),
            Err(reason) => health.down(Part::Postgres, &reason.to_string()),
        }
    }
}
