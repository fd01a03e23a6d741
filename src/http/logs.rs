//! `/v1/log`: which lines this worker logs.

use super::{
    Shared,
    auth::{Admin, Reader},
    extract::Payload,
    problem::Problem,
    responses::{BadRequest, Guarded, TooLarge, Unavailable},
};
use crate::{clock::rfc3339, telemetry::logs};
use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Which lines are logged.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Levels {
    /// In the syntax of `log.filter`. Below `info` only Kiln's own lines are written, whatever it says.
    #[schema(example = "info,kiln=debug")]
    levels: String,
}

/// Which lines this worker logs.
#[utoipa::path(get, path = "/v1/log", tag = "steering", security(("key" = [])),
    responses((status = 200, body = Levels), Guarded, Unavailable))]
pub(super) async fn levels(_reader: Reader) -> Result<Json<Levels>, Problem> {
    let levels = logs::levels().ok_or_else(|| Problem::unavailable("logging hasn't started"))?;
    Ok(Json(Levels { levels }))
}

/// A line that was logged.
#[derive(Debug, Serialize, ToSchema)]
pub struct LineShown {
    at: String,
    /// `WARN` or `ERROR`.
    level: &'static str,
    message: String,
    fields: BTreeMap<String, String>,
}

/// The last warnings and errors of this worker, the newest first.
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

/// Has this worker log other lines from now on, until it ends.
#[utoipa::path(put, path = "/v1/log", tag = "steering", security(("key" = [])), request_body = Levels,
    responses((status = 200, body = Levels), Guarded, BadRequest, TooLarge))]
pub(super) async fn set_levels(
    admin: Admin,
    State(_shared): State<Shared>,
    Payload(body): Payload,
) -> Result<Json<Levels>, Problem> {
    let wanted: Levels =
        serde_json::from_slice(&body).map_err(|e| Problem::invalid("", e.to_string()))?;
    logs::set_levels(&wanted.levels).map_err(|reason| Problem::invalid("levels", reason))?;
    tracing::info!(levels = wanted.levels, by = &*admin.0, "log levels changed");
    Ok(Json(wanted))
}
