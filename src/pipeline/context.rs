//! Owns what the stages share: handles to the other rooms, the inputs in flight, and the settings that they use.
//!
//! Promises that a write through it waits for the database. Refuses to know the stages.

use super::{
    budget::Budget, in_hand::InHandIds, insight::Insight, look_up_cost::LookUpCost,
    shadow::Shadows, share::Share, tasks::Tasks,
};
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

/// Passes that the tokens of one batch of a lane may be cut into: one for each of a few threads.
const LANE_BATCH_PASSES: usize = 4;

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
    /// The versions that score beside the active ones, if there are any.
    pub shadows: Option<Arc<Shadows>>,
}

/// What the stages share.
pub(super) struct Context {
    pub registry: Arc<Registry>,
    pub cache: Cache,
    pub store: Store,
    pub health: Health,
    pub metrics: Metrics,
    pub heat: Option<Arc<Heat>>,
    pub insight: Option<Arc<Insight>>,
    pub shadows: Option<Arc<Shadows>>,
    pub budget: Arc<Budget>,
    /// Which jobs are here, where anybody may ask for that.
    pub in_hand: Option<Arc<InHandIds>>,
    pub tasks: Tasks,
    pub look_up_cost: LookUpCost,
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
    /// Where jobs' ends may be posted to: for admission.
    pub callbacks: config::Callbacks,
    /// Jobs and tokens at which a batch of look-ups is closed, how many are under way at once, and how long one waits for company.
    pub batch_jobs: usize,
    pub max_batch_body_tokens: usize,
    pub batches_in_flight: usize,
    pub batch_wait: Duration,
    /// Longest time that a job is in hand.
    pub max_hold: Duration,
    /// Rows and tokens of one batch of a model.
    pub batch_rows: usize,
    pub batch_tokens: usize,
    /// Lanes that this worker serves; all if empty.
    pub served_lanes: Vec<String>,
    /// The lanes of models that share one.
    pub lane_of_model: BTreeMap<String, String>,
    /// What namespaces have of their lanes.
    pub shares: BTreeMap<String, Share>,
    /// Namespaces with a limit of their own, in order.
    pub limited: Arc<[String]>,
    lane: config::LaneLimits,
    lanes: BTreeMap<String, config::Lane>,
    /// Longest wait of a write that is repeated.
    max_wait: Duration,
}

impl PipelineSettings {
    fn new(settings: &Settings) -> Self {
        let shares: BTreeMap<String, Share> = settings.namespaces.iter().map(share).collect();
        let limited = shares.iter().filter(|(_, share)| share.is_limited());
        Self {
            limited: limited.map(|(name, _)| name.clone()).collect(),
            max_body_bytes: settings.intake.max_body_bytes,
            max_tries: settings.retry.max_tries,
            cache: settings.cache.clone(),
            namespaces: settings.namespaces.clone(),
            store: settings.store.clone(),
            callbacks: settings.callbacks.clone(),
            batch_jobs: settings.intake.batch_jobs,
            max_batch_body_tokens: settings.intake.batch_tokens,
            batches_in_flight: settings.intake.batches_in_flight,
            batch_wait: config::ms(settings.intake.batch_wait_ms),
            max_hold: Duration::from_secs(settings.intake.max_hold_seconds),
            batch_rows: settings.models.max_batch_rows,
            batch_tokens: settings.models.max_batch_tokens * LANE_BATCH_PASSES,
            served_lanes: settings.intake.lanes.clone(),
            lane_of_model: config::lanes_by_model(&settings.lanes),
            shares,
            lane: settings.lane.clone(),
            lanes: settings.lanes.clone(),
            max_wait: config::ms(settings.database.max_backoff_ms),
        }
    }
}

fn share((name, own): (&String, &Namespace)) -> (String, Share) {
    let share = Share {
        weight: own.weight.unwrap_or(1.0),
        max_seconds_per_second: own.max_model_seconds_per_second,
        max_jobs_per_second: own.max_jobs_per_second,
    };
    (name.clone(), share)
}

impl PipelineSettings {
    /// The lanes that have settings of their own.
    pub fn named_lanes(&self) -> impl Iterator<Item = &str> {
        self.lanes.keys().map(String::as_str)
    }

    /// The limits of a lane: its own, or those of all.
    pub fn lane_limits(&self, name: &str) -> config::LaneLimits {
        match self.lanes.get(name) {
            Some(lane) => lane.limits(&self.lane),
            None => self.lane.clone(),
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
            in_hand: parts.insight.is_some().then(Arc::default),
            insight: parts.insight,
            shadows: parts.shadows,
            budget: Budget::new(settings.intake.max_bytes_in_hand),
            tasks: Tasks::new(),
            look_up_cost: LookUpCost::default(),
            settings: PipelineSettings::new(settings),
        }
    }

    /// Repeats a write until the database has answered. An error is its refusal, an objection, or that it ran into its limit: what is sent again
    /// then is smaller where it can be.
    pub async fn write_in_time<T, W: Future<Output = Result<T, StoreError>>>(
        &self,
        write: impl Fn() -> W,
    ) -> Result<T, StoreError> {
        let answer = store::until_answered(self.write_backoff(), write, |error, _| {
            self.metrics.store_error();
            match error {
                // Whether that is the row's fault or the database's is asked next.
                StoreError::Refused(_) | StoreError::Objected(_) => {}
                StoreError::TimedOut(reason) => {
                    self.metrics.store_timeout();
                    // Where others are stored meanwhile, health hears of that as well.
                    self.health.down(Part::Postgres, reason);
                }
                StoreError::Contended(reason) => {
                    tracing::info!(reason, "the database undid a write; repeating it");
                }
                StoreError::Unavailable(reason) => self.health.down(Part::Postgres, reason),
            }
            matches!(error, StoreError::Unavailable(_) | StoreError::Contended(_))
        });
        let value = answer.await?;
        self.health.up(Part::Postgres);
        Ok(value)
    }

    /// Lets health know what a database says that takes no rows.
    pub fn hear_whether_it_takes(&self, answer: Result<(), StoreError>) -> Result<(), StoreError> {
        match &answer {
            Ok(()) => self.health.up(Part::Postgres),
            Err(error) => self.health.down(Part::Postgres, &error.to_string()),
        }
        answer
    }

    /// The waits between two attempts to write.
    pub fn write_backoff(&self) -> Backoff {
        Backoff::new(FIRST_WAIT, self.settings.max_wait)
    }
}
