//! Owns the steps from a run's source to its jobs: group rows into entries (`group`), skip what is fresh (`weigh`), choose by worth
//! and budget (`run_plan`), and divide into jobs (`pieces`).
//!
//! Promises the same plan for a run and a dry run. Refuses to write anything.

mod group;
pub(in crate::warm) mod pieces;
mod run_plan;
mod weigh;

pub use run_plan::{PlannedEntry, RunPlan};

use super::{
    schedule::Schedule,
    source::{Item, RowSource, SourceError},
};
use crate::{cache::RedisCache, config::Settings};
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use group::{Group, Grouping};
use kiln_model::Registry;
use weigh::PlanContext;

/// Entries that are looked up in one round trip.
const CHUNK: usize = 512;

/// What planning needs.
pub struct Gatherer<'a> {
    pub settings: &'a Settings,
    pub registry: &'a Registry,
    /// Without it nothing is fresh.
    pub redis: Option<&'a RedisCache>,
    pub now: DateTime<Utc>,
    /// A random number from 0 to 1.
    pub random: fn() -> f64,
}

impl Gatherer<'_> {
    /// Reads the source and chooses. `spread` is how long a run takes, in seconds.
    pub async fn plan(
        &self,
        schedule: &Schedule,
        source: &dyn RowSource,
        spread: f64,
    ) -> Result<RunPlan, SourceError> {
        let model = self
            .registry
            .resolve(&schedule.model)
            .map_err(|e| SourceError(e.to_string()))?;
        let context = PlanContext::new(self, schedule, model, spread).await;
        let mut plan = RunPlan::default();
        let mut candidates: Vec<PlannedEntry> = Vec::new();
        let mut grouping = Grouping::new(&schedule.keep);
        let mut rows = source.rows();
        while let Some(item) = rows.next().await {
            let taken = match item? {
                Item::Bad(problem) => Err(problem),
                Item::Row(row) => grouping.push(row),
            };
            if let Err(problem) = taken {
                plan.leave_out(problem);
            }
            let Some(groups) = grouping.take(CHUNK) else {
                continue;
            };
            candidates.append(&mut self.weigh(&context, groups, &mut plan).await);
            // Without rates the source's order decides, so rows beyond the budget needn't be read.
            let rated = candidates.iter().any(|p| p.candidate.rate.is_some());
            if !rated && candidates.len() >= schedule.budget.inputs {
                break;
            }
        }
        let mut rest = grouping.finish();
        loop {
            let groups: Vec<Group> = rest.by_ref().take(CHUNK).collect();
            if groups.is_empty() {
                break;
            }
            candidates.append(&mut self.weigh(&context, groups, &mut plan).await);
        }
        plan.choose(candidates, &schedule.budget);
        Ok(plan)
    }

    /// TTL of a schedule's entries, in seconds; `model` is the model's own.
    fn ttl_seconds(&self, schedule: &Schedule, model: Option<u64>) -> u64 {
        self.settings
            .ttl_seconds(schedule.ttl_seconds, schedule.namespace(), model)
    }
}
