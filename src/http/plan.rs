//! `POST /v1/warm/{name}/plan`: what a run of a schedule would post now, and why: a dry run, by the code and the knowledge of a run.
//!
//! Promises that nothing is posted, and that one dry run is made at a time: it reads the schedule's source, as a run does.

use super::{
    Shared,
    auth::Admin,
    extract::Named,
    problem::Problem,
    responses::{BadRequest, Guarded, NotFound, Unavailable},
    steer,
};
use crate::warm::{
    gather::{Gatherer, PlannedEntry, RunPlan},
    hot_source::open,
    schedule::Schedule,
};
use axum::{Json, Router, extract::State, routing::post};
use serde::Serialize;
use utoipa::ToSchema;

/// Dry runs at once.
pub(super) const AT_ONCE: usize = 1;
/// Entries that are shown.
const SHOWN: usize = 50;

/// A run that is asked for, and what it would do.
pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/v1/warm/{name}", post(steer::warm))
        .route("/v1/warm/{name}/plan", post(plan))
}

/// What a run would post.
#[derive(Debug, Serialize, ToSchema)]
pub struct PlanShown {
    schedule: String,
    /// Entries, the jobs that they are posted in, and their inputs.
    entries: usize,
    jobs: usize,
    inputs: usize,
    /// Inputs that the model computes, those whose known scores are renewed, and those of them that the table of scores has and Redis has lost.
    computes: usize,
    renewals: usize,
    from_table: usize,
    /// Inputs whose entries outlive the next run.
    fresh: usize,
    /// Inputs that a budget or Redis's memory leaves no room for.
    left_over: usize,
    /// Rows of the source that can't be used.
    bad: usize,
    /// Expected model time, in seconds, and whether calls have measured what it is made of.
    model_seconds: f64,
    costs_are_measured: bool,
    /// Waiting that it is expected to save, in seconds; null where no rate is known.
    saved_seconds: Option<f64>,
    /// About what its entries fill of Redis's memory, in bytes, and what bounds that.
    kept_bytes: f64,
    max_bytes: Option<f64>,
    /// What is wrong, or left out, and why.
    message: Option<String>,
    /// The first entries, 50 at most, in the order in which they are posted.
    first: Vec<PlannedShown>,
}

/// One entry.
#[derive(Debug, Serialize, ToSchema)]
pub struct PlannedShown {
    /// The key that readers use; null of an input without one.
    key: Option<String>,
    inputs: usize,
    computes: usize,
    /// What is left of its entry's TTL; below 0 it is served in its grace time, null where there is none.
    seconds_left: Option<f64>,
    /// Requests a second, where they are known.
    rate: Option<f64>,
    /// Expected model time.
    cost_seconds: f64,
    /// Waiting that it is expected to save.
    saves_seconds: Option<f64>,
}

impl From<&PlannedEntry> for PlannedShown {
    fn from(planned: &PlannedEntry) -> Self {
        Self {
            key: planned.key.clone(),
            inputs: planned.rows.len(),
            computes: planned.candidate.computes,
            seconds_left: planned.left,
            rate: planned.candidate.rate,
            cost_seconds: planned.candidate.cost,
            saves_seconds: planned.candidate.saves(),
        }
    }
}

fn shown(schedule: &Schedule, plan: &RunPlan, jobs: usize) -> PlanShown {
    PlanShown {
        schedule: schedule.name.clone(),
        entries: plan.chosen.len(),
        jobs,
        inputs: plan.inputs(),
        computes: plan.computes(),
        renewals: plan.renewed(),
        from_table: plan.from_table(),
        fresh: plan.fresh,
        left_over: plan.left.inputs(),
        bad: plan.bad,
        model_seconds: plan.model_seconds(),
        costs_are_measured: plan.costs_are_measured,
        saved_seconds: plan.saved_seconds(),
        kept_bytes: plan.kept_bytes,
        max_bytes: plan.max_bytes,
        message: plan.message(),
        first: plan
            .chosen
            .iter()
            .take(SHOWN)
            .map(PlannedShown::from)
            .collect(),
    }
}

/// Shows what a run of a schedule would post now, and posts nothing. It reads the schedule's source, so it takes the scope `admin`, and no page of another site may ask for it.
#[utoipa::path(post, path = "/v1/warm/{name}/plan", tag = "warming", security(("key" = [])), params(("name" = String, Path)),
    responses((status = 200, body = PlanShown), Guarded, BadRequest, NotFound, Unavailable))]
pub(super) async fn plan(
    _admin: Admin,
    State(shared): State<Shared>,
    Named(name): Named,
) -> Result<Json<PlanShown>, Problem> {
    let state = shared.state()?;
    let schedule = steer::schedule(state, &name)?;
    let turn = shared.planning.clone().try_acquire_owned();
    let turn = turn.map_err(|_| Problem::unavailable("another dry run is under way"))?;
    let (settings, engine) = (state.settings.clone(), state.engine.clone());
    let planned = state.ask(move |store| async move {
        let _turn = turn;
        let mut left = Schedule::clone(&schedule);
        let spent = store.spent_ahead(&schedule.name, None).await?;
        left.budget = left.budget.less(&spent);
        let redis = engine.cache().server();
        let gatherer = Gatherer {
            settings: &settings,
            registry: engine.registry(),
            store: &store,
            redis,
            now: store.clock().await?,
            claim: None,
            scores_here: false,
        };
        let work = async {
            let source = open(&left, &settings, &store, redis).await?;
            let mut plan = gatherer.plan(&left, source.as_ref()).await?;
            let jobs = gatherer.pieces(&left, &mut plan).len();
            Ok(shown(&left, &plan, jobs))
        };
        Ok(work.await)
    });
    let planned: Result<PlanShown, crate::warm::gather::PlanError> = planned.await?;
    planned
        .map(Json)
        .map_err(|error| Problem::unavailable(error.to_string()))
}
