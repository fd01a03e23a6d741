//! `GET /v1/jobs`: finds jobs that have ended, the latest first, a page at a time.
//!
//! Promises that a key which may not look at all sees neither the jobs of others nor how many there are, and that two pages are made at once at the
//! most, so that jobs' own rows are never kept waiting for them.

use super::{
    Shared,
    auth::Viewer,
    extract::Params,
    problem::Problem,
    responses::{BadRequest, Guarded, Unavailable},
};
use crate::{
    clock::rfc3339,
    store::{JobFilter, JobMark, JobPage, ListedJob, StoreError},
};
use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use kiln_contract::{failure::Code, job, name};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Pages that are made at once.
pub(super) const AT_ONCE: usize = 2;
/// Jobs of a page.
const PAGE: usize = 50;
const MAX_PAGE: usize = 500;

/// Which jobs are wanted; all without any of it.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct JobsWanted {
    /// How their ids begin: 1 to 128 printable ASCII characters. They come in the order of their ids then, otherwise the latest first.
    #[param(min_length = 1, max_length = 128)]
    id_prefix: Option<String>,
    /// A model's name, or `name@version`. A rejected job has the name that it was posted with, where it could be read.
    model: Option<String>,
    namespace: Option<String>,
    /// `ok` or `rejected`.
    #[param(pattern = "^(ok|rejected)$")]
    status: Option<String>,
    /// Why they were rejected, such as `invalid`.
    code: Option<String>,
    /// Ended then or later: RFC 3339.
    from: Option<String>,
    /// Ended before that: RFC 3339.
    to: Option<String>,
    /// Where the last page ended, as it says.
    #[param(max_length = 512)]
    cursor: Option<String>,
    /// Jobs of a page, 1 to 500, default 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
}

/// A page of jobs.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobsShown {
    jobs: Vec<JobShown>,
    /// Where the next page begins; null at the end. There may be one after a page with fewer jobs than wanted, or none: a page looks at some rows only.
    cursor: Option<String>,
    /// Rows that were looked at for this page.
    looked_at: u64,
    /// When the last of these had ended, or its id where ids are in order; null where the list is at its end.
    looked_until: Option<String>,
}

/// A job that has ended.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobShown {
    job_id: String,
    /// `ok` or `rejected`.
    status: String,
    model: Option<String>,
    version: Option<String>,
    namespace: Option<String>,
    /// Why it was rejected.
    code: Option<String>,
    /// Inputs whose scores were cached, and those that the model scored.
    hits: u32,
    misses: u32,
    /// From its arrival to its result.
    elapsed_ms: Option<f64>,
    finished_at: String,
}

impl From<ListedJob> for JobShown {
    fn from(job: ListedJob) -> Self {
        Self {
            finished_at: rfc3339(job.finished_at),
            job_id: job.job_id,
            status: job.status,
            model: job.model,
            version: job.version,
            namespace: job.namespace,
            code: job.code,
            hits: job.hits,
            misses: job.misses,
            elapsed_ms: job.elapsed_ms,
        }
    }
}

/// Finds jobs that have ended: everybody's with the scope `read:all`, otherwise those that the caller's key has posted.
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", security(("key" = [])), params(JobsWanted),
    responses((status = 200, body = JobsShown), Guarded, BadRequest, Unavailable))]
pub(super) async fn jobs(
    Viewer(whose): Viewer,
    State(shared): State<Shared>,
    Params(wanted): Params<JobsWanted>,
) -> Result<Json<JobsShown>, Problem> {
    let limit = wanted.limit.unwrap_or(PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::invalid("limit", "expected 1 to 500"));
    }
    let after = wanted.cursor.as_deref().map(mark).transpose()?;
    let mut filter = filter(wanted)?;
    filter.posted_by = whose.as_deref().map(str::to_owned);
    let is_by_id = filter.id_prefix.is_some();
    let state = shared.state()?;
    // Nobody closes it.
    let turn = shared.finding.clone().acquire_owned().await;
    let store = state.store.clone();
    let page = state.look(async move {
        let _turn = turn;
        store.list_jobs(&filter, after, limit).await
    });
    let page = page.await?.map_err(|error| {
        let narrower = match error {
            StoreError::TimedOut(_) => ": ask for a narrower time (`from` and `to`)",
            _ => "",
        };
        Problem::unavailable(format!("postgres: {error}{narrower}"))
    })?;
    Ok(Json(shown(page, is_by_id)))
}

fn shown(page: JobPage, is_by_id: bool) -> JobsShown {
    let until = |mark: &JobMark| match is_by_id {
        true => mark.job_id.clone(),
        false => rfc3339(mark.finished_at),
    };
    JobsShown {
        looked_until: page.next.as_ref().map(until),
        cursor: page.next.as_ref().map(cursor),
        looked_at: page.looked_at,
        jobs: page.jobs.into_iter().map(JobShown::from).collect(),
    }
}

fn filter(wanted: JobsWanted) -> Result<JobFilter, Problem> {
    if wanted
        .id_prefix
        .as_deref()
        .is_some_and(|id| !job::is_job_id(id))
    {
        return Err(Problem::invalid("id_prefix", job::EXPECTED_JOB_ID));
    }
    if let Some(namespace) = &wanted.namespace
        && !name::is_name(namespace)
    {
        return Err(Problem::invalid("namespace", name::EXPECTED_NAME));
    }
    let (model, version) = match wanted.model.as_deref() {
        None => (None, None),
        Some(model) => match model.split_once('@') {
            None => (Some(model), None),
            Some((model, version)) => (Some(model), Some(version)),
        },
    };
    // A text with a zero in it is none to the database.
    if model.is_some_and(|model| model.is_empty() || model.len() > 256 || model.contains('\0'))
        || version.is_some_and(|version| version.len() > 256 || version.contains('\0'))
    {
        return Err(Problem::invalid(
            "model",
            "expected a name, or name@version",
        ));
    }
    let rejected = match wanted.status.as_deref() {
        None => None,
        Some("ok") => Some(false),
        Some("rejected") => Some(true),
        Some(_) => return Err(Problem::invalid("status", "expected `ok` or `rejected`")),
    };
    if let Some(code) = &wanted.code
        && !Code::ALL.iter().any(|known| known.as_str() == code)
    {
        let all: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        let expected = format!("expected one of {}", all.join(", "));
        return Err(Problem::invalid("code", expected));
    }
    Ok(JobFilter {
        model: model.map(str::to_owned),
        version: version.map(str::to_owned),
        namespace: wanted.namespace,
        rejected,
        code: wanted.code,
        from: moment("from", wanted.from.as_deref())?,
        to: moment("to", wanted.to.as_deref())?,
        id_prefix: wanted.id_prefix,
        posted_by: None,
    })
}

fn moment(field: &str, text: Option<&str>) -> Result<Option<DateTime<Utc>>, Problem> {
    let Some(text) = text else {
        return Ok(None);
    };
    let read = DateTime::parse_from_rfc3339(text).ok();
    let read = read.map(|at| at.to_utc()).filter(is_sensible);
    read.map(Some).ok_or_else(|| {
        let expected = "expected RFC 3339 from 1970 on, such as 2026-11-27T03:00:00Z";
        Problem::invalid(field, expected)
    })
}

/// Whether the database can hold a moment against its own.
fn is_sensible(at: &DateTime<Utc>) -> bool {
    *at >= DateTime::UNIX_EPOCH
}

/// A mark as it goes to the client and comes back.
fn cursor(mark: &JobMark) -> String {
    let text = format!("{} {}", mark.finished_at.timestamp_micros(), mark.job_id);
    hex::encode(text)
}

fn mark(cursor: &str) -> Result<JobMark, Problem> {
    let read = || {
        let text = String::from_utf8(hex::decode(cursor).ok()?).ok()?;
        let (micros, job_id) = text.split_once(' ')?;
        let finished_at = DateTime::from_timestamp_micros(micros.parse().ok()?)?;
        let is_mark = is_sensible(&finished_at) && job::is_job_id(job_id);
        is_mark.then(|| JobMark {
            finished_at,
            job_id: job_id.to_owned(),
        })
    };
    read().ok_or_else(|| Problem::invalid("cursor", "expected one that a page has given"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went() {
        let one = JobMark {
            finished_at: DateTime::from_timestamp_micros(1_795_000_000_123_456).expect("a time"),
            job_id: "job 1~".into(),
        };
        assert_eq!(mark(&cursor(&one)).expect("a mark"), one);
        for bad in [
            "",
            "zz",
            "00",
            &hex::encode("5 "),
            &hex::encode("-9 a"),
            &hex::encode("5 \0"),
        ] {
            assert_eq!(mark(bad).expect_err("none").status_code(), 400, "{bad}");
        }
    }
}
