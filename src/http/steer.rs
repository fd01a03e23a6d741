//! Routes that change how workers run: pausing and resuming, warming on request, invalidation, and readers' hints.

use super::{
    Shared, actions,
    api_state::ApiState,
    auth::{Admin, Scorer},
    extract::{self, Named, Payload},
    problem::Problem,
    responses::{BadRequest, Guarded, NotFound, TooLarge, Unavailable},
};
use crate::{
    cache::{self, Invalidation},
    heat::Hint,
    store::{ActionKind, INTAKE, Removable, SCHEDULE},
    warm::schedule::Schedule,
};
use axum::{Json, extract::State, http::StatusCode};
use kiln_contract::name;
use serde::Serialize;
use std::sync::{Arc, PoisonError};
use utoipa::ToSchema;

/// Whether it is paused now.
#[derive(Debug, Serialize, ToSchema)]
pub struct Steered {
    paused: bool,
    /// Whether this request changed it.
    changed: bool,
}

/// A requested run.
#[derive(Debug, Serialize, ToSchema)]
pub struct Asked {
    run: i64,
    schedule: String,
}

/// The invalidated namespace.
#[derive(Debug, Serialize, ToSchema)]
pub struct Invalidated {
    namespace: String,
}

/// Keys that a service read from Redis.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes what the hint's own parser takes")]
pub struct HintRequest {
    #[schema(example = "feed", pattern = "^[a-z0-9_-]{1,64}$")]
    namespace: String,
    /// The keys that were read, each as often as it was read.
    #[schema(min_items = 1, max_items = 4096)]
    keys: Vec<String>,
    /// Whose reads these are, if all are of one session: any text that is the same for its reads.
    #[schema(max_length = 256)]
    session: Option<String>,
}

async fn steer(
    state: &ApiState,
    name: String,
    by: Arc<str>,
    kind: ActionKind,
) -> Result<Json<Steered>, Problem> {
    let paused = kind == ActionKind::Pause;
    let (what, who) = (name.clone(), by.clone());
    let changed = state
        .ask(move |store| async move {
            match paused {
                true => store.pause(&name, &who).await,
                false => store.resume(&name).await,
            }
        })
        .await?;
    if changed {
        tracing::info!(what, paused, "requested over HTTP");
        actions::note(state, &by, kind, &what).await;
    }
    Ok(Json(Steered { paused, changed }))
}

/// The schedule of this name in this worker's folder.
pub(super) fn schedule(state: &ApiState, name: &str) -> Result<Arc<Schedule>, Problem> {
    let folder = state.folder.lock().unwrap_or_else(PoisonError::into_inner);
    folder
        .get(name)
        .ok_or_else(|| Problem::not_found("name", "there is no such schedule"))
}

/// Pauses intake on every worker: each finishes the jobs that it holds and takes no new ones.
#[utoipa::path(post, path = "/v1/intake/pause", tag = "steering", security(("key" = [])),
    responses((status = 200, body = Steered), Guarded, Unavailable))]
pub(super) async fn pause_intake(
    admin: Admin,
    State(shared): State<Shared>,
) -> Result<Json<Steered>, Problem> {
    steer(
        shared.state()?,
        INTAKE.to_owned(),
        admin.0,
        ActionKind::Pause,
    )
    .await
}

/// Resumes intake on every worker.
#[utoipa::path(post, path = "/v1/intake/resume", tag = "steering", security(("key" = [])),
    responses((status = 200, body = Steered), Guarded, Unavailable))]
pub(super) async fn resume_intake(
    admin: Admin,
    State(shared): State<Shared>,
) -> Result<Json<Steered>, Problem> {
    steer(
        shared.state()?,
        INTAKE.to_owned(),
        admin.0,
        ActionKind::Resume,
    )
    .await
}

/// Pauses a schedule: it no longer starts by itself.
#[utoipa::path(post, path = "/v1/schedules/{name}/pause", tag = "steering", security(("key" = [])), params(("name" = String, Path)),
    responses((status = 200, body = Steered), Guarded, NotFound, Unavailable))]
pub(super) async fn pause_schedule(
    admin: Admin,
    State(shared): State<Shared>,
    Named(name): Named,
) -> Result<Json<Steered>, Problem> {
    let state = shared.state()?;
    let schedule = schedule(state, &name)?;
    let name = format!("{SCHEDULE}{}", schedule.name);
    steer(state, name, admin.0, ActionKind::Pause).await
}

/// Resumes a schedule.
#[utoipa::path(post, path = "/v1/schedules/{name}/resume", tag = "steering", security(("key" = [])), params(("name" = String, Path)),
    responses((status = 200, body = Steered), Guarded, NotFound, Unavailable))]
pub(super) async fn resume_schedule(
    admin: Admin,
    State(shared): State<Shared>,
    Named(name): Named,
) -> Result<Json<Steered>, Problem> {
    let state = shared.state()?;
    let schedule = schedule(state, &name)?;
    let name = format!("{SCHEDULE}{}", schedule.name);
    steer(state, name, admin.0, ActionKind::Resume).await
}

/// Requests a run of a schedule now. One that follows a table has none to ask for.
#[utoipa::path(post, path = "/v1/warm/{name}", tag = "warming", security(("key" = [])), params(("name" = String, Path)),
    responses((status = 202, body = Asked), Guarded, BadRequest, NotFound, Unavailable))]
pub(super) async fn warm(
    admin: Admin,
    State(shared): State<Shared>,
    Named(name): Named,
) -> Result<(StatusCode, Json<Asked>), Problem> {
    let state = shared.state()?;
    let schedule = schedule(state, &name)?;
    if schedule.follows() {
        let why = "it follows a table: workers post what changes by themselves";
        return Err(Problem::invalid("name", why));
    }
    let asked = schedule.clone();
    let run = state
        .ask(move |store| async move { store.ask_run(&asked.name, asked.limit).await })
        .await?;
    actions::note(state, &admin.0, ActionKind::RunNow, &schedule.name).await;
    let asked = Asked {
        run,
        schedule: schedule.name.clone(),
    };
    Ok((StatusCode::ACCEPTED, Json(asked)))
}

/// Invalidates a namespace's cached scores on every worker: at once, or within a second where Redis is out of reach. The entries that
/// readers see are removed in the background, a thousand at a time. Without the database nothing is invalidated (503).
#[utoipa::path(post, path = "/v1/cache/invalidate/{namespace}", tag = "cache", security(("key" = [])), params(("namespace" = String, Path)),
    responses((status = 202, body = Invalidated), Guarded, BadRequest, Unavailable))]
pub(super) async fn invalidate(
    admin: Admin,
    State(shared): State<Shared>,
    Named(namespace): Named,
) -> Result<(StatusCode, Json<Invalidated>), Problem> {
    if !name::is_name(&namespace) {
        return Err(Problem::invalid("namespace", name::EXPECTED_NAME));
    }
    let state = shared.state()?;
    // Reserved first, so that the entries of a marked namespace are surely removed, too.
    let permit = state.invalid.try_reserve();
    let permit =
        permit.map_err(|_| Problem::unavailable("too many invalidations are under way"))?;
    let (engine, marked) = (state.engine.clone(), namespace.clone());
    let invalidation = state.ask(move |store| async move {
        cache::invalidate(&store, engine.cache().server(), &marked).await
    });
    let Invalidation { stamp, unheard } = invalidation.await?;
    permit.send(Removable {
        namespace: namespace.clone(),
        stamp,
        is_first: true,
    });
    tracing::info!(namespace, by = &*admin.0, "a namespace is invalidated");
    actions::note(state, &admin.0, ActionKind::Invalidate, &namespace).await;
    if let Some(reason) = unheard {
        tracing::info!(
            namespace,
            reason,
            "redis is out of reach: other workers learn of an invalidation within a second"
        );
    }
    Ok((StatusCode::ACCEPTED, Json(Invalidated { namespace })))
}

/// Reports which keys were read, so that the most read are warmed first.
#[utoipa::path(post, path = "/v1/hits", tag = "warming", security(("key" = [])), request_body = HintRequest,
    responses((status = 204), Guarded, BadRequest, TooLarge, Unavailable))]
pub(super) async fn hits(
    _scorer: Scorer,
    State(shared): State<Shared>,
    Payload(body): Payload,
) -> Result<StatusCode, Problem> {
    let state = shared.state()?;
    let hint = extract::read(body, |body| {
        Hint::parse(body).map_err(|reason| Problem::invalid("", reason))
    });
    let hint = hint.await?;
    state.heat.hinted(&hint);
    Ok(StatusCode::NO_CONTENT)
}
