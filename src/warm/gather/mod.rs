//! Owns the steps from a run's source to its jobs: group rows into entries (`group`), skip what is fresh (`weigh`), choose by worth
//! and budget (`run_plan`), and divide into jobs (`pieces`).
//!
//! Promises the same plan for a run and a dry run: both know the same (`knowledge`). Refuses to write anything.

mod group;
mod knowledge;
pub(in crate::warm) mod pieces;
mod run_plan;
mod weigh;

pub use knowledge::share_costs;
pub use run_plan::{PlannedEntry, RunPlan};

use super::{
    schedule::{Budget, Schedule},
    source::{Item, RowSource, SourceError},
};
use crate::{
    cache::RedisCache,
    config::Settings,
    store::{PostgresStore, StoreError},
};
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use group::{Group, Grouping};
use kiln_model::Registry;
use weigh::PlanContext;

/// Entries that are looked up in one round trip.
const CHUNK: usize = 512;

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What planning needs.
pub struct Gatherer<'a> {
    pub settings: &'a Settings,
    pub registry: &'a Registry,
    pub store: &'a PostgresStore,
    /// Without it nothing is fresh.
    pub redis: Option<&'a RedisCache>,
    pub now: DateTime<Utc>,
    /// Whether jobs are scored in this process, so that its models' costs are worth telling.
    pub scores_here: bool,
}

impl Gatherer<'_> {
    /// Reads the source and chooses.
    pub async fn plan(
        &self,
        schedule: &Schedule,
        source: &dyn RowSource,
    ) -> Result<RunPlan, PlanError> {
        let model = self
            .registry
            .resolve(&schedule.model)
            .map_err(|e| SourceError(e.to_string()))?;
        let mut plan = RunPlan {
            costs_are_measured: share_costs(self.store, &model, self.scores_here).await?,
            ..RunPlan::default()
        };
        let context = PlanContext::new(self, schedule, model).await?;
        let oldest = self.oldest_said_ms(schedule, context.ttl);
        let mut candidates: Vec<PlannedEntry> = Vec::new();
        let mut grouping = Grouping::new(&schedule.keep);
        let mut rows = source.rows();
        while let Some(item) = rows.next().await {
            let taken = match item? {
                Item::Bad(problem) => Err(problem),
                Item::Remembered(_, said_ms) if said_ms < oldest => {
                    plan.too_old += 1;
                    Ok(())
                }
                Item::Row(row) | Item::Remembered(row, _) => grouping.push(row),
            };
            if let Err(problem) = taken {
                plan.leave_out(problem);
            }
            let Some(groups) = grouping.take(CHUNK) else {
                continue;
            };
            candidates.append(&mut self.weigh(&context, groups, &mut plan).await?);
            // Without rates the source's order decides, so rows beyond the budget needn't be read.
            let rated = candidates.iter().any(|p| p.candidate.rate.is_some());
            let Budget {
                inputs, renewals, ..
            } = schedule.budget;
            if !rated && candidates.len() >= inputs.saturating_add(renewals) {
                break;
            }
        }
        let mut rest = grouping.finish();
        loop {
            let groups: Vec<Group> = rest.by_ref().take(CHUNK).collect();
            if groups.is_empty() {
                break;
            }
            candidates.append(&mut self.weigh(&context, groups, &mut plan).await?);
        }
        let share = self.settings.warm.max_redis_share;
        plan.choose(candidates, &schedule.budget, &context.knowledge, share);
        Ok(plan)
    }

    /// TTL of a schedule's entries, in seconds; `model` is the model's own.
    fn ttl_seconds(&self, schedule: &Schedule, model: Option<u64>) -> u64 {
        self.settings
            .ttl_seconds(schedule.ttl_seconds, schedule.namespace(), model)
    }

    /// When somebody must have said last what an entry is made of, in milliseconds since 1970, so that it is no older than its namespace allows
    /// until it expires after `ttl` seconds.
    fn oldest_said_ms(&self, schedule: &Schedule, ttl: f64) -> i64 {
        let own = self.settings.namespaces.get(schedule.namespace());
        let Some(max_age) = own.and_then(|own| own.max_age_seconds) else {
            return i64::MIN;
        };
        self.now.timestamp_millis() - ((max_age as f64 - ttl) * 1e3) as i64
    }
}
