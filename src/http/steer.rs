//! What changes how workers run: pausing, warming on request; and readers' hints.

use super::{
    Shared,
    auth::{Admin, Scorer},
    desk::Desk,
    extract::{Named, Payload},
    problem::{ErrorBody, Problem},
};
use crate::{
    heat::Hint,
    name,
    store::{INTAKE, SCHEDULE},
    warm::schedule::Schedule,
};
use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use std::sync::{Arc, PoisonError};
use utoipa::ToSchema;

/// What is paused or goes on.
#[derive(Debug, Serialize, ToSchema)]
pub struct Steered {
    paused: bool,
    /// Whether this request changed it.
    changed: bool,
}

/// A run that was asked for.
#[derive(Debug, Serialize, ToSchema)]
pub struct Asked {
    run: i64,
    schedule: String,
}

/// A namespace of which nothing older counts any more.
#[derive(Debug, Serialize, ToSchema)]
pub struct Invalidated {
    namespace: String,
}

/// What a reader's service read.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes what the hint's own parser takes")]
pub struct HintRequest {
    #[schema(example = "feed", pattern = "^[a-z0-9_-]{1,64}$")]
    namespace: String,
    /// Names that were read, each as often as it was.
    #[schema(min_items = 1, max_items = 4096)]
    keys: Vec<String>,
}

async fn steer(desk: &Desk, name: String, by: Option<Arc<str>>) -> Result<Json<Steered>, Problem> {
    let paused = by.is_some();
    let told = name.clone();
    let changed = desk
        .ask(move |store| async move {
            match by {
                Some(by) => store.pause(&name, &by).await,
                None => store.resume(&name).await,
            }
        })
        .await?;
    if changed {
        tracing::info!(what = told, paused, "asked over HTTP");
    }
    Ok(Json(Steered { paused, changed }))
}

fn schedule(desk: &Desk, name: &str) -> Result<Arc<Schedule>, Problem> {
    let folder = desk.folder.lock().unwrap_or_else(PoisonError::into_inner);
    folder
        .get(name)
        .ok_or_else(|| Problem::not_found("name", "there is no such schedule"))
}

/// Stops every worker from taking jobs, once it has finished what it holds.
#[utoipa::path(post, path = "/v1/intake/pause", tag = "steering", security(("key" = [])),
    responses((status = 200, body = Steered), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn pause_intake(
    admin: Admin,
    State(shared): State<Shared>,
) -> Result<Json<Steered>, Problem> {
    steer(shared.desk()?, INTAKE.to_owned(), Some(admin.0)).await
}

/// Has workers take jobs again.
#[utoipa::path(post, path = "/v1/intake/resume", tag = "steering", security(("key" = [])),
    responses((status = 200, body = Steered), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn resume_intake(
    _admin: Admin,
    State(shared): State<Shared>,
) -> Result<Json<Steered>, Problem> {
    steer(shared.desk()?, INTAKE.to_owned(), None).await
}

/// Keeps a schedule from running by itself.
#[utoipa::path(post, path = "/v1/schedules/{name}/pause", tag = "steering", security(("key" = [])), params(("name" = String, Path)),
    responses((status = 200, body = Steered), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn pause_schedule(
    admin: Admin,
    State(shared): State<Shared>,
    Named(name): Named,
) -> Result<Json<Steered>, Problem> {
    let desk = shared.desk()?;
    let schedule = schedule(desk, &name)?;
    let name = format!("{SCHEDULE}{}", schedule.name);
    steer(desk, name, Some(admin.0)).await
}

/// Has a schedule run by itself again.
#[utoipa::path(post, path = "/v1/schedules/{name}/resume", tag = "steering", security(("key" = [])), params(("name" = String, Path)),
    responses((status = 200, body = Steered), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn resume_schedule(
    _admin: Admin,
    State(shared): State<Shared>,
    Named(name): Named,
) -> Result<Json<Steered>, Problem> {
    let desk = shared.desk()?;
    let schedule = schedule(desk, &name)?;
    steer(desk, format!("{SCHEDULE}{}", schedule.name), None).await
}

/// Asks for a run of a schedule now.
#[utoipa::path(post, path = "/v1/warm/{name}", tag = "warming", security(("key" = [])), params(("name" = String, Path)),
    responses((status = 202, body = Asked), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn warm(
    _admin: Admin,
    State(shared): State<Shared>,
    Named(name): Named,
) -> Result<(StatusCode, Json<Asked>), Problem> {
    let desk = shared.desk()?;
    let schedule = schedule(desk, &name)?;
    let asked = schedule.clone();
    let run = desk
        .ask(move |store| async move { store.ask_run(&asked.name, asked.limit).await })
        .await?;
    let asked = Asked {
        run,
        schedule: schedule.name.clone(),
    };
    Ok((StatusCode::ACCEPTED, Json(asked)))
}

/// Makes everything that was scored for a namespace until now worthless, on every worker at once; what readers find of it is
/// removed in the background, a thousand entries at a time.
#[utoipa::path(post, path = "/v1/cache/invalidate/{namespace}", tag = "cache", security(("key" = [])), params(("namespace" = String, Path)),
    responses((status = 202, body = Invalidated), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn invalidate(
    admin: Admin,
    State(shared): State<Shared>,
    Named(namespace): Named,
) -> Result<(StatusCode, Json<Invalidated>), Problem> {
    if !name::is_name(&namespace) {
        return Err(Problem::invalid("namespace", name::EXPECTED_NAME));
    }
    let desk = shared.desk()?;
    // Its place comes first: a namespace that is marked is removed, too.
    let place = desk.invalid.try_reserve();
    let place = place.map_err(|_| Problem::unavailable("too many invalidations are under way"))?;
    let (engine, marked) = (desk.engine.clone(), namespace.clone());
    let mark = async move {
        match engine.cache().server() {
            Some(redis) => redis.invalidate(&marked).await,
            None => Ok(()),
        }
    };
    let marked = desk.errand(mark).await?;
    marked.map_err(|reason| Problem::unavailable(format!("redis: {reason}")))?;
    place.send(namespace.clone());
    tracing::info!(namespace, by = &*admin.0, "a namespace is invalidated");
    Ok((StatusCode::ACCEPTED, Json(Invalidated { namespace })))
}

/// Tells which names were read, so that the hottest are warmed first.
#[utoipa::path(post, path = "/v1/hits", tag = "warming", security(("key" = [])), request_body = HintRequest,
    responses((status = 204), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 413, body = ErrorBody),
        (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn hits(
    _scorer: Scorer,
    State(shared): State<Shared>,
    Payload(body): Payload,
) -> Result<StatusCode, Problem> {
    let desk = shared.desk()?;
    let hint = Hint::parse(&body).map_err(|reason| Problem::invalid("", reason))?;
    let keys = hint.keys.iter().map(String::as_str);
    desk.heat.readers.hinted(&hint.namespace, keys);
    Ok(StatusCode::NO_CONTENT)
}
