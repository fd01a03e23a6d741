//! Owns the steps from a run's source to its jobs: group rows into entries (`group`), skip what is fresh (`weigh`), choose by worth
//! and budget (`run_plan`), and divide into jobs (`pieces`).
//!
//! Promises the same plan for a run and a dry run: both know the same (`knowledge`). Refuses to write anything.

pub(in crate::warm) mod age;
mod group;
mod held;
mod knowledge;
pub(in crate::warm) mod pieces;
mod run_plan;
pub(in crate::warm) mod versions;
mod weigh;

pub use knowledge::share_costs;
pub use run_plan::{PlannedEntry, RunPlan};

use super::{
    plan::{self, Candidate, MemoryRoom},
    schedule::{Budget, Schedule},
    source::{Item, RowSource, SourceError},
};
use crate::{
    cache::RedisCache,
    config::Settings,
    store::{Claim, PostgresStore, StoreError},
};
use age::Ages;
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use group::{Group, Grouping};
use held::Held;
use kiln_model::Registry;
use versions::Versions;
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
    #[error("another worker took its run over")]
    Lost,
}

/// What planning needs.
pub struct Gatherer<'a> {
    pub settings: &'a Settings,
    pub registry: &'a Registry,
    pub store: &'a PostgresStore,
    /// Without it nothing is fresh.
    pub redis: Option<&'a RedisCache>,
    pub now: DateTime<Utc>,
    /// The run that is planned; none of a dry run.
    pub claim: Option<Claim>,
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
        let serving = self
            .registry
            .serving(&schedule.model)
            .map_err(|e| SourceError(e.to_string()))?;
        let mut plan = RunPlan {
            costs_are_measured: true,
            ..RunPlan::default()
        };
        for model in serving.versions() {
            plan.costs_are_measured &= share_costs(self.store, model, self.scores_here).await?;
        }
        let mut context = PlanContext::new(self, schedule, Versions::new(serving)).await?;
        let held = self.read(schedule, source, &context, &mut plan).await?;
        plan.is_cut_short = held.is_cut_short;
        let candidates = held.candidates;
        let share = self.settings.warm.max_redis_share;
        plan.wanted_bytes = plan.kept_bytes + wanted(&candidates, &schedule.budget);
        plan.kept_seconds = context.ttl as f64 + context.grace;
        let wanted = plan.wanted_bytes;
        if !self
            .reserve(schedule, &mut context.knowledge, wanted)
            .await?
        {
            return Err(PlanError::Lost);
        }
        plan.choose(candidates, &schedule.budget, &context.knowledge, share);
        Ok(plan)
    }

    /// Reads the source as far as both budgets go.
    async fn read(
        &self,
        schedule: &Schedule,
        source: &dyn RowSource,
        context: &PlanContext<'_>,
        plan: &mut RunPlan,
    ) -> Result<Held, PlanError> {
        let ages = Ages::of(self, schedule, context.ttl);
        let mut held = Held::new(&schedule.budget, held::MAX_BYTES);
        let mut grouping = Grouping::new(&schedule.keep);
        let mut rows = source.rows();
        while let Some(item) = rows.next().await {
            let taken = match item? {
                Item::Bad(problem) => Err(problem),
                Item::Row(row) => grouping.push(row),
                Item::Remembered(row, said_ms) => match ages.life(said_ms) {
                    Some(life) => grouping.push_for(row, Some(life)),
                    None => {
                        plan.too_old += 1;
                        Ok(())
                    }
                },
            };
            if let Err(problem) = taken {
                plan.leave_out(problem);
            }
            if let Some(groups) = grouping.take(CHUNK) {
                self.hold(context, groups, &mut held, plan).await?;
            }
            if held.is_full() {
                break;
            }
        }
        let mut rest = grouping.finish();
        loop {
            let groups: Vec<Group> = rest.by_ref().take(CHUNK).collect();
            if groups.is_empty() || held.is_full() {
                return Ok(held);
            }
            self.hold(context, groups, &mut held, plan).await?;
        }
    }

    async fn hold(
        &self,
        context: &PlanContext<'_>,
        groups: Vec<Group>,
        held: &mut Held,
        plan: &mut RunPlan,
    ) -> Result<(), PlanError> {
        for one in self.weigh(context, groups, plan).await? {
            held.add(one, &mut plan.left);
        }
        Ok(())
    }

    /// TTL of a schedule's entries, in seconds; `model` is the model's own.
    fn ttl_seconds(&self, schedule: &Schedule, model: Option<u64>) -> u64 {
        self.settings
            .ttl_seconds(schedule.ttl_seconds, schedule.namespace(), model)
    }
}

/// What candidates would fill if there were memory for all that the budget allows, in bytes.
fn wanted(candidates: &[PlannedEntry], budget: &Budget) -> f64 {
    let weights: Vec<Candidate> = candidates.iter().map(|one| one.candidate).collect();
    let chosen = plan::choose(&weights, budget, MemoryRoom::UNKNOWN).chosen;
    let chosen = chosen.into_iter().filter_map(|number| weights.get(number));
    chosen.map(|one| one.bytes).sum()
}
