//! `/v1/models/{name}/shift`, `/warm` and `/activate`: how a version differs from the one that serves, how warm it is, and the change to it and back.
//!
//! Promises that nothing is switched to that this worker doesn't have, and that who switched is noted. Refuses to judge a shift: it shows it.

use super::{
    Shared, actions,
    api_state::ApiState,
    auth::{Admin, Reader},
    extract::{self, Named, Params, Payload},
    models,
    problem::Problem,
    responses::{BadRequest, Guarded, NotFound, TooLarge, Unavailable},
};
use crate::{
    amqp::message,
    redact::Redact,
    store::{ActionKind, StoreError},
    warm::{
        hot_inputs::{self, Asked, CHUNK},
        rollover::Shift,
    },
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::StatusCode,
    routing::{self, get},
};
use kiln_model::SplitChoice;
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use utoipa::{IntoParams, ToSchema};

/// Hot inputs that are looked at, those that are requested most first.
const MAX_HOT: usize = 5_000;
/// Longest wait for the broker to take the jobs of [`CHUNK`] inputs.
const POSTING: Duration = Duration::from_secs(2);

/// Jobs with the same bytes have the same ids: who asks again posts nothing twice.
const UNCONFIRMED: &str =
    "the broker didn't confirm the jobs in time, and may have them all the same: ask again";

/// A version to compare with the one that serves.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct VersionWanted {
    version: String,
}

/// A version of the model.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VersionRequest {
    /// Null, where one is activated: the choice is taken back, so that workers serve the version that their settings name, or else the highest.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(required)]
    version: Option<String>,
}

/// How a version stands to the one that serves.
#[derive(Debug, Serialize, ToSchema)]
pub struct ShiftShown {
    model: String,
    /// The version that serves here.
    from: Option<String>,
    to: String,
    /// Inputs of the model that are hot, over all workers, 5,000 at most.
    hot_inputs: usize,
    /// Share of the requests for these that would find an entry of the version: how warm it is. Null where nothing is hot.
    warm_share: Option<f64>,
    /// Of the hot inputs those that both versions scored; the figures are null where there are none.
    compared: usize,
    /// Mean of the version's scores minus those of the one that serves, of the absolute difference, and the largest one.
    mean: Option<f64>,
    mean_absolute: Option<f64>,
    max_absolute: Option<f64>,
    /// Spearman's, -1 to 1; null where either side is constant.
    rank_correlation: Option<f64>,
    /// Share of inputs that get another label; null where there are none.
    flips: Option<f64>,
    /// The version that a share of the inputs goes to now, which an activation ends; null where there is none.
    shared: Option<SharedShown>,
}

/// A version with a share of its model's inputs.
#[derive(Debug, Serialize, ToSchema)]
pub struct SharedShown {
    version: String,
    /// 0 to 1.
    share: f64,
}

impl From<SplitChoice> for SharedShown {
    fn from(split: SplitChoice) -> Self {
        Self {
            version: split.version,
            share: split.share.ratio(),
        }
    }
}

/// What was posted.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct WarmedShown {
    model: String,
    version: String,
    /// Hot inputs, those of them that are stored and were posted, and the jobs that they are in.
    hot_inputs: usize,
    posted: usize,
    jobs: usize,
}

/// The choice of a version.
#[derive(Debug, Serialize, ToSchema)]
pub struct Activated {
    model: String,
    /// Null where workers follow their settings.
    version: Option<String>,
    /// The choice before; null where there was none.
    before: Option<String>,
    /// The version whose share of the inputs has ended with this; null where there was none.
    ended: Option<SharedShown>,
}

/// The paths of models.
pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/v1/models", get(models::models))
        .route("/v1/models/{name}/shift", get(shift))
        .route("/v1/models/{name}/warm", routing::post(warm))
        .route("/v1/models/{name}/activate", routing::post(activate))
}

/// Says whether this worker has the version of the model, and which one serves.
fn serving(state: &ApiState, name: &str, version: Option<&str>) -> Result<Option<String>, Problem> {
    let listed = state.engine.registry().list();
    let mut own = listed.iter().filter(|model| model.info.name == name);
    if own.clone().next().is_none() {
        return Err(Problem::not_found("name", "there is no such model here"));
    }
    if let Some(version) = version
        && !own.clone().any(|model| model.info.version == version)
    {
        return Err(Problem::not_found(
            "version",
            "this worker has no such version",
        ));
    }
    let active = own.find(|model| model.active);
    Ok(active.map(|model| model.info.version.clone()))
}

/// Reads a version from a body.
async fn wanted(body: Bytes) -> Result<Option<String>, Problem> {
    let read = extract::read(body, |body| {
        serde_json::from_slice::<VersionRequest>(body)
            .map_err(|error| Problem::invalid("", error.redacted()))
    });
    Ok(read.await?.version)
}

/// The hot inputs of a model; none where Redis isn't used.
async fn hot(state: &ApiState, name: &str) -> Result<Vec<Asked>, Problem> {
    let (engine, name) = (state.engine.clone(), name.to_owned());
    let hot = state.run_on_worker(async move {
        let Some(redis) = engine.cache().server() else {
            return Vec::new();
        };
        let mut hot = hot_inputs::hot_inputs(redis, &name).await;
        hot.truncate(MAX_HOT);
        hot
    });
    hot.await
}

fn shown(model: String, from: Option<String>, to: String, shift: Option<Shift>) -> ShiftShown {
    ShiftShown {
        model,
        from,
        to,
        hot_inputs: 0,
        warm_share: None,
        compared: shift.map_or(0, |shift| shift.inputs),
        mean: shift.map(|shift| shift.mean),
        mean_absolute: shift.map(|shift| shift.mean_absolute),
        max_absolute: shift.map(|shift| shift.max_absolute),
        rank_correlation: shift.and_then(|shift| shift.rank_correlation),
        flips: shift.and_then(|shift| shift.flips),
        shared: None,
    }
}

/// Shows how a version's scores of hot inputs differ from those of the version that serves, as far as both have scored them, and how many requests would
/// find its entries.
#[utoipa::path(get, path = "/v1/models/{name}/shift", tag = "steering", security(("key" = [])), params(("name" = String, Path), VersionWanted),
    responses((status = 200, body = ShiftShown), Guarded, BadRequest, NotFound, Unavailable))]
pub(super) async fn shift(
    _reader: Reader,
    State(shared): State<Shared>,
    Named(name): Named,
    Params(wanted): Params<VersionWanted>,
) -> Result<Json<ShiftShown>, Problem> {
    let state = shared.state()?;
    let to = wanted.version;
    let from = serving(state, &name, Some(&to))?;
    // Nobody closes it.
    let turn = shared.comparing.clone().acquire_owned().await;
    let hot = hot(state, &name).await?;
    let (count, engine) = (hot.len(), state.engine.clone());
    let (model, old, new) = (name.clone(), from.clone(), to.clone());
    let compared = state.ask(move |store| async move {
        let _turn = turn;
        let share = match engine.cache().server() {
            Some(redis) if !hot.is_empty() => {
                hot_inputs::warm_share(redis, (&model, &new), &hot).await
            }
            _ => None,
        };
        let old = old.filter(|old| *old != new);
        let shift = match &old {
            Some(old) => hot_inputs::shift(&store, &model, (old, &new), &hot).await?,
            None => None,
        };
        let split = store.choices().await?.splits.remove(&model);
        Ok((share, shift, split))
    });
    let (warm_share, shift, split): (Option<f64>, Option<Shift>, Option<SplitChoice>) =
        compared.await?;
    Ok(Json(ShiftShown {
        hot_inputs: count,
        warm_share,
        shared: split.map(SharedShown::from),
        ..shown(name, from, to, shift)
    }))
}

/// Posts jobs that score hot inputs with a version, before it is switched to: to the queue of warming, so that nobody waits for them. `GET
/// /v1/models/{name}/shift` shows how far they are.
#[utoipa::path(post, path = "/v1/models/{name}/warm", tag = "steering", security(("key" = [])), params(("name" = String, Path)), request_body = VersionRequest,
    responses((status = 202, body = WarmedShown), Guarded, BadRequest, NotFound, TooLarge, Unavailable))]
pub(super) async fn warm(
    admin: Admin,
    State(shared): State<Shared>,
    Named(name): Named,
    Payload(body): Payload,
) -> Result<(StatusCode, Json<WarmedShown>), Problem> {
    let state = shared.state()?;
    let version = wanted(body).await?;
    let version = version.ok_or_else(|| Problem::invalid("version", "expected a version"))?;
    serving(state, &name, Some(&version))?;
    // Nobody closes it. Whatever the broker is like, others may look meanwhile: only what is looked up here takes turns.
    let turn = shared.comparing.clone().acquire_owned().await;
    let hot = hot(state, &name).await?;
    drop(turn);
    let turns = shared.comparing.clone();
    let work = post(state.clone(), turns, (name, version), hot, admin);
    let done = state.run_to_its_end(work).await??;
    Ok((StatusCode::ACCEPTED, Json(done)))
}

/// Posts the jobs, and notes how many inputs they have: also where that is only a part.
async fn post(
    state: ApiState,
    turns: Arc<Semaphore>,
    (model, version): (String, String),
    hot: Vec<Asked>,
    by: Admin,
) -> Result<WarmedShown, Problem> {
    let mut done = WarmedShown {
        hot_inputs: hot.len(),
        model,
        version,
        ..WarmedShown::default()
    };
    let posted = post_all(&state, &turns, &hot, &mut done).await;
    if posted.is_ok() || done.posted > 0 {
        let what = format!(
            "{}@{}: {} inputs to warm it",
            done.model, done.version, done.posted
        );
        actions::note(&state, &by.0, ActionKind::RunNow, &what).await;
    }
    posted.map(|()| done)
}

async fn post_all(
    state: &ApiState,
    turns: &Semaphore,
    hot: &[Asked],
    done: &mut WarmedShown,
) -> Result<(), Problem> {
    for chunk in hot.chunks(CHUNK) {
        let pinned = (done.model.as_str(), done.version.as_str());
        let turn = turns.acquire().await;
        let jobs = hot_inputs::pinned_jobs(&state.store, pinned, chunk).await;
        drop(turn);
        let jobs = jobs.map_err(|error| Problem::unavailable(format!("postgres: {error}")))?;
        let (count, inputs) = (jobs.len(), jobs.iter().map(|job| job.inputs).sum::<usize>());
        let messages = jobs
            .into_iter()
            .map(|job| message::job(&state.topology.warm, &job.id, job.body));
        let posted = tokio::time::timeout(POSTING, state.publisher.publish(messages)).await;
        posted
            .map_err(|_| Problem::unavailable(UNCONFIRMED))?
            .map_err(|error| Problem::unavailable(error.to_string()))?;
        done.jobs += count;
        done.posted += inputs;
    }
    Ok(())
}

/// Makes a version the one that the model's bare name means, on every worker of this database, within a second; or takes that back. A worker that doesn't
/// have it goes on with its own until it has. Going back to an earlier version is the same: its entries are still there.
#[utoipa::path(post, path = "/v1/models/{name}/activate", tag = "steering", security(("key" = [])), params(("name" = String, Path)), request_body = VersionRequest,
    responses((status = 200, body = Activated), Guarded, BadRequest, NotFound, TooLarge, Unavailable))]
pub(super) async fn activate(
    admin: Admin,
    State(shared): State<Shared>,
    Named(name): Named,
    Payload(body): Payload,
) -> Result<Json<Activated>, Problem> {
    let state = shared.state()?;
    let version = wanted(body).await?;
    serving(state, &name, version.as_deref())?;
    // Goes on without its caller: what is switched is noted.
    let work = switch(state.clone(), name, version, admin);
    Ok(Json(state.run_to_its_end(work).await??))
}

async fn switch(
    state: ApiState,
    model: String,
    version: Option<String>,
    by: Admin,
) -> Result<Activated, Problem> {
    let (name, chosen) = (model.clone(), version.clone());
    let switched = async {
        let mut before = state.store.choices().await?;
        match &chosen {
            Some(version) => state.store.choose_model(&name, version).await?,
            None => state.store.unchoose_model(&name).await.map(drop)?,
        }
        Ok::<_, StoreError>((before.active.remove(&name), before.splits.remove(&name)))
    };
    let (before, ended) = switched
        .await
        .map_err(|error| Problem::unavailable(format!("postgres: {error}")))?;
    let what = match &version {
        Some(version) => format!("{model}@{version}"),
        None => format!("{model} by default"),
    };
    tracing::info!(what, by = &*by.0, "a version is activated over HTTP");
    actions::note(&state, &by.0, ActionKind::Activate, &what).await;
    Ok(Activated {
        model,
        version,
        before,
        ended: ended.map(SharedShown::from),
    })
}
