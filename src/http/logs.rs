//! `/v1/log`: this worker's log levels, and its recent warnings and errors.

use super::{
    Shared, actions,
    auth::{Admin, Reader},
    extract::{self, Payload},
    problem::Problem,
    responses::{BadRequest, Guarded, TooLarge, Unavailable},
};
use crate::{clock::rfc3339, redact::Redact, store::ActionKind, telemetry::logs};
use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Log levels.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Levels {
    /// In the syntax of the setting `log.filter`. Levels below `info` apply to Kiln's own modules only.
    #[schema(example = "info,kiln=debug")]
    levels: String,
}

/// Shows this worker's log levels.
#[utoipa::path(get, path = "/v1/log", tag = "steering", security(("key" = [])),
    responses((status = 200, body = Levels), Guarded, Unavailable))]
pub(super) async fn levels(_reader: Reader) -> Result<Json<Levels>, Problem> {
    let levels = logs::levels().ok_or_else(|| Problem::unavailable("logging hasn't started"))?;
    Ok(Json(Levels { levels }))
}

/// A log line.
#[derive(Debug, Serialize, ToSchema)]
pub struct LineShown {
    at: String,
    /// `WARN` or `ERROR`.
    level: &'static str,
    message: String,
    fields: BTreeMap<String, String>,
}

/// Lists the last warnings and errors of this worker, newest first.
#[utoipa::path(get, path = "/v1/log/recent", tag = "worker", security(("key" = [])),
    responses((status = 200, body = Vec<LineShown>), Guarded))]
pub(super) async fn recent(_reader: Reader) -> Json<Vec<LineShown>> {
    let shown = logs::recent().into_iter().map(|line| LineShown {
        at: rfc3339(line.at),
        level: line.level,
        message: line.message,
        fields: line.fields,
    });
    Json(shown.collect())
}

/// Changes this worker's log levels until it restarts.
#[utoipa::path(put, path = "/v1/log", tag = "steering", security(("key" = [])), request_body = Levels,
    responses((status = 200, body = Levels), Guarded, BadRequest, TooLarge))]
pub(super) async fn set_levels(
    admin: Admin,
    State(shared): State<Shared>,
    Payload(body): Payload,
) -> Result<Json<Levels>, Problem> {
    let wanted = extract::read(body, |body| {
        serde_json::from_slice::<Levels>(body).map_err(|e| Problem::invalid("", e.redacted()))
    });
    let wanted = wanted.await?;
    logs::set_levels(&wanted.levels).map_err(|reason| Problem::invalid("levels", reason))?;
    tracing::info!(levels = wanted.levels, by = &*admin.0, "log levels changed");
    if let Ok(state) = shared.state() {
        actions::note(state, &admin.0, ActionKind::LogLevels, &wanted.levels).await;
    }
    Ok(Json(wanted))
}
