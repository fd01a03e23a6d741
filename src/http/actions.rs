//! `/v1/log/actions`: what operators did, and who. `/v1/key`: who calls, and what they may do.

use super::{
    Shared,
    api_state::ApiState,
    auth::{Caller, Reader},
    extract::Params,
    problem::Problem,
    responses::{BadRequest, Guarded, Unavailable},
};
use crate::{
    clock::rfc3339,
    store::{ActionKind, ActionRow},
};
use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// How many are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ActionsWanted {
    /// Latest actions, 1 to 500, default 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// Only those before the one with this id.
    #[param(minimum = 1)]
    before: Option<i64>,
}

/// One action.
#[derive(Debug, Serialize, ToSchema)]
pub struct ActionShown {
    id: i64,
    at: String,
    /// The name of an API key, `local` where a worker has none, or `command` and the user who ran it.
    by: String,
    /// Such as `pause`, `resume`, `run now`, `invalidate`, `activate`, `replay` or `purge`.
    action: String,
    /// What it was done to.
    detail: String,
}

/// Who calls.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyShown {
    /// The key's name in the settings; `local` where there are no keys.
    name: String,
    /// `read`, `read:all`, `score`, `admin`.
    scopes: Vec<&'static str>,
}

/// Notes what a caller did. It was done: where that can't be noted, the worker's log says so.
pub(super) async fn note(state: &ApiState, by: &str, kind: ActionKind, detail: &str) {
    let (by_name, what) = (by.to_owned(), detail.to_owned());
    let noted =
        state.ask(move |store| async move { store.note_action(&by_name, kind, &what).await });
    if noted.await.is_err() {
        let action = kind.as_str();
        tracing::warn!(action, by, "an action could not be noted in the database");
    }
}

/// Lists what operators did through workers and commands, the latest first; the latest 10,000 are kept.
#[utoipa::path(get, path = "/v1/log/actions", tag = "steering", security(("key" = [])), params(ActionsWanted),
    responses((status = 200, body = Vec<ActionShown>), Guarded, BadRequest, Unavailable))]
pub(super) async fn list(
    _reader: Reader,
    State(shared): State<Shared>,
    Params(wanted): Params<ActionsWanted>,
) -> Result<Json<Vec<ActionShown>>, Problem> {
    let limit = wanted.limit.unwrap_or(50);
    if !(1..=500).contains(&limit) {
        return Err(Problem::invalid("limit", "expected 1 to 500"));
    }
    let actions = shared
        .state()?
        .ask(move |store| async move { store.actions(wanted.before, limit).await });
    let actions: Vec<ActionRow> = actions.await?;
    let shown = actions.into_iter().map(|one| ActionShown {
        id: one.id,
        at: rfc3339(one.at),
        by: one.by_name,
        action: one.kind,
        detail: one.detail,
    });
    Ok(Json(shown.collect()))
}

/// Says which key the request has, and what it may do.
#[utoipa::path(get, path = "/v1/key", tag = "worker", security(("key" = [])),
    responses((status = 200, body = KeyShown), Guarded))]
pub(super) async fn key(caller: Caller) -> Json<KeyShown> {
    Json(KeyShown {
        name: caller.name.to_string(),
        scopes: caller.scopes,
    })
}
