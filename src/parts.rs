//! Opens what the settings name: models, database, broker, cache server, and an engine that needs none of them.

use crate::{
    amqp::connection::Broker,
    cache::{Cache, RedisCache},
    config::Settings,
    health::{Health, Part},
    pipeline::{Engine, EngineParts},
    store::{PostgresStore, SqliteStore, Store},
    telemetry::metrics::Metrics,
};
use anyhow::{Context, bail};
use kiln_model::Registry;
use std::sync::Arc;

/// What there is without servers.
pub struct Embedded {
    /// The file that holds results and scores.
    pub store: SqliteStore,
}

/// Opens the file; `moved` hears how many rows of an earlier release's form were moved, and of how many.
pub async fn embedded(
    settings: &Settings,
    moved: impl FnMut(u64, u64) + Send + 'static,
) -> anyhow::Result<Embedded> {
    let store = SqliteStore::open_noting(&settings.embedded.path, moved).await?;
    Ok(Embedded { store })
}

impl Embedded {
    /// An engine over it.
    pub fn engine(&self, settings: &Settings) -> anyhow::Result<Engine> {
        let metrics = Metrics::new();
        let registry = open_registry(settings)?;
        let cache = if settings.cache.enabled {
            Cache::file(self.store.clone(), metrics.clone())
        } else {
            Cache::off(metrics.clone())
        };
        let health = Health::new(metrics.clone());
        health.up(Part::Postgres);
        let parts = EngineParts {
            registry,
            cache,
            store: Store::Sqlite(self.store.clone()),
            health,
            metrics,
            heat: None,
            insight: None,
            shadows: None,
        };
        Ok(Engine::new(parts, settings))
    }
}

/// Loads the models; a broken version is logged and left out.
pub fn open_registry(settings: &Settings) -> anyhow::Result<Arc<Registry>> {
    let registry = Registry::open(&settings.models)?;
    for problem in registry.problems() {
        tracing::error!(%problem, "a model version is refused");
    }
    Ok(registry)
}

/// The database that the settings name.
pub fn postgres(settings: &Settings) -> anyhow::Result<PostgresStore> {
    let url = settings
        .database
        .url
        .as_ref()
        .context("no database is set: give KILN_DATABASE_URL")?;
    Ok(PostgresStore::new(url, &settings.database)?)
}

/// The broker that the settings name.
pub fn broker(settings: &Settings) -> anyhow::Result<Broker> {
    let url = settings
        .amqp
        .url
        .as_ref()
        .context("no broker is set: give KILN_AMQP_URL")?;
    Ok(Broker::new(url, &settings.amqp))
}

/// The cache server that the settings name.
pub fn redis(settings: &Settings, metrics: Metrics) -> anyhow::Result<RedisCache> {
    let url = settings
        .redis
        .url
        .as_ref()
        .context("no cache is set: give KILN_REDIS_URL")?;
    Ok(RedisCache::new(url, &settings.redis, metrics)?)
}

/// The same for a command, which is of no use where it doesn't answer.
pub async fn redis_at_hand(settings: &Settings) -> anyhow::Result<RedisCache> {
    let redis = redis(settings, Metrics::new())?;
    match redis.ping().await {
        Ok(()) => Ok(redis),
        Err(reason) => bail!("redis at {}: {reason}", redis.host()),
    }
}
