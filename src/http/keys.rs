//! `/v1/keys/{namespace}/{key}`: what readers find under a name, and why.

use super::{
    Shared,
    auth::AllReader,
    extract::{NamedKey, Params},
    problem::Problem,
    responses::{BadRequest, Guarded, NotFound, Unavailable},
};
use crate::{
    clock,
    explain::{self, Explanation, HISTORY, MAX_HISTORY, Sources},
};
use axum::{Json, extract::State};
use kiln_contract::{job, name};
use serde::Deserialize;
use std::sync::PoisonError;
use utoipa::IntoParams;

/// How much of the history to show.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HistoryWanted {
    /// Latest rows of the history, 1 to 1000, default 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Explains a name: what a reader finds now (a named entry or a ranking), from which job, input, model and version, until when, how hot
/// it is, when it is warmed next; and what was served under it before.
#[utoipa::path(get, path = "/v1/keys/{namespace}/{key}", tag = "cache", security(("key" = [])),
    params(("namespace" = String, Path), ("key" = String, Path, description = "percent-encoded, a slash as well"), HistoryWanted),
    responses((status = 200, body = Explanation), Guarded, BadRequest, NotFound, Unavailable))]
pub(super) async fn explain(
    _reader: AllReader,
    State(shared): State<Shared>,
    NamedKey { namespace, key }: NamedKey,
    Params(wanted): Params<HistoryWanted>,
) -> Result<Json<Explanation>, Problem> {
    let max = wanted.limit.unwrap_or(HISTORY);
    if !(1..=MAX_HISTORY).contains(&max) {
        return Err(Problem::invalid("limit", "expected 1 to 1000"));
    }
    if !name::is_name(&namespace) {
        return Err(Problem::invalid("namespace", name::EXPECTED_NAME));
    }
    if let Some(problem) = job::key_problem(&key) {
        return Err(Problem::invalid("key", problem));
    }
    let state = shared.state()?.clone();
    let asked = state.clone();
    let explained = asked.look(async move {
        let schedules = {
            let folder = state.folder.lock().unwrap_or_else(PoisonError::into_inner);
            folder.schedules()
        };
        let paused = state.paused.borrow().clone();
        let sources = Sources {
            store: &state.store,
            redis: state.engine.cache().server(),
            settings: &state.settings,
            schedules: &schedules,
            paused: &paused,
            now: clock::now(),
        };
        explain::explain(&sources, &namespace, &key, max).await
    });
    let explained = explained.await?;
    let explained = explained.map_err(|e| Problem::unavailable(format!("postgres: {e}")))?;
    if !explained.is_empty() {
        return Ok(Json(explained));
    }
    match explained.unknown.first() {
        Some(unknown) => Err(Problem::unavailable(unknown)),
        None => {
            let message = "nothing is known of it: no job has named it, or it was pruned";
            Err(Problem::not_found("key", message))
        }
    }
}
