//! Owns what the stages share: handles to the other rooms, the inputs in flight, and the settings that they use.
//!
//! Promises that a write through it waits for the database. Refuses to know the stages.

use super::{flight::Flights, insight::Insight};
use crate::{
    backoff::Backoff,
    cache::Cache,
    config::{self, Namespace, Settings},
    health::{Health, Part},
    heat::Heat,
    store::{self, Store, StoreError},
    telemetry::metrics::Metrics,
};
use kiln_model::Registry;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// First wait of a write that is repeated.
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// What an engine is made of.
pub struct EngineParts {
    pub registry: Arc<Registry>,
    pub cache: Cache,
    pub store: Store,
    pub health: Health,
    pub metrics: Metrics,
    /// Where requests are counted, if anywhere.
    pub heat: Option<Arc<Heat>>,
    /// Where statistics of namespaces are collected, if anywhere.
    pub insight: Option<Arc<Insight>>,
}

/// What the stages share.
pub(super) struct Context {
    pub registry: Arc<Registry>,
    pub cache: Cache,
    pub store: Store,
    health: Health,
    pub metrics: Metrics,
    pub heat: Option<Arc<Heat>>,
    pub insight: Option<Arc<Insight>>,
    pub flights: Arc<Flights>,
    pub settings: PipelineSettings,
}

/// The settings that the stages use, and no others.
pub(super) struct PipelineSettings {
    /// Largest body of a job: for admission.
    pub max_body_bytes: usize,
    /// Tries of a job: for verdicts.
    pub max_tries: u32,
    /// TTLs of entries, and leases.
    pub cache: config::Cache,
    /// What namespaces have of their own.
    pub namespaces: BTreeMap<String, Namespace>,
    /// Which rows are written: for the store.
    pub store: config::Store,
    /// Longest wait of a write that is repeated.
    max_wait: Duration,
}

impl PipelineSettings {
    fn new(settings: &Settings) -> Self {
        Self {
            max_body_bytes: settings.intake.max_body_bytes,
            max_tries: settings.retry.max_tries,
            cache: settings.cache.clone(),
            namespaces: settings.namespaces.clone(),
            store: settings.store.clone(),
            max_wait: config::ms(settings.database.max_backoff_ms),
        }
    }
}

impl Context {
    /// What the stages of an engine over these parts share.
    pub fn new(parts: EngineParts, settings: &Settings) -> Self {
        Self {
            registry: parts.registry,
            cache: parts.cache,
            store: parts.store,
            health: parts.health,
            metrics: parts.metrics,
            heat: parts.heat,
            insight: parts.insight,
            flights: Arc::default(),
            settings: PipelineSettings::new(settings),
        }
    }

    /// Repeats a write until the database has answered; an error is its refusal.
    pub async fn write<T, W: Future<Output = Result<T, StoreError>>>(
        &self,
        write: impl Fn() -> W,
    ) -> Result<T, String> {
        let answer = self.repeat(write, StoreError::may_pass).await;
        answer.map_err(|refusal| refusal.to_string())
    }

    /// The same for a write that can be made smaller: an error is also that it ran into its limit.
    pub async fn write_in_time<T, W: Future<Output = Result<T, StoreError>>>(
        &self,
        write: impl Fn() -> W,
    ) -> Result<T, StoreError> {
        let again =
            |error: &StoreError| error.may_pass() && !matches!(error, StoreError::TimedOut(_));
        self.repeat(write, again).await
    }

    /// The waits between two attempts to write.
    pub fn write_backoff(&self) -> Backoff {
        Backoff::new(FIRST_WAIT, self.settings.max_wait)
    }

    async fn repeat<T, W: Future<Output = Result<T, StoreError>>>(
        &self,
        write: impl Fn() -> W,
        again: impl Fn(&StoreError) -> bool,
    ) -> Result<T, StoreError> {
        let answer = store::until_answered(self.write_backoff(), write, |error, _| {
            self.metrics.store_error();
            match error {
                StoreError::Refused(_) => {}
                StoreError::TimedOut(_) => self.metrics.store_timeout(),
                StoreError::Contended(reason) => {
                    tracing::info!(reason, "the database undid a write; repeating it");
                }
                StoreError::Unavailable(reason) => self.health.down(Part::Postgres, reason),
            }
            again(error)
        });
        let value = answer.await?;
        self.health.up(Part::Postgres);
        Ok(value)
    }
}
