//! `/v1/dead`: the dead letters, looked at where they are: in groups, one by one, and whole.
//!
//! Refuses to take any from their queue: that is `settle`.

mod look;
pub(super) mod settle;

use super::{
    Shared,
    auth::AllReader,
    extract::{Named, Params},
    problem::{ErrorBody, Problem},
    responses::{BadRequest, Guarded, Unavailable},
};
use crate::amqp::letter::{Letter, as_json};
use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use kiln_contract::job;
use lapin::message::Delivery;
pub(super) use look::AT_ONCE;
use look::{Look, Meant, read, shorten, with_letters};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::{IntoParams, ToSchema};

/// Letters of an answer, usually and at the most; letters of one job; groups.
const LETTERS: usize = 50;
const MAX_LETTERS: usize = 500;
const OF_ONE_JOB: usize = 10;
const MAX_GROUPS: usize = 100;
/// Largest body that is shown, in bytes.
const SHOWN_BYTES: usize = 256 << 10;

/// Which letters are wanted; all without any of it.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeadWanted {
    /// Why they were rejected.
    code: Option<String>,
    /// The model that they name.
    model: Option<String>,
    /// How their jobs' ids begin.
    id_prefix: Option<String>,
    /// Letters of the answer, 1 to 500, default 50. Groups count all that were looked at.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
}

/// The dead letters.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct DeadShown {
    /// Letters that were in the queue, and how many of them were looked at.
    waiting: u32,
    looked_at: u32,
    /// All that were looked at and wanted, the largest group first.
    groups: Vec<GroupShown>,
    /// Some of them, the latest first.
    letters: Vec<LetterShown>,
}

/// Letters with one code that name one model.
#[derive(Debug, Serialize, ToSchema)]
pub struct GroupShown {
    code: Option<String>,
    /// Null where it could not be read, or where there are too many.
    model: Option<String>,
    letters: u64,
    /// When the first and the last of them failed.
    first: Option<String>,
    last: Option<String>,
}

/// One letter.
#[derive(Debug, Serialize, ToSchema)]
pub struct LetterShown {
    failed_at: Option<String>,
    job_id: Option<String>,
    code: Option<String>,
    field: Option<String>,
    message: Option<String>,
    model: Option<String>,
    /// Where it is posted again.
    queue: Option<String>,
    bytes: usize,
}

/// The paths of the dead letters.
pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/v1/dead", get(list))
        .route("/v1/dead/replay", post(settle::replay))
        .route("/v1/dead/purge", post(settle::purge))
        .route("/v1/dead/{id}", get(one))
}

/// Looks at the dead letters, in groups and one by one, and leaves them where they are.
#[utoipa::path(get, path = "/v1/dead", tag = "dead letters", security(("key" = [])), params(DeadWanted),
    responses((status = 200, body = DeadShown), Guarded, BadRequest, Unavailable))]
pub(super) async fn list(
    _reader: AllReader,
    State(shared): State<Shared>,
    Params(wanted): Params<DeadWanted>,
) -> Result<Json<DeadShown>, Problem> {
    let limit = wanted.limit.unwrap_or(LETTERS);
    if !(1..=MAX_LETTERS).contains(&limit) {
        return Err(Problem::invalid("limit", "expected 1 to 500"));
    }
    let meant = Meant {
        ids: None,
        id_prefix: wanted.id_prefix,
        code: wanted.code,
        model: wanted.model,
    };
    let found = with_letters(&shared, move |state| async move {
        let mut look = Look::open(&state).await?;
        let mut letters = Vec::new();
        while let Some(delivery) = look.next().await? {
            let (letter, model) = read(&delivery);
            look.scan.hold(delivery);
            if meant.means(&letter, model.as_deref()) {
                letters.push((letter, model));
            }
        }
        let (waiting, looked_at) = look.close().await?;
        Ok((letters, waiting, looked_at))
    });
    let (letters, waiting, looked_at) = found.await?;
    Ok(Json(shown(letters, limit, waiting, looked_at)))
}

fn shown(
    mut letters: Vec<(Letter, Option<String>)>,
    limit: usize,
    waiting: u32,
    looked_at: u32,
) -> DeadShown {
    let mut groups: BTreeMap<(Option<String>, Option<String>), GroupShown> = BTreeMap::new();
    for (letter, model) in &letters {
        let mut named = (letter.code.clone(), model.clone());
        if groups.len() >= MAX_GROUPS && !groups.contains_key(&named) {
            named.1 = None;
        }
        let group = groups.entry(named.clone()).or_insert_with(|| GroupShown {
            code: named.0,
            model: named.1,
            letters: 0,
            first: letter.failed_at.clone(),
            last: None,
        });
        group.letters += 1;
        group.first = group.first.take().min(letter.failed_at.clone());
        group.last = group.last.take().max(letter.failed_at.clone());
    }
    let mut groups: Vec<GroupShown> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.letters));
    letters.sort_by(|a, b| (&b.0.failed_at, &b.0.job_id).cmp(&(&a.0.failed_at, &a.0.job_id)));
    letters.truncate(limit);
    let shortened = |text: Option<String>| text.map(|text| shorten(&text));
    let one = |(letter, model): (Letter, Option<String>)| LetterShown {
        failed_at: shortened(letter.failed_at),
        job_id: shortened(letter.job_id),
        code: shortened(letter.code),
        field: shortened(letter.field),
        message: shortened(letter.message),
        queue: shortened(letter.queue),
        bytes: letter.bytes,
        model,
    };
    DeadShown {
        waiting,
        looked_at,
        groups,
        letters: letters.into_iter().map(one).collect(),
    }
}

/// Shows the letters of one job, with their headers and bodies: `body` where it is JSON, else `body_text`; `body_omitted` of more than 256 KiB.
#[utoipa::path(get, path = "/v1/dead/{id}", tag = "dead letters", security(("key" = [])), params(("id" = String, Path)),
    responses((status = 200, body = Vec<Object>), Guarded, BadRequest, Unavailable,
        (status = 404, description = "none among the letters that were looked at", body = ErrorBody)))]
pub(super) async fn one(
    _reader: AllReader,
    State(shared): State<Shared>,
    Named(id): Named,
) -> Result<Json<Vec<Value>>, Problem> {
    if !job::is_job_id(&id) {
        return Err(Problem::invalid("id", job::EXPECTED_JOB_ID));
    }
    let found = with_letters(&shared, move |state| async move {
        let mut look = Look::open(&state).await?;
        let mut letters = Vec::new();
        while letters.len() < OF_ONE_JOB
            && let Some(delivery) = look.next().await?
        {
            let letter = Letter::read(&delivery.properties, delivery.data.len());
            if letter.job_id.as_ref() == Some(&id) {
                letters.push(whole(&letter, &delivery));
            }
            look.scan.hold(delivery);
        }
        let (_, looked_at) = look.close().await?;
        Ok((letters, looked_at))
    });
    let (letters, looked_at) = found.await?;
    if letters.is_empty() {
        let message =
            format!("none of the {looked_at} dead letters that were looked at is of this job");
        return Err(Problem::not_found("id", message));
    }
    Ok(Json(letters))
}

fn whole(letter: &Letter, delivery: &Delivery) -> Value {
    if delivery.data.len() <= SHOWN_BYTES {
        return as_json(letter, &delivery.properties, &delivery.data);
    }
    let mut shown = as_json(letter, &delivery.properties, b"null");
    if let Some(fields) = shown.as_object_mut() {
        fields.remove("body");
        fields.insert("body_omitted".into(), true.into());
    }
    shown
}

#[cfg(test)]
mod tests;
